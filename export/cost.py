"""What a graph costs: multiply-accumulates, bytes moved, memory held, for given sizes of its inputs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..runtime.errors import UsageError
from .ir_queries import label
from .symbolic_shapes.inference import Sizes

# Nodes that only compute sizes or rename what they are given.
_FREE = {"Shape", "Constant", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}


@dataclass(frozen=True)
class Cost:
    """Cost of a graph.

    Attributes:
        macs: multiply-accumulates of convolutions and matrix products; biases and element-wise work not counted.
        bytes_moved: what all nodes read and write, weights included, caches ignored.
        peak_bytes: the most that inputs, outputs and intermediate values take together at one time, if each
            is freed behind its last reader.
        by_node: multiply-accumulates by the node's name; nodes without any are absent.
        operators: number of nodes by operator.
        uncounted: names of nodes whose multiply-accumulates are missing in all this, because a size of theirs does
            not follow from those of the inputs.
    """

    macs: int
    bytes_moved: int
    peak_bytes: int
    by_node: dict[str, int]
    operators: dict[str, int]
    uncounted: tuple[str, ...] = ()


def _macs(node: ir.Node, sizes: Sizes) -> int | None:
    """Multiply-accumulates of one node; None if a size is missing."""
    kind = node.op_type
    if kind not in _COUNTED:
        return 0
    weight_at = 3 if kind == "QLinearConv" else 1
    x, w = sizes.concrete(node.inputs[0]), sizes.concrete(node.inputs[weight_at])
    y = sizes.concrete(node.outputs[0])
    if x is None or w is None or y is None:
        return None
    if kind in {"Conv", "ConvInteger", "QLinearConv"}:
        return math.prod(y) * math.prod(w[1:])
    if kind == "ConvTranspose":
        return math.prod(x) * math.prod(w[1:])
    if kind == "Gemm":
        return math.prod(y) * (x[0] if node.attributes.get_int("transA", 0) else x[1])
    return math.prod(y) * x[-1]


_COUNTED = {
    "Conv",
    "ConvInteger",
    "QLinearConv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "MatMulInteger",
    "QLinearMatMul",
}


def _bytes(value: ir.Value | None, sizes: Sizes) -> int:
    """Size of a value; 0 where it is not known."""
    shape = None if value is None else sizes.concrete(value)
    if value is None or shape is None or value.dtype == ir.DataType.STRING:
        return 0
    width = 4.0 if value.dtype is None else value.dtype.itemsize
    return math.ceil(math.prod(shape) * width)


def node_bytes(node: ir.Node, sizes: Sizes) -> int:
    """Bytes that a node reads and writes; 0 for nodes that move nothing."""
    if node.op_type in _FREE:
        return 0
    return sum(_bytes(value, sizes) for value in (*node.inputs, *node.outputs))


def node_macs(node: ir.Node, sizes: Sizes) -> int:
    """Multiply-accumulates of one node.

    Raises:
        UsageError: a size that it depends on is not known.
    """
    found = _macs(node, sizes)
    if found is None:
        raise UsageError(
            f"cannot count the multiplications of {label(node)}: its sizes do not follow from those of the "
            "graph's inputs; give the inputs' shapes (--shape NAME=1x3x512x768)"
        )
    return found


def count(graph: ir.Graph, shapes: Mapping[str, Sequence[int]], *, partial: bool = False) -> Cost:
    """Count what a graph costs.

    Args:
        graph: any ONNX graph without control flow.
        shapes: shape of each input, by name.
        partial: leave out what cannot be counted, and list it.

    Raises:
        UsageError: the size of a convolution or a matrix product does not follow from the inputs' shapes; not with
            `partial`.
    """
    sizes = Sizes(shapes)
    sizes.prepare(graph)
    by_node: dict[str, int] = {}
    moved = 0
    uncounted = []
    for node in graph:
        macs = _macs(node, sizes) if partial else node_macs(node, sizes)
        if macs is None:
            uncounted.append(label(node))
        if macs:
            by_node[label(node)] = by_node.get(label(node), 0) + macs
        moved += node_bytes(node, sizes)
    return Cost(
        sum(by_node.values()),
        moved,
        _peak(graph, sizes),
        by_node,
        dict(sorted(Counter(node.op_type for node in graph).items())),
        tuple(uncounted),
    )


def _peak(graph: ir.Graph, sizes: Sizes) -> int:
    last: dict[ir.Value, int] = {}
    nodes = list(graph)
    for i, node in enumerate(nodes):
        for value in node.inputs:
            if value is not None:
                last[value] = i
    for value in graph.outputs:
        last[value] = len(nodes)
    live = sum(_bytes(value, sizes) for value in graph.inputs)
    peak = live
    for i, node in enumerate(nodes):
        live += sum(_bytes(value, sizes) for value in node.outputs)
        peak = max(peak, live)
        for value in {*node.inputs, *node.outputs}:
            if value is not None and not value.is_initializer() and last.get(value, i) == i:
                live -= _bytes(value, sizes)
    return peak
