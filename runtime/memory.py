"""What working on an image takes of memory, and taking it only when it is there.

The figures are of the resident memory of the whole process at its peak. Those of the networks stand in the manifest,
measured at export; those of the arrays and of the AV1 coder are constants here. `oslic bench memory` shows predictions
beside measured peaks.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from . import tiling
from .image.arrays import ceil_div
from .segmentation_size import reduction_for

if TYPE_CHECKING:
    from .bundle.manifest import GraphInfo, GraphName

# The interpreter, NumPy, Pillow with its AVIF library, and ONNX Runtime.
_PROCESS_BYTES: Final = 50 << 20
# Arrays of the whole image: with its file, its estimate and what the decoder will make of it; with the decoded image
# and its file.
_ENCODER_ARRAYS: Final = 25.0
_DECODER_ARRAYS: Final = 18.0
# libaom's encoder and the arrays that are made for it; dav1d and its output.
_ENCODER_BYTES: Final = 58.0
_DECODER_BYTES: Final = 13.0
# What two tiles in work take together, as a part of what a picture of one tile of their size takes: they are seldom in
# their greediest phase at once, and they give their memory back.
_ENCODER_OVERLAP: Final = 0.55
_DECODER_OVERLAP: Final = 1.45


_TILE_PIXELS: Final = (tiling.TILE_SIDE + 2 * tiling.HALO) ** 2
"""The most pixels that the work on one of the encoder's own tiles sees."""
# The graph of a search as it is loaded, and its arrays: measured, see `codec.search`.
_SEARCH_BYTES: Final = 70 << 20
_SEARCH_PIXEL_BYTES: Final = 540.0
# Two rows of tiles, and what is read ahead of them.
_STRIP_TILES: Final = 3
# Samples as they were read, and the parts of them that are worked on.
_STRIP_BYTES: Final = 8.0
# M_MMAP_THRESHOLD of <malloc.h>, and what we set it to.
_MMAP_THRESHOLD: Final = -3
_ARRAY_BYTES: Final = 1 << 20
# The largest square that the label map's network sees as it is, see `segmentation_size.reduction_for`.
_MOST_LABEL_PIXELS: Final = 629 * 629
# The compact image, three bytes for 64 pixels, once as an array and once coded.
_COMPACT_BYTES: Final = 0.1


@dataclass(frozen=True)
class MemoryUse:
    """A process's memory at its peak, by the size of the image.

    Attributes:
        fixed: bytes that do not depend on the image.
        per_pixel: bytes for each pixel of the image.
        per_tile_pixel: bytes for each pixel of an image of one tile.
        overlap: what two tiles in work take together, as a part of what an image as large as one of them would take.
        per_label_pixel: bytes for each pixel of the image as the label map's network sees it, before the tiles are
            worked on.
    """

    fixed: int
    per_pixel: float
    per_tile_pixel: float = 0.0
    per_label_pixel: float = 0.0
    overlap: float = 1.0

    def at(self, pixels: int) -> int:
        """Bytes for an image of so many pixels that is worked on whole."""
        labels = min(pixels, _MOST_LABEL_PIXELS) * self.per_label_pixel
        return self.fixed + _whole(pixels * self.per_pixel + max(labels, pixels * self.per_tile_pixel))

    def for_picture(self, width: int, height: int, tiles: int = 1) -> int:
        """Bytes for an image that is cut into tiles as `tiling.choose` does it, so many of them in work at a time."""
        return self.for_grid(tiling.choose(width, height), tiles)

    def for_grid(self, grid: tiling.Grid, tiles: int = 1) -> int:
        """Bytes for an image in tiles of any size, so many of them in work at a time."""
        working = max(self._working(min(tiles, grid.count), grid), self._labels(grid))
        return self.fixed + _whole(grid.width * grid.height * self.per_pixel + working)

    def for_part(self, part: tiling.Grid, whole: tiling.Grid, tiles: int = 1) -> int:
        """Bytes for some tiles of an image, whose labels and compact image are there as a whole.

        Args:
            part: the tiles.
            whole: all tiles of the image.
            tiles: that are in work at a time.
        """
        small = whole.width * whole.height * _COMPACT_BYTES
        working = self._working(min(tiles, part.count), whole)
        return self.fixed + _whole(part.width * part.height * self.per_pixel + small + working)

    def in_strips(self, grid: tiling.Grid, tiles: int = 1) -> int:
        """Bytes for an image that is never whole in memory, but in strips of a row of tiles."""
        strips = _STRIP_TILES * max(tiling.TILE_SIDE, grid.tile_height) * grid.width * _STRIP_BYTES
        small = grid.width * grid.height * _COMPACT_BYTES
        return self.fixed + _whole(strips + small + max(self._working(tiles, grid), self._labels(grid)))

    def _working(self, tiles: int, grid: tiling.Grid) -> float:
        seen = _seen_pixels(grid)
        if grid.count == 1:
            return seen * self.per_tile_pixel
        return max(1.0, tiles / 2) * self.overlap * seen * self.per_tile_pixel

    def _labels(self, grid: tiling.Grid) -> float:
        factor = reduction_for(grid.height, grid.width)
        return ceil_div(grid.width, factor) * ceil_div(grid.height, factor) * self.per_label_pixel

    def most_pixels(self, memory: int) -> int:
        """Pixels of an image that needs at most so many bytes, whatever its proportions; 0: there is none."""
        # For the label map's network at its most, if there is one.
        left = memory - self.fixed
        if left < _MOST_LABEL_PIXELS * (self.per_label_pixel + self.per_pixel) and self.per_label_pixel:
            most = max(self.per_label_pixel, self.per_tile_pixel)
            return max(0, int(left / (self.per_pixel + most)))
        tiled = int((left - self.overlap * self.per_tile_pixel * _TILE_PIXELS) / self.per_pixel)
        if not self.per_tile_pixel or tiled > tiling.ONE_TILE_PIXELS:
            return max(0, tiled)
        return max(0, min(int(left / (self.per_pixel + self.per_tile_pixel)), tiling.ONE_TILE_PIXELS))


def _seen_pixels(grid: tiling.Grid) -> int:
    """The most pixels that the work on one tile sees: tiles inside the picture have a halo on all sides."""
    return math.prod(
        min(-(-side // tiling.UNIT) * tiling.UNIT, tile + 2 * grid.halo)
        for side, tile in ((grid.width, grid.tile_width), (grid.height, grid.tile_height))
    )


def _whole(amount: float) -> int:
    return int(min(amount, 1 << 62))


READING: Final = MemoryUse(48 << 20, 16.0)
"""Decoding an image file: what Pillow holds, its copies, and the array."""


LOSSLESS: Final = MemoryUse(48 << 20, 80.0)
"""Coding or decoding a FLIF file of any kind, its pixels and the image file included."""


LABELS: Final = MemoryUse(48 << 20, 160.0)
"""Reading a label map and finding its regions, by the size of the map, where hardly two neighbors are equal."""


def networks_use(graphs: Mapping[GraphName, GraphInfo]) -> MemoryUse:
    """Memory of running an encoder's graphs one after the other, their weights and all arrays of the image included.

    Args:
        graphs: by name.
    """
    infos = dict(graphs)
    fixed = _PROCESS_BYTES + sum(info.fixed_bytes for info in infos.values())
    labels = infos["segment"].working_bytes_per_pixel if "segment" in infos else 0.0
    on_tiles = max(infos[name].working_bytes_per_pixel for name in ("analyse", "synthesise"))
    return MemoryUse(fixed, _ENCODER_ARRAYS, on_tiles, labels, _ENCODER_OVERLAP)


def searching_use(graphs: Mapping[GraphName, GraphInfo]) -> MemoryUse:
    """Memory of making layers alone with a search for better compact images."""
    networks = networks_use(graphs)
    return replace(
        networks, fixed=networks.fixed + _SEARCH_BYTES, per_tile_pixel=_SEARCH_PIXEL_BYTES, overlap=1.0
    )


def encoding_use(graphs: Mapping[GraphName, GraphInfo]) -> MemoryUse:
    """Memory of compressing an image: networks first, then the residual, and what the decoder will make of both."""
    networks = networks_use(graphs)
    decoder = [graphs[name] for name in ("synthesise", "refine") if name in graphs]
    working = max(networks.per_tile_pixel, _ENCODER_BYTES, _beside(decoder))
    return MemoryUse(networks.fixed, _ENCODER_ARRAYS, working, networks.per_label_pixel, _ENCODER_OVERLAP)


def _beside(graphs: Sequence[GraphInfo]) -> float:
    """Bytes for each pixel of graphs that share an arena: it holds arrays of all, half of the smaller ones'."""
    most, *others = sorted((info.working_bytes_per_pixel for info in graphs), reverse=True)
    return most + 0.5 * sum(others)


def residual_use(graphs: Mapping[GraphName, GraphInfo]) -> MemoryUse:
    """Memory of coding a residual; the networks are loaded, and do not run."""
    fixed = networks_use(graphs).fixed
    return MemoryUse(fixed, _ENCODER_ARRAYS, _ENCODER_BYTES, overlap=_ENCODER_OVERLAP)


def decoding_use(graphs: Mapping[GraphName, GraphInfo]) -> MemoryUse:
    """Memory of decompressing a stream: the residual is decoded beside the network.

    Args:
        graphs: those that run, by name.
    """
    infos = tuple(graphs.values())
    fixed = _PROCESS_BYTES + sum(info.fixed_bytes for info in infos)
    return MemoryUse(fixed, _DECODER_ARRAYS, _beside(infos) + _DECODER_BYTES, overlap=_DECODER_OVERLAP)


def kind_use(graphs: Mapping[GraphName, GraphInfo]) -> MemoryUse:
    """Memory of coding with graphs of a kind other than `oslic`, one after the other; each keeps its own arena.

    Args:
        graphs: those that run, by name.
    """
    fixed = _PROCESS_BYTES + sum(info.fixed_bytes for info in graphs.values())
    working = sum(info.working_bytes_per_pixel for info in graphs.values())
    return MemoryUse(fixed, _ENCODER_ARRAYS, working)


class MemoryBudget:
    """Shares a limit among the images in work: one that does not fit beside the others waits for them.

    Args:
        total: bytes for all of them together.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def reserve(self, amount: int) -> Iterator[None]:
        """Hold `amount` bytes of the budget inside the `with` block; wait until they are free.

        An amount above the total is for the caller to refuse: here it waits until it is alone. Blocks must not be
        nested on one thread.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._taken == 0 or self._taken + amount <= self._total)
            self._taken += amount
        try:
            yield
        finally:
            with self._changed:
                self._taken -= amount
                self._changed.notify_all()


def return_freed_arrays() -> None:
    """Have the C library give the memory of freed arrays back at once, where it can: for processes that are ours.

    By itself glibc keeps what was freed, up to 32 MiB a block, once a block of that size has been freed, and between
    what is in use there is no room for the arrays of the next picture: batches of 2 and 6 megapixels held nearly twice
    of what was alive at any time. It is a setting of the whole process, so the library leaves it alone.
    """
    # Where there is no glibc: no such function, or no handle of the process.
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _ARRAY_BYTES)


def resident_memory() -> tuple[int, int] | None:
    """Bytes of memory that this process holds, and the most that it held; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.startswith("Vm")}
    return (sizes["VmRSS"], sizes["VmHWM"]) if {"VmRSS", "VmHWM"} <= sizes.keys() else None
