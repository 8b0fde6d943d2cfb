"""The timing core: interleaved candidates, stopped by statistics, raw samples kept.

All candidates of one measurement run in rounds, each once a round in a fresh random order, so that whatever else
the machine does falls on all of them alike: *ratios* between candidates of one measurement hold where absolute
times do not. A candidate is finished when it has enough samples, enough total time, and a median that is known
well enough; the whole ends when all are, or at the time-out.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

PERCENTILES: Final = (50, 90, 95, 99)
TOTAL: Final = "total"
"""Name of the series of a whole call, beside the stages that the call reports itself."""


@dataclass(frozen=True)
class StageTimes:
    """What a call says of its stages.

    Attributes:
        wall: seconds by stage.
        processor: processor seconds of the thread that ran the stage, where it was the processor that worked.
    """

    wall: Mapping[str, float]
    processor: Mapping[str, float] = field(default_factory=dict)


Candidate = Callable[[], StageTimes | None]
"""Does the work once, the device synchronized when it returns; may return the times of its stages."""


@dataclass(frozen=True)
class Settings:
    """When a measurement stops.

    Attributes:
        warmup: calls of each candidate before the first sample; the first of them is reported apart.
        min_samples: samples of each candidate at the least.
        min_seconds: total time of each candidate at the least.
        max_error: relative half-width of the median's interval (see `Series.relative_error`) at the most.
        timeout: seconds for all candidates together; warm-up not counted.
    """

    warmup: int = 2
    min_samples: int = 10
    min_seconds: float = 0.5
    max_error: float = 0.02
    timeout: float = 60.0


def percentile(samples: list[float], percent: float) -> float:
    """Return a percentile by linear interpolation between the ordered samples."""
    ordered = sorted(samples)
    position = (len(ordered) - 1) * percent / 100
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


@dataclass
class Series:
    """Samples of one figure, in seconds."""

    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """The 50th percentile."""
        return statistics.median(self.samples)

    @property
    def relative_error(self) -> float:
        """Half-width of the median's interval over the median: 1.57 IQR / sqrt(n) (McGill, Tukey, Larsen 1978)."""
        if len(self.samples) < 4:
            return math.inf
        spread = percentile(self.samples, 75) - percentile(self.samples, 25)
        return 1.57 * spread / math.sqrt(len(self.samples)) / max(self.median, 1e-12)

    def to_json(self) -> dict[str, Any]:
        """Return percentiles in milliseconds, and the raw samples."""
        return {
            "n": len(self.samples),
            **{f"p{p}_ms": percentile(self.samples, p) * 1e3 for p in PERCENTILES},
            "min_ms": min(self.samples) * 1e3,
            "mean_ms": statistics.fmean(self.samples) * 1e3,
            "relative_error": self.relative_error if len(self.samples) >= 4 else None,
            "samples_ms": [round(s * 1e3, 4) for s in self.samples],
        }


@dataclass
class Timing:
    """What one candidate took.

    Attributes:
        first_call: seconds of the very first call, with all that is loaded or compiled then.
        wall: the whole call, and each stage that it reports.
        cpu: processor time of all threads of this process during the call.
        stage_cpu: processor time of the stages that report it.
        finished: whether the stopping rule was met before the time-out.
    """

    first_call: float = 0.0
    wall: dict[str, Series] = field(default_factory=lambda: {TOTAL: Series()})
    cpu: Series = field(default_factory=Series)
    stage_cpu: dict[str, Series] = field(default_factory=dict)
    finished: bool = False

    @property
    def total(self) -> Series:
        """Wall-clock time of the whole call."""
        return self.wall[TOTAL]

    def to_json(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        return {
            "first_call_ms": self.first_call * 1e3,
            "finished": self.finished,
            "wall": {name: series.to_json() for name, series in self.wall.items()},
            "cpu": self.cpu.to_json(),
            "stage_cpu": {name: series.to_json() for name, series in self.stage_cpu.items()},
        }


def _call(candidate: Candidate) -> tuple[float, float, StageTimes]:
    cpu, wall = time.process_time(), time.perf_counter()
    stages = candidate() or StageTimes({})
    return time.perf_counter() - wall, time.process_time() - cpu, stages


def measure(
    candidates: Mapping[str, Candidate], settings: Settings | None = None, *, seed: int = 0
) -> dict[str, Timing]:
    """Measure all candidates, interleaved.

    Args:
        candidates: what to call, by name.
        settings: when to stop; None for the defaults.
        seed: of the order within the rounds.

    Returns:
        The timing of each candidate, in the order given.
    """
    rule = settings or Settings()
    timings = {name: Timing() for name in candidates}
    for name, candidate in candidates.items():
        timings[name].first_call = _call(candidate)[0]
        for _ in range(rule.warmup - 1):
            candidate()
    order = list(candidates)
    shuffle = random.Random(seed).shuffle
    deadline = time.perf_counter() + rule.timeout
    while not all(t.finished for t in timings.values()):
        shuffle(order)
        # Finished candidates go on while others need more: all see the same machine.
        for name in order:
            wall, cpu, stages = _call(candidates[name])
            timing = timings[name]
            timing.total.samples.append(wall)
            timing.cpu.samples.append(cpu)
            for stage, seconds in stages.wall.items():
                timing.wall.setdefault(stage, Series()).samples.append(seconds)
            for stage, seconds in stages.processor.items():
                timing.stage_cpu.setdefault(stage, Series()).samples.append(seconds)
            timing.finished = (
                len(timing.total.samples) >= rule.min_samples
                and sum(timing.total.samples) >= rule.min_seconds
                and timing.total.relative_error <= rule.max_error
            )
        enough = min(len(t.total.samples) for t in timings.values()) >= 4
        if enough and time.perf_counter() > deadline:
            break
    return timings


def ratio(numerator: Timing, denominator: Timing) -> float:
    """Return the median over the rounds of one candidate's time over another's of the same round.

    A round's two calls lie close together in time, so a slow phase of the machine cancels.
    """
    pairs = zip(numerator.total.samples, denominator.total.samples, strict=True)
    return statistics.median(a / b for a, b in pairs)
