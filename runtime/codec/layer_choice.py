"""Which tiles have layers: where they cost more than they save, a constant stands for the compact image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..bundle import Manifest

    Pixels = npt.NDArray[np.uint8]

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
    matrix = np.asarray(manifest.preview, np.float64)
    levels, *_ = np.linalg.lstsq(matrix[:, :3], color.mean((0, 1)) - matrix[:, 3], rcond=None)
    nearest: Pixels = np.clip(np.rint(levels), 0, manifest.levels - 1).astype(np.uint8)
    return nearest


def flat_color(levels: Pixels, manifest: Manifest) -> Pixels:
    """The color that a constant compact image stands for: what a tile without layers has for an estimate.

    Args:
        levels: uint8 (3,).
        manifest: of the networks.

    Returns:
        uint8 (3,), RGB.
    """
    matrix = np.asarray(manifest.preview, np.float32)
    color = levels.astype(np.float32) @ matrix[:, :3].T + matrix[:, 3]
    nearest: Pixels = np.clip(np.rint(color), 0, 255).astype(np.uint8)
    return nearest
