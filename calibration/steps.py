"""The calibration of one graph: recipe, layers, decision, the int8 graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..runtime.bundle import GraphName
from .figures import describe, latency
from .kernels import Kernel, not_int8
from .lowering import interleave_channels_last, lower_transposed
from .placement import Placement
from .recipes import Variant, choose_recipe
from .sensitivity import Decision, decide
from .sessions import Session
from .subject import Subject, Work
from .trials import transposed_of, try_layers
from .writing import Quantised, quantise


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


def calibrate_graph(name: GraphName, work: Work) -> Calibrated:
    """Calibrate one graph of a bundle.

    Args:
        name: which graph.
        work: what all graphs share.

    Raises:
        BundleError: it is quantised already, or has nothing to quantise.
        DataError: what it makes of the photographs has no ranges.
        VerificationError: its exact int8 forms are not exact.
    """
    subject = Subject.of(name, work)
    choice = choose_recipe(subject)
    variant = choice.taken
    placement = variant.prepared.placement
    trials = try_layers(subject, variant)
    decision = decide(
        trials,
        subject.budget,
        lambda layers: subject.score(placement, layers, variant.recipe),
        time_decides=subject.options.time_decides,
    )
    made, kernels = _write(subject, variant, decision)
    missing = set(not_int8(kernels, frozenset(made.weights)))
    if missing:
        # What ONNX Runtime would run in float anyway is float in the graph, and is said to be.
        names = {layer.name for layer in decision.int8 if missing & set(layer.convolutions)}
        rest = tuple(layer for layer in decision.int8 if layer.name not in names)
        reasons = decision.reasons | dict.fromkeys(names, "ONNX Runtime does not run it in int8")
        decision = Decision(rest, reasons, subject.score(placement, rest, variant.recipe))
        made, kernels = _write(subject, variant, decision)
    data, times = subject.data, {}
    if decision.int8:
        data = made.graph.model.SerializeToString()
        times = _times(subject, data)
    report = describe(subject, choice, trials, decision, made, kernels=kernels)
    return Calibrated(data, bool(decision.int8), report | {"latency": times})


def _write(subject: Subject, variant: Variant, decision: Decision) -> tuple[Quantised, list[Kernel]]:
    """Write the chosen layers; what stays in float stays as it is. Run the result once."""
    lowered = variant.prepared.base.copy()
    layers = decision.int8
    lower_transposed(lowered, {name for layer in layers for name in transposed_of(subject.graph, layer)})
    interleave_channels_last(lowered, {name for layer in layers for name in layer.convolutions})
    placement = Placement(lowered, subject.where)
    made = quantise(placement, placement.plan(layers), variant.recipe)
    return made, subject.profile(made.graph.model.SerializeToString(), 1, subject.weight_limit(made))


def _times(subject: Subject, data: bytes) -> dict[str, Any]:
    """Time the float graph and the int8 one."""
    threads, limit = subject.options.threads, subject.options.weight_limit
    sessions = {
        "float32": Session(subject.data, threads, where=subject.where),
        "int8": Session(data, threads, where=subject.where, weight_limit=limit),
    }
    times = latency(sessions, subject.judged[0])
    return times | {"shape": list(subject.image_shape), "threads": threads}
