"""From a stream to pixels: all of them, or those of a region."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from ..bundle.manifest import COMPACT_SCALE, GraphName
from ..errors import StreamError
from ..image.arrays import join, luma
from ..threads import Workers
from ..tiling import Box, Grid, region_box
from .bounded import BoundedResidual
from .class_gains import GainMap
from .container import Header, MissingError, SectionType, StreamReader, digest
from .lossless import decode_plane
from .metadata_sections import missing_metadata, read_metadata
from .parameters import Parameters, ResidualMode, TileRecord
from .preview import preview_colors
from .refinement import Refinement
from .residual import CodedResidual
from .stage_timer import Stages
from .stream import (
    check_identity,
    identity_of,
    read_compact_tile,
    read_label_plane,
    read_record,
    refinement_of,
)
from .tile_networks import TileNetworks, compact_shape
from .tile_residual import AnyResidual, add_samples, decode_samples

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ..bundle.folder import Bundle
    from ..image.arrays import Pixels
    from ..image.metadata import Metadata
    from .networks import Graphs
    from .tile_pool import TilePool

Layer = Literal["image", "estimate"]

_GRAY: Final = 128
DECODER_GRAPHS: Final[tuple[GraphName, ...]] = ("synthesise", "refine")
"""What runs to decode; the last one only where the stream is refined."""


@dataclass(frozen=True)
class Decoded:
    """A decoded stream, or a part of it.

    Attributes:
        image: the decoded part, uint8, in the layout that was compressed: (h, w), (h, w, 2), (h, w, 3) or (h, w, 4).
        metadata: ICC profile, EXIF and so on.
        header: header of the stream.
        parameters: parameters of the stream.
        labels: label map of the whole picture, uint8 (ceil(H/S), ceil(W/S)).
        compact: compact image of the whole picture, uint8 (ceil(H/8), ceil(W/8), 3); zeros where no decoded tile
            needs it.
        estimate: estimate of the part, uint8 (h, w, 3), or (h, w) for gray; None unless it was asked for.
        drifted: numbers of the tiles whose estimate is not, bit for bit, the encoder's.
        residual_drifted: numbers of the tiles whose decoded residual is not the encoder's.
        missing: by section, numbers of the tiles that a truncated stream lacks; of metadata, which has no tiles, 0.
        is_wrong: whether a digest that does not match is an error, see `Decoding.is_wrong`.
        refinement_note: a message if the encoder's refinement network is not the bundle's, and the picture was
            refined by the bundle's or not at all; None if it is.
        stages: wall seconds of each stage, summed over the tiles; the residual is decoded beside the network.
        processor: processor seconds of each stage.
    """

    image: Pixels
    metadata: Metadata
    header: Header
    parameters: Parameters
    labels: Pixels
    compact: Pixels
    estimate: Pixels | None
    drifted: tuple[int, ...]
    residual_drifted: tuple[int, ...]
    missing: dict[str, tuple[int, ...]]
    is_wrong: bool
    refinement_note: str | None
    stages: dict[str, float]
    processor: dict[str, float]

    @property
    def digest_matches(self) -> bool | None:
        """Whether all estimates and residuals are, bit for bit, the encoder's.

        None: all that was compared is, and what a truncated stream lacks was not.
        """
        if self.drifted or self.residual_drifted:
            return False
        return None if self.missing else True

    @property
    def drift(self) -> str | None:
        """A message if a digest does not match; None if all do."""
        return drift_message(estimate=bool(self.drifted)) if self.digest_matches is False else None


def drift_message(*, estimate: bool) -> str:
    """What to tell of a stream whose digests do not match.

    Args:
        estimate: whether it is the estimate that differs; else it is the residual.
    """
    if estimate:
        return "the estimate differs from the encoder's: expect differences of a few gray levels"
    return "the decoded residual differs from the encoder's: this AV1 decoder converts colors in another way"


@dataclass(frozen=True)
class DecodedTile:
    """A tile's part of the picture.

    Attributes:
        color: uint8 (h, w, 3) or (h, w).
        estimate: in the shape of `color`; None where the picture does not depend on it, and nobody asked for it.
        alpha: uint8 (h, w), or None.
        estimate_matches: whether it is the encoder's.
        residual_matches: whether the decoded residual is the encoder's.
        missing: sections that a truncated stream lacks for it.
    """

    color: Pixels
    estimate: Pixels | None
    alpha: Pixels | None
    estimate_matches: bool = True
    residual_matches: bool = True
    missing: tuple[str, ...] = ()

    def pixels(self) -> Pixels:
        """Color and alpha, uint8 (h, w) or (h, w, C)."""
        return join(self.color, self.alpha)


class Decoding:
    """The decoding of one stream. Tiles may be decoded from several threads.

    Args:
        graphs: the bundle's graphs on a backend.
        reader: of the stream, its sections checked.
        pool: works on several tiles at a time.

    Attributes:
        drifted: numbers of the tiles decoded so far whose estimate is not, bit for bit, the encoder's.
        residual_drifted: numbers of those whose decoded residual is not the encoder's.
        missing: by section, numbers of the tiles that a truncated stream lacks.

    Raises:
        BundleError: the stream was made with another bundle.
        StreamError: its parameters or its label map are damaged.
    """

    def __init__(self, graphs: Graphs, reader: StreamReader, pool: TilePool) -> None:
        check_identity(reader.header, graphs.bundle)
        self.graphs = graphs
        self.reader = reader
        self.pool = pool
        self.stages = Stages()
        self.parameters = Parameters.from_bytes(reader.header.parameters)
        if self.parameters.max_error is None:
            # What is coded within a bound seldom needs it.
            graphs.load("synthesise")
        with self.stages.measure("labels"):
            labels = read_label_plane(reader, self.parameters, graphs.bundle)
        compact = np.zeros(compact_shape(self.header.width, self.header.height), np.uint8)
        self.networks = TileNetworks(graphs, self.grid, labels, self.parameters.label_scale, compact)
        self.drifted: tuple[int, ...] = ()
        self.residual_drifted: tuple[int, ...] = ()
        self.missing: dict[str, tuple[int, ...]] = {}
        self.gains: GainMap | None = None
        if self.parameters.gains:
            known = len(graphs.bundle.manifest.classes)
            if any(index >= known for index, _ in self.parameters.gains):
                raise StreamError(f"the stream has a gain of a class that the bundle's {known} do not have")
            self.gains = GainMap(labels, self.parameters.label_scale, dict(self.parameters.gains))
        self.refinement: Refinement | None = None
        self.refinement_note: str | None = None
        if self.parameters.refined:
            if "refine" in graphs.bundle.manifest.graphs:
                graphs.load("refine")
                settings = self.parameters.quality, self.parameters.visual
                self.refinement = Refinement(graphs, *settings, self.stages)
            self.refinement_note = _refinement_note(reader.header, graphs.bundle)
        self._unread = set(range(self.grid.count))
        self._absent: set[int] = set()

    @property
    def header(self) -> Header:
        """Of the stream."""
        return self.reader.header

    @property
    def grid(self) -> Grid:
        """Tiles of the picture."""
        return self.header.grid

    def is_wrong(self, layer: Layer) -> bool:
        """Whether a digest of the tiles decoded so far does not match where that is an error.

        It is one where all machines have the same estimate, and where a bound on the picture's samples is lost.
        """
        if self.parameters.max_error is not None and layer == "image":
            return bool(self.drifted or self.residual_drifted)
        return self.parameters.exact and bool(self.drifted)

    def read_compact(self, tiles: Iterable[int]) -> None:
        """Decode the compact images that the estimates of some tiles depend on, as far as it was not done before."""
        needed = {t for tile in tiles for t in self.grid.touching(self.grid.input_box(tile))} & self._unread
        self._unread -= needed
        missing = {tile for tile in self.pool.run(self._read_compact, sorted(needed)) if tile is not None}
        self._absent |= missing
        for tile in sorted(missing):
            self._continue_into(tile)

    def _continue_into(self, tile: int) -> None:
        """Continue a neighbor's compact image into a tile that lacks its own: the estimates around it look there.

        A truncated stream has the first tiles, row by row, so that the neighbor above is there, or was continued.
        """
        box, compact = self.grid.box(tile).scaled(COMPACT_SCALE), self.networks.compact
        if tile >= self.grid.columns:
            box.of(compact)[:] = compact[box.top - 1, box.left : box.right]
        elif tile:
            box.of(compact)[:] = compact[box.top : box.bottom, box.left - 1 : box.left]

    def _read_compact(self, tile: int) -> int | None:
        """Decode the compact image of a tile; returns its number if a truncated stream lacks it."""
        try:
            with self.stages.measure("compact"):
                plane = read_compact_tile(self.reader, tile, self.graphs.bundle)
        except MissingError:
            return tile
        self.grid.box(tile).scaled(COMPACT_SCALE).of(self.networks.compact)[:] = plane
        return None

    def tile(self, number: int, layer: Layer, *, with_estimate: bool = False) -> DecodedTile:
        """Decode a tile; the compact images that it depends on were read.

        Args:
            number: of the tile.
            layer: "image", or "estimate" without the residual.
            with_estimate: whether the estimate is wanted where the picture does not depend on it.
        """
        gray, box = self.header.layout.is_gray, self.grid.box(number)
        shape = (box.height, box.width) if gray else (box.height, box.width, 3)
        alpha, missing = self._alpha(number, box)
        if number in self._absent:
            flat = np.full(shape, _GRAY, np.uint8)
            return DecodedTile(flat, flat, alpha, missing=(*missing, "compact"))
        try:
            record = read_record(self.reader, number, self.parameters)
            coded = self._residual(number, record) if layer == "image" else None
        except MissingError:
            record, coded, missing = None, None, (*missing, "residual")
        plain = record is not None and record.plain
        if isinstance(coded, BoundedResidual) and coded.weight is None and not with_estimate:
            assert record is not None
            found = self._samples(coded, shape)
            matches = digest(found) == record.residual_digest
            return DecodedTile(
                coded.add(found, found), None, alpha, residual_matches=matches, missing=missing
            )
        with Workers(1) as beside:
            # What of the residual needs no estimate is decoded beside the network.
            samples = None if coded is None else beside.submit(self._samples, coded, shape)
            if plain:
                estimate = self._flat(box, shape)
            else:
                with self.stages.measure("synthesise"):
                    estimate = self.networks.estimate(number, gray=gray)
            color, residual_matches = estimate, True
            if coded is not None and samples is not None and record is not None:
                found = samples.result()
                residual_matches = digest(found) == record.residual_digest
                with self.stages.measure("add"):
                    gains = None if self.gains is None else self.gains.of(box)
                    color = add_samples(found, coded, estimate, gains)
                if self.refinement is not None and not record.unrefined:
                    color = self.refinement.tile(color, None if plain else estimate, gains)
        matches = record is None or plain or digest(estimate) == record.estimate_digest
        return DecodedTile(color, estimate, alpha, matches, residual_matches, missing)

    def _flat(self, box: Box, shape: tuple[int, ...]) -> Pixels:
        """What stands for the estimate of a tile without layers, when somebody asks for it: one color.

        Raises:
            StreamError: its compact image is not constant.
        """
        part = box.scaled(COMPACT_SCALE).of(self.networks.compact)
        levels = part[0, 0]
        if (part != levels).any():
            raise StreamError(
                "a tile without layers has a compact image that is not constant: damaged stream"
            )
        color = preview_colors(levels, self.graphs.bundle.manifest).reshape(1, 1, 3)
        flat: Pixels = np.broadcast_to(luma(color) if len(shape) == 2 else color, shape).copy()
        return flat

    def tiles(
        self, numbers: Iterable[int], layer: Layer = "image", *, with_estimate: bool = False
    ) -> Iterator[DecodedTile]:
        """Decode tiles, several at a time, in their order; the compact images that they depend on are read first."""
        wanted = list(numbers)
        self.read_compact(wanted)
        work = partial(self.tile, layer=layer, with_estimate=with_estimate)
        for number, tile in zip(wanted, self.pool.run(work, wanted), strict=True):
            self.drifted += () if tile.estimate_matches else (number,)
            self.residual_drifted += () if tile.residual_matches else (number,)
            for name in tile.missing:
                self.missing[name] = (*self.missing.get(name, ()), number)
            yield tile

    def _alpha(self, number: int, box: Box) -> tuple[Pixels | None, tuple[str, ...]]:
        if not self.header.layout.has_alpha:
            return None, ()
        try:
            data = self.reader.payload(SectionType.ALPHA, number)
        except MissingError:
            return np.full((box.height, box.width), 255, np.uint8), ("alpha",)
        with self.stages.measure("alpha"):
            return decode_plane(data, (box.height, box.width), "alpha"), ()

    def _residual(self, number: int, record: TileRecord) -> AnyResidual | None:
        payload = self.reader.payload(SectionType.RESIDUAL, number)
        bound = self.parameters.max_error
        if bound is not None:
            weight = record.weight if record.mode is ResidualMode.FLIF_RESIDUAL else None
            return BoundedResidual(payload, bound, weight)
        if record.mode is ResidualMode.NONE:
            if payload:
                raise StreamError(
                    f"tile {number} has {len(payload)} bytes of a residual that it does not have"
                )
            return None
        return CodedResidual(payload, record.scale, record.weight)

    def _samples(self, coded: AnyResidual, shape: tuple[int, ...]) -> Pixels:
        with self.stages.measure("residual"):
            return decode_samples(coded, shape)

    def decode(
        self,
        region: tuple[int, int, int, int] | None = None,
        *,
        layer: Layer = "image",
        with_estimate: bool = False,
    ) -> Decoded:
        """Decode the picture or a region of it.

        Args:
            region: left, top, width, height; None: all of the picture.
            layer: "image", or "estimate" without the residual.
            with_estimate: whether the estimate is kept beside the image.

        Raises:
            UsageError: the region is not inside the picture.
            StreamError: damaged.
        """
        wanted = region_box(region, self.header.width, self.header.height)
        numbers = list(self.grid.touching(wanted))
        shape = (
            (wanted.height, wanted.width) if self.header.layout.is_gray else (wanted.height, wanted.width, 3)
        )
        color = np.empty(shape, np.uint8)
        estimate = np.empty(shape, np.uint8) if with_estimate else None
        alpha = np.empty(shape[:2], np.uint8) if self.header.layout.has_alpha else None
        made = self.tiles(numbers, layer, with_estimate=with_estimate)
        for number, tile in zip(numbers, made, strict=True):
            box = self.grid.box(number)
            part = box.overlap(wanted)
            assert part is not None
            target, source = part.within(wanted), part.within(box)
            color[target] = tile.color[source]
            if estimate is not None and tile.estimate is not None:
                estimate[target] = tile.estimate[source]
            if alpha is not None and tile.alpha is not None:
                alpha[target] = tile.alpha[source]
        if len(numbers) > 1:
            self.graphs.give_back()
        return Decoded(
            join(color, alpha),
            read_metadata(self.reader),
            self.header,
            self.parameters,
            self.networks.labels,
            self.networks.compact,
            estimate,
            self.drifted,
            self.residual_drifted,
            self.missing | dict.fromkeys(missing_metadata(self.reader), (0,)),
            self.is_wrong(layer),
            self.refinement_note,
            self.stages.seconds,
            self.stages.processor,
        )


def _refinement_note(header: Header, bundle: Bundle) -> str | None:
    if identity_of(bundle, refined=True) == header.identity:
        return None
    other = refinement_of(header).hex()
    if "refine" not in bundle.manifest.graphs:
        return (
            f"the encoder refined by a network ({other}) that the bundle {bundle.path} lacks: it is left out"
        )
    return f"the encoder refined by another network ({other}) than the bundle {bundle.path}: its own one is taken"
