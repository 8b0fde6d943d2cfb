"""Graphs with explicit quantization (Q/DQ): what one quantization step of their outputs is, and their float twins."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ..runtime.bundle.uint8_form import UINT8_ZERO_POINTS, UNSIGNED_ZERO_POINT
from .ir_queries import constant, remove_identities
from .symbolic_shapes.inference import is_constant

# Operators whose output takes its values from their first input.
_SELECT: Final = frozenset(
    {
        "Clip", "DepthToSpace", "Flatten", "Identity", "MaxPool", "Relu", "Reshape", "Slice", "SpaceToDepth", "Squeeze",
        "Transpose", "Unsqueeze",
    }
)  # fmt: skip


def pairs(graph: ir.Graph) -> list[tuple[ir.Node, ir.Node]]:
    """The `QuantizeLinear` nodes of computed values, each with a `DequantizeLinear` node that reads it."""
    found = []
    for node in graph:
        source = node.inputs[0] if node.op_type == "DequantizeLinear" else None
        before = None if source is None else source.producer()
        if before is not None and before.op_type == "QuantizeLinear":
            found.append((before, node))
    return found


def output_steps(graph: ir.Graph) -> dict[str, float]:
    """The quantization step of each output that is dequantized, by name.

    Args:
        graph: any graph.
    """
    steps = {}
    for output in graph.outputs:
        node = output.producer()
        while node is not None and node.op_type in _SELECT and node.inputs[0] is not None:
            node = node.inputs[0].producer()
        if node is not None and node.op_type == "DequantizeLinear" and is_constant(node.inputs[1]):
            steps[str(output.name)] = float(np.max(np.abs(constant(node.inputs[1], "the scale"))))
    return steps


def without_quantization(model: ir.Model) -> ir.Model | None:
    """A copy that leaves the values of its layers as they are: it computes in floating point.

    What fusion changes by a rounding error can tip a quantized value to the next step, and layers behind it further
    values. Without the roundings, the graphs before and after must agree as all others do.

    Args:
        model: any model; weights that are quantized stay so.

    Returns:
        None where nothing but weights is quantized.
    """
    result = model.clone()
    found = pairs(result.graph)
    for before, after in found:
        source, value = before.inputs[0], after.outputs[0]
        if source is None:
            continue
        if value.is_graph_output():
            identity = ir.node("Identity", [source])
            result.graph.insert_after(after, identity)
            identity.outputs[0].type, identity.outputs[0].shape = value.type, value.shape
            name = value.name
            ir.convenience.replace_all_uses_with(value, identity.outputs[0], replace_graph_outputs=True)
            value.name, identity.outputs[0].name = f"{name}.quantized", name
        else:
            ir.convenience.replace_all_uses_with(value, source)
    passes.RemoveUnusedNodesPass()(result)
    remove_identities(result)
    return result if found else None


def int8_form(model: ir.Model) -> ir.Model | None:
    """The int8 form of a graph of integers in the uint8 form: the same function (docs/concepts/exactness.md).

    Values of either sign lose the 128 that uint8 adds to them. Those that are never negative end at 127 in both, by a
    clip of the integers in uint8, which falls away.

    Args:
        model: any model; it stays as it is.

    Returns:
        None if it is in another form: it has no uint8 zero points of `oslic calibrate`, or its unsigned integers go
        beyond 127.
    """
    result = model.clone()
    graph = result.graph
    zeros = {name: graph.initializers.get(name) for name in UINT8_ZERO_POINTS}
    if not any(_is_uint8(zero) for zero in zeros.values()):
        return None
    for node in list(graph):
        zero = node.inputs[2] if node.op_type == "QuantizeLinear" and len(node.inputs) > 2 else None
        if zero is None or zero.name != UNSIGNED_ZERO_POINT:
            continue
        stored = node.outputs[0]
        clips = [user for user, _ in stored.uses()]
        if stored.is_graph_output() or not all(map(_ends_at_127, clips)):
            return None
        for clip in clips:
            ir.convenience.replace_all_uses_with(clip.outputs[0], stored)
            graph.remove(clip, safe=True)
    for zero in zeros.values():
        if zero is not None:
            zero.const_value = ir.tensor(np.zeros((), np.int8), name=zero.name)
            zero.dtype = ir.DataType.INT8
    for node in graph:
        if node.op_type == "QuantizeLinear":
            node.outputs[0].dtype = ir.DataType.INT8
    passes.RemoveUnusedNodesPass()(result)
    return result


def _is_uint8(zero: ir.Value | None) -> bool:
    return zero is not None and zero.const_value is not None and zero.const_value.dtype == ir.DataType.UINT8


def _ends_at_127(node: ir.Node) -> bool:
    most = node.inputs[2] if node.op_type == "Clip" and len(node.inputs) > 2 else None
    return most is not None and is_constant(most) and int(constant(most, "the clip")) <= 127


__all__ = ["int8_form", "output_steps", "pairs", "without_quantization"]
