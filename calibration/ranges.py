"""Ranges: from a histogram to the largest magnitude that the integers are to represent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal, get_args

import numpy as np

from .observers import BINS, Histogram, Statistics
from .qparams import LARGEST

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

RangeMethod = Literal["minmax", "percentile", "entropy", "mse"]
METHODS: Final[tuple[RangeMethod, ...]] = get_args(RangeMethod)

PERCENTILE: Final = 99.99
_CANDIDATES: Final = 96
# onnxruntime's search for the entropy takes a second in Python for 512 bins, and less than a tenth of it for 128.
_ENTROPY_BINS: Final = 128
_ENTROPY_LEVELS: Final = 64


def threshold(histogram: Histogram, method: RangeMethod, levels: int = LARGEST) -> float:
    """The largest magnitude to represent.

    Args:
        histogram: of the value, or of all values that share a scale.
        method: `minmax`: the largest magnitude seen; `percentile`: the smallest one that 99.99 % of the values do not
            exceed; `entropy`: the least Kullback-Leibler divergence between the values and their quantized form, by
            onnxruntime.quantization; `mse`: the least mean squared error of rounding and clipping.
        levels: the integer that the threshold becomes.

    Returns:
        A magnitude; 0 if all values are 0.
    """
    largest = histogram.largest
    if histogram.top == 0 or method == "minmax":
        return largest
    if method == "percentile":
        return min(_percentile(histogram, PERCENTILE), largest)
    if method == "entropy":
        return min(_entropy(histogram), largest)
    return _least_squares(histogram, largest, levels)


def _percentile(histogram: Histogram, percent: float) -> float:
    cumulated = np.cumsum(histogram.counts)
    place = int(np.searchsorted(cumulated, cumulated[-1] * percent / 100))
    return (place + 1) * histogram.top / BINS


def _entropy(histogram: Histogram) -> float:
    from onnxruntime.quantization.calibrate import HistogramCollector

    # The collector wants signed values, zero in the middle bin: the magnitudes and their mirror image. The zeros of
    # a ReLU say nothing of the range, and would outweigh all other bins: they are left out.
    half = histogram.counts.copy()
    half[0] = 0
    half = half.reshape(_ENTROPY_BINS, -1).sum(axis=1)
    if not half.any():
        return histogram.largest
    counts = np.concatenate([half[::-1], [0], half])
    width = histogram.top / _ENTROPY_BINS
    edges = ((np.arange(counts.size + 1) - counts.size / 2) * width).astype(np.float32)
    collector = HistogramCollector("entropy", True, counts.size, _ENTROPY_LEVELS, PERCENTILE, "same")
    low, high = collector.get_entropy_threshold(
        (counts, edges, edges[0], edges[-1], edges[-1]), _ENTROPY_LEVELS
    )[:2]
    return max(-float(low), float(high))


def squared_errors(histogram: Histogram, limits: Floats, levels: int) -> Floats:
    """Mean squared error of rounding and clipping if each of the limits is stored as `levels`."""
    centers, steps = histogram.centers, limits[:, None] / levels
    stored = np.minimum(np.rint(centers / steps), levels) * steps
    errors: Floats = ((centers - stored) ** 2) @ histogram.counts / histogram.counts.sum()
    return errors


def _least_squares(histogram: Histogram, largest: float, levels: int) -> float:
    candidates = largest * np.linspace(1 / _CANDIDATES, 1, _CANDIDATES)
    return float(candidates[np.argmin(squared_errors(histogram, candidates, levels))])


def clipped_share(histogram: Histogram, limit: float) -> float:
    """Share of the values whose magnitude exceeds `limit`, 0..1."""
    if histogram.top == 0:
        return 0.0
    first = min(int(np.ceil(limit * BINS / histogram.top - 1e-9)), BINS)
    return float(histogram.counts[first:].sum() / histogram.counts.sum())


class Ranges:
    """The ranges of one graph's values by one method, each found once.

    Args:
        statistics: of the values.
        method: how.
    """

    def __init__(self, statistics: Statistics, method: RangeMethod) -> None:
        self.statistics = statistics
        self.method = method
        self._known: dict[tuple[tuple[str, ...], int], tuple[Histogram, float]] = {}

    def of(self, values: Sequence[str], levels: int = LARGEST) -> tuple[Histogram, float]:
        """The histogram of values that share a scale, and the magnitude that becomes `levels`, the largest integer."""
        key = tuple(values), levels
        if key not in self._known:
            histogram = Histogram.union([self.statistics.histograms[name] for name in values])
            self._known[key] = histogram, threshold(histogram, self.method, levels)
        return self._known[key]
