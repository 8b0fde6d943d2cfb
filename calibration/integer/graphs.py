"""One graph, from float to certified integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ...runtime.errors import VerificationError
from ..equalization import ROUNDINGS, differing_share, equalize
from ..graph import Graph
from ..int8_rewrites import interleave_channels_last, lower_transposed
from ..observers import Cache, Histogram, Statistics
from ..qdq_placement import Layer, Placement, Plan
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
from .writing import integer_recipe, with_joined_concatenations, write_integers

if TYPE_CHECKING:
    import numpy.typing as npt

    Feeds = Mapping[str, npt.NDArray[Any]]

_METHODS: Final[tuple[PowerMethod, ...]] = ("mse", "minmax")
# Bits of constants in float: as many as the certificate has room for.
_CONSTANT_BITS: Final = (11, 10, 9, 8)
# dB that a step must win to be moved.
_WORTH_MOVING: Final = 2e-4


@dataclass(frozen=True)
class Task:
    """A float graph that is to become one of integers.

    Attributes:
        where: names it in messages.
        data: the serialized model.
        seen: inputs that ranges are measured on.
        domains: the largest value of each input.
        damage: what a form of the graph costs in dB, the less the better: on inputs that nothing is measured on.
        search_damage: the same on some of `seen`, to choose by.
        cache: of the statistics.
        threads: threads per run.
        tick: gets short lines on the progress.
    """

    where: str
    data: bytes
    seen: Sequence[Feeds]
    domains: Mapping[str, int]
    damage: Callable[[bytes], float]
    search_damage: Callable[[bytes], float]
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
    equalized, regions = equalize(prepared, task.seen[0], task.threads, task.where)
    if regions:
        variants.append((f"{regions} regions equalized", equalized))
    drafts = [_draft(task, variant, text, method) for text, variant in variants for method in _METHODS]
    best = min(drafts, key=lambda draft: draft.damage)
    taken = _searched(task, best)
    report = {
        **taken.to_dict(),
        "damage": task.damage(taken.data),
        "tried": [draft.to_dict() for draft in (*drafts, taken)],
        "certificate": taken.certificate.to_dict(),
    }
    return IntegerGraph(taken.data, taken.certificate, report)


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


@dataclass(frozen=True)
class _Form:
    """A float graph and how it is written as integers, its steps aside.

    Attributes:
        text: what was done to its weights.
        method: how steps are chosen.
        placement: of the float graph.
        plan: what is quantized.
        statistics: of its values.
    """

    text: str
    method: PowerMethod
    placement: Placement
    plan: Plan
    statistics: Statistics


@dataclass(frozen=True)
class _Draft:
    """One way to write a graph as integers.

    Attributes:
        form: what it is written from.
        shifts: steps that were moved from those of the method, as powers of two, by what shares them.
        data: the serialized model.
        damage: in the search.
        certificate: what is proved of it.
    """

    form: _Form
    shifts: dict[tuple[str, ...], int]
    data: bytes
    damage: float
    certificate: Certificate

    def to_dict(self) -> dict[str, Any]:
        """For reports, as plain JSON types."""
        return {
            "weights": self.form.text,
            "steps": self.form.method,
            "moved_steps": len(self.shifts),
            "damage_in_search": self.damage,
        }


def _draft(task: Task, prepared: Graph, text: str, method: PowerMethod) -> _Draft:
    """Quantize, with constants of as many bits as can be certified; if none can, the last attempt and its failures."""
    task.tick(f"{task.where}: {text}, steps by {method}")
    kept = base_convolutions(prepared)
    for bits in _CONSTANT_BITS:
        graph = prepared.copy()
        ground_constants(graph, kept, bits)
        placement = Placement(graph, task.where)
        plan = with_joined_concatenations(graph, _plan(placement, kept))
        statistics, _ = task.cache.statistics(
            graph, plan.values, task.seen, threads=task.threads, where=task.where
        )
        draft = _written(task, _Form(text, method, placement, plan, statistics), {})
        if draft.certificate.exact:
            break
    return draft


def _written(task: Task, form: _Form, shifts: dict[tuple[str, ...], int]) -> _Draft:
    recipe = integer_recipe(PowerOfTwoRanges(form.statistics, form.method, shifts))
    graph = write_integers(form.placement, form.plan, recipe).graph
    data = graph.model.SerializeToString()
    return _Draft(form, shifts, data, task.search_damage(data), certify(graph, task.domains))


def _searched(task: Task, draft: _Draft) -> _Draft:
    """Move the steps one by one to the next power of two where that brings the output nearer.

    What is best for a value alone, rounding and clipping weighed by their squares, is not what is best for the output.
    """
    best = draft
    groups = [group.sources for group in draft.form.plan.groups]
    for number, sources in enumerate(groups):
        task.tick(f"{task.where}: step {number + 1} of {len(groups)}, {best.damage:+.3f} dB")
        for change in (-1, 1):
            moved = _written(task, best.form, {**best.shifts, sources: best.shifts.get(sources, 0) + change})
            better = moved.damage < best.damage - _WORTH_MOVING
            if better and (moved.certificate.exact or not best.certificate.exact):
                best = moved
                break
    return best


def _plan(placement: Placement, kept: set[str]) -> Plan:
    layers = [
        Layer(layer.name, tuple(name for name in layer.convolutions if name not in kept))
        for layer in placement.layers
    ]
    return placement.plan([layer for layer in layers if layer.convolutions])
