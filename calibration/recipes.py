"""The choice of a recipe: range method, bias correction, equalization."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from ..runtime.errors import VerificationError
from .equalization import ROUNDINGS, differing_share, equalize
from .evaluator import Damage
from .graph import Graph
from .graph_context import Subject
from .int8_rewrites import interleave_channels_last, lower_transposed
from .observers import Statistics
from .qdq_insertion import Recipe
from .qdq_placement import Placement
from .ranges import METHODS, Ranges


@dataclass(frozen=True)
class Prepared:
    """A float graph in forms that have int8 kernels, with the statistics of its values.

    Attributes:
        base: the graph before.
        placement: of the graph in these forms.
        statistics: of all values that could be quantized.
        cached: the statistics were not measured but read.
        kept_transposed: why each transposed convolution that is left was left.
        equalized_regions: regions of `base` whose channels were equalized; 0: it is the subject's graph as it is.
    """

    base: Graph
    placement: Placement
    statistics: Statistics
    cached: bool
    kept_transposed: dict[str, str]
    equalized_regions: int


@dataclass(frozen=True)
class Variant:
    """One recipe tried on a whole graph, all layers quantized.

    Attributes:
        prepared: the graph.
        recipe: how it was quantized.
        damage: on a few photographs.
    """

    prepared: Prepared
    recipe: Recipe
    damage: Damage

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return {
            "ranges": self.recipe.ranges.method,
            "bias_correction": self.recipe.correct_biases,
            "equalization": self.prepared.equalized_regions > 0,
            "damage": self.damage.value,
            "agreement": self.damage.agreement,
        }


@dataclass(frozen=True)
class Choice:
    """The recipe taken, and all that were tried.

    Attributes:
        taken: the best variant.
        variants: all of them, in the order in which they were tried.
    """

    taken: Variant
    variants: tuple[Variant, ...]


def choose_recipe(subject: Subject) -> Choice:
    """Try range methods, bias correction and equalization; each is taken if the output comes nearer to float's.

    Raises:
        VerificationError: the exact int8 forms are not exact.
        DataError: what the graph makes of the photographs has no ranges.
    """
    options = subject.options
    variants: list[Variant] = []

    def attempt(prepared: Prepared, recipe: Recipe) -> None:
        placement = prepared.placement
        damage = subject.score(placement, placement.layers, recipe, quick=True)
        variants.append(Variant(prepared, recipe, damage))

    def best() -> Variant:
        return max(variants, key=lambda variant: variant.damage.agreement)

    prepared = _prepare(subject, subject.graph, 0)
    for method in METHODS if options.ranges is None else (options.ranges,):
        ranges = Ranges(prepared.statistics, method)
        attempt(prepared, Recipe(ranges, options.rule, options.weight_limit, False, options.target))
    attempt(prepared, replace(best().recipe, correct_biases=True))
    other, regions = equalize(subject.graph, subject.seen[0], options.threads, subject.where)
    if regions:
        equalized = _prepare(subject, other, regions)
        recipe = best().recipe
        attempt(equalized, replace(recipe, ranges=Ranges(equalized.statistics, recipe.ranges.method)))
    return Choice(best(), tuple(variants))


def _prepare(subject: Subject, graph: Graph, regions: int) -> Prepared:
    """Write exact int8 forms, and measure all values that could be quantized."""
    lowered = graph.copy()
    kept = lower_transposed(lowered)
    interleave_channels_last(lowered)
    _require_same(subject, graph, lowered)
    placement = Placement(lowered, subject.where)
    values = placement.plan(placement.layers).values
    statistics, cached = subject.options.cache.statistics(
        lowered, values, subject.seen, threads=subject.options.threads, where=subject.where
    )
    return Prepared(graph, placement, statistics, cached, kept, regions)


def _require_same(subject: Subject, graph: Graph, other: Graph) -> None:
    """Check exact forms by their numbers."""
    share = differing_share(graph, other, subject.seen[0], subject.options.threads, subject.where)
    if share > ROUNDINGS:
        raise VerificationError(
            f"{subject.where}: the exact int8 forms change {100 * share:.2f} % of the output (allowed: "
            f"{100 * ROUNDINGS:g} %); please report it"
        )
