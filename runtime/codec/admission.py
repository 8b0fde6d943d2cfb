"""Which pictures are let in, and when: limits on size and memory, checked before anything is taken."""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from ..errors import LimitError
from ..memory import MemoryBudget, MemoryUse
from ..threads import most_workers
from ..tiling import Grid
from .tile_pool import TilePool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..limits import Limits


class Admission:
    """Lets pictures in as far as the limits go; those that do not fit beside others wait for them.

    Args:
        limits: what to refuse.
        multiple: sides are extended to multiples of it.
        fixed: bytes that are taken whatever is in work: they are counted once.
    """

    def __init__(self, limits: Limits, multiple: int, fixed: int) -> None:
        self.limits = limits
        self._multiple = multiple
        self._budget = MemoryBudget(limits.memory - fixed)

    def check_size(self, width: int, height: int, use: MemoryUse) -> None:
        """Refuse an image that is too large, before anything is taken for it.

        Args:
            width: of the image.
            height: of the image.
            use: what the work takes.

        Raises:
            LimitError: too many pixels, or too much memory; the message names a size that fits.
        """
        self.limits.check_pixels(width, height)
        self.limits.check_memory(width, height, use, self._multiple)

    def check_grid(self, grid: Grid, use: MemoryUse) -> None:
        """As `check_size`, for tiles that an encoder need not have chosen: a stream may be one large tile."""
        self.check_size(grid.width, grid.height, use)
        need = use.for_grid(grid)
        if need > self.limits.memory:
            raise LimitError(
                f"the image is {grid.width}x{grid.height} in tiles of {grid.tile_width}x{grid.tile_height}: they would "
                f"need {-(-need >> 20)} MiB of memory, the limit is {self.limits.memory >> 20} MiB (--max-memory)"
            )

    def check_part(self, part: Grid, whole: Grid, use: MemoryUse) -> None:
        """As `check_grid`, for some tiles of an image."""
        self.limits.check_pixels(whole.width, whole.height)
        need = use.for_part(part, whole)
        if need > self.limits.memory:
            raise LimitError(
                f"the region's tiles are {part.width}x{part.height}: they would need {-(-need >> 20)} MiB of memory, "
                f"the limit is {self.limits.memory >> 20} MiB (--max-memory)"
            )

    @contextmanager
    def pool(self, grid: Grid, use: MemoryUse, part: Grid | None = None) -> Iterator[TilePool]:
        """Threads for an image's tiles, when there is memory for it beside those that other threads work on.

        Args:
            grid: all tiles of the image.
            use: what the work takes.
            part: the tiles that are worked on; None: all of them.
        """
        need = partial(use.for_grid, grid) if part is None else partial(use.for_part, part, grid)
        tiles = self._most_tiles(need)
        with self._budget.reserve(need(tiles) - use.fixed):
            yield TilePool(tiles)

    @contextmanager
    def strip_pool(self, grid: Grid, use: MemoryUse) -> Iterator[TilePool]:
        """Threads for an image that is worked on in strips.

        Raises:
            LimitError: too many pixels, or not even strips fit.
        """
        self.limits.check_pixels(grid.width, grid.height)
        least = use.in_strips(grid)
        if least > self.limits.memory:
            raise LimitError(
                f"the image is {grid.width}x{grid.height}: even in strips it would need {-(-least >> 20)} MiB of "
                f"memory, the limit is {self.limits.memory >> 20} MiB (--max-memory)"
            )
        tiles = self._most_tiles(partial(use.in_strips, grid))
        with self._budget.reserve(use.in_strips(grid, tiles) - use.fixed):
            yield TilePool(tiles)

    def _most_tiles(self, need: Callable[[int], int]) -> int:
        """How many tiles may be in work at a time: at most one on each core, and at least one.

        Args:
            need: bytes of memory for so many.
        """
        counts = range(1, most_workers() + 1)
        return max((n for n in counts if need(n) <= self.limits.memory), default=1)
