"""Tiles of a picture: which rectangle each has, and what it needs of its neighbors.

The grid and the halo stand in the stream (docs/reference/stream.md); the functions here are its arithmetic and the
choice that an encoder makes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from .errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

UNIT: Final = 32
"""Tiles and halos are multiples of so many pixels."""
ONE_TILE_PIXELS: Final = 1 << 20
"""Pictures of up to so many pixels are one tile."""
TILE_SIDE: Final = 896
"""Largest side of the tiles that an encoder makes."""
HALO: Final = 32
"""Pixels around a tile that its estimate depends on. With them the squared error along the borders of tiles is within
0.2 % of that of the undivided picture; twice as many cost an eighth more time (docs/reference/stream.md)."""


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels: columns `left` to `right` - 1, rows `top` to `bottom` - 1."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.bottom - self.top

    def grown(self, by: int, width: int, height: int) -> Box:
        """This rectangle with `by` more pixels on each side, within a picture of `width` x `height`."""
        return Box(
            max(0, self.left - by),
            max(0, self.top - by),
            min(width, self.right + by),
            min(height, self.bottom + by),
        )

    def scaled(self, scale: int) -> Box:
        """The rectangle's positions on a grid of 1/`scale`; the upper left corner must stand on it."""
        return Box(self.left // scale, self.top // scale, -(-self.right // scale), -(-self.bottom // scale))

    def overlap(self, other: Box) -> Box | None:
        """What both rectangles have; None: nothing."""
        both = Box(
            max(self.left, other.left),
            max(self.top, other.top),
            min(self.right, other.right),
            min(self.bottom, other.bottom),
        )
        return both if both.left < both.right and both.top < both.bottom else None

    def of(self, array: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """The part of a picture's array, (H, W, ...), that this rectangle names; a view."""
        return array[self.top : self.bottom, self.left : self.right]

    def within(self, outer: Box) -> tuple[slice, slice]:
        """Rows and columns of this rectangle in an array that holds `outer`."""
        return (
            slice(self.top - outer.top, self.bottom - outer.top),
            slice(self.left - outer.left, self.right - outer.left),
        )


@dataclass(frozen=True)
class Grid:
    """The tiles of a picture.

    Attributes:
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        tile_width: of a tile, a multiple of 32; those at the right edge may be narrower. That of the picture if it is
            one tile.
        tile_height: likewise.
        halo: pixels around a tile that its estimate depends on, a multiple of 32; 0 if the picture is one tile.
    """

    width: int
    height: int
    tile_width: int
    tile_height: int
    halo: int = 0

    @property
    def columns(self) -> int:
        """Tiles side by side."""
        return -(-self.width // self.tile_width)

    @property
    def rows(self) -> int:
        """Tiles one above the other."""
        return -(-self.height // self.tile_height)

    @property
    def count(self) -> int:
        """Number of tiles."""
        return self.columns * self.rows

    @property
    def is_tiled(self) -> bool:
        """Whether there is more than one tile."""
        return self.count > 1

    def box(self, tile: int) -> Box:
        """The rectangle of a tile, by its number."""
        row, column = divmod(tile, self.columns)
        left, top = column * self.tile_width, row * self.tile_height
        return Box(
            left, top, min(self.width, left + self.tile_width), min(self.height, top + self.tile_height)
        )

    def input_box(self, tile: int) -> Box:
        """The rectangle that a tile's estimate depends on: the tile and its halo, inside the picture."""
        return self.box(tile).grown(self.halo, self.width, self.height)

    def part(self, box: Box) -> Grid:
        """The tiles that have pixels of a rectangle inside the picture, as a picture of their own."""
        tiles = list(self.touching(box))
        first, last = self.box(tiles[0]), self.box(tiles[-1])
        return replace(self, width=last.right - first.left, height=last.bottom - first.top)

    def touching(self, box: Box) -> Iterator[int]:
        """The numbers of the tiles that have pixels of a rectangle inside the picture."""
        for row in range(box.top // self.tile_height, -(-box.bottom // self.tile_height)):
            for column in range(box.left // self.tile_width, -(-box.right // self.tile_width)):
                yield row * self.columns + column


def single(width: int, height: int) -> Grid:
    """The grid of a picture that is one tile."""
    return Grid(width, height, width, height)


def choose(width: int, height: int, side: int | None = None, halo: int = HALO, unit: int = UNIT) -> Grid:
    """The grid that an encoder uses.

    Args:
        width: of the picture.
        height: of the picture.
        side: of the tiles, a multiple of 32; those at the right and the lower edge are what is left. None: one tile up
            to 1 megapixel, else tiles of about equal size, none larger than `TILE_SIDE`.
        halo: a multiple of 32, at most `side`.
        unit: what sides that are chosen are multiples of, itself a multiple of 32.

    Raises:
        UsageError: `side` or `halo` is no multiple of 32, or the halo larger than a tile.
    """
    if side is None and width * height <= ONE_TILE_PIXELS:
        return single(width, height)
    balanced = side is None
    side = TILE_SIDE if side is None else side
    if side < UNIT or side % UNIT or halo % UNIT or not 0 <= halo <= side:
        raise UsageError(
            f"tiles of {side} with a halo of {halo} pixels: both must be multiples of {UNIT}, the halo at most a tile"
        )
    # A picture lower than its halo has tiles that reach beyond it.
    sides = [max(halo, _balanced(length, side, unit) if balanced else side) for length in (width, height)]
    grid = Grid(width, height, sides[0], sides[1], halo)
    return grid if grid.is_tiled else single(width, height)


def _balanced(length: int, side: int, unit: int) -> int:
    """The multiple of `unit` that divides a length into as few tiles as `side` does, of about equal size."""
    count = -(-length // side)
    return -(-length // (count * unit)) * unit


def region_box(region: tuple[int, int, int, int] | None, width: int, height: int) -> Box:
    """The rectangle that a region names.

    Args:
        region: left, top, width, height; None: all of the picture.
        width: of the picture.
        height: of the picture.

    Raises:
        UsageError: it is not four whole numbers, is empty, or not inside the picture.
    """
    if region is None:
        return Box(0, 0, width, height)
    try:
        left, top, columns, rows = (operator.index(number) for number in region)
    except (TypeError, ValueError):
        raise UsageError(
            f"the region is {region!r:.80}, must be four whole numbers: left, top, width and height"
        ) from None
    if left < 0 or top < 0 or columns < 1 or rows < 1 or left + columns > width or top + rows > height:
        raise UsageError(
            f"the region {left},{top},{columns},{rows} is not inside the picture of {width}x{height}: "
            "give left, top, width and height"
        )
    return Box(left, top, left + columns, top + rows)
