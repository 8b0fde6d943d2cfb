"""The calibration of one graph: recipe, layers, decision, report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..runtime.bundle import Bundle, GraphName
from ..runtime.errors import VerificationError
from ..runtime.quantization import EXACT_WEIGHT_LIMIT
from .equalisation import ROUNDINGS, differing_share, equalise
from .figures import kernel_counts, latency, value_figures, weight_sqnr
from .graph import Graph
from .judge import Damage, FloatNetworks, Judge, Layers
from .kernels import INT8_CONVOLUTION, Kernel, not_int8, profile, seconds_of
from .lowering import interleave_channels_last, lower_transposed
from .options import Options
from .placement import Layer, Placement
from .ranges import METHODS, Ranges
from .sensitivity import Decision, Trial, decide, rank
from .sessions import Session
from .statistics import Statistics, values_of
from .writing import Quantised, Recipe, quantise

if TYPE_CHECKING:
    import numpy.typing as npt

_TRIED: Final = 4
_PROFILE_RUNS: Final = 8
_SQNR_IMAGES: Final = 2
_TOTALS: Final = 3
_TELLABLE: Final = 0.02


@dataclass(frozen=True)
class Work:
    """What the calibrations of a bundle's graphs share.

    Attributes:
        bundle: of float graphs.
        seen: photographs that ranges are measured on.
        judged: others, on which the quantised graphs are judged.
        options: how to calibrate.
        networks: the float graphs, loaded.
        tick: gets short lines on the progress, many of them.
    """

    bundle: Bundle
    seen: list[Layers]
    judged: list[Layers]
    options: Options
    networks: FloatNetworks
    tick: Callable[[str], Any]


@dataclass(frozen=True)
class Calibrated:
    """One graph.

    Attributes:
        data: the serialised model; the float one where no layer is quantised.
        int8: whether it is quantised.
        report: as plain JSON types.
    """

    data: bytes
    int8: bool
    report: dict[str, Any]


class GraphCalibration:
    """The steps for one graph; each leaves what the next needs.

    Args:
        name: which graph.
        work: what all graphs share.
    """

    def __init__(self, name: GraphName, work: Work) -> None:
        options = work.options
        self.name = name
        self.where = str(work.bundle.graph_path(name))
        self.options = options
        self.tick = work.tick
        self.feeds = [layers.feeds(name) for layers in work.seen]
        self.judged = work.judged
        self.float_data = work.bundle.read_graph(name)
        self.original = Graph.parse(self.float_data, self.where)
        self.original.require_float(self.where)
        self.judge = Judge(work.networks, work.judged, options.threads)
        # Layer by layer there are many runs: on fewer photographs.
        self.quick_judge = Judge(work.networks, work.judged[:_TRIED], options.threads)
        # The estimate's loss is shared by the graphs that it comes from.
        sharing = len({"analyse", "synthesise"} & set(options.graphs))
        self.budget = options.budget_labels if name == "segment" else options.budget_db / sharing
        self.variants: list[dict[str, Any]] = []
        self.cached = False

    def prepare(self, graph: Graph) -> tuple[Placement, Statistics]:
        """Write exact int8 forms, and measure all values that could be quantised."""
        lowered = graph.copy()
        self.kept_transposed = lower_transposed(lowered)
        interleave_channels_last(lowered)
        self._require_same(graph, lowered)
        placement = Placement(lowered, self.where)
        values = placement.plan(placement.layers).values
        statistics, hit = self.options.cache.statistics(
            lowered, values, self.feeds, threads=self.options.threads, where=self.where
        )
        self.cached |= hit
        return placement, statistics

    def _require_same(self, graph: Graph, other: Graph) -> None:
        """Check exact forms by their numbers.

        Raises:
            VerificationError: they differ by more than roundings can.
        """
        share = differing_share(graph, other, self.feeds[0], self.options.threads, self.where)
        if share > ROUNDINGS:
            raise VerificationError(
                f"{self.where}: the exact int8 forms change {100 * share:.2f} % of the output (allowed: "
                f"{100 * ROUNDINGS:g} %); please report it"
            )

    def score(
        self, placement: Placement, layers: Sequence[Layer], recipe: Recipe, judge: Judge | None = None
    ) -> Damage:
        """Quantise some layers and score the graph."""
        made = quantise(placement, placement.plan(layers), recipe)
        data = made.graph.model.SerializeToString()
        return (judge or self.judge).damage(self.name, data, self._limit(made))

    def _limit(self, made: Quantised) -> int | None:
        """What `open_session` is to know of a graph: nothing if no layer is quantised."""
        return self.options.weight_limit if made.weights else None

    def choose_recipe(self) -> None:
        """Range method, bias correction and equalisation: each is taken if the output comes nearer to float's."""
        options = self.options
        placement, statistics = self.prepare(self.original)
        methods = METHODS if options.ranges is None else (options.ranges,)
        trials: list[tuple[float, Placement, Recipe, bool]] = []

        def attempt(placed: Placement, recipe: Recipe, *, equalised: bool) -> None:
            damage = self.score(placed, placed.layers, recipe, self.quick_judge)
            trials.append((damage.agreement_db, placed, recipe, equalised))
            self.variants.append(
                {
                    "ranges": recipe.ranges.method,
                    "bias_correction": recipe.correct_biases,
                    "equalisation": equalised,
                    "damage": damage.value,
                    "agreement": damage.agreement_db,
                }
            )

        def best() -> tuple[float, Placement, Recipe, bool]:
            return max(trials, key=lambda trial: trial[0])

        for method in methods:
            attempt(
                placement,
                Recipe(Ranges(statistics, method), options.rule, options.weight_limit, False),
                equalised=False,
            )
        attempt(placement, replace(best()[2], correct_biases=True), equalised=False)
        other, self.regions = equalise(self.original, self.feeds[0], options.threads, self.where)
        if self.regions:
            other_placement, other_statistics = self.prepare(other)
            recipe = replace(best()[2], ranges=Ranges(other_statistics, best()[2].ranges.method))
            attempt(other_placement, recipe, equalised=True)
        _, self.placement, self.recipe, self.equalised = best()
        self.base = other if self.equalised else self.original
        self.statistics = self.recipe.ranges.statistics

    def try_layers(self) -> None:
        """Time all layers in both forms, and score each one quantised alone."""
        options = self.options
        feeds = self.judged[0].feeds(self.name)
        timing: dict[str, Any] = {"where": self.where, "threads": options.threads, "runs": _PROFILE_RUNS}
        everything = quantise(self.placement, self.placement.plan(self.placement.layers), self.recipe)
        before = profile(self.float_data, feeds, weight_limit=None, **timing)
        # Kernels are timed that a CPU with VNNI takes too; their numbers are not looked at.
        data = everything.graph.model.SerializeToString()
        after = profile(data, feeds, weight_limit=EXACT_WEIGHT_LIMIT, **timing)
        self.trials: list[Trial] = []
        for i, layer in enumerate(self.placement.layers):
            damage = self.score(self.placement, [layer], self.recipe, self.quick_judge)
            float_seconds = seconds_of(before, self.original, {*layer.convolutions, *self._transposed(layer)})
            int8_seconds = seconds_of(after, everything.graph, layer.convolutions)
            self.trials.append(Trial(layer, damage.value, float_seconds, int8_seconds))
            self.tick(f"{self.name}: layer {i + 1}/{len(self.placement.layers)} {layer.name}")
        if self.options.time_decides:
            self._reconsider(feeds)

    def _reconsider(self, feeds: dict[str, npt.NDArray[np.uint8]]) -> None:
        """Time layers that do not pay by themselves within the graph: float islands have conversions around them.

        A max-pooling behind a float convolution, for instance, is done by a slow int8 kernel in another memory layout.
        """

        def total(layers: Sequence[Layer]) -> float:
            made = quantise(self.placement, self.placement.plan(layers), self.recipe)
            data = made.graph.model.SerializeToString()
            # The other work of the machine only ever adds time.
            return min(
                sum(kernel.seconds for kernel in profile(data, feeds, **options)) for _ in range(_TOTALS)
            )

        options: dict[str, Any] = {
            "where": self.where,
            "threads": self.options.threads,
            "runs": _PROFILE_RUNS,
            "weight_limit": EXACT_WEIGHT_LIMIT,
        }
        paying = [trial.layer for trial in self.trials if trial.pays]
        if len(paying) == len(self.trials) or not paying:
            return
        without = total(paying)
        whole = sum(trial.float_seconds for trial in self.trials)
        for i, trial in enumerate(self.trials):
            # The difference of two sums says nothing of smaller layers.
            if not trial.pays and trial.float_seconds > _TELLABLE * whole:
                seconds = trial.float_seconds + total([*paying, trial.layer]) - without
                self.trials[i] = replace(trial, int8_seconds=max(seconds, 0.0))

    def _transposed(self, layer: Layer) -> set[str]:
        """The transposed convolutions that a layer comes from."""
        stems = {name.rpartition(".")[0] for name in layer.convolutions}
        return {node.name for node in self.original.nodes if node.op_type == "ConvTranspose"} & stems

    def decide(self) -> Decision:
        """Choose the layers."""
        return decide(
            self.trials,
            self.budget,
            lambda layers: self.score(self.placement, layers, self.recipe),
            time_decides=self.options.time_decides,
        )

    def write(self, decision: Decision) -> tuple[Quantised, list[Kernel]]:
        """Write the chosen layers; what stays in float stays as it is. Run the result once."""
        lowered = self.base.copy()
        lower_transposed(lowered, {name for layer in decision.int8 for name in self._transposed(layer)})
        interleave_channels_last(lowered, {name for layer in decision.int8 for name in layer.convolutions})
        placement = Placement(lowered, self.where)
        made = quantise(placement, placement.plan(decision.int8), self.recipe)
        kernels = profile(
            made.graph.model.SerializeToString(),
            self.judged[0].feeds(self.name),
            where=self.where,
            threads=self.options.threads,
            runs=1,
            weight_limit=self._limit(made),
        )
        return made, kernels

    def run(self) -> Calibrated:
        """All steps."""
        self.choose_recipe()
        self.try_layers()
        decision = self.decide()
        made, kernels = self.write(decision)
        missing = set(not_int8(kernels, frozenset(made.weights)))
        if missing:
            # What ONNX Runtime would run in float anyway is float in the graph, and is said to be.
            stuck = [layer for layer in decision.int8 if missing & set(layer.convolutions)]
            names = {layer.name for layer in stuck}
            rest = tuple(layer for layer in decision.int8 if layer.name not in names)
            reasons = decision.reasons | dict.fromkeys(names, "ONNX Runtime does not run it in int8")
            decision = Decision(rest, reasons, self.score(self.placement, rest, self.recipe))
            made, kernels = self.write(decision)
        if not decision.int8:
            return Calibrated(self.float_data, False, self._report(decision, made, kernels, {}))
        data = made.graph.model.SerializeToString()
        threads, limit = self.options.threads, self.options.weight_limit
        sessions = {
            "float32": Session(self.float_data, threads, where=self.where),
            "int8": Session(data, threads, where=self.where, weight_limit=limit),
        }
        times = latency(sessions, self.judged[0].feeds(self.name))
        times |= {"shape": list(self.judged[0].image.shape), "threads": threads}
        return Calibrated(data, True, self._report(decision, made, kernels, times))

    def _report(
        self, decision: Decision, made: Quantised, kernels: list[Kernel], times: dict[str, Any]
    ) -> dict[str, Any]:
        judged = [layers.feeds(self.name) for layers in self.judged[:_SQNR_IMAGES]]
        values = values_of(self.placement.graph, list(made.scales), judged, self.options.threads, self.where)
        ranked = [trial.layer.name for trial in rank(self.trials)]
        float_output = self.judge.float_db()
        return {
            "recipe": {
                "ranges": self.recipe.ranges.method,
                "scales": self.recipe.rule.name,
                "bias_correction": self.recipe.correct_biases,
                "equalisation": self.equalised,
                "equalised_regions": self.regions,
                "weight_limit": self.recipe.weight_limit,
            },
            "variants": self.variants,
            "statistics_from_cache": self.cached,
            "budget": self.budget,
            "damage": decision.damage.value,
            "agreement": decision.damage.agreement_db,
            "estimate_db": {"before": float_output, "after": decision.damage.estimate_db},
            "layers": [
                {
                    "name": trial.layer.name,
                    "convolutions": list(trial.layer.convolutions),
                    "decision": "float32" if trial.layer.name in decision.reasons else "int8",
                    "reason": decision.reasons.get(trial.layer.name, "within the budget"),
                    "rank": ranked.index(trial.layer.name) + 1,
                    "damage_alone": trial.damage,
                    "float_ms": 1e3 * trial.float_seconds,
                    "int8_ms": 1e3 * trial.int8_seconds,
                    "weight_sqnr_db": weight_sqnr(trial.layer, self.placement.graph, made),
                }
                for trial in self.trials
            ],
            "transposed_left": self.kept_transposed,
            "values": value_figures(made, self.statistics, values, len(judged)),
            "kernels": kernel_counts(kernels),
            "int8_convolutions": {
                "meant": len(made.weights),
                "run": sum(kernel.operator == INT8_CONVOLUTION for kernel in kernels),
            },
            "latency": times,
        }
