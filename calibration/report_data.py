"""What is measured of a quantized graph for its report: latency, kernels, ranges, clipping, SQNR."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..measure.timing import Candidate, Settings, measure, ratio
from ..runtime.plain_json import with_nulls
from .graph import Graph
from .graph_context import Subject
from .observers import Statistics, values_of
from .ort_profile import INT8_CONVOLUTION, Kernel
from .ort_session import Session
from .qdq_insertion import Quantized
from .qdq_placement import Layer
from .ranges import clipped_share
from .recipes import Choice
from .sensitivity import Decision, Trial, rank
from .targets import FORMS

if TYPE_CHECKING:
    import numpy.typing as npt

    from .graph_context import Feeds

_SQNR_IMAGES: Final = 2


def latency(sessions: Mapping[str, Session], feeds: Feeds) -> dict[str, Any]:
    """Time the "float32" and the "int8" graph, interleaved.

    Returns:
        `median_ms` of each, and `speedup`: the first over the second, round by round.
    """

    def candidate(session: Session) -> Candidate:
        def run() -> None:
            session.run(feeds)

        return run

    timings = measure(
        {name: candidate(session) for name, session in sessions.items()}, Settings(max_error=0.05, timeout=5)
    )
    return {
        "median_ms": {name: 1e3 * timing.total.median for name, timing in timings.items()},
        "speedup": ratio(timings["float32"], timings["int8"]),
    }


def kernel_counts(kernels: Sequence[Kernel]) -> dict[str, int]:
    """How many kernels of each kind ran, by name."""
    counts: dict[str, int] = {}
    for kernel in kernels:
        counts[kernel.operator] = counts.get(kernel.operator, 0) + 1
    return dict(sorted(counts.items()))


def weight_sqnr(layer: Layer, graph: Graph, made: Quantized) -> float | None:
    """Signal over quantization noise of a layer's weights in dB; None if none of them is quantized."""
    signal = noise = 0.0
    for name in layer.convolutions:
        weight = graph.constant(graph.node(name).input[1])
        if weight is not None and name in made.weights:
            signal += float(np.sum(np.square(weight, dtype=np.float64)))
            noise += float(np.sum(np.square(made.weights[name].dequantized() - weight, dtype=np.float64)))
    return _decibel(signal, noise)


def value_figures(
    made: Quantized,
    statistics: Statistics,
    values: Iterable[tuple[str, npt.NDArray[np.float32]]],
    images: int,
) -> list[dict[str, Any]]:
    """Range, clipping and SQNR of every quantized value.

    Args:
        made: the quantized graph.
        statistics: that its ranges come from.
        values: of the float graph, by name, on photographs that no range was measured on (`observers.values_of`).
        images: how many photographs.
    """
    names = list(made.scales)
    signal, noise, clipped = (dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0))
    for name, x in values:
        scale = made.scales[name]
        low, high = made.bounds[name]
        stored = np.clip(np.rint(x / scale), low, high)
        signal[name] += float(np.sum(np.square(x, dtype=np.float64)))
        noise[name] += float(np.sum(np.square(stored * scale - x, dtype=np.float64)))
        beyond = (x > (high + 0.5) * scale) | (x < (low - 0.5) * scale)
        clipped[name] += float(np.mean(beyond)) / images
    found = []
    for name in names:
        histogram, limit = made.histograms[name], float(made.scales[name]) * made.bounds[name][1]
        found.append(
            {
                "name": name,
                "low": statistics.histograms[name].low,
                "high": statistics.histograms[name].high,
                "threshold": limit,
                "scale": float(made.scales[name]),
                "clipped_calibration": clipped_share(histogram, limit),
                "clipped": clipped[name],
                "sqnr_db": _decibel(signal[name], noise[name]),
                "always_zero": histogram.top == 0,
                "histogram": {
                    "top": histogram.top,
                    "counts": histogram.counts.reshape(64, -1).sum(axis=1).tolist(),
                },
            }
        )
    return found


def describe(
    subject: Subject,
    choice: Choice,
    trials: Sequence[Trial],
    decision: Decision,
    made: Quantized,
    *,
    kernels: Sequence[Kernel],
) -> dict[str, Any]:
    """What the report says of one graph, as plain JSON types.

    Args:
        subject: the float graph.
        choice: of the recipe.
        trials: of all layers.
        decision: which of them are int8.
        made: the quantized graph.
        kernels: that ONNX Runtime ran for it; none if it is not for ONNX Runtime.
    """
    prepared, recipe = choice.taken.prepared, choice.taken.recipe
    graph = prepared.placement.graph
    feeds = subject.judged[:_SQNR_IMAGES]
    values = values_of(graph, list(made.scales), feeds, subject.options.threads, subject.where)
    damage = decision.damage
    return {
        "recipe": _describe_recipe(choice),
        "variants": with_nulls([variant.to_dict() for variant in choice.variants]),
        "statistics_from_cache": any(variant.prepared.cached for variant in choice.variants),
        "target": recipe.target,
        "form": FORMS[recipe.target],
        "budget": subject.budget,
        "damage": damage.value,
        "damage_text": subject.judge.text(damage.value),
        "budget_text": subject.judge.text(subject.budget),
        "agreement": damage.agreement,
        "score": {"measure": subject.judge.measure, "before": subject.judge.before(), "after": damage.score},
        "layers": with_nulls(_describe_layers(trials, decision, graph, made)),
        "transposed_left": prepared.kept_transposed,
        "left": prepared.placement.left() | prepared.kept_transposed,
        "values": value_figures(made, prepared.statistics, values, len(feeds)),
        "kernels": kernel_counts(kernels),
        "int8_convolutions": {
            "meant": len(made.weights),
            "run": sum(kernel.operator == INT8_CONVOLUTION for kernel in kernels) if kernels else None,
        },
    }


def _describe_recipe(choice: Choice) -> dict[str, Any]:
    prepared, recipe = choice.taken.prepared, choice.taken.recipe
    return {
        "ranges": recipe.ranges.method,
        "scales": recipe.rule.name,
        "bias_correction": recipe.correct_biases,
        "equalization": prepared.equalized_regions > 0,
        "equalized_regions": prepared.equalized_regions,
        "weight_limit": recipe.weight_limit,
    }


def _describe_layers(
    trials: Sequence[Trial], decision: Decision, graph: Graph, made: Quantized
) -> list[dict[str, Any]]:
    ranked = [trial.layer.name for trial in rank(trials)]
    return [
        {
            "name": trial.layer.name,
            "convolutions": list(trial.layer.convolutions),
            "decision": "float32" if trial.layer.name in decision.reasons else "int8",
            "reason": decision.reasons.get(trial.layer.name, "within the budget"),
            "rank": ranked.index(trial.layer.name) + 1,
            "damage_alone": trial.damage,
            "float_ms": 1e3 * trial.float_seconds,
            "int8_ms": None if trial.int8_seconds is None else 1e3 * trial.int8_seconds,
            "weight_sqnr_db": weight_sqnr(trial.layer, graph, made),
        }
        for trial in trials
    ]


def _decibel(signal: float, noise: float) -> float | None:
    return None if signal == 0 or noise == 0 else 10 * float(np.log10(signal / noise))


_SLOWER: Final = 0.97
"""Speed-ups from here on up to 1 are noise."""


def slower(report: dict[str, Any]) -> str | None:
    """What to say of a graph that is slower in int8 than in float on this machine; None: it is not, or nobody knows."""
    if not report["latency"] or report["latency"]["speedup"] >= _SLOWER:
        return None
    medians = report["latency"]["median_ms"]
    return (
        f"the quantized graph is slower than the original here ({medians['int8']:.3f} ms, original "
        f"{medians['float32']:.3f} ms): quantized for another machine it may pay; on this one it does not"
    )


def summary(name: str, report: dict[str, Any]) -> str:
    """One line about a graph."""
    layers = report["layers"]
    int8 = sum(layer["decision"] == "int8" for layer in layers)
    speed = f", {report['latency']['speedup']:.2f}x as fast here" if report["latency"] else ""
    recipe = report["recipe"]
    extras = "".join(
        f", {text}"
        for key, text in (("bias_correction", "biases corrected"), ("equalization", "equalized"))
        if recipe[key]
    )
    return (
        f"{name}: {int8} of {len(layers)} layers in int8, ranges by {recipe['ranges']}{extras}; "
        f"damage {report['damage_text']} (budget {report['budget_text']}){speed}"
    )
