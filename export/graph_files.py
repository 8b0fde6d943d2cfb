"""Reading ONNX files so that what is wrong with one is said in a line, and writing them, larger than 2 GB, too."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

import onnx_ir as ir

from ..runtime.errors import UsageError, one_line
from ..runtime.files import atomic_file, check_target, require_regular_file

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST_FILE: Final = 2**31 - 1
"""Bytes of the largest message that protobuf reads."""

_ROOM_FOR_NODES: Final = 2**26
_SMALL_WEIGHT: Final = 1024  # bytes; smaller ones stay in the graph: many of them are sizes


def read_graph(path: Path) -> ir.Model:
    """Read a graph with all its weights, those in files beside it included.

    Args:
        path: an .onnx file.

    Returns:
        The model; nothing in it refers to a file.

    Raises:
        UsageError: it is no ONNX file, it or a file with its weights is not a regular file, a weight does not hold what
            its dimensions say, or its nodes do not form a graph without cycles.
    """
    require_regular_file(path, "graph")
    try:
        model = ir.load(path)  # not from the bytes: weights may lie beside it
    except Exception as error:  # protobuf's and onnx-ir's exceptions have no common base but this
        raise UsageError(f"{path} is not an ONNX graph: {one_line(error)}") from error
    # In the words of `runtime.model.header`.
    if not model.ir_version:
        raise UsageError(f"{path} is not an ONNX graph: it holds no graph with an IR version")
    if not model.graph.outputs:
        raise UsageError(f"the graph {path} has no outputs: there is nothing to compute; export it again")
    for file in _external_files(path, model):
        require_regular_file(file, "weights")
    try:
        ir.external_data.load_to_model(model)
    except Exception as error:  # of the file system, NumPy and onnx-ir
        raise UsageError(
            f"weights of {path} that lie in files beside it cannot be read: {one_line(error)}"
        ) from error
    _require_sound(path, model)
    return model


def parse_graph(data: bytes, what: str = "the graph") -> ir.Model:
    """A serialized graph that holds its weights.

    Args:
        data: of an ONNX model.
        what: names it in messages.

    Raises:
        UsageError: as `read_graph`.
    """
    import onnx

    try:
        model = ir.from_proto(onnx.load_model_from_string(data))
    except Exception as error:  # protobuf's and onnx-ir's exceptions have no common base but this
        raise UsageError(f"{what} is not an ONNX graph: {one_line(error)}") from error
    _require_sound(what, model)
    return model


def _graphs(model: ir.Model) -> Iterator[ir.Graph]:
    for whole in (model.graph, *(function.graph for function in model.functions.values())):
        yield whole
        yield from whole.subgraphs()


def _tensors(graph: ir.Graph) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Names and tensors of a graph's initializers and of its nodes' attributes."""
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            yield name, value.const_value
    for node in graph:
        for attribute in node.attributes.values():
            if attribute.is_ref():
                continue
            if attribute.type == ir.AttributeType.TENSOR:
                yield f"{attribute.name} of {node.name or node.op_type}", attribute.value
            elif attribute.type == ir.AttributeType.TENSORS:
                for tensor in attribute.value:
                    yield f"{attribute.name} of {node.name or node.op_type}", tensor


def _external_files(path: Path, model: ir.Model) -> set[Path]:
    """Files beside a graph that hold weights of it.

    Raises:
        UsageError: one lies elsewhere; ONNX allows none, and a graph could name any file of this machine.
    """
    found = set()
    for graph in _graphs(model):
        for _, tensor in _tensors(graph):
            if isinstance(tensor, ir.ExternalTensor):
                place = Path(tensor.location)
                if place.is_absolute() or ".." in place.parts:
                    raise UsageError(f"{path} has weights in {place}: only files beside the graph are read")
                found.add(path.parent / place)
    return found


def _require_sound(path: Path | str, model: ir.Model) -> None:
    """Refuse what no runtime could load, and what the rules take for granted."""
    for graph in _graphs(model):
        for name, tensor in _tensors(graph):
            if tensor.dtype == ir.DataType.STRING:
                continue
            try:
                tensor.numpy()  # most are views: nothing is copied
            except Exception as error:
                sides = "x".join(map(str, tensor.shape.numpy()))
                raise UsageError(
                    f"the tensor {name} of {path} does not hold what its dimensions {sides} say: {one_line(error)}"
                ) from error
        for node in graph:
            for value in node.inputs:
                if value is not None and value.producer() is None and not _is_given(value):
                    raise UsageError(
                        f"{node.name or node.op_type} of {path} reads {value.name!r}, which nothing computes"
                    )
        try:
            graph.sort()
        except ValueError as error:
            raise UsageError(f"the nodes of {path} form a cycle: {one_line(error)}") from error


def _is_given(value: ir.Value) -> bool:
    return value.is_graph_input() or value.is_initializer() or value.graph is not None


def is_large(model: ir.Model, largest: int = LARGEST_FILE) -> bool:
    """Whether a model with its weights inside would be too large for one .onnx file.

    Args:
        model: any model.
        largest: bytes that a file may have.
    """
    weights = sum(tensor.nbytes for graph in _graphs(model) for _, tensor in _tensors(graph))
    return weights + _ROOM_FOR_NODES > largest


def write_graph(path: Path, model: ir.Model, largest: int = LARGEST_FILE) -> Path | None:
    """Write a model, its weights inside or, where that would be too large, in a file beside it.

    Args:
        path: the .onnx file.
        model: any model; its weights lie in memory.
        largest: bytes that a file may have.

    Returns:
        The file with the weights, `path` with `.data` behind it; None if they are inside.

    Raises:
        UsageError: a file cannot be written.
    """
    if not is_large(model, largest):
        with atomic_file(path) as file:
            file.write(ir.to_proto(model).SerializeToString())
        return None
    data = path.with_name(path.name + ".data")
    check_target(data)
    weights = [
        value
        for graph in _graphs(model)
        for value in graph.initializers.values()
        if value.const_value is not None
        and value.const_value.dtype != ir.DataType.STRING
        and value.const_value.nbytes > _SMALL_WEIGHT
    ]
    places: list[ir.ExternalTensor] = []
    with atomic_file(data) as file:
        at = 0
        for value in weights:
            tensor = value.const_value
            assert tensor is not None
            file.write(tensor.tobytes())
            places.append(
                ir.ExternalTensor(
                    data.name,
                    at,
                    tensor.nbytes,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=str(value.name),
                )
            )
            at += tensor.nbytes
    held = [value.const_value for value in weights]
    try:
        for value, place in zip(weights, places, strict=True):
            value.const_value = place
        whole = ir.to_proto(model).SerializeToString()
    finally:
        for value, tensor in zip(weights, held, strict=True):
            value.const_value = tensor
    with atomic_file(path) as file:
        file.write(whole)
    return data


@contextlib.contextmanager
def loadable(model: ir.Model, largest: int = LARGEST_FILE) -> Iterator[bytes | str]:
    """A model as ONNX Runtime's sessions take it: its bytes, or the name of a file that is there for as long.

    Args:
        model: any model.
        largest: bytes from which on it is a file.
    """
    if not is_large(model, largest):
        yield bytes(ir.to_proto(model).SerializeToString())
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        write_graph(path, model, largest)
        yield str(path)


__all__ = ["LARGEST_FILE", "is_large", "loadable", "parse_graph", "read_graph", "write_graph"]
