"""Trying the layers of a graph: what int8 costs each one, and what it wins on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from ..runtime.bundle.uint8_form import EXACT_WEIGHT_LIMIT
from .graph import Graph
from .graph_context import Subject
from .ort_profile import Kernel, seconds_of
from .qdq_insertion import quantize
from .qdq_placement import Layer
from .recipes import Variant
from .sensitivity import Trial

_RUNS: Final = 8
_TOTALS: Final = 3
# The difference of two sums says nothing of smaller layers.
_TELLABLE: Final = 0.02


def try_layers(subject: Subject, variant: Variant) -> list[Trial]:
    """Time all layers in both forms, if the target is ONNX Runtime, and score each one quantized alone.

    Args:
        subject: the graph.
        variant: the recipe taken.
    """
    placement = variant.prepared.placement
    int8 = _profile_int8(subject, variant, placement.layers) if subject.options.runs_here else None
    before = subject.profile(subject.data, _RUNS, None)
    trials: list[Trial] = []
    for i, layer in enumerate(placement.layers):
        damage = subject.score(placement, [layer], variant.recipe, quick=True)
        names = {*layer.convolutions, *transposed_of(subject.graph, layer)}
        float_seconds = seconds_of(before, subject.graph, names)
        int8_seconds = None if int8 is None else seconds_of(int8[1], int8[0], layer.convolutions)
        trials.append(Trial(layer, damage.value, float_seconds, int8_seconds))
        subject.tick(f"{subject.name}: layer {i + 1}/{len(placement.layers)} {layer.name}")
    return _reconsidered(subject, variant, trials) if subject.options.times_layers else trials


def transposed_of(graph: Graph, layer: Layer) -> set[str]:
    """The transposed convolutions of a float graph that a layer comes from."""
    stems = {name.rpartition(".")[0] for name in layer.convolutions}
    return {node.name for node in graph.nodes if node.op_type == "ConvTranspose"} & stems


def _profile_int8(subject: Subject, variant: Variant, layers: Sequence[Layer]) -> tuple[Graph, list[Kernel]]:
    placement = variant.prepared.placement
    made = quantize(placement, placement.plan(layers), variant.recipe)
    # Kernels are timed that a CPU with VNNI takes too; their numbers are not looked at.
    return made.graph, subject.profile(made.graph.model.SerializeToString(), _RUNS, EXACT_WEIGHT_LIMIT)


def _reconsidered(subject: Subject, variant: Variant, trials: list[Trial]) -> list[Trial]:
    """Time layers that do not pay by themselves within the graph: float islands have conversions around them.

    A max-pooling behind a float convolution, for instance, is done by a slow int8 kernel in another memory layout.
    """

    def total(layers: Sequence[Layer]) -> float:
        # The other work of the machine only ever adds time.
        return min(
            sum(kernel.seconds for kernel in _profile_int8(subject, variant, layers)[1])
            for _ in range(_TOTALS)
        )

    paying = [trial.layer for trial in trials if trial.pays]
    if len(paying) == len(trials) or not paying:
        return trials
    without = total(paying)
    least = _TELLABLE * sum(trial.float_seconds for trial in trials)

    def again(trial: Trial) -> Trial:
        if trial.pays or trial.float_seconds <= least:
            return trial
        seconds = trial.float_seconds + total([*paying, trial.layer]) - without
        return replace(trial, int8_seconds=max(seconds, 0.0))

    return [again(trial) for trial in trials]
