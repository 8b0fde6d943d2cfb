"""Power-of-two scales: of weights, the finest that holds a channel; of activations, the one of least squared error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from ..observers import Histogram, Statistics
from ..qparams import LARGEST
from ..ranges import Ranges, squared_errors

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

PowerMethod = Literal["minmax", "mse"]
"""`minmax`: the finest step that clips nothing that was seen; `mse`: the step of least squared error."""

# A step 2^-6 of the one that clips nothing would clip 98 % of the range.
_FINER_STEPS: Final = 6


@dataclass(frozen=True)
class PowerOfTwo:
    """The finest power of two for which the threshold is stored as `levels` at most."""

    name: str = "powers of two"

    def scale(self, threshold: Floats, levels: int) -> Floats:
        """See `ScaleRule.scale`."""
        exponents = np.ceil(np.log2(np.asarray(threshold, np.float64) / levels))
        scales: Floats = np.asarray(2.0 ** np.maximum(exponents, -60), np.float32)
        return scales


class PowerOfTwoRanges(Ranges):
    """Ranges that end at `levels` steps of a power of two.

    Args:
        statistics: of the values.
        by: which power.
        shifts: what is added to the power of the step of values that share one.
    """

    def __init__(
        self,
        statistics: Statistics,
        by: PowerMethod,
        shifts: Mapping[tuple[str, ...], int] | None = None,
    ) -> None:
        super().__init__(statistics, by)
        self._by = by
        self._shifts = shifts or {}

    def of(self, values: Sequence[str], levels: int = LARGEST) -> tuple[Histogram, float]:
        """See `Ranges.of`."""
        histogram = Histogram.union([self.statistics.histograms[name] for name in values])
        if histogram.largest == 0:
            return histogram, 0.0
        limit = levels * 2.0 ** np.ceil(np.log2(histogram.largest / levels))
        if self._by == "mse":
            limits = limit / 2.0 ** np.arange(_FINER_STEPS + 1)
            limit = limits[np.argmin(squared_errors(histogram, limits, levels))]
        return histogram, float(limit) * 2.0 ** self._shifts.get(tuple(values), 0)
