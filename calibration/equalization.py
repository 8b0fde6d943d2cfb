"""Cross-layer equalization: scaling channels between convolutions so that int8 weights use their range better.

A channel may be divided by any s > 0 where it is computed and multiplied by s where it is read, as long as only ReLUs,
sums, poolings and upsamplings lie between. With r1 the largest weight of the channel's producers and r2 that of its
readers, s = sqrt(r1 / r2) makes both equal (Nagel et al., ICCV 2019, section 4.1; here over all convolutions that
share the channel).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import NodeProto

from .graph import Graph, attributes, reads
from .ort_session import Session

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

# Between them f(s * x) = s * f(x), channel by channel. Those that only move values keep the channels apart in the
# interleaved phases of the exporter; `equalize` checks the whole graph's numbers, whatever they do.
_HOMOGENEOUS: Final = frozenset(
    {"Relu", "Add", "MaxPool", "AveragePool", "Resize", "Concat", "Reshape", "Transpose", "Shape"}
)
_HEAVY: Final = frozenset({"Conv", "ConvTranspose"})
_MOST: Final = 16.0
_CLOSE: Final = 1e-3
ROUNDINGS: Final = 2e-3
"""Share of an output that may differ between two graphs that are equal in real arithmetic."""


@dataclass
class _Region:
    """Values that share their channels, the convolutions that compute them and those that read them."""

    producers: list[NodeProto] = field(default_factory=list)
    readers: list[NodeProto] = field(default_factory=list)
    closed: bool = True


def equalize(
    graph: Graph, feeds: Mapping[str, npt.NDArray[Any]], threads: int, where: str
) -> tuple[Graph, int]:
    """Equalize a copy of a float graph.

    Args:
        graph: a float graph.
        feeds: inputs on which the copy must give the same outputs, but for roundings.
        threads: threads per run.
        where: names the graph in messages.

    Returns:
        The copy and the number of regions equalized; with 0 it equals the graph.
    """
    result = graph.copy()
    count = 0
    for region in _Channels(result).regions():
        factors = _factors(result, region)
        if factors is not None and np.any(np.abs(factors - 1) > 1e-3):
            _apply(result, region, factors)
            count += 1
    if count and differing_share(graph, result, feeds, threads, where) > ROUNDINGS:
        return graph.copy(), 0
    return result, count


def differing_share(
    graph: Graph, other: Graph, feeds: Mapping[str, npt.NDArray[Any]], threads: int, where: str
) -> float:
    """Share of the elements that two graphs do not agree on, 0..1, of the output where it is largest.

    Floats agree if they differ by no more than a thousandth of their magnitude, or of the output's root mean square:
    sums in another order differ by less.
    """
    one, two = (Session(g.model.SerializeToString(), threads, where=where).run(feeds) for g in (graph, other))
    return max(_share(x, y) for x, y in zip(one, two, strict=True))


def _share(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    if x.dtype.kind != "f" or not x.size:
        return float(np.mean(x != y)) if x.size else 0.0
    scale = float(np.sqrt(np.mean(np.square(x, dtype=np.float64))))
    return float(np.mean(~np.isclose(y, x, rtol=_CLOSE, atol=_CLOSE * scale, equal_nan=True)))


def _data(node: NodeProto) -> list[str]:
    """A node's inputs that carry channels."""
    return list(node.input) if node.op_type in {"Add", "Concat"} else list(node.input[:1])


class _Channels:
    """Which values of a graph share their channels.

    Args:
        graph: a float graph.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._parent: dict[str, str] = {}
        # What is computed from shapes is no feature.
        self._sizes: set[str] = set()
        for node in graph.nodes:
            if node.op_type == "Shape" or self._sizes & set(node.input[:1]):
                self._sizes.update(node.output)
            elif self._passes(node):
                for name in _data(node):
                    self._parent[self._root(name)] = self._root(node.output[0])

    def _root(self, value: str) -> str:
        while self._parent.setdefault(value, value) != value:
            value = self._parent[value]
        return value

    def _passes(self, node: NodeProto) -> bool:
        """Whether a node hands on channels that are scaled."""
        return node.op_type in _HOMOGENEOUS and all(
            self._graph.constant(name) is None for name in _data(node)
        )

    def regions(self) -> list[_Region]:
        """Closed regions: what lies between convolutions, and is seen by nothing else."""
        regions: dict[str, _Region] = {}

        def of(value: str) -> _Region:
            return regions.setdefault(self._root(value), _Region())

        for name in [*(value.name for value in self._graph.model.graph.input), *self._graph.outputs]:
            of(name).closed = False
        for node in self._graph.nodes:
            if _is_plain(self._graph, node):
                of(node.input[0]).readers.append(node)
                of(node.output[0]).producers.append(node)
            elif node.op_type != "Shape" and not self._passes(node):
                for name in (*reads(node), *node.output):
                    of(name).closed = False
        return [r for r in regions.values() if r.closed and r.producers and r.readers]


def _is_plain(graph: Graph, node: NodeProto) -> bool:
    """Whether a node is a convolution without groups whose weight and bias can be scaled."""
    if node.op_type not in _HEAVY or attributes(node).get("group", 1) != 1:
        return False
    weight = graph.constant(node.input[1])
    bias = len(node.input) < 3 or not node.input[2] or graph.constant(node.input[2]) is not None
    return weight is not None and weight.dtype == np.float32 and bias


def _outputs_axis(node: NodeProto) -> int:
    return 0 if node.op_type == "Conv" else 1


def _largest(graph: Graph, nodes: list[NodeProto], *, outputs: bool) -> list[Floats]:
    found = []
    for node in nodes:
        weight = graph.constant(node.input[1])
        assert weight is not None
        axis = _outputs_axis(node) if outputs else 1 - _outputs_axis(node)
        found.append(np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis)))
    return found


def _factors(graph: Graph, region: _Region) -> Floats | None:
    """The factor of each channel; None where the convolutions do not agree on their number."""
    produced = _largest(graph, region.producers, outputs=True)
    read = _largest(graph, region.readers, outputs=False)
    if len({found.size for found in (*produced, *read)}) != 1:
        return None
    r1, r2 = np.max(produced, axis=0), np.max(read, axis=0)
    usable = (r1 > 0) & (r2 > 0)
    s = np.sqrt(np.where(usable, r1, 1) / np.where(usable, r2, 1))
    factors: Floats = np.clip(s / np.exp(np.mean(np.log(s))), 1 / _MOST, _MOST).astype(np.float32)
    return factors


def _apply(graph: Graph, region: _Region, s: Floats) -> None:
    for node in region.producers:
        _scale(graph, node, 1, np.float32(1) / s, _outputs_axis(node))
        if len(node.input) > 2 and node.input[2]:
            _scale(graph, node, 2, np.float32(1) / s, 0)
    for node in region.readers:
        _scale(graph, node, 1, s, 1 - _outputs_axis(node))


def _scale(graph: Graph, node: NodeProto, position: int, factors: Floats, axis: int) -> None:
    """Scale a constant input along an axis; a constant that others read too is copied first."""
    name = node.input[position]
    values = graph.constant(name)
    assert values is not None
    shape = [1] * values.ndim
    shape[axis] = -1
    scaled = (values * factors.reshape(shape)).astype(np.float32)
    if len(graph.readers[name]) > 1:
        node.input[position] = graph.add_constant(f"{node.name}.equalized", scaled)
    else:
        graph.set_constant(name, scaled)
