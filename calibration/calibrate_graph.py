"""The calibration of one graph: recipe, layers, decision, the int8 graph."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ..runtime.errors import UsageError
from .graph_context import Subject
from .int8_rewrites import interleave_channels_last, lower_transposed
from .layer_trials import transposed_of, try_layers
from .ort_profile import Kernel, not_int8
from .ort_session import Session
from .qdq_insertion import Quantized, quantize
from .qdq_placement import Layer, Placement
from .recipes import Variant, choose_recipe
from .report_data import describe, latency
from .sensitivity import Decision, decide

_NAMED: Final = 8


@dataclass(frozen=True)
class Calibrated:
    """One graph.

    Attributes:
        data: the serialized model; the float one where no layer is quantized.
        int8: whether it is quantized.
        report: as plain JSON types.
    """

    data: bytes
    int8: bool
    report: dict[str, Any]


def calibrate_graph(subject: Subject) -> Calibrated:
    """Calibrate one graph: anybody's, or one of a bundle's.

    Args:
        subject: the graph, with the data and the judge.

    Raises:
        NothingToQuantizeError: it has no convolution that could be quantized.
        DataError: what it makes of the photographs has no ranges.
        VerificationError: its exact int8 forms are not exact.
    """
    choice = choose_recipe(subject)
    variant = choice.taken
    placement = variant.prepared.placement
    trials = try_layers(subject, variant)
    excluded = exclusions(subject, placement.layers)
    decision = decide(
        [trial for trial in trials if trial.layer.name not in excluded],
        subject.budget,
        lambda layers: subject.score(placement, layers, variant.recipe),
        time_decides=subject.options.times_layers,
        text=subject.judge.text,
    )
    decision = replace(decision, reasons=excluded | decision.reasons)
    made, kernels = _write(subject, variant, decision)
    missing = set(not_int8(kernels, frozenset(made.weights))) if subject.options.runs_here else set()
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
        if subject.options.runs_here:
            times = _times(subject, data)
    report = describe(subject, choice, trials, decision, made, kernels=kernels)
    return Calibrated(data, bool(decision.int8), report | {"latency": times})


def _write(subject: Subject, variant: Variant, decision: Decision) -> tuple[Quantized, list[Kernel]]:
    """Write the chosen layers; what stays in float stays as it is. If it is for ONNX Runtime, run the result once."""
    lowered = variant.prepared.base.copy()
    layers = decision.int8
    lower_transposed(lowered, {name for layer in layers for name in transposed_of(subject.graph, layer)})
    interleave_channels_last(lowered, {name for layer in layers for name in layer.convolutions})
    placement = Placement(lowered, subject.where)
    made = quantize(placement, placement.plan(layers), variant.recipe)
    if not subject.options.runs_here:
        return made, []
    return made, subject.profile(made.graph.model.SerializeToString(), 1, subject.weight_limit(made))


def exclusions(subject: Subject, layers: Sequence[Layer]) -> dict[str, str]:
    """Why layers are left in float because the user says so, by name.

    Raises:
        UsageError: a name or a type that no layer has.
    """
    options = subject.options
    found: dict[str, str] = {}
    types = {layer.name: _type(subject, layer) for layer in layers}
    for pattern in options.exclude:
        fitting = [
            layer.name
            for layer in layers
            if any(fnmatch.fnmatchcase(name, pattern) for name in (layer.name, *layer.convolutions))
        ]
        if not fitting and subject.alone:
            raise UsageError(
                f"--exclude {pattern}: no layer of {subject.where} has such a name; there are "
                f"{', '.join(layer.name for layer in layers[:_NAMED])}{', ...' if len(layers) > _NAMED else ''}"
            )
        found |= dict.fromkeys(fitting, f"left out by its name (--exclude {pattern})")
    for kind in options.exclude_types:
        fitting = [name for name, own in types.items() if own == kind]
        if not fitting and subject.alone:
            known = ", ".join(sorted(set(types.values())))
            raise UsageError(f"--exclude-type {kind}: no layer of {subject.where} is one; there are {known}")
        found |= dict.fromkeys(fitting, f"left out by its type (--exclude-type {kind})")
    return found


def _type(subject: Subject, layer: Layer) -> str:
    """The operator that a layer was in the graph as it came."""
    return "ConvTranspose" if transposed_of(subject.graph, layer) else "Conv"


def _times(subject: Subject, data: bytes) -> dict[str, Any]:
    """Time the float graph and the int8 one."""
    threads, limit = subject.options.threads, subject.options.weight_limit
    sessions = {
        "float32": Session(subject.data, threads, where=subject.where),
        "int8": Session(data, threads, where=subject.where, weight_limit=limit),
    }
    times = latency(sessions, subject.judged[0])
    shapes = {name: list(x.shape) for name, x in subject.judged[0].items()}
    return times | {"shapes": shapes, "threads": threads}
