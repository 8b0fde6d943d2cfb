"""Pictures that do not fit into memory: compressed and decompressed in strips of one row of tiles.

What is made is what `Codec` makes of the same pixels, but for the label map where the source reduces a picture in
another way than `runtime.segmentation_size`.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from .. import tiling
from ..bundle.manifest import COMPACT_SCALE, LAYER_GRAPHS
from ..errors import UsageError
from ..image.arrays import Layout, fill_hidden, split, three_channels
from ..segmentation_size import reduction_for
from .coarseness import reduce_compact
from .container import (
    DIGEST_BYTES,
    Payload,
    SectionType,
    SectionWriter,
    digest,
    sections_of,
    write_stream,
)
from .encoding import parameters_of
from .finishing import refinement_for
from .layer_choice import constant_levels, has_layers, is_graphic
from .lossless import encode_plane
from .metadata_sections import metadata_writers
from .residual_plan import plan_residual, wanted_reduction
from .search import wanted_search
from .stage_timer import Stages
from .stream import header_of, identity_of
from .tile_networks import TileNetworks, compact_shape
from .tile_residual import encode_tile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import SupportsWrite

    from ..image.arrays import Pixels
    from ..image.metadata import Metadata
    from ..tiling import Box
    from .decoding import Decoding
    from .networks import Graphs
    from .settings import Settings
    from .tile_pool import TilePool

_SPILLED_BYTES: Final = 1 << 24


class RowSource(Protocol):
    """A picture whose rows are read from the top to the bottom."""

    @property
    def width(self) -> int:
        """Of the picture, in pixels."""

    @property
    def height(self) -> int:
        """Of the picture, in pixels."""

    @property
    def layout(self) -> Layout:
        """Channels of the picture."""

    def reduced(self, factor: int) -> Pixels:
        """The picture at 1/`factor` of the size: uint8 (ceil(H/factor), ceil(W/factor), 3)."""

    def rows(self, count: int) -> Pixels:
        """The next rows: uint8 (count, W) or (count, W, C)."""


class _Window:
    """Some neighboring rows of a source, in memory."""

    def __init__(self, source: RowSource) -> None:
        self.layout = source.layout
        self._source = source
        self._parts: list[Pixels] = []
        self._top = 0
        self._bottom = 0

    def advance(self, top: int, bottom: int) -> None:
        """Hold at least the rows `top` to `bottom` - 1; rows above `top` are given up."""
        if bottom > self._bottom:
            self._parts.append(self._source.rows(bottom - self._bottom))
            self._bottom = bottom
        while self._parts and self._top + len(self._parts[0]) <= top:
            self._top += len(self._parts.pop(0))

    def of(self, box: Box) -> Pixels:
        """The pixels of a rectangle whose rows are held."""
        found, top = [], self._top
        for part in self._parts:
            rows = slice(max(0, box.top - top), max(0, box.bottom - top))
            found.append(part[rows, box.left : box.right])
            top += len(part)
        return np.concatenate(found)


def compress_rows(
    graphs: Graphs,
    pool: TilePool,
    source: RowSource,
    target: SupportsWrite[bytes],
    *,
    settings: Settings,
    metadata: Metadata | None = None,
    keep_invisible: bool = False,
    tile: int | None = None,
    halo: int = tiling.HALO,
) -> dict[str, int]:
    """Compress a picture row of tiles by row of tiles; what is coded waits in temporary files for the header.

    Args:
        graphs: the bundle's graphs on a backend.
        pool: works on several tiles at a time.
        source: the picture.
        target: gets the `.oslic` file.
        settings: how it is coded.
        metadata: to carry.
        keep_invisible: whether color under alpha 0 is coded as it is.
        tile: largest side of a tile, a multiple of 32; None as in `Codec.layers`.
        halo: pixels around a tile that its estimate depends on, a multiple of 32.

    Returns:
        Payload bytes by section name.

    Raises:
        UsageError: tiles are to choose their layers: that takes the whole picture.
    """
    if settings.layers == "auto":
        raise UsageError(
            "a picture that is compressed in strips cannot choose its layers tile by tile: raise --max-memory, or "
            "take --layers always or never"
        )
    grid = tiling.choose(source.width, source.height, tile, halo)
    factor = reduction_for(source.height, source.width)
    graphs.load(*LAYER_GRAPHS)
    labels = graphs.segment(source.reduced(factor))
    compact = np.zeros(compact_shape(grid.width, grid.height), np.uint8)
    label_scale = graphs.bundle.manifest.label_scale * factor
    search = wanted_search(settings, graphs.bundle.manifest)
    networks = TileNetworks(graphs, grid, labels, label_scale, compact, search=search)
    with (
        tempfile.SpooledTemporaryFile(_SPILLED_BYTES) as compact_file,
        tempfile.SpooledTemporaryFile(_SPILLED_BYTES) as residual_file,
        tempfile.SpooledTemporaryFile(_SPILLED_BYTES) as alpha_file,
    ):
        writers = sections_of({SectionType.LABELS: [Payload(encode_plane(labels, settings.coders.lossless))]})
        writers[SectionType.COMPACT] = SectionWriter(compact_file)
        writers[SectionType.RESIDUAL] = SectionWriter(residual_file)
        if source.layout.has_alpha:
            writers[SectionType.ALPHA] = SectionWriter(alpha_file)
        encoding = _RowEncoding(
            networks,
            pool,
            _Window(source),
            writers,
            settings=settings,
            keep_invisible=keep_invisible,
        )
        for row in range(grid.rows):
            encoding.analyse(row)
            if row:
                encoding.code(row - 1)
        encoding.code(grid.rows - 1)
        refined = encoding.refinement is not None
        parameters = parameters_of(encoding.plan, label_scale, refined=refined)
        header = header_of(source.layout, identity_of(graphs.bundle, refined=refined), grid, parameters)
        return write_stream(target, header, writers | metadata_writers(metadata))


class _RowEncoding:
    """The work on rows of tiles: a row's compact images first, its residuals when those of the next row are there."""

    def __init__(
        self,
        networks: TileNetworks,
        pool: TilePool,
        window: _Window,
        writers: dict[int, SectionWriter],
        *,
        settings: Settings,
        keep_invisible: bool,
    ) -> None:
        self._networks = networks
        self._grid = networks.grid
        self._pool = pool
        self._window = window
        self._writers = writers
        self._settings = settings
        manifest = networks.graphs.bundle.manifest
        self.plan = plan_residual(settings, networks.labels, networks.label_scale, manifest)
        self._reduction = wanted_reduction(settings, manifest)
        self._plain: set[int] = set()
        self._graphic: set[int] = set()
        self.refinement = refinement_for(networks.graphs, self.plan, Stages())
        self._keep_invisible = keep_invisible or settings.keeps_all

    def _tiles(self, row: int) -> range:
        return range(row * self._grid.columns, (row + 1) * self._grid.columns)

    def _read(self, box: Box) -> tuple[Pixels, Pixels | None]:
        color, alpha = split(self._window.of(box), self._window.layout)
        if alpha is not None and not self._keep_invisible:
            color = fill_hidden(color, alpha)
        return color, alpha

    def analyse(self, row: int) -> None:
        """Make and code the compact images of a row."""
        first = self._grid.box(row * self._grid.columns)
        below = min(self._grid.height, first.bottom + self._grid.halo)
        self._window.advance(max(0, first.top - self._grid.tile_height), below)

        manifest, compact = self._networks.graphs.bundle.manifest, self._networks.compact

        def work(tile: int) -> bytes:
            own = self._grid.box(tile).scaled(COMPACT_SCALE).of(compact)
            part, _ = self._read(self._grid.box(tile))
            if is_graphic(part):
                self._graphic.add(tile)
            if not has_layers(self._settings, graphic=tile in self._graphic):
                self._plain.add(tile)
                own[:] = constant_levels(three_channels(part), manifest)
            else:
                color, _ = self._read(self._grid.input_box(tile))
                self._networks.analyse(tile, three_channels(color))
                own[:] = reduce_compact(own, self._reduction, manifest.levels)
            return encode_plane(np.ascontiguousarray(own), self._settings.coders.lossless)

        for data in self._pool.run(work, self._tiles(row)):
            self._writers[SectionType.COMPACT].add(Payload(data))

    def code(self, row: int) -> None:
        """Code the residuals and the alpha of a row."""

        def work(tile: int) -> tuple[Payload, bytes | None]:
            color, alpha = self._read(self._grid.box(tile))
            estimate, found = None, bytes(DIGEST_BYTES)
            if tile not in self._plain:
                estimate = self._networks.estimate(tile, gray=self._window.layout.is_gray)
                found = digest(estimate)
            coded = encode_tile(
                color,
                estimate,
                found,
                plan=self.plan,
                gains=self.plan.gains_of(self._grid.box(tile)),
                stages=Stages(),
                doubted=self.refinement if tile in self._graphic else None,
            )
            return coded.payload, None if alpha is None else encode_plane(
                alpha, self._settings.coders.lossless
            )

        for payload, alpha in self._pool.run(work, self._tiles(row)):
            self._writers[SectionType.RESIDUAL].add(payload)
            if alpha is not None:
                self._writers[SectionType.ALPHA].add(Payload(alpha))


@dataclass(frozen=True)
class DecodedStrip:
    """Some rows of a picture.

    Attributes:
        pixels: uint8 (h, W) or (h, W, C).
        drifted: whether an estimate is not, bit for bit, the encoder's.
        residual_drifted: whether a decoded residual is not the encoder's.
        is_wrong: whether that is an error, see `Decoding.is_wrong`.
        refinement_note: as in `Decoded`.
    """

    pixels: Pixels
    drifted: bool
    residual_drifted: bool
    is_wrong: bool
    refinement_note: str | None


def decompress_rows(decoding: Decoding) -> Iterator[DecodedStrip]:
    """Decompress a picture row of tiles by row of tiles.

    Args:
        decoding: of a stream, best from a file: only what a row needs is read.

    Yields:
        Strips of the picture from the top to the bottom.
    """
    grid, layout = decoding.grid, decoding.header.layout
    channels = () if layout is Layout.GRAY else (int(layout),)
    for row in range(grid.rows):
        numbers = range(row * grid.columns, (row + 1) * grid.columns)
        strip = np.empty((grid.box(numbers[0]).height, grid.width, *channels), np.uint8)
        drifted = residual_drifted = False
        for number, tile in zip(numbers, decoding.tiles(numbers), strict=True):
            box = grid.box(number)
            strip[:, box.left : box.right] = tile.pixels()
            drifted |= not tile.estimate_matches
            residual_drifted |= not tile.residual_matches
        yield DecodedStrip(
            strip, drifted, residual_drifted, decoding.is_wrong("image"), decoding.refinement_note
        )
