"""A picture of 1/8 of the size, from the compact image alone: no network runs, no backend is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from ..bundle.manifest import COMPACT_SCALE
from ..image.arrays import luma
from .container import MissingError
from .stream import check_identity, read_compact_tile
from .tile_networks import compact_shape

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..bundle.folder import Bundle
    from ..bundle.manifest import Manifest
    from ..image.arrays import Pixels
    from .container import StreamReader

    Values = npt.NDArray[np.float32]

_ROUNDS: Final = 2
"""More of them make contours soft and win nothing: measured on Kodak against pictures reduced to 1/8."""


def preview_colors(levels: Pixels | Values, manifest: Manifest) -> Pixels:
    """The colors that positions of a compact image stand for.

    Args:
        levels: (..., 3), values 0..L-1.
        manifest: of the networks.

    Returns:
        uint8 (..., 3), RGB.
    """
    matrix = np.asarray(manifest.preview, np.float32)
    # Products of planes and no matrix library: that would take memory of its own for a table this small.
    planes = [np.ascontiguousarray(levels[..., k], np.float32) for k in range(3)]
    nearest = np.empty(levels.shape, np.uint8)
    for i, row in enumerate(matrix):
        color = sum(plane * factor for plane, factor in zip(planes, row[:3], strict=True)) + row[3]
        nearest[..., i] = np.clip(np.rint(color), 0, 255)
    return nearest


class CompactImage(NamedTuple):
    """The compact image of a stream.

    Attributes:
        levels: uint8 (ceil(H/8), ceil(W/8), 3), values 0..L-1.
        missing: numbers of the tiles that a truncated stream lacks; their levels are the middle one.
    """

    levels: Pixels
    missing: tuple[int, ...]


def read_compact(reader: StreamReader, bundle: Bundle) -> CompactImage:
    """The compact image of a stream, without the networks.

    Args:
        reader: of the stream, its sections checked.
        bundle: that it was made with.

    Raises:
        BundleError: it was made with another one.
        StreamError: damaged.
    """
    check_identity(reader.header, bundle)
    grid = reader.header.grid
    levels = np.full(compact_shape(grid.width, grid.height), bundle.manifest.levels // 2, np.uint8)
    missing = []
    for tile in range(grid.count):
        try:
            grid.box(tile).scaled(COMPACT_SCALE).of(levels)[:] = read_compact_tile(reader, tile, bundle)
        except MissingError:
            missing.append(tile)
    return CompactImage(levels, tuple(missing))


def smoothed(levels: Pixels) -> Values:
    """Values that may have stood where levels stand now: as smooth as their rounding allows.

    A stream with a fine residual has few levels in its compact image, and its plain areas would show as terraces.
    Each value stays nearer to its own level than to the next one that occurs in the picture.

    Args:
        levels: uint8 (H, W, 3).

    Returns:
        float32, of the same shape.
    """
    result = np.empty(levels.shape, np.float32)
    means, below, above = np.empty((3, *levels.shape[:2]), np.float32)
    for channel in range(levels.shape[2]):
        stored = np.ascontiguousarray(levels[:, :, channel])
        plane = stored.astype(np.float32)
        occurring = np.flatnonzero(np.bincount(stored.ravel(), minlength=256))
        halves = np.diff(occurring.astype(np.float32)) / 2
        if len(halves):
            lowest, highest = np.empty((2, 256), np.float32)
            lowest[occurring] = occurring - np.append(halves[0], halves)
            highest[occurring] = occurring + np.append(halves, halves[-1])
            lowest.take(stored, out=below, mode="clip")
            highest.take(stored, out=above, mode="clip")
            for _ in range(_ROUNDS):
                _take_means(plane, means)
                np.clip(means, below, above, out=plane)
        result[:, :, channel] = plane
    return result


def _take_means(plane: Values, means: Values) -> None:
    """The means of 3x3 values of `plane`, the edges repeated, into `means`; `plane` is spoiled.

    In place: the pages of new arrays take longer than the sums.
    """
    _sum_of_three(plane, means)
    _sum_of_three(means.T, plane.T)
    np.divide(plane, np.float32(9), out=means)


def _sum_of_three(values: Values, sums: Values) -> None:
    """Each row and both of its neighbors, the first and the last one repeated, into `sums`."""
    np.add(values[:-1], values[1:], out=sums[1:])
    np.add(values[0], values[0], out=sums[0])
    sums[:-1] += values[1:]
    sums[-1] += values[-1]


def thumbnail(reader: StreamReader, bundle: Bundle) -> Pixels:
    """The picture at 1/8 of its size; alpha is left out.

    Args:
        reader: of the stream, its sections checked.
        bundle: that it was made with.

    Returns:
        As `thumbnail_of`.

    Raises:
        BundleError, StreamError: as `read_compact`.
    """
    return thumbnail_of(
        read_compact(reader, bundle).levels, bundle.manifest, gray=reader.header.layout.is_gray
    )


def thumbnail_of(levels: Pixels, manifest: Manifest, *, gray: bool) -> Pixels:
    """The picture that a compact image is of, at 1/8 of its size.

    Args:
        levels: uint8 (ceil(H/8), ceil(W/8), 3), values 0..L-1.
        manifest: of the networks.
        gray: whether the picture is.

    Returns:
        uint8 (ceil(H/8), ceil(W/8), 3), or (ceil(H/8), ceil(W/8)) of a gray one.
    """
    picture = preview_colors(smoothed(levels), manifest)
    return luma(picture) if gray else picture
