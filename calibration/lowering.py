"""Exact forms with int8 kernels, for what has none in ONNX Runtime: transposed convolutions and average pooling.

Both hold in real arithmetic, borders included; `tests/test_calibration.py` checks them against the originals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import NodeProto, helper

from .graph import Graph, attributes

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]


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
    bias = list(node.input[2:3])
    channels = four[0, 0].weight.shape[0]

    def write(op: str, inputs: list[str], label: str, output: str | None = None, **more: Any) -> NodeProto:
        name = output or graph.fresh(f"{stem}.{label}")
        return helper.make_node(op, inputs, [name], name=f"{stem}.{label}", **more)

    def integers(values: list[int], label: str) -> str:
        return graph.add_constant(f"{stem}.{label}", np.array(values, np.int64))

    outputs = {}
    for (a, b), phase in sorted(four.items()):
        inputs = [node.input[0], graph.add_constant(f"{stem}.{a}{b}.weight", phase.weight), *bias]
        made = write(
            "Conv",
            inputs,
            f"{a}{b}",
            kernel_shape=list(phase.weight.shape[2:]),
            strides=[1, 1],
            pads=list(phase.pads),
        )
        yield made
        if rectified:
            made = write("Relu", [made.output[0]], f"{a}{b}.relu")
            yield made
        outputs[a, b] = made.output[0]
    sides = write("Shape", [node.input[0]], "sides", start=2, end=4)
    lead = integers([-1, channels], "lead")
    yield sides
    targets = []
    for rows in (1, 2):
        factors = write("Mul", [sides.output[0], integers([rows, 2], "factors")], f"size{rows}")
        target = write("Concat", [lead, factors.output[0]], f"target{rows}", axis=0)
        targets.append(target.output[0])
        yield factors
        yield target
    halves = []
    for a in (0, 1):
        # N x 2C x h x w to N x C x h x 2w: the columns of two phases interleaved.
        pair = write("Concat", [outputs[a, 0], outputs[a, 1]], f"pair{a}", axis=1)
        flat = write("Reshape", [pair.output[0], integers([0, 2, -1], "flat")], f"flat{a}")
        turned = write("Transpose", [flat.output[0]], f"turned{a}", perm=[0, 2, 1])
        half = write("Reshape", [turned.output[0], targets[0]], f"half{a}")
        halves.append(half.output[0])
        yield from (pair, flat, turned, half)
    # A row of the one, then a row of the other: a copy of whole rows.
    both = write("Concat", halves, "both", axis=3)
    yield both
    yield write("Reshape", [both.output[0], targets[1]], "whole", output=result)


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
