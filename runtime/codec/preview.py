"""A picture of 1/8 of the size, from the compact image alone: no network runs, no backend is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..bundle import COMPACT_SCALE
from ..pixels import luma
from .stream import check_identity, read_compact_tile
from .tile_networks import compact_shape

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..bundle import Bundle, Manifest
    from .container import StreamReader

    Pixels = npt.NDArray[np.uint8]


def preview_colors(levels: Pixels, manifest: Manifest) -> Pixels:
    """The colors that positions of a compact image stand for.

    Args:
        levels: uint8 (..., 3), values 0..L-1.
        manifest: of the networks.

    Returns:
        uint8 (..., 3), RGB.
    """
    matrix = np.asarray(manifest.preview, np.float32)
    # Three products and no matrix library: that would take memory of its own for a table this small.
    colors = sum(levels[..., k : k + 1].astype(np.float32) * matrix[:, k] for k in range(3)) + matrix[:, 3]
    nearest: Pixels = np.clip(np.rint(colors), 0, 255).astype(np.uint8)
    return nearest


def read_compact(reader: StreamReader, bundle: Bundle) -> Pixels:
    """The compact image of a stream.

    Args:
        reader: of the stream, its sections checked.
        bundle: that it was made with.

    Returns:
        uint8 (ceil(H/8), ceil(W/8), 3), values 0..L-1.

    Raises:
        BundleError: it was made with another one.
        StreamError: damaged.
    """
    check_identity(reader.header, bundle)
    grid = reader.header.grid
    compact = np.empty(compact_shape(grid.width, grid.height), np.uint8)
    for tile in range(grid.count):
        grid.box(tile).scaled(COMPACT_SCALE).of(compact)[:] = read_compact_tile(reader, tile, bundle)
    return compact


def thumbnail(reader: StreamReader, bundle: Bundle) -> Pixels:
    """The picture at 1/8 of its size; alpha is left out.

    Args:
        reader: of the stream, its sections checked.
        bundle: that it was made with.

    Returns:
        uint8 (ceil(H/8), ceil(W/8), 3), or (ceil(H/8), ceil(W/8)) for gray layouts.

    Raises:
        BundleError, StreamError: as `read_compact`.
    """
    picture = preview_colors(read_compact(reader, bundle), bundle.manifest)
    return luma(picture) if reader.header.layout.is_gray else picture
