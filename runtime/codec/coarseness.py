"""Coarser and smoother compact images: what fine qualities need less of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from ..image.arrays import Pixels

    Counts = npt.NDArray[np.int16]

_SMOOTHING: Final = ((0.0, 0.3), (30.0, 0.2), (45.0, 0.1))
"""Least quality and smoothing: the smaller the file, the more of it the compact image would be. See
training/EXPERIMENTS.md."""
_ROUNDS: Final = 3
_UNIT: Final = 64
"""Costs are whole numbers, this much for half a neighbor of another level: every machine comes to the same."""


class Reduction(NamedTuple):
    """What is left out of a compact image before it is stored.

    Attributes:
        coarseness: so many neighboring levels become one; 1: all stay.
        smoothing: the cost of a neighbor of another level, in squared cells of `coarseness` levels; 0: none.
    """

    coarseness: int = 1
    smoothing: float = 0.0


def reduce_compact(compact: Pixels, reduction: Reduction, levels: int) -> Pixels:
    """Keep one level of each `coarseness` neighboring ones, the middle one, and take those that their neighbors have.

    A finer residual gives back more of what the compact image tells, so that fewer of its bits are worth their bytes.
    FLIF codes the missing levels for nothing, and a decoder need not know of them.

    Smoothing minimizes the squared distance of each sample to its new level, in cells, plus `smoothing` times the
    number of its four neighbors that have another level, and half of that for the four at its corners: a Potts model,
    by iterated conditional modes (J. Besag, "On the statistical analysis of dirty pictures", 1986), all samples at
    once.

    Args:
        compact: uint8 (h, w, 3), values 0..levels-1.
        reduction: of what.
        levels: L.

    Returns:
        uint8, of the same shape, values 0..levels-1.
    """
    coarseness, smoothing = reduction
    if coarseness == 1:
        return compact
    cells = -(-levels // coarseness)
    middles = np.minimum(np.arange(cells) * coarseness + coarseness // 2, levels - 1)
    found = (compact // coarseness).astype(np.uint8)
    if smoothing:
        found = _smoothed(found, _distances(levels, coarseness, smoothing)[:, compact])
    reduced: Pixels = middles.astype(np.uint8)[found]
    return reduced


def _distances(levels: int, coarseness: int, smoothing: float) -> Counts:
    """The cost of each cell for each level, in units: (cells, levels)."""
    low = np.arange(0, levels, coarseness)
    centers = (low + np.minimum(low + coarseness, levels) - 1) / 2
    squares = ((np.arange(levels) - centers[:, None]) / coarseness) ** 2
    return np.minimum(np.rint(squares / smoothing * 2 * _UNIT), np.iinfo(np.int16).max // 2).astype(np.int16)


def _smoothed(found: Pixels, distances: Counts) -> Pixels:
    """The cells of samples after smoothing.

    Args:
        found: the cell of each sample, uint8 (h, w, 3).
        distances: the cost of each cell for each sample, (cells, h, w, 3).
    """
    for _ in range(_ROUNDS):
        costs = [distance - _UNIT * _neighbors(found == cell) for cell, distance in enumerate(distances)]
        found = np.argmin(costs, axis=0).astype(np.uint8)
    return found


def _neighbors(same: npt.NDArray[np.bool_]) -> Counts:
    """How many neighbors are marked: the four beside a sample twice, those at its corners once."""
    own = same.astype(np.int16)
    around = np.pad(own, ((1, 1), (1, 1), (0, 0)))
    around = around[:-2] + 2 * around[1:-1] + around[2:]
    return around[:, :-2] + 2 * around[:, 1:-1] + around[:, 2:] - 4 * own


def compact_reduction_for(quality: float, table: Sequence[tuple[int, int]]) -> Reduction:
    """What a quality leaves out of the compact image.

    Args:
        quality: of the residual, 0..100.
        table: least quality and coarseness, qualities ascending, as a manifest has it; below the first one it is 1.
    """
    coarseness = next((degree for least, degree in reversed(table) if quality >= least), 1)
    if coarseness == 1:
        return Reduction()
    return Reduction(coarseness, next(cost for least, cost in reversed(_SMOOTHING) if quality >= least))
