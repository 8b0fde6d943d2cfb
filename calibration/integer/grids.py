"""What is known of a value: on which grid it lies, and how far it reaches.

A float32 value that is a whole number times a power of two, the whole number below 2^24, is stored exactly. A node
whose operands are such values, and whose result and intermediate sums are, too, has one possible result: the order of
its additions, fused multiply-adds and the instruction set do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]

EXACT_BITS: Final = 24
"""Whole numbers up to 2^24 are exact in float32."""


class NotExactError(ValueError):
    """Why a value or a node has no certain result."""


@dataclass(frozen=True)
class Grid:
    """A value whose elements are whole numbers times 2^exponent.

    Attributes:
        exponent: int64, () for all of the value or (C,) by channel (axis 1).
        low: smallest whole number, in the shape of `exponent`.
        high: largest whole number, likewise.
    """

    exponent: Integers
    low: Integers
    high: Integers

    @classmethod
    def of(cls, exponent: int, low: int, high: int) -> Grid:
        """The same for all channels."""
        return cls(*(np.array(value, np.int64) for value in (exponent, low, high)))

    @classmethod
    def of_constant(cls, values: npt.NDArray[np.floating], *, axis: int | None = None) -> Grid:
        """The coarsest grid that holds a constant.

        Args:
            values: finite.
            axis: a grid for each entry along it; None: one for all.
        """
        if axis is not None:
            rows = np.moveaxis(np.asarray(values, np.float64), axis, 0)
            found = [cls.of_constant(row) for row in rows]
            return cls(*(np.array([getattr(f, name) for f in found]) for name in ("exponent", "low", "high")))
        exponent = grid_exponent(values)
        whole = np.asarray(values, np.float64) * 2.0**-exponent
        return cls.of(exponent, int(whole.min()), int(whole.max()))

    @property
    def bits(self) -> float:
        """log2 of the largest magnitude; 0 for zeros."""
        return float(np.log2(max(1, int(np.abs([self.low, self.high]).max()))))

    def require_exact(self) -> Grid:
        """The grid itself.

        Raises:
            NotExactError: it reaches beyond 2^24.
        """
        if self.bits > EXACT_BITS:
            raise NotExactError(f"reaches 2^{self.bits:.1f} steps of its grid, beyond 2^{EXACT_BITS}")
        return self

    def merged(self) -> Grid:
        """One grid for all channels: the finest step and the widest reach."""
        exponent = self.exponent.min()
        shift = self.exponent - exponent
        return Grid(exponent, _shifted(self.low, shift).min(), _shifted(self.high, shift).max())

    def on(self, exponent: Integers) -> Grid:
        """The same on finer grids."""
        shift = self.exponent - exponent
        return Grid(exponent, _shifted(self.low, shift), _shifted(self.high, shift))

    def joined(self, other: Grid) -> Grid:
        """What holds the values of both."""
        exponent = np.minimum(self.exponent, other.exponent)
        a, b = self.on(exponent), other.on(exponent)
        return Grid(exponent, np.minimum(a.low, b.low), np.maximum(a.high, b.high))

    def plus(self, other: Grid) -> Grid:
        """Sums."""
        exponent = np.minimum(self.exponent, other.exponent)
        a, b = self.on(exponent), other.on(exponent)
        return Grid(exponent, a.low + b.low, a.high + b.high)

    def negated(self) -> Grid:
        """With the other sign."""
        return Grid(self.exponent, -self.high, -self.low)

    def times(self, other: Grid) -> Grid:
        """Products."""
        corners = np.stack([a * b for a in (self.low, self.high) for b in (other.low, other.high)])
        return Grid(self.exponent + other.exponent, corners.min(axis=0), corners.max(axis=0))

    def clipped(self, low: float, high: float) -> Grid:
        """Between two limits, which must lie on the grid (or be infinite).

        Raises:
            NotExactError: a limit does not.
        """
        step = 2.0 ** self.exponent.astype(np.float64)
        limits = []
        for limit in (low, high):
            whole = np.full(step.shape, limit) / step
            if np.isfinite(limit) and np.any(whole != np.rint(whole)):
                raise NotExactError(f"the limit {limit:g} is not on the grid of steps of {step.min():g}")
            limits.append(np.clip(whole, -(2.0**53), 2.0**53).astype(np.int64))
        return Grid(self.exponent, np.clip(self.low, *limits), np.clip(self.high, *limits))


def _shifted(values: Integers, shift: Integers) -> Integers:
    """Times 2^shift; what leaves 62 bits stays there, far beyond all that is exact."""
    wide = np.asarray(values, np.float64) * 2.0 ** np.minimum(shift, 60)
    return np.clip(wide, -(2.0**62), 2.0**62).astype(np.int64)


def grid_exponent(values: npt.NDArray[np.floating]) -> int:
    """The largest exponent for which all values are whole numbers times a power of two; 0 for zeros.

    Raises:
        NotExactError: a value is not finite.
    """
    flat = np.asarray(values, np.float64).ravel()
    if not np.all(np.isfinite(flat)):
        raise NotExactError("a constant is not finite")
    flat = flat[flat != 0]
    if flat.size == 0:
        return 0
    mantissas, exponents = np.frexp(flat)
    whole = np.abs(mantissas * 2.0**53).astype(np.int64)
    trailing = np.log2((whole & -whole).astype(np.float64)).astype(np.int64)
    return int((exponents - 53 + trailing).min())


def is_power_of_two(values: npt.NDArray[np.floating]) -> bool:
    """Whether all values are positive powers of two."""
    mantissas, _ = np.frexp(np.asarray(values, np.float64))
    return bool(np.all(mantissas == 0.5))


def rounded(values: npt.NDArray[np.floating], bits: int) -> npt.NDArray[np.float32]:
    """Values on a grid on which the largest of them has at most that many bits; those on such a grid stay."""
    array = np.asarray(values, np.float64)
    largest = float(np.abs(array).max(initial=0.0))
    if largest == 0:
        return array.astype(np.float32)
    step = 2.0 ** (np.floor(np.log2(largest)) + 1 - bits)
    result: npt.NDArray[np.float32] = (np.rint(array / step) * step).astype(np.float32)
    return result
