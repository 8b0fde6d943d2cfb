"""From the layers of an image to its stream: the residual, and the putting together."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .. import residual
from ..errors import UsageError
from ..pixels import Layout, join, split
from ..stages import Stages
from .container import Payload, SectionType, SectionWriter, sections_of, write_stream
from .metadata_sections import metadata_writers
from .parameters import Parameters
from .stream import header_of
from .tile_residual import CodedTile, encode_tile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from ..metadata import Metadata
    from ..tiling import Grid
    from .tile_pool import TilePool

    Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Layers:
    """Everything about an image that does not depend on the quality.

    Attributes:
        image: uint8, (H, W), (H, W, 2), (H, W, 3) or (H, W, 4): as given, but for color that nobody sees.
        layout: the channels of `image`.
        grid: its tiles.
        labels: s, uint8 (ceil(H/S), ceil(W/S)).
        label_scale: S.
        compact: c, uint8 (ceil(H/8), ceil(W/8), 3), values 0..L-1.
        estimate: e, uint8 (H, W, 3), or (H, W) for gray layouts.
        digests: of the estimate, 4 bytes a tile.
        payloads: of labels, compact image and alpha, for each tile.
        stages: time spent so far.
    """

    image: Pixels
    layout: Layout
    grid: Grid
    labels: Pixels
    label_scale: int
    compact: Pixels
    estimate: Pixels
    digests: tuple[bytes, ...]
    payloads: Mapping[SectionType, Sequence[bytes]]
    stages: Stages = field(default_factory=Stages)

    @property
    def color(self) -> Pixels:
        """The image without alpha, in the shape of `estimate`."""
        return split(self.image, self.layout)[0]


@dataclass(frozen=True)
class Encoded:
    """A finished stream.

    Attributes:
        data: the whole file.
        residuals: the coded residual of each tile; empty for quality 0.
        quality: what the residual was coded with.
        section_bytes: payload bytes by section name.
        overhead_bytes: bytes of the file that belong to no payload.
        stages: seconds of each stage, summed over the tiles: with several tiles at a time more than the clock shows.
        processor: processor seconds of each stage, see `Stages`.
    """

    data: bytes
    residuals: tuple[residual.CodedResidual, ...]
    quality: float
    section_bytes: dict[str, int]
    overhead_bytes: int
    stages: dict[str, float]
    processor: dict[str, float]


def check_settings(quality: float, speed: int) -> None:
    """Raise UsageError unless a quality, 0..100, and a speed of the residual coder, 0..10, are within their ranges."""
    if not 0 <= quality <= residual.MAX_QUALITY:
        raise UsageError(f"quality {quality} is out of range 0..{residual.MAX_QUALITY}")
    if not 0 <= speed <= residual.MAX_SPEED:
        raise UsageError(f"speed {speed} is out of range 0..{residual.MAX_SPEED}")


def encode_layers(
    layers: Layers,
    identity: bytes,
    pool: TilePool,
    *,
    quality: float,
    speed: int = residual.DEFAULT_SPEED,
    metadata: Metadata | None = None,
) -> Encoded:
    """Code the residual of an image and put its stream together.

    Args:
        layers: of the image.
        identity: 8 bytes that name the networks, see `stream.identity_of`.
        pool: works on several tiles at a time.
        quality: 1..100 for the residual; 0 leaves it out, the reconstruction is then the estimate.
        speed: 0..10 of the residual coder.
        metadata: ICC, EXIF and so on to carry.

    Raises:
        UsageError: quality or speed out of range.
    """
    check_settings(quality, speed)
    stages = Stages()
    stages.seconds.update(layers.stages.seconds)
    stages.processor.update(layers.stages.processor)
    grid, color = layers.grid, layers.color
    writers = sections_of(
        {kind: [Payload(data) for data in parts] for kind, parts in layers.payloads.items()}
    )
    writers[SectionType.RESIDUAL] = writer = SectionWriter()

    def code(number: int) -> CodedTile:
        box = grid.box(number)
        return encode_tile(
            box.of(color),
            box.of(layers.estimate),
            layers.digests[number],
            quality=quality,
            speed=speed,
            stages=stages,
        )

    coded = tuple(pool.run(code, range(grid.count)))
    for tile in coded:
        writer.add(tile.payload)
    header = header_of(layers.layout, identity, grid, Parameters(quality, layers.label_scale))
    file = io.BytesIO()
    sizes = write_stream(file, header, writers | metadata_writers(metadata))
    data = file.getvalue()
    if not quality:
        del sizes["residual"]
    return Encoded(
        data,
        tuple(tile.residual for tile in coded if tile.residual is not None),
        quality,
        sizes,
        len(data) - sum(sizes.values()),
        stages.seconds,
        stages.processor,
    )


def reconstruct(layers: Layers, encoded: Encoded) -> Pixels:
    """Return what the decoder will make of `encoded`, in the shape of the image."""
    color = layers.estimate
    if encoded.residuals:
        color = np.empty_like(layers.estimate)
        for number, coded in enumerate(encoded.residuals):
            box = layers.grid.box(number)
            box.of(color)[:] = residual.decode(coded, box.of(layers.estimate))
    return join(color, split(layers.image, layers.layout)[1])
