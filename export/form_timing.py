"""Timing graphs that compute the same against each other on ONNX Runtime: interleaved, paired, with an uncertainty."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir

from ..runtime.backends.onnxruntime.sessions import require_onnxruntime, session_options
from ..runtime.errors import VerificationError, one_line
from .graph_files import loadable
from .verify import register_operators

if TYPE_CHECKING:
    import numpy.typing as npt

LEAST_ROUNDS: Final = 11
"""Rounds of a measurement, at the least."""

CLEAR: Final = 0.02
"""What is called faster is so by this share at the least, beyond the interval of the ratio."""

_MOST_ROUNDS: Final = 400
_RESAMPLES: Final = 400
_WARMUP: Final = 2


@dataclass(frozen=True)
class Ratio:
    """The time of one graph over another's.

    Attributes:
        value: median over the rounds of the ratio of the two calls of a round, which lie close together in time.
        low: lower end of its 95 % bootstrap interval.
        high: upper end.
    """

    value: float
    low: float
    high: float

    @property
    def is_faster(self) -> bool:
        """Whether the first graph is faster beyond doubt."""
        return self.high < 1 - CLEAR

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def paired_ratio(numerator: Sequence[float], denominator: Sequence[float], seed: int = 0) -> Ratio:
    """Compare two series of times of the same rounds.

    Args:
        numerator: seconds, one a round.
        denominator: seconds of the same rounds.
        seed: of the drawing.
    """
    ratios = np.asarray(numerator) / np.maximum(np.asarray(denominator), 1e-12)
    drawn = np.random.default_rng(seed).integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    medians = np.median(ratios[drawn], axis=1)
    return Ratio(
        statistics.median(ratios.tolist()),
        float(np.percentile(medians, 2.5)),
        float(np.percentile(medians, 97.5)),
    )


@dataclass(frozen=True)
class Times:
    """Seconds of each graph by name, one a round, and what they are of.

    Attributes:
        samples: by the graph's name.
        clock: in words.
    """

    samples: Mapping[str, Sequence[float]]
    clock: str

    def ratios(self, reference: str) -> dict[str, Ratio]:
        """The ratios of all other graphs to one."""
        base = self.samples[reference]
        return {
            name: paired_ratio(series, base) for name, series in self.samples.items() if name != reference
        }

    def best(self, reference: str) -> str:
        """The fastest of those that are faster than one of them beyond doubt; that one if none is."""
        faster = {name: ratio.value for name, ratio in self.ratios(reference).items() if ratio.is_faster}
        return min(faster, key=lambda name: faster[name], default=reference)

    def describe(self, reference: str) -> str:
        """The measurement in words."""
        base = 1e3 * statistics.median(self.samples[reference])
        listed = ", ".join(f"{name} {ratio}" for name, ratio in self.ratios(reference).items())
        rounds = len(self.samples[reference])
        return f"{self.clock}, {rounds} rounds: {reference} {base:.3f} ms, times that: {listed}"


def measure(
    models: Mapping[str, ir.Model],
    feeds: Mapping[str, npt.NDArray[Any]],
    threads: int,
    seconds: float,
    *,
    libraries: Sequence[str] = (),
) -> Times:
    """Time models on ONNX Runtime's CPU provider, interleaved, each once a round in a fresh order.

    With one thread it is the processor time of that thread, which other work on the machine disturbs least; with more,
    where a thread may wait for another, the clock's.

    Args:
        models: by name, all with the same inputs.
        feeds: inputs by name.
        threads: threads per run.
        seconds: time to spend, at least; and at least `LEAST_ROUNDS` rounds.
        libraries: shared libraries with custom operators.

    Raises:
        DependencyError: ONNX Runtime is not installed.
        VerificationError: a model does not run.
    """
    onnxruntime = require_onnxruntime("measuring")
    options = session_options(onnxruntime, threads)
    register_operators(options, libraries)
    clock = time.thread_time if threads == 1 else time.perf_counter
    with ExitStack() as stack:
        sessions = {}
        for name, model in models.items():
            data = stack.enter_context(loadable(model))
            try:
                sessions[name] = onnxruntime.InferenceSession(
                    data, options, providers=["CPUExecutionProvider"]
                )
                for _ in range(_WARMUP):  # fills caches and memory pools
                    sessions[name].run(None, dict(feeds))
            except Exception as error:  # ONNX Runtime's exceptions have no common base but this
                raise VerificationError(
                    f"the graph {name} cannot be measured; give shapes that fit together (--shape): "
                    f"{one_line(error)}"
                ) from error
        samples: dict[str, list[float]] = {name: [] for name in sessions}
        order = list(sessions)
        shuffle = random.Random(0).shuffle
        rounds, deadline = 0, time.perf_counter() + seconds
        while rounds < LEAST_ROUNDS or (time.perf_counter() < deadline and rounds < _MOST_ROUNDS):
            shuffle(order)
            for name in order:
                start = clock()
                sessions[name].run(None, dict(feeds))
                samples[name].append(clock() - start)
            rounds += 1
    return Times(samples, "processor time of one thread" if threads == 1 else f"time with {threads} threads")


__all__ = ["CLEAR", "LEAST_ROUNDS", "Ratio", "Times", "measure", "paired_ratio"]
