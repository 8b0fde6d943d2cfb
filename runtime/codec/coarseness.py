"""Coarser compact images: what fine qualities need less of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]


def coarsen(compact: Pixels, coarseness: int, levels: int) -> Pixels:
    """Keep one level of each `coarseness` neighboring ones, the middle one.

    A finer residual gives back more of what the compact image tells, so that fewer of its bits are worth their bytes.
    FLIF codes the missing levels for nothing, and a decoder need not know of them.

    Args:
        compact: c, uint8, values 0..levels-1.
        coarseness: 1 changes nothing.
        levels: L.

    Returns:
        uint8, of the same shape, values 0..levels-1.
    """
    if coarseness == 1:
        return compact
    table = np.minimum(np.arange(256) // coarseness * coarseness + coarseness // 2, levels - 1)
    coarse: Pixels = table.astype(np.uint8)[compact]
    return coarse


def coarseness_for(quality: float, table: Sequence[tuple[int, int]]) -> int:
    """The coarseness of the compact image at a quality.

    Args:
        quality: of the residual, 0..100.
        table: least quality and coarseness, qualities ascending, as a manifest has it; below the first one it is 1.
    """
    return next((coarseness for least, coarseness in reversed(table) if quality >= least), 1)
