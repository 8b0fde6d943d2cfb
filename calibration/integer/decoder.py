"""The graphs that a decoder runs, as integers: `synthesise`, and `refine` where a bundle has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ...measure.metrics import psnr
from ...runtime.codec import residual
from ..evaluator import Judge
from ..ort_session import Session
from .graphs import IntegerGraph, Task, to_integers

if TYPE_CHECKING:
    import numpy.typing as npt

    from ...runtime.bundle.manifest import GraphName, Manifest
    from ..evaluator import Layers
    from ..graph_context import Work

    Feeds = dict[str, npt.NDArray[Any]]

# What refinement sees, from coarse to fine.
_QUALITIES: Final = (8, 24, 40, 56, 72, 88)
_MAX_QUALITY: Final = 100
_MOST_DB: Final = 99.0
# Photographs that steps are searched on: each is run some hundred times.
_SEARCHED: Final = 8


def domains(manifest: Manifest) -> dict[GraphName, dict[str, int]]:
    """The largest values of the inputs of the decoder's graphs, which the runtime checks."""
    return {
        "synthesise": {"compact": manifest.levels - 1, "labels": len(manifest.classes) - 1},
        "refine": {"decoded": 255, "estimate": 255, "settings": _MAX_QUALITY},
    }


def integer_decoder(work: Work) -> dict[GraphName, IntegerGraph]:
    """Make the decoder's graphs of integers.

    Args:
        work: the bundle, photographs to measure ranges on, others to judge on.

    Raises:
        NothingToQuantizeError, DataError, VerificationError: see `to_integers`.
    """
    manifest = work.bundle.manifest
    limits = domains(manifest)
    made: dict[GraphName, IntegerGraph] = {"synthesise": to_integers(_synthesise(work, limits["synthesise"]))}
    if "refine" in manifest.graphs:
        made["refine"] = to_integers(_refine(work, limits["refine"]))
    return made


def _synthesise(work: Work, limits: dict[str, int]) -> Task:
    def damage(layers: Sequence[Layers]) -> Callable[[bytes], float]:
        judge = Judge(work.networks, list(layers), work.options.threads)
        return lambda data: judge.damage("synthesise", data, work.options.weight_limit).value

    seen = [layers.feeds("synthesise") for layers in work.seen]
    return _task(work, "synthesise", seen, limits, damage)


def _refine(work: Work, limits: dict[str, int]) -> Task:
    where, data = str(work.bundle.graph_path("refine")), work.bundle.read_graph("refine")
    seen = [feeds for i, layers in enumerate(work.seen) for feeds in _decoded(layers, i)]

    def damage(photographs: Sequence[Layers]) -> Callable[[bytes], float]:
        samples = [(x.image, feeds) for i, x in enumerate(photographs) for feeds in _decoded(x, i)]

        def score(graph: bytes, limit: int | None) -> float:
            session = Session(graph, work.options.threads, where=where, weight_limit=limit)
            return float(
                np.mean([min(psnr(image, session.run(feeds)[0]), _MOST_DB) for image, feeds in samples])
            )

        before = score(data, None)
        return lambda graph: before - score(graph, work.options.weight_limit)

    return _task(work, "refine", seen, limits, damage)


def _task(
    work: Work,
    graph: GraphName,
    seen: Sequence[Feeds],
    limits: dict[str, int],
    damage: Callable[[Sequence[Layers]], Callable[[bytes], float]],
) -> Task:
    """One graph's part of the work; `damage` makes the judge of some photographs."""
    return Task(
        str(work.bundle.graph_path(graph)),
        work.bundle.read_graph(graph),
        seen,
        limits,
        damage(work.judged),
        damage(work.seen[:_SEARCHED]),
        work.options.cache,
        work.options.threads,
        work.tick,
    )


def _decoded(layers: Layers, number: int) -> list[Feeds]:
    """The inputs of `refine` for a photograph at two qualities, others for each photograph."""
    found = []
    for quality in (_QUALITIES[number % 3], _QUALITIES[3 + number % 3]):
        for_eye = number % 2 == 1
        coded = residual.encode(layers.image[0], layers.estimate[0], quality=quality, visual=for_eye)
        decoded = residual.decode(coded, layers.estimate[0])
        settings = np.array([[quality, int(for_eye)]], np.uint8)
        found.append({"decoded": decoded[np.newaxis], "estimate": layers.estimate, "settings": settings})
    return found
