"""Two result files against each other: what became faster, slower, better or worse, beyond the noise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from ...measure.metrics import bd_rate
from ...runtime.errors import DataError
from ..experiments import latency, rate_distortion

if TYPE_CHECKING:
    import numpy.typing as npt

Verdict = Literal["SAME", "FASTER", "SLOWER", "BETTER", "WORSE", "UNDECIDED"]
REGRESSIONS: Final = frozenset({"SLOWER", "WORSE"})

# Disturbances only ever add time: the faster half of the rounds is what the machine does when it is left alone. Its
# mean scatters less than a percentile, which jumps where the times have two peaks (interrupted or not).
_SHARE: Final = 0.5
_RESAMPLES: Final = 400
_CONFIDENCE: Final = 95.0
_MIN_SAMPLES: Final = 8
_BD_SAME_PERCENT: Final = 0.2


@dataclass(frozen=True)
class Margins:
    """How far apart two figures must be.

    Attributes:
        clear: the interval of the ratio must lie beyond 1 +- this to be called faster or slower.
        same: the ratio must lie within 1 +- this to be called the same.
        shortest_ms: stages below this many milliseconds are not judged: the clock and the caches rule them.
    """

    clear: float = 0.02
    same: float = 0.05
    shortest_ms: float = 1.0


@dataclass(frozen=True)
class Row:
    """One figure of both results.

    Attributes:
        figure: what was compared.
        before: in the first result.
        after: in the second.
        unit: of both.
        ratio: after over before, scaled by the reference where there is one; None where ratios mean nothing.
        interval: 95 % bootstrap interval of `ratio`.
        verdict: the judgment.
    """

    figure: str
    before: float
    after: float
    unit: str
    ratio: float | None
    interval: tuple[float, float] | None
    verdict: Verdict


def compare_samples(
    before: list[float],
    after: list[float],
    reference_before: list[float],
    reference_after: list[float],
    margins: Margins,
    *,
    seed: int = 0,
) -> tuple[float, tuple[float, float], Verdict]:
    """Judge two series of times, each with the reference work of its own run.

    Each side is the mean of the faster half of its samples over that of the reference's samples of the same rounds.
    Rounds are drawn again with replacement, 400 times, for the interval of the ratio of the two sides.

    Args:
        before: times of the first run, one a round.
        after: of the second.
        reference_before: the reference's times in the rounds of `before`.
        reference_after: in the rounds of `after`.
        margins: how far apart they must be.
        seed: of the drawing.

    Returns:
        The ratio, its 95 % interval, and the verdict.
    """
    draw = np.random.default_rng(seed)

    def sides(samples: list[float], reference: list[float]) -> npt.NDArray[np.float64]:
        """The figure itself, then the figures of the drawn rounds."""
        drawn = draw.integers(0, len(samples), (_RESAMPLES, len(samples)))
        rounds = np.vstack([np.arange(len(samples)), drawn])
        return _faster_half(np.asarray(samples)[rounds]) / _faster_half(np.asarray(reference)[rounds])

    ratios = sides(after, reference_after) / sides(before, reference_before)
    ratio, drawn = float(ratios[0]), ratios[1:]
    tail = (100 - _CONFIDENCE) / 2
    interval = (float(np.percentile(drawn, tail)), float(np.percentile(drawn, 100 - tail)))
    if min(len(before), len(after)) < _MIN_SAMPLES:
        return ratio, interval, "UNDECIDED"
    if interval[0] > 1 + margins.clear:
        return ratio, interval, "SLOWER"
    if interval[1] < 1 - margins.clear:
        return ratio, interval, "FASTER"
    return ratio, interval, "SAME" if abs(ratio - 1) <= margins.same else "UNDECIDED"


def _faster_half(samples: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The mean of the faster half of the last axis."""
    count = max(1, round(samples.shape[-1] * _SHARE))
    mean: npt.NDArray[np.float64] = np.partition(samples, count - 1)[..., :count].mean(axis=-1)
    return mean


def _samples(series: dict[str, Any]) -> list[float]:
    return [float(x) for x in series["samples_ms"]]


def compare_latency(before: dict[str, Any], after: dict[str, Any], margins: Margins) -> list[Row]:
    """Compare every stage of every candidate that both results have.

    A stage is judged by its thread's processor time where both results have it, which other load disturbs least; the
    whole by the clock, since a stage that no longer runs beside another one costs time and no work.

    Raises:
        DataError: one of them holds no reference work, or they were measured at different sizes.
    """
    for result in (before, after):
        if latency.REFERENCE not in result["timings"]:
            raise DataError("a latency result holds no reference work: measure it again with this version")
    sizes = [(r["settings"]["width"], r["settings"]["height"]) for r in (before, after)]
    if sizes[0] != sizes[1]:
        raise DataError(f"the results were measured at {sizes[0]} and {sizes[1]}: they cannot be compared")
    references = [r["timings"][latency.REFERENCE] for r in (before, after)]
    rows = []
    for name, timing in before["timings"].items():
        other = after["timings"].get(name)
        if other is None or name == latency.REFERENCE:
            continue
        for stage in timing["wall"]:
            if stage not in other["wall"]:
                continue
            if stage in timing["stage_cpu"] and stage in other["stage_cpu"]:
                one, two = (_samples(t["stage_cpu"][stage]) for t in (timing, other))
                works = [_samples(reference["cpu"]) for reference in references]
            else:
                one, two = (_samples(t["wall"][stage]) for t in (timing, other))
                works = [_samples(reference["wall"]["total"]) for reference in references]
            lows = float(_faster_half(np.asarray(one))), float(_faster_half(np.asarray(two)))
            if min(lows) < margins.shortest_ms:
                continue
            ratio, interval, verdict = compare_samples(one, two, works[0], works[1], margins)
            figure = name if stage == "total" else f"{name} {stage}"
            rows.append(Row(figure, *lows, "ms", ratio, interval, verdict))
    return rows


def compare_rd(before: dict[str, Any], after: dict[str, Any]) -> list[Row]:
    """Compare the mean curves of every coder that both results have, by the BD-rate of the second against the first.

    Raises:
        DataError: the curves of a coder have no PSNR in common.
    """
    curves = [{c["name"]: c for c in r["summary"]["curves"]} for r in (before, after)]
    rows = []
    for name, old in curves[0].items():
        new = curves[1].get(name)
        if new is None:
            continue
        try:
            rate = bd_rate(old["bpp"], old["scores"]["psnr"], new["bpp"], new["scores"]["psnr"])
        except ValueError as error:
            raise DataError(f"the curves of {name} in the two results cannot be compared: {error}") from error
        verdict: Verdict = "SAME" if abs(rate) <= _BD_SAME_PERCENT else "WORSE" if rate > 0 else "BETTER"
        rows.append(Row(f"{name} BD-rate", 0.0, rate, "%", None, None, verdict))
    return rows


def compare(before: dict[str, Any], after: dict[str, Any], margins: Margins) -> list[Row]:
    """Compare two results of one kind.

    Raises:
        DataError: of different kinds or versions, of a kind that cannot be compared, or without a figure in common.
    """
    kinds = before["format"], after["format"]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"the results are of the kinds {kinds[0]!r} and {kinds[1]!r}: they cannot be compared"
        )
    versions = before["version"], after["version"]
    if versions[0] != versions[1]:
        raise DataError(
            f"the results were measured by versions {versions[0]} and {versions[1]} of this bench: measure both again "
            "with one of them"
        )
    if kinds[0] == latency.FORMAT:
        rows = compare_latency(before, after, margins)
    elif kinds[0] == rate_distortion.FORMAT:
        rows = compare_rd(before, after)
    else:
        raise DataError(f"results of the kind {kinds[0]!r} cannot be compared; latency and rd can")
    if not rows:
        raise DataError("the two results have no figure in common")
    return rows
