"""Exact forms with int8 kernels, for what has none in ONNX Runtime: transposed convolutions and average pooling.

They hold in real arithmetic, borders included: `tests/calibration/test_calibration.py` compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import NodeProto, helper

from .graph import Graph, attributes

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

# Ends the names of the nodes that bring interleaved phases back to N x C x H x W.
_BACK: Final = ".back"


@dataclass(frozen=True)
class Phase:
    """The convolution that gives the output pixels (2i + a, 2j + b) of a transposed convolution of stride 2.

    Attributes:
        weight: (C_out, C_in, Th, Tw).
        pads: zeros (top, left, bottom, right).
    """

    weight: Floats
    pads: tuple[int, int, int, int]


def _taps(kernel: int, before: int, after: int) -> list[tuple[list[int], int, int]] | None:
    """For each of the two phases of one axis: the kernel's taps in the order of the source, and the padding.

    Output o of a transposed convolution with stride 2 reads x[i] * w[k] wherever o = 2i + k - before. For
    o = 2m + a that is i = m + (a + before - k) / 2, for every k of the parity of a + before.

    Returns:
        None if the output is not exactly twice as long as the source, or a phase would need negative padding.
    """
    if kernel - before - after != 2:
        return None
    phases = []
    for a in (0, 1):
        taps = [k for k in range(kernel - 1, -1, -1) if (a + before - k) % 2 == 0]
        if not taps:
            return None
        first, last = ((a + before - k) // 2 for k in (taps[0], taps[-1]))
        if first > 0 or last < 0:
            return None
        phases.append((taps, -first, last))
    return phases


def phases_of(node: NodeProto, weight: Floats) -> dict[tuple[int, int], Phase] | str:
    """The four convolutions whose outputs, interleaved, equal a transposed convolution of stride 2.

    Args:
        node: the ConvTranspose.
        weight: (C_in, C_out, Kh, Kw).

    Returns:
        One convolution for each phase (a, b), or the reason why there are none.
    """
    found = attributes(node)
    if list(found.get("strides", [1, 1])) != [2, 2]:
        return f"strides {found.get('strides')}, not 2 and 2"
    if found.get("group", 1) != 1 or set(found.get("dilations", [1])) != {1}:
        return "groups or dilations"
    if any(found.get("output_padding", [0])) or "output_shape" in found:
        return "its output is padded"
    if found.get("auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID"}:
        return "auto_pad"
    top, left, bottom, right = found.get("pads", [0, 0, 0, 0])
    rows, columns = _taps(weight.shape[2], top, bottom), _taps(weight.shape[3], left, right)
    if rows is None or columns is None:
        return f"kernel {weight.shape[2:]} with pads {[top, left, bottom, right]} does not double the size"
    result = {}
    for a, (row_taps, above, below) in enumerate(rows):
        for b, (column_taps, before, after) in enumerate(columns):
            small = weight[:, :, row_taps][:, :, :, column_taps].transpose(1, 0, 2, 3)
            result[a, b] = Phase(np.ascontiguousarray(small), (above, before, below, after))
    return result


def lower_transposed(graph: Graph, names: set[str] | None = None) -> dict[str, str]:
    """Write transposed convolutions as four convolutions, interleaved by plain copies.

    The convolutions are called NAME.00 to NAME.11. An average over 2x2 pixels that alone reads the output (the exporter
    writes upsampled convolutions so) goes into the kernel, and a ReLU is done on the phases, where it costs nothing
    behind a convolution.

    Args:
        graph: is changed.
        names: of the nodes to rewrite; None: all.

    Returns:
        For each ConvTranspose left as it is though it was asked for, the reason.
    """
    kept: dict[str, str] = {}
    nodes: list[NodeProto] = []
    done: set[str] = set()
    for node in graph.nodes:
        if node.name in done:
            continue
        if node.op_type != "ConvTranspose" or (names is not None and node.name not in names):
            nodes.append(node)
            continue
        weight = graph.constant(node.input[1])
        whole, pool = node, None
        if weight is not None:
            whole, weight, pool = _with_pool(graph, node, weight)
        four = "its weights are computed" if weight is None else phases_of(whole, weight)
        if isinstance(four, str):
            kept[node.name] = four
            nodes.append(node)
        else:
            last = pool or node
            relu = _sole_reader(graph, last, "Relu")
            done.update(other.name for other in (pool, relu) if other is not None)
            result = (relu or last).output[0]
            nodes.extend(_interleaved(graph, node, four, result, rectified=relu is not None))
    graph.replace_nodes(nodes)
    return kept


def _sole_reader(graph: Graph, node: NodeProto, kind: str) -> NodeProto | None:
    readers = graph.readers.get(node.output[0], [])
    alone = len(readers) == 1 and node.output[0] not in graph.outputs
    return readers[0] if alone and readers[0].op_type == kind else None


def _with_pool(graph: Graph, node: NodeProto, weight: Floats) -> tuple[NodeProto, Floats, NodeProto | None]:
    """A transposed convolution and the average over 2x2 pixels behind it as one, with a kernel one tap longer.

    The average of the outputs o and o + 1 reads x[i] with (w[k - 1] + w[k]) / 2 wherever o = 2i + k - (before + 1).

    Returns:
        The node with new padding, its weight, and the pool; without such a pool what was given, and None.
    """
    pool = _sole_reader(graph, node, "AveragePool")
    if pool is None or pooling_kernel(pool, 1) is None:
        return node, weight, None
    found = attributes(pool)
    if list(found["kernel_shape"]) != [2, 2] or list(found.get("strides", [1, 1])) != [1, 1]:
        return node, weight, None
    box = np.pad(weight, ((0, 0), (0, 0), (1, 1), (1, 1)))
    summed = (box[:, :, 1:, 1:] + box[:, :, :-1, 1:] + box[:, :, 1:, :-1] + box[:, :, :-1, :-1]) / np.float32(
        4
    )
    other = {name: value for name, value in attributes(node).items() if name not in {"pads", "kernel_shape"}}
    pads = [side + 1 for side in attributes(node).get("pads", [0, 0, 0, 0])]
    whole = helper.make_node("ConvTranspose", node.input, node.output, name=node.name, pads=pads, **other)
    return whole, summed.astype(np.float32), pool


def _interleaved(
    graph: Graph, node: NodeProto, four: dict[tuple[int, int], Phase], result: str, *, rectified: bool
) -> Iterator[NodeProto]:
    stem = node.name
    outputs = {}
    for (a, b), phase in sorted(four.items()):
        weight = graph.add_constant(f"{stem}.{a}{b}.weight", phase.weight)
        made = _write(
            graph,
            "Conv",
            [node.input[0], weight, *node.input[2:3]],
            f"{stem}.{a}{b}",
            kernel_shape=list(phase.weight.shape[2:]),
            strides=[1, 1],
            pads=list(phase.pads),
        )
        yield made
        if rectified:
            made = _write(graph, "Relu", [made.output[0]], f"{stem}.{a}{b}.relu")
            yield made
        outputs[a, b] = made.output[0]
    yield from _interleave(graph, stem, outputs, four[0, 0].weight.shape[0], result)


def _write(
    graph: Graph, kind: str, inputs: list[str], name: str, *, output: str | None = None, **more: Any
) -> NodeProto:
    return helper.make_node(kind, inputs, [output or graph.fresh(name)], name=name, **more)


def _interleave(
    graph: Graph, stem: str, phases: dict[tuple[int, int], str], channels: int, result: str
) -> Iterator[NodeProto]:
    """Put the pixels (i, j) of phase (a, b) to (2i + a, 2j + b).

    Channels last, as the int8 kernels have it, that is plain copies: the pixels of a row side by side, then two rows
    one after the other, N x h x 2w x 2C, are N x 2h x 2w x C in memory. ONNX Runtime takes the transpositions out
    again.

    Args:
        graph: gets the constants.
        stem: of the nodes' names.
        phases: values N x C x h x w.
        channels: C.
        result: name of the value N x C x 2h x 2w.
    """

    def integers(values: list[int], label: str) -> str:
        return graph.add_constant(f"{stem}.{label}", np.array(values, np.int64))

    turned = {
        place: _write(graph, "Transpose", [value], f"{stem}.{place[0]}{place[1]}.turned", perm=[0, 2, 3, 1])
        for place, value in phases.items()
    }
    pairs = [
        _write(graph, "Concat", [turned[a, b].output[0] for b in (0, 1)], f"{stem}.pair{a}", axis=3)
        for a in (0, 1)
    ]
    both = _write(graph, "Concat", [pair.output[0] for pair in pairs], f"{stem}.both", axis=2)
    sides = _write(graph, "Shape", [phases[0, 0]], f"{stem}.sides", start=2, end=4)
    doubled = _write(graph, "Mul", [sides.output[0], integers([2], "two")], f"{stem}.doubled")
    parts = [integers([-1], "any"), doubled.output[0], integers([channels], "channels")]
    target = _write(graph, "Concat", parts, f"{stem}.target", axis=0)
    whole = _write(graph, "Reshape", [both.output[0], target.output[0]], f"{stem}.whole")
    yield from (*turned.values(), *pairs, both, sides, doubled, target, whole)
    yield _write(graph, "Transpose", [whole.output[0]], f"{stem}{_BACK}", output=result, perm=[0, 3, 1, 2])


def interleave_channels_last(graph: Graph, names: set[str] | None = None) -> int:
    """Write the exporter's interleaving of phases as `lower_transposed` does.

    Args:
        graph: is changed. `recipes` checks its numbers: what the exporter's reshapes do depends on computed sizes.
        names: Conv nodes; only phases that come from these, or were interleaved here, are rewritten; None: all.

    Returns:
        How many were rewritten.
    """
    nodes: list[NodeProto] = []
    count = 0
    for node in graph.nodes:
        phases = _phases_behind(graph, node)
        channels = None if phases is None else _channels(graph, phases[0, 0])
        if (
            phases is None
            or channels is None
            or not all(_is_chosen(graph, v, names) for v in phases.values())
        ):
            nodes.append(node)
            continue
        nodes.extend(_interleave(graph, node.name, phases, channels, node.output[0]))
        count += 1
    graph.replace_nodes(nodes)
    graph.remove_dead()
    return count


def _is_chosen(graph: Graph, value: str, names: set[str] | None) -> bool:
    node = graph.producers.get(value)
    if node is None or node.op_type not in {"Conv", "Transpose"}:
        return False
    return node.name.endswith(_BACK) or (node.op_type == "Conv" and (names is None or node.name in names))


def _channels(graph: Graph, value: str) -> int | None:
    """Channels of a convolution's output, or of phases interleaved here."""
    node = graph.producers[value]
    if node.op_type == "Conv":
        weight = graph.constant(node.input[1])
        return None if weight is None else int(weight.shape[0])
    if not node.name.endswith(_BACK):
        return None
    channels = graph.constant(f"{node.name.removesuffix(_BACK)}.channels")
    return None if channels is None else int(channels[0])


def _phases_behind(graph: Graph, node: NodeProto) -> dict[tuple[int, int], str] | None:
    """The four values that a node's output interleaves, in one of the exporter's two spellings; None for others."""

    def sources(value: str, kind: str, **wanted: Any) -> list[str] | None:
        made = graph.producers.get(value)
        if made is None or made.op_type != kind:
            return None
        found = attributes(made)
        return list(made.input) if all(found.get(key) == want for key, want in wanted.items()) else None

    if node.op_type == "DepthToSpace":
        found = attributes(node)
        four = sources(node.input[0], "Concat", axis=1)
        if found["blocksize"] != 2 or found.get("mode", b"DCR") != b"DCR" or four is None or len(four) != 4:
            return None
        return {(i // 2, i % 2): value for i, value in enumerate(four)}
    halves = sources(node.input[0], "Concat", axis=3) if node.op_type == "Reshape" else None
    if halves is None or len(halves) != 2:
        return None
    phases = {}
    for a, half in enumerate(halves):
        turned = sources(half, "Reshape")
        flat = sources(turned[0], "Transpose", perm=[0, 2, 1]) if turned else None
        pair = sources(flat[0], "Reshape") if flat else None
        shape = graph.constant(pair[1]) if pair else None
        two = sources(pair[0], "Concat", axis=1) if pair else None
        if shape is None or shape.tolist() != [0, 2, -1] or two is None or len(two) != 2:
            return None
        phases.update({(a, b): value for b, value in enumerate(two)})
    return phases


def pooling_kernel(node: NodeProto, channels: int) -> Floats | None:
    """The weight of the depthwise convolution that equals an AveragePool without padding; None if it has any.

    Args:
        node: the AveragePool.
        channels: of its input.

    Returns:
        (channels, 1, Kh, Kw).
    """
    found = attributes(node)
    padded = any(found.get("pads", [0])) or found.get("auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID"}
    if padded or found.get("ceil_mode", 0) or set(found.get("dilations", [1])) != {1}:
        return None
    rows, columns = found["kernel_shape"]
    return np.full((channels, 1, rows, columns), 1 / (rows * columns), np.float32)


def depthwise(graph: Graph, node: NodeProto, weight: Floats) -> NodeProto:
    """The depthwise convolution in place of an AveragePool, under the same name."""
    found = attributes(node)
    return helper.make_node(
        "Conv",
        [node.input[0], graph.add_constant(f"{node.name}.weight", weight)],
        list(node.output),
        name=node.name,
        kernel_shape=list(found["kernel_shape"]),
        strides=list(found.get("strides", [1, 1])),
        group=weight.shape[0],
    )
