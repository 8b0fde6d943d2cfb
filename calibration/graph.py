"""An ONNX graph with an index: who computes a value, who reads it, which values are constants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..runtime.errors import BundleError

if TYPE_CHECKING:
    import numpy.typing as npt

QUANTIZERS: Final = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear"}
)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _inner(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs inside a node: branches of an `If`, the body of a `Loop`."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def reads(node: onnx.NodeProto) -> list[str]:
    """What a node reads: its inputs, and what the graphs inside it take from the graph around them."""
    found = dict.fromkeys(node.input)
    for graph in _inner(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        names = [name for inner in graph.node for name in reads(inner)]
        found |= dict.fromkeys(
            name for name in (*names, *(value.name for value in graph.output)) if name not in own
        )
    return list(found)


def rename_reads(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Let a node, and the nodes inside it, read other values: old names to new ones."""
    for i, name in enumerate(node.input):
        node.input[i] = names.get(name, name)
    for graph in _inner(node):
        for inner in graph.node:
            rename_reads(inner, names)


def _all_names(graph: onnx.GraphProto) -> Iterator[str]:
    """The names of all values that a graph and those inside it make or hold."""
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from node.output
        for inner in _inner(node):
            yield from _all_names(inner)


class Graph:
    """A model and its index. Changes go through its methods, or end with `refresh`.

    Args:
        model: is kept, and changed by the methods.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._names: set[str] = set()
        self.refresh()

    @classmethod
    def parse(cls, data: bytes, where: str) -> Graph:
        """Read a serialized model.

        Raises:
            BundleError: it is not an ONNX model.
        """
        try:
            model = onnx.load_model_from_string(data)
        except Exception as error:  # protobuf's own class of error depends on its implementation
            raise BundleError(f"{where} is not an ONNX graph: {error}") from error
        return cls(model)

    def copy(self) -> Graph:
        """A graph of its own with the same content."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        return Graph(model)

    def refresh(self) -> None:
        """Build the index again, and name nodes that have no name by their first output."""
        graph = self.model.graph
        self.producers: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            node.name = node.name or f"{node.op_type}({node.output[0]})"
            for name in node.output:
                self.producers[name] = node
            for name in reads(node):
                self.readers.setdefault(name, []).append(node)
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self.outputs = {value.name for value in graph.output}
        self._names.update(_all_names(graph))

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs, in order, without initializers."""
        return [value.name for value in self.model.graph.input if value.name not in self._tensors]

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes, in order."""
        return list(self.model.graph.node)

    def node(self, name: str) -> onnx.NodeProto:
        """The node of that name."""
        found: onnx.NodeProto = next(node for node in self.model.graph.node if node.name == name)
        return found

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """The values of an initializer; None for what is computed, an input, or left out."""
        tensor = self._tensors.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def set_constant(self, name: str, values: npt.NDArray[Any]) -> None:
        """Replace an initializer's values."""
        self._tensors[name].CopyFrom(numpy_helper.from_array(values, name))

    def add_constant(self, stem: str, values: npt.NDArray[Any], *, exact_name: bool = False) -> str:
        """Add an initializer.

        Args:
            stem: what its name begins with.
            values: its values.
            exact_name: the stem is the whole name; what is already there under it stays.

        Returns:
            Its name.
        """
        if exact_name and stem in self._tensors:
            return stem
        name = stem if exact_name else self.fresh(stem)
        tensor = self.model.graph.initializer.add()
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(values), name))
        self._tensors[name] = tensor
        return name

    def fresh(self, stem: str) -> str:
        """A name that nothing else has."""
        name, number = stem, 0
        while name in self._names:
            number += 1
            name = f"{stem}.{number}"
        self._names.add(name)
        return name

    def replace_nodes(self, nodes: list[onnx.NodeProto]) -> None:
        """Take other nodes, in order, and drop the initializers and types that nobody needs any more."""
        graph = self.model.graph
        kept = [_copy(node) for node in nodes]
        del graph.node[:]
        graph.node.extend(kept)
        used = {name for node in kept for name in reads(node)} | self.outputs
        tensors = [_copy(t) for t in graph.initializer if t.name in used]
        del graph.initializer[:]
        graph.initializer.extend(tensors)
        del graph.value_info[:]
        self.refresh()

    def remove_dead(self) -> None:
        """Drop the nodes that nobody reads."""
        needed = set(self.outputs)
        kept = []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                needed.update(reads(node))
                kept.append(node)
        self.replace_nodes(kept[::-1])

    def channels(self) -> dict[str, int]:
        """Channels of the four-dimensional values for which they follow from the graph."""
        inferred = onnx.shape_inference.infer_shapes(self.model, data_prop=True)
        found = {}
        for value in inferred.graph.value_info:
            dims = value.type.tensor_type.shape.dim
            if len(dims) == 4 and dims[1].HasField("dim_value"):
                found[value.name] = int(dims[1].dim_value)
        return found

    def require_float(self, where: str) -> None:
        """Refuse a graph that is already quantized.

        Raises:
            BundleError: it has Q/DQ or integer kernels.
        """
        for node in self.model.graph.node:
            if node.op_type in QUANTIZERS:
                raise BundleError(
                    f"{where} is already quantized (it has {node.op_type} {node.name}); calibrate the float32 bundle"
                )


def _copy(message: Any) -> Any:
    other = type(message)()
    other.CopyFrom(message)
    return other
