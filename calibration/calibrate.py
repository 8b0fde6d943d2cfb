"""Calibration of a bundle: from float graphs and photographs to int8 graphs, with everything the report says."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..bench import environment
from ..bench.timing import Candidate, Settings, measure, ratio
from ..runtime.backends.onnxruntime_cpu import open_session
from ..runtime.bundle import GRAPH_NAMES, Bundle, GraphInfo, GraphName, Manifest, require_free, write_bundle
from ..runtime.errors import BundleError, DataError, UsageError
from ..runtime.quantization import EXACT_WEIGHT_LIMIT
from .equalisation import equalise
from .graph import Graph
from .images import digest, read_photographs
from .judge import Damage, FloatNetworks, Judge, Layers
from .kernels import INT8_CONVOLUTION, Kernel, not_int8, profile, seconds_of
from .lowering import lower_transposed
from .placement import Layer, Placement
from .ranges import METHODS, RangeMethod, Ranges, clipped_share
from .report import html
from .scales import AnyScale, ScaleRule
from .sensitivity import Decision, Trial, decide, rank
from .statistics import Cache, Statistics, run_with_outputs
from .writing import Quantised, Recipe, quantise

if TYPE_CHECKING:
    import numpy.typing as npt

FORMAT: Final = "oslic-calibration"
VERSION: Final = 1
REPORT_JSON: Final = "calibration.json"
REPORT_HTML: Final = "calibration.html"

_JUDGED: Final = 8
_TRIED: Final = 4
_PROFILE_RUNS: Final = 8
_SQNR_IMAGES: Final = 2


@dataclass(frozen=True)
class Options:
    """How to calibrate.

    Attributes:
        images: folder of photographs.
        count: how many photographs ranges are measured on, at the most.
        graphs: which graphs to quantise.
        ranges: the range method; None: the one whose output is nearest to the float graph's.
        rule: the scale rule.
        weight_bits: 8, or 7: then no kernel saturates on machines without VNNI.
        budget_db: PSNR of the estimate that `analyse` and `synthesise` may lose together, in dB.
        budget_labels: share of the labels that `segment` may change, 0..1.
        threads: threads per run.
        cache: of the statistics.
    """

    images: Path
    count: int = 32
    graphs: tuple[GraphName, ...] = GRAPH_NAMES
    ranges: RangeMethod | None = None
    rule: ScaleRule = field(default_factory=AnyScale)
    weight_bits: int = 8
    budget_db: float = 0.1
    budget_labels: float = 0.05
    threads: int = 1
    cache: Cache = field(default_factory=lambda: Cache(None))

    @property
    def weight_limit(self) -> int:
        """Largest magnitude of int8 weights."""
        return 127 if self.weight_bits == 8 else EXACT_WEIGHT_LIMIT - 1

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            UsageError: naming the setting.
        """
        demands = {
            "--count": (self.count >= 1, self.count, "at least 1"),
            "--weight-bits": (self.weight_bits in {7, 8}, self.weight_bits, "7 or 8"),
            "--budget-db": (self.budget_db >= 0, self.budget_db, "0 or more"),
            "--budget-labels": (0 <= self.budget_labels <= 1, self.budget_labels, "0..1"),
            "--threads": (self.threads >= 1, self.threads, "at least 1"),
        }
        for name, (good, value, wanted) in demands.items():
            if not good:
                raise UsageError(f"{name} is {value}, must be {wanted}")


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


class _GraphCalibration:
    """The steps for one graph; each leaves what the next needs."""

    def __init__(
        self, name: GraphName, bundle: Bundle, seen: list[Layers], judged: list[Layers], settings: Options,
        networks: FloatNetworks, progress: Callable[[str], Any],
    ) -> None:  # fmt: skip
        self.name = name
        self.where = str(bundle.graph_path(name))
        self.settings = settings
        self.progress = progress
        self.feeds = [layers.feeds(name) for layers in seen]
        self.judged = judged
        self.float_data = bundle.read_graph(name)
        self.original = Graph.parse(self.float_data, self.where)
        self.original.require_float(self.where)
        self.judge = Judge(networks, judged, settings.threads)
        # Layer by layer there are many runs: on fewer photographs.
        self.quick_judge = Judge(networks, judged[:_TRIED], settings.threads)
        budgets: dict[GraphName, float] = {
            "segment": settings.budget_labels,
            "analyse": settings.budget_db / 2,
            "synthesise": settings.budget_db / 2,
        }
        self.budget = budgets[name]
        self.variants: list[dict[str, Any]] = []
        self.cached = False

    def prepare(self, graph: Graph) -> tuple[Placement, Statistics]:
        """Write exact int8 forms, and measure all values that could be quantised."""
        lowered = graph.copy()
        self.kept_transposed = lower_transposed(lowered)
        placement = Placement(lowered, self.where)
        values = placement.plan(placement.layers).values
        statistics, hit = self.settings.cache.statistics(
            lowered, values, self.feeds, threads=self.settings.threads, where=self.where
        )
        self.cached |= hit
        return placement, statistics

    def score(self, placement: Placement, layers: Sequence[Layer], recipe: Recipe, judge: Judge | None = None) -> Damage:
        """Quantise some layers and score the graph."""
        made = quantise(placement, placement.plan(layers), recipe)
        data = made.graph.model.SerializeToString()
        return (judge or self.judge).damage(self.name, data, self.settings.weight_limit)

    def choose_recipe(self) -> None:
        """Range method, bias correction and equalisation: each is taken if the output comes nearer to float's."""
        settings = self.settings
        placement, statistics = self.prepare(self.original)
        methods = METHODS if settings.ranges is None else (settings.ranges,)
        trials: list[tuple[float, Placement, Recipe, bool]] = []

        def attempt(where: Placement, recipe: Recipe, *, equalised: bool) -> None:
            damage = self.score(where, where.layers, recipe, self.quick_judge)
            trials.append((damage.agreement_db, where, recipe, equalised))
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
            attempt(placement, Recipe(Ranges(statistics, method), settings.rule, settings.weight_limit, False), equalised=False)
        attempt(placement, replace(best()[2], correct_biases=True), equalised=False)
        other, self.regions = equalise(self.original, self.feeds[0], settings.threads)
        if self.regions:
            other_placement, other_statistics = self.prepare(other)
            recipe = replace(best()[2], ranges=Ranges(other_statistics, best()[2].ranges.method))
            attempt(other_placement, recipe, equalised=True)
        _, self.placement, self.recipe, self.equalised = best()
        self.base = other if self.equalised else self.original
        self.statistics = self.recipe.ranges.statistics

    def try_layers(self) -> None:
        """Time all layers in both forms, and score each one quantised alone."""
        settings = self.settings
        feeds = self.judged[0].feeds(self.name)
        timing = {"threads": settings.threads, "runs": _PROFILE_RUNS}
        everything = quantise(self.placement, self.placement.plan(self.placement.layers), self.recipe)
        before = profile(self.float_data, feeds, weight_limit=None, **timing)
        # Kernels are timed that a CPU with VNNI takes too; their numbers are not looked at.
        data = everything.graph.model.SerializeToString()
        after = profile(data, feeds, weight_limit=EXACT_WEIGHT_LIMIT, **timing)
        self.trials = []
        for i, layer in enumerate(self.placement.layers):
            damage = self.score(self.placement, [layer], self.recipe, self.quick_judge)
            float_seconds = seconds_of(before, self.original, {*layer.convolutions, *self._transposed(layer)})
            int8_seconds = seconds_of(after, everything.graph, layer.convolutions)
            self.trials.append(Trial(layer, damage.value, float_seconds, int8_seconds))
            self.progress(f"{self.name}: layer {i + 1}/{len(self.placement.layers)} {layer.name}")

    def _transposed(self, layer: Layer) -> set[str]:
        """The transposed convolutions that a layer comes from."""
        stems = {name.rpartition(".")[0] for name in layer.convolutions}
        return {node.name for node in self.original.nodes if node.op_type == "ConvTranspose"} & stems

    def decide(self) -> Decision:
        """Choose the layers."""
        return decide(self.trials, self.budget, lambda layers: self.score(self.placement, layers, self.recipe))

    def write(self, decision: Decision) -> tuple[Quantised, Placement, list[Kernel]]:
        """Write the chosen layers; transposed convolutions that stay in float stay as they are."""
        lowered = self.base.copy()
        lower_transposed(lowered, {name for layer in decision.int8 for name in self._transposed(layer)})
        placement = Placement(lowered, self.where)
        made = quantise(placement, placement.plan(decision.int8), self.recipe)
        kernels = profile(
            made.graph.model.SerializeToString(),
            self.judged[0].feeds(self.name),
            threads=self.settings.threads,
            runs=1,
            weight_limit=self.settings.weight_limit,
        )
        return made, placement, kernels

    def run(self) -> Calibrated:
        """All steps."""
        self.choose_recipe()
        self.try_layers()
        decision = self.decide()
        made, placement, kernels = self.write(decision)
        missing = set(not_int8(kernels, frozenset(made.weights)))
        if missing:
            # What ONNX Runtime would run in float anyway is float in the graph, and is said to be.
            stuck = [layer for layer in decision.int8 if missing & set(layer.convolutions)]
            names = {layer.name for layer in stuck}
            rest = tuple(layer for layer in decision.int8 if layer.name not in names)
            reasons = decision.reasons | dict.fromkeys(names, "ONNX Runtime does not run it in int8")
            decision = Decision(rest, reasons, self.score(self.placement, rest, self.recipe))
            made, placement, kernels = self.write(decision)
        if not decision.int8:
            return Calibrated(self.float_data, False, self._report(decision, made, kernels, {}))
        data = made.graph.model.SerializeToString()
        return Calibrated(data, True, self._report(decision, made, kernels, self._latency(data)))

    def _latency(self, data: bytes) -> dict[str, Any]:
        feeds = self.judged[0].feeds(self.name)
        sessions = {
            "float32": open_session(self.float_data, self.settings.threads),
            "int8": open_session(data, self.settings.threads, weight_limit=self.settings.weight_limit),
        }

        def candidate(name: str) -> Candidate:
            def run() -> None:
                sessions[name].run(None, feeds)

            return run

        timings = measure({name: candidate(name) for name in sessions}, Settings(timeout=10))
        return {
            "shape": list(self.judged[0].image.shape),
            "threads": self.settings.threads,
            "median_ms": {name: 1e3 * timing.total.median for name, timing in timings.items()},
            "speedup": ratio(timings["float32"], timings["int8"]),
        }

    def _report(
        self, decision: Decision, made: Quantised, kernels: list[Kernel], latency: dict[str, Any]
    ) -> dict[str, Any]:
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
                    "weight_sqnr_db": self._weight_sqnr(trial.layer, made),
                }
                for trial in self.trials
            ],
            "transposed_left": self.kept_transposed,
            "values": self._values(made),
            "kernels": _count(kernels),
            "int8_convolutions": {
                "meant": len(made.weights),
                "run": sum(kernel.operator == INT8_CONVOLUTION for kernel in kernels),
            },
            "latency": latency,
        }

    def _weight_sqnr(self, layer: Layer, made: Quantised) -> float | None:
        weights = [(self.placement.graph.constant(self.placement.graph.node(name).input[1]), made.weights[name])
                   for name in layer.convolutions if name in made.weights]  # fmt: skip
        if not weights:
            return None
        signal = sum(float(np.sum(np.square(w, dtype=np.float64))) for w, _ in weights if w is not None)
        noise = sum(float(np.sum(np.square(q.dequantised() - w, dtype=np.float64))) for w, q in weights)
        return _decibel(signal, noise)

    def _values(self, made: Quantised) -> list[dict[str, Any]]:
        """Range, clipping and SQNR of every quantised value, on photographs that no range was measured on."""
        names = list(made.scales)
        signal, noise, clipped = ({name: 0.0 for name in names} for _ in range(3))
        feeds = [layers.feeds(self.name) for layers in self.judged[:_SQNR_IMAGES]]
        count = len(feeds)
        for arrays in run_with_outputs(self.placement.graph, names, feeds, self.settings.threads):
            for name, x in zip(names, arrays, strict=True):
                scale = made.scales[name]
                stored = np.clip(np.rint(x / scale), -128, 127)
                signal[name] += float(np.sum(np.square(x, dtype=np.float64)))
                noise[name] += float(np.sum(np.square(stored * scale - x, dtype=np.float64)))
                clipped[name] += float(np.mean(np.abs(x) > 127.5 * scale)) / count
        found = []
        for name in names:
            histogram, limit = made.histograms[name], float(made.scales[name]) * 127
            found.append(
                {
                    "name": name,
                    "low": self.statistics.histograms[name].low,
                    "high": self.statistics.histograms[name].high,
                    "threshold": limit,
                    "scale": float(made.scales[name]),
                    "clipped_calibration": clipped_share(histogram, limit),
                    "clipped": clipped[name],
                    "sqnr_db": _decibel(signal[name], noise[name]),
                    "always_zero": histogram.top == 0,
                    "histogram": {"top": histogram.top, "counts": histogram.counts.reshape(64, -1).sum(axis=1).tolist()},
                }
            )
        return found


def _decibel(signal: float, noise: float) -> float | None:
    return None if signal == 0 or noise == 0 else 10 * float(np.log10(signal / noise))


def _count(kernels: Sequence[Kernel]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for kernel in kernels:
        counts[kernel.operator] = counts.get(kernel.operator, 0) + 1
    return dict(sorted(counts.items()))


def fingerprint(manifest: Manifest, graphs: Sequence[bytes]) -> str:
    """SHA-256 of the float fingerprint and of all constants of the graphs: integers, scales, biases.

    Args:
        manifest: of the float bundle.
        graphs: the calibrated graphs, in the order of `GRAPH_NAMES`.

    Returns:
        64 hexadecimal digits.
    """
    found = hashlib.sha256(f"{FORMAT} {manifest.fingerprint}".encode())
    for data in graphs:
        graph = Graph.parse(data, "a calibrated graph")
        for name in sorted(tensor.name for tensor in graph.model.graph.initializer):
            values: npt.NDArray[Any] | None = graph.constant(name)
            assert values is not None
            found.update(f"{name} {values.dtype} {values.shape}".encode())
            found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


def _info(info: GraphInfo, calibrated: Calibrated) -> GraphInfo:
    digest_ = hashlib.sha256(calibrated.data).hexdigest()
    return replace(info, sha256=digest_, precision="int8" if calibrated.int8 else info.precision)


def calibrate_bundle(
    bundle: Bundle,
    folder: Path,
    settings: Options,
    *,
    replace_old: bool,
    evaluate: Callable[[Path], dict[str, Any]] | None = None,
    progress: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Calibrate a bundle and write the quantised one, with its report inside.

    Args:
        bundle: of float graphs.
        folder: where to.
        settings: how.
        replace_old: replace a bundle that is already there.
        evaluate: scores the bundle in a folder, for the report; None: none.
        progress: gets lines for the user.

    Returns:
        The report.

    Raises:
        UsageError: a setting, or the folder.
        DataError: the photographs, or what the graphs make of them.
        BundleError: the bundle is quantised already, or has nothing to quantise.
    """
    settings.check()
    require_free(folder, replace=replace_old)
    manifest = bundle.manifest
    if manifest.quantization is not None:
        raise BundleError(f"{bundle.path} is already quantised; calibrate the float32 bundle that it was made from")
    photographs = read_photographs(settings.images, 2 * settings.count, manifest.multiple)
    networks = FloatNetworks(bundle, settings.threads)
    layers = [networks.layers(photograph) for photograph in photographs]
    # Ranges are measured on every other photograph, and judged on the rest.
    seen, judged = layers[::2], (layers[1::2] or layers)[:_JUDGED]
    progress(f"ranges on {len(seen)} photographs, judged on {len(judged)} {'others' if len(layers) > 1 else '(the same)'}")
    results: dict[GraphName, Calibrated] = {}
    for name in GRAPH_NAMES:
        if name not in settings.graphs:
            results[name] = Calibrated(bundle.read_graph(name), False, {})
            continue
        step = _GraphCalibration(name, bundle, seen, judged, settings, networks, progress)
        results[name] = made = step.run()
        progress(summary(name, made.report))
    if not any(result.int8 for result in results.values()):
        raise DataError("no layer is left in int8 within the budget; raise --budget-db or --budget-labels")
    models = {
        name: (result.data, settings.weight_limit if result.int8 else None) for name, result in results.items()
    }
    report = {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment.describe(),
        "bundle": manifest.name,
        "settings": {
            "photographs": [p.name for p in photographs],
            "data_sha256": digest(photographs),
            "ranges": settings.ranges or "auto",
            "weight_bits": settings.weight_bits,
            "budget_db": settings.budget_db,
            "budget_labels": settings.budget_labels,
            "threads": settings.threads,
        },
        "together": Judge(networks, judged, settings.threads).together(models),
        "graphs": {name: result.report for name, result in results.items() if result.report},
    }
    made_manifest = replace(
        manifest,
        fingerprint=fingerprint(manifest, [results[name].data for name in GRAPH_NAMES]),
        graphs={name: _info(manifest.graphs[name], results[name]) for name in GRAPH_NAMES},
        tools={**manifest.tools, **{name: version(name) for name in ("oslic", "onnx", "onnxruntime", "numpy")}},
        quantization=_quantization(manifest, settings, results, report),
    )
    write(folder, made_manifest, results, report, replace_old=replace_old)
    if evaluate is not None:
        report["evaluation"] = evaluate(folder)
        write(folder, made_manifest, results, report, replace_old=True)
    return report


def _quantization(
    manifest: Manifest, settings: Options, results: dict[GraphName, Calibrated], report: dict[str, Any]
) -> dict[str, Any]:
    return {
        "scheme": "int8, symmetric; weights per output channel, activations per tensor; biases float32",
        "float_fingerprint": manifest.fingerprint,
        "scales": settings.rule.name,
        "weight_limit": settings.weight_limit,
        "data_sha256": report["settings"]["data_sha256"],
        **{
            name: f"{sum(layer['decision'] == 'int8' for layer in result.report['layers'])} of "
            f"{len(result.report['layers'])} layers, ranges by {result.report['recipe']['ranges']}"
            for name, result in results.items()
            if result.int8
        },
    }


def write(
    folder: Path, manifest: Manifest, results: dict[GraphName, Calibrated], report: dict[str, Any], *, replace_old: bool
) -> None:
    """Write the bundle with its report."""
    files = {manifest.graphs[name].file: result.data for name, result in results.items()}
    files[REPORT_JSON] = (json.dumps(report, indent=1) + "\n").encode()
    files[REPORT_HTML] = html(report).encode()
    write_bundle(folder, manifest, files, replace=replace_old)


def summary(name: str, report: dict[str, Any]) -> str:
    """One line about a graph."""
    layers = report["layers"]
    int8 = sum(layer["decision"] == "int8" for layer in layers)
    unit = "of the labels change" if name == "segment" else "dB"
    speed = f", {report['latency']['speedup']:.2f}x as fast here" if report["latency"] else ""
    recipe = report["recipe"]
    extras = "".join(
        f", {text}" for key, text in (("bias_correction", "biases corrected"), ("equalisation", "equalised")) if recipe[key]
    )
    return (
        f"{name}: {int8} of {len(layers)} layers in int8, ranges by {recipe['ranges']}{extras}; "
        f"damage {report['damage']:.4f} {unit} (budget {report['budget']:g}){speed}"
    )
