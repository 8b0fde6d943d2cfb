"""One graph, from float to certified integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ...runtime.errors import VerificationError
from ..equalisation import ROUNDINGS, differing_share, equalise
from ..graph import Graph
from ..lowering import interleave_channels_last, lower_transposed
from ..placement import Layer, Placement, Plan
from ..statistics import Cache, Histogram
from .certificate import Certificate, certify
from .power_of_two import PowerMethod, PowerOfTwoRanges
from .preparation import (
    balance_concatenations,
    base_convolutions,
    drop_identities,
    fold_offsets,
    ground_constants,
    rectify_early,
)
from .writing import integer_recipe, write_integers

if TYPE_CHECKING:
    import numpy.typing as npt

    Feeds = Mapping[str, npt.NDArray[Any]]

_METHODS: Final[tuple[PowerMethod, ...]] = ("mse", "minmax")
# Bits of constants in float: as many as the certificate has room for.
_CONSTANT_BITS: Final = (11, 10, 9, 8)


@dataclass(frozen=True)
class Task:
    """A float graph that is to become one of integers.

    Attributes:
        where: names it in messages.
        data: the serialized model.
        seen: inputs that ranges are measured on.
        domains: the largest value of each input.
        damage: what a form of the graph costs, the less the better.
        cache: of the statistics.
        threads: threads per run.
        tick: gets short lines on the progress.
    """

    where: str
    data: bytes
    seen: Sequence[Feeds]
    domains: Mapping[str, int]
    damage: Callable[[bytes], float]
    cache: Cache
    threads: int
    tick: Callable[[str], Any] = lambda _: None


@dataclass(frozen=True)
class IntegerGraph:
    """A graph of integers.

    Attributes:
        data: the serialized model, in the form for CPUs.
        certificate: what is proved of it.
        report: how it was made, as plain JSON types.
    """

    data: bytes
    certificate: Certificate
    report: dict[str, Any]


def to_integers(task: Task) -> IntegerGraph:
    """Make a graph of integers, and prove what can be proved of it.

    Raises:
        NothingToQuantizeError: it has no convolution that could be quantized.
        DataError: what it makes of its inputs has no ranges.
        VerificationError: its forms before quantization are not equal.
    """
    graph = Graph.parse(task.data, task.where)
    graph.require_float(task.where)
    prepared = _prepared(task, graph)
    variants = [("as trained", prepared)]
    equalized, regions = equalise(prepared, task.seen[0], task.threads, task.where)
    if regions:
        variants.append((f"{regions} regions equalized", equalized))
    tried = []
    for text, variant in variants:
        for method in _METHODS:
            task.tick(f"{task.where}: {text}, steps by {method}")
            data, certificate = _write(task, variant, method)
            tried.append((task.damage(data), text, method, data, certificate))
    damage, text, method, data, certificate = min(tried, key=lambda one: one[0])
    report = {
        "weights": text,
        "steps": method,
        "damage": damage,
        "tried": [{"weights": t, "steps": m, "damage": d} for d, t, m, _, _ in tried],
        "certificate": certificate.to_dict(),
    }
    return IntegerGraph(data, certificate, report)


def _prepared(task: Task, graph: Graph) -> Graph:
    """The graph in the exact forms that int8 kernels exist for, its numbers checked."""
    result = graph.copy()
    drop_identities(result)
    lower_transposed(result)
    interleave_channels_last(result)
    rectify_early(result)
    parts = {
        name
        for node in result.nodes
        if node.op_type == "Concat"
        for name in node.input
        if name in result.channels()
    }
    found, _ = task.cache.statistics(result, sorted(parts), task.seen, threads=task.threads, where=task.where)
    balance_concatenations(result, {name: _reach(h) for name, h in found.histograms.items()})
    fold_offsets(result, base_convolutions(result))
    share = differing_share(graph, result, task.seen[0], task.threads, task.where)
    if share > ROUNDINGS:
        raise VerificationError(
            f"{task.where}: its forms for integers change {100 * share:.2f} % of the output (allowed: "
            f"{100 * ROUNDINGS:g} %); please report it"
        )
    return result


def _reach(histogram: Histogram) -> float:
    """The magnitude that all but one in a thousand stay below; 0 for zeros."""
    if histogram.top == 0:
        return 0.0
    total, place = 0, 0
    wanted = 0.999 * int(histogram.counts.sum())
    while total < wanted:
        total += int(histogram.counts[place])
        place += 1
    return place / histogram.counts.size * histogram.top


def _write(task: Task, prepared: Graph, method: PowerMethod) -> tuple[bytes, Certificate]:
    """Quantize, with constants of as many bits as can be certified; without any, the last attempt and its failures."""
    kept = base_convolutions(prepared)
    data, certificate = b"", Certificate()
    for bits in _CONSTANT_BITS:
        graph = prepared.copy()
        ground_constants(graph, kept, bits)
        placement = Placement(graph, task.where)
        plan = _plan(placement, kept)
        statistics, _ = task.cache.statistics(
            graph, plan.values, task.seen, threads=task.threads, where=task.where
        )
        made = write_integers(placement, plan, integer_recipe(PowerOfTwoRanges(statistics, method)))
        certificate = certify(made.graph, task.domains)
        data = made.graph.model.SerializeToString()
        if certificate.exact:
            break
    return data, certificate


def _plan(placement: Placement, kept: set[str]) -> Plan:
    layers = [
        Layer(layer.name, tuple(name for name in layer.convolutions if name not in kept))
        for layer in placement.layers
    ]
    return placement.plan([layer for layer in layers if layer.convolutions])
