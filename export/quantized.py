"""Graphs with explicit quantization (Q/DQ): what one quantization step of their outputs is, and their float twins."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from .graphs import constant, remove_identities
from .sizes import is_constant

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
    ir.passes.common.RemoveUnusedNodesPass()(result)
    remove_identities(result)
    return result if found else None


__all__ = ["output_steps", "pairs", "without_quantization"]
