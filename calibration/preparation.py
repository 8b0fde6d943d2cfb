"""Bringing anybody's graph into the form that calibration works on: constants as initializers, folded normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import onnx.version_converter
from onnx import NodeProto, numpy_helper

from ..runtime.errors import UsageError, one_line
from .graph import Graph, attributes

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

# From here on Q and DQ have an axis.
_OPSET: Final = 13
_TO_OPSET: Final = 17


def prepare(data: bytes, where: str) -> Graph:
    """A float graph that equals a model in real arithmetic.

    Args:
        data: a serialized model.
        where: names it in messages.

    Raises:
        UsageError: it is quantized already, or of an operator set that has no quantization by axis and cannot be
            converted.
    """
    graph = Graph.parse(data, where)
    for node in graph.nodes:
        if node.op_type in {
            "QuantizeLinear",
            "DequantizeLinear",
            "QLinearConv",
            "ConvInteger",
            "QLinearMatMul",
        }:
            raise UsageError(
                f"{where} is already quantized (it has {node.op_type} {node.name}): give the float32 graph"
            )
    opset = next((entry.version for entry in graph.model.opset_import if entry.domain in {"", "ai.onnx"}), 0)
    if opset < _OPSET:
        try:
            graph = Graph(onnx.version_converter.convert_version(graph.model, _TO_OPSET))
        except Exception as error:  # the converter's errors have no common base but this
            raise UsageError(
                f"{where} has the operator set {opset}, quantization by channel needs {_OPSET}, and it cannot be "
                f"converted: {one_line(error, 200)}; export it again with a newer one"
            ) from error
    _hoist_constants(graph)
    _fold_normalizations(graph)
    return graph


def _hoist_constants(graph: Graph) -> None:
    """Write `Constant` nodes, and `Identity` nodes behind constants, as initializers."""
    kept = []
    for node in graph.nodes:
        values = _constant(graph, node)
        if values is not None and node.output[0] not in graph.outputs:
            graph.add_constant(node.output[0], values, exact_name=True)
        else:
            kept.append(node)
    graph.replace_nodes(kept)


def _constant(graph: Graph, node: NodeProto) -> npt.NDArray[Any] | None:
    """The values that a node gives whatever the inputs are, as far as it only hands them on."""
    if node.op_type == "Identity":
        return graph.constant(node.input[0])
    value = attributes(node).get("value") if node.op_type == "Constant" else None
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else None


def _fold_normalizations(graph: Graph) -> None:
    """Fold batch normalizations into the convolutions that they alone read."""
    kept: list[NodeProto] = []
    for node in graph.nodes:
        source = graph.producers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        folded = None if source is None else _folded(graph, source, node)
        if source is None or folded is None:
            kept.append(node)
            continue
        weight, bias = folded
        replaced = NodeProto()
        replaced.CopyFrom(source)
        del replaced.input[1:]
        replaced.input.append(graph.add_constant(f"{source.name}.weight.folded", weight))
        replaced.input.append(graph.add_constant(f"{source.name}.bias.folded", bias))
        replaced.output[0] = node.output[0]
        kept[next(i for i, other in enumerate(kept) if other.name == source.name)] = replaced
    graph.replace_nodes(kept)


def _folded(graph: Graph, source: NodeProto, node: NodeProto) -> tuple[Floats, Floats] | None:
    """Weight and bias of a convolution with the normalization behind it; None where it cannot be folded."""
    if source.op_type not in {"Conv", "ConvTranspose"} or source.output[0] in graph.outputs:
        return None
    if len(graph.readers.get(source.output[0], [])) != 1 or len([name for name in node.output if name]) != 1:
        return None
    values: list[npt.NDArray[Any] | None] = [
        graph.constant(name) for name in (source.input[1], *node.input[1:5])
    ]
    has_bias = len(source.input) > 2 and bool(source.input[2])
    bias = graph.constant(source.input[2]) if has_bias else None
    if any(value is None or value.dtype != np.float32 for value in values) or (has_bias and bias is None):
        return None
    weight, scale, shift, mean, variance = (value.astype(np.float64) for value in values if value is not None)
    found = attributes(node)
    group = attributes(source).get("group", 1)
    if found.get("training_mode", 0) or (source.op_type == "ConvTranspose" and group != 1):
        return None
    factor = scale / np.sqrt(variance + found.get("epsilon", 1e-5))
    axis = 0 if source.op_type == "Conv" else 1
    shape = [1] * weight.ndim
    shape[axis] = -1
    before = np.zeros_like(mean) if bias is None else bias.astype(np.float64)
    return (
        (weight * factor.reshape(shape)).astype(np.float32),
        ((before - mean) * factor + shift).astype(np.float32),
    )
