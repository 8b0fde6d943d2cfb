"""Float graphs in a form that integers can follow: equal in real arithmetic, but for constants put onto a grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from onnx import NodeProto, helper

from ..graph import Graph, attributes
from .grids import rounded

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

MOVES: Final = frozenset({"DepthToSpace", "Reshape", "Transpose", "Concat", "Slice"})
"""What puts values in another place and computes none."""
_SHIFT: Final = ".shift"
"""Ends the names of what `fold_offsets` writes."""
# Offsets are in units of 256 gray levels: with constants of 11 bits the step is 1/64 of a level.
_SHIFT_BITS: Final = 3


def drop_identities(graph: Graph) -> int:
    """Take out depthwise 1x1 convolutions by ones, which exist for the memory layout of float kernels.

    Returns:
        How many there were.
    """
    gone: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        if node.op_type == "Conv" and node.output[0] not in graph.outputs and _is_identity(graph, node):
            gone[node.output[0]] = gone.get(node.input[0], node.input[0])
        else:
            nodes.append(node)
    for node in nodes:
        for i, name in enumerate(node.input):
            node.input[i] = gone.get(name, name)
    graph.replace_nodes(nodes)
    return len(gone)


def _is_identity(graph: Graph, node: NodeProto) -> bool:
    weight = graph.constant(node.input[1])
    if weight is None or len(node.input) > 2 or weight.shape[1:] != (1, 1, 1) or not np.all(weight == 1):
        return False
    found = attributes(node)
    plain = not any(found.get("pads", [0])) and set(found.get("strides", [1])) == {1}
    return plain and found.get("group", 1) == weight.shape[0]


def rectify_early(graph: Graph) -> int:
    """Do a ReLU before its input is moved: behind the sums and convolutions it is part of their int8 kernels.

    Returns:
        How many were moved.
    """
    count = 0
    for relu in [node for node in graph.nodes if node.op_type == "Relu"]:
        sources, moves = _sources(graph, relu.input[0])
        if not moves:
            continue
        count += 1
        early = {}
        for name in sources:
            output, label = graph.fresh(f"{name}.rectified"), graph.fresh(f"{relu.name}.early")
            early[name] = helper.make_node("Relu", [name], [output], name=label)
        nodes = []
        for node in graph.nodes:
            if node.name == relu.name:
                continue
            if node.name in moves or (node.op_type == "Shape" and node.input[0] in early):
                for i, name in enumerate(node.input):
                    if name in early:
                        node.input[i] = early[name].output[0]
            for i, name in enumerate(node.input):
                if name == relu.output[0]:
                    node.input[i] = relu.input[0]
            nodes.append(node)
            nodes.extend(early[name] for name in node.output if name in early)
        graph.replace_nodes(nodes)
    return count


def _sources(graph: Graph, value: str) -> tuple[list[str], set[str]]:
    """The values that a value is moved together from, and the nodes that move them; shapes may be read besides.

    A value that somebody else reads as well is a source.
    """
    node = graph.producers.get(value)
    readers = [reader for reader in graph.readers.get(value, []) if reader.op_type != "Shape"]
    if node is None or node.op_type not in MOVES or len(readers) > 1 or value in graph.outputs:
        return [value], set()
    data = list(node.input) if node.op_type == "Concat" else [node.input[0]]
    sources: list[str] = []
    moves = {node.name}
    for name in data:
        found, inner = _sources(graph, name)
        sources += found
        moves |= inner
    return list(dict.fromkeys(sources)), moves


def base_convolutions(graph: Graph) -> set[str]:
    """Names of the convolutions that no other one comes before or behind: on the base that a network corrects."""
    behind: dict[str, set[str]] = {}
    names = {node.name for node in graph.nodes if node.op_type == "Conv"}
    related: set[str] = set()
    for node in graph.nodes:
        above = set().union(*(behind.get(name, set()) for name in node.input))
        if node.name in names:
            if above:
                related |= above | {node.name}
            above = above | {node.name}
        for name in node.output:
            behind[name] = above
    return names - related


def fold_offsets(graph: Graph, names: set[str]) -> None:
    """Add behind 1x1 convolutions what is added before them: their sums then need fewer bits.

    Args:
        graph: is changed.
        names: of the convolutions.
    """
    for name in names:
        node = graph.node(name)
        weight = graph.constant(node.input[1])
        padded = any(attributes(node).get("pads", [0]))
        if weight is None or len(node.input) > 2 or padded or attributes(node).get("group", 1) != 1:
            continue
        source, before = _without_offsets(graph, node.input[0])
        if not before:
            continue
        result, after = node.output[0], 0.0
        reader = _sole_reader(graph, result)
        folded = []
        while reader is not None and (offset := _offset(graph, reader)) is not None:
            after += offset[1]
            folded.append(reader.name)
            result = reader.output[0]
            reader = _sole_reader(graph, result)
        taps = weight.astype(np.float64).sum(axis=(1, 2, 3))
        offset_value = (before * taps + after).reshape(1, -1, 1, 1)
        node.input[0], node.output[0] = source, graph.fresh(f"{name}.turned")
        # An Add of one constant for each channel would be fused into the convolution, as a bias.
        constant = graph.add_constant(f"{name}.offset", (-offset_value).astype(np.float32))
        shift = helper.make_node("Sub", [node.output[0], constant], [result], name=f"{name}{_SHIFT}")
        nodes = []
        for other in graph.nodes:
            if other.name in folded:
                continue
            nodes.append(other)
            if other.name == name:
                nodes.append(shift)
        graph.replace_nodes(nodes)
        graph.remove_dead()


def _without_offsets(graph: Graph, value: str) -> tuple[str, float]:
    total = 0.0
    while (node := graph.producers.get(value)) is not None and (found := _offset(graph, node)) is not None:
        value, total = found[0], total + found[1]
    return value, total


def _offset(graph: Graph, node: NodeProto) -> tuple[str, float] | None:
    """The value that a node adds one number to, and the number; None for other nodes."""
    if node.op_type not in {"Add", "Sub"}:
        return None
    constant = graph.constant(node.input[1])
    if constant is None or constant.size != 1 or constant.dtype != np.float32:
        return None
    return node.input[0], float(constant) * (1 if node.op_type == "Add" else -1)


def _sole_reader(graph: Graph, value: str) -> NodeProto | None:
    readers = graph.readers.get(value, [])
    return readers[0] if len(readers) == 1 and value not in graph.outputs else None


def balance_concatenations(graph: Graph, largest: dict[str, float]) -> int:
    """Bring the parts of a concatenation that goes into convolutions alone to ranges of one power of two.

    They share one scale as integers. A part that is divided by a power of two is multiplied by it in the weights.

    Args:
        graph: is changed.
        largest: largest magnitude of the values that are concatenated, as far as known.

    Returns:
        How many parts were scaled.
    """
    count = 0
    for node in [node for node in graph.nodes if node.op_type == "Concat" and attributes(node)["axis"] == 1]:
        readers = graph.readers.get(node.output[0], [])
        widths = [_channels(graph, name) for name in node.input]
        plain = all(
            reader.op_type == "Conv" and attributes(reader).get("group", 1) == 1 for reader in readers
        )
        if not plain or not readers or None in widths or not all(largest.get(name) for name in node.input):
            continue
        exponents = [int(np.ceil(np.log2(largest[name]))) for name in node.input]
        shifts = [exponent - min(exponents) for exponent in exponents]
        factors = np.concatenate(
            [np.full(width or 0, 2.0**shift) for width, shift in zip(widths, shifts, strict=True)]
        )
        scaled = []
        for i, shift in enumerate(shifts):
            if shift:
                factor = graph.add_constant(f"{node.name}.balance", np.array(2.0**-shift, np.float32))
                name = graph.fresh(f"{node.input[i]}.balanced")
                scaled.append(helper.make_node("Mul", [node.input[i], factor], [name], name=f"{name}.scale"))
                node.input[i] = name
        if not scaled:
            continue
        for reader in readers:
            weight = graph.constant(reader.input[1])
            assert weight is not None
            made = (weight * factors.reshape(1, -1, 1, 1)).astype(np.float32)
            reader.input[1] = graph.add_constant(f"{reader.name}.balanced", made)
        place = next(i for i, other in enumerate(graph.nodes) if other.name == node.name)
        nodes = graph.nodes
        graph.replace_nodes([*nodes[:place], *scaled, *nodes[place:]])
        count += len(scaled)
    return count


def _channels(graph: Graph, value: str) -> int | None:
    return graph.channels().get(value)


def ground_constants(graph: Graph, kept: set[str], bits: int) -> None:
    """Put the float constants of what stays in float onto grids of powers of two.

    Args:
        graph: is changed.
        kept: names of the convolutions whose weights stay in float; others' are left alone.
        bits: significant bits of the largest entry of each constant.
    """
    shifts = {f"{name}{_SHIFT}" for name in kept}
    for node in graph.nodes:
        if node.op_type in {"Resize", "Clip"} or (node.op_type == "Conv" and node.name not in kept):
            continue
        for i, name in enumerate(node.input):
            constant = graph.constant(name)
            if constant is None or constant.dtype != np.float32:
                continue
            if node.name in shifts:
                # Of small numbers too, or they would make the sums finer.
                step = 2.0 ** -(bits + _SHIFT_BITS)
                made = (np.rint(constant / step) * step).astype(np.float32)
            else:
                made = rounded(constant, bits)
            node.input[i] = graph.add_constant(f"{name}.grid", made)
    graph.replace_nodes(graph.nodes)
