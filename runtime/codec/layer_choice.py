"""Which tiles have layers: where they cost more than they save, a constant stands for the compact image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from ..bundle.manifest import Manifest
    from ..image.arrays import Pixels
    from .settings import Settings

_FLAT_SHARE: Final = 0.5
"""Of 550 photographs (Kodak, BSDS500, wallpapers, everyday ones) the flattest has 0.49, of Kodak 0.12."""


def is_graphic(color: Pixels) -> bool:
    """Whether a tile is drawn rather than photographed: half of its pixels equal their right and lower neighbors.

    The layers cost such a tile more than they save: AV1 codes flat areas and sharp edges for less.

    Args:
        color: uint8 (h, w, 3) or (h, w).
    """
    if min(color.shape[:2]) < 2:
        return True
    here = color[:-1, :-1]
    same = (here == color[:-1, 1:]) & (here == color[1:, :-1])
    if same.ndim == 3:
        same = same.all(2)
    return float(same.mean()) > _FLAT_SHARE


def constant_levels(color: Pixels, manifest: Manifest) -> Pixels:
    """The constant compact image of a tile without layers: what comes nearest to its mean color.

    Args:
        color: uint8 (h, w, 3).
        manifest: of the networks.

    Returns:
        uint8 (3,), values 0..L-1.
    """
    rows = manifest.preview
    wanted = [float(mean) - row[3] for mean, row in zip(color.mean((0, 1)), rows, strict=True)]
    levels = _solved([list(row[:3]) for row in rows], wanted)
    nearest: Pixels = np.clip(np.rint(levels), 0, manifest.levels - 1).astype(np.uint8)
    return nearest


def _solved(matrix: list[list[float]], values: list[float]) -> list[float]:
    """Solve three equations by Cramer's rule: a matrix this small is not worth a library that takes memory of its own.

    Equations that have no single solution, which a foreign bundle may state, give 0.
    """

    def determinant(m: list[list[float]]) -> float:
        (a, b, c), (d, e, f), (g, h, i) = m
        return a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)

    whole = determinant(matrix)
    if not abs(whole) > 1e-9:
        return [0.0, 0.0, 0.0]
    replaced = (
        [[*row[:k], value, *row[k + 1 :]] for row, value in zip(matrix, values, strict=True)]
        for k in range(3)
    )
    return [determinant(each) / whole for each in replaced]


def has_layers(settings: Settings, *, graphic: bool) -> bool:
    """Whether a tile has layers, before anything is coded.

    Args:
        settings: how the picture is coded; at quality 0 all tiles have layers.
        graphic: whether the tile is drawn, see `is_graphic`.
    """
    return not settings.quality or (settings.layers != "never" and not graphic)
