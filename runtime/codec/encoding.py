"""From the layers of an image to its stream: the residual, and the putting together."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..image.arrays import Layout, psnr, split
from .coarseness import Reduction
from .container import Payload, SectionType, SectionWriter, sections_of, write_stream
from .metadata_sections import metadata_writers
from .parameters import Parameters
from .stage_timer import Stages
from .stream import header_of
from .tile_residual import CodedTile, encode_tile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..image.arrays import Pixels
    from ..image.metadata import Metadata
    from ..tiling import Grid
    from .refinement import Refinement
    from .residual_plan import ResidualPlan
    from .settings import Settings
    from .tile_pool import TilePool


@dataclass(frozen=True)
class Layers:
    """The layers of a picture: everything that does not depend on the residual.

    Attributes:
        image: uint8, (H, W), (H, W, 2), (H, W, 3) or (H, W, 4): as given, but for color that nobody sees.
        layout: the channels of `image`.
        grid: size of the picture and its tiles.
        labels: s, uint8 (ceil(H/S), ceil(W/S)).
        label_scale: S.
        compact: c, uint8 (ceil(H/8), ceil(W/8), 3), values 0..L-1.
        estimate: e, uint8 (H, W, 3), or (H, W) for gray layouts.
        digests: of the estimate, 4 bytes a tile; of tiles without layers zeros.
        payloads: of labels, compact image and alpha, for each tile.
        settings: the settings that they were made for.
        fine: the compact image before it was reduced, in the shape of `compact`.
        reduction: what was left out of `compact`.
        plain: numbers of the tiles without layers.
        graphic: numbers of the tiles that are not photographic.
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
    settings: Settings
    fine: Pixels
    reduction: Reduction = field(default_factory=Reduction)
    plain: frozenset[int] = frozenset()
    graphic: frozenset[int] = frozenset()
    stages: Stages = field(default_factory=Stages)

    @property
    def color(self) -> Pixels:
        """The image without alpha, in the shape of `estimate`."""
        return split(self.image, self.layout)[0]

    def estimate_of(self, tile: int) -> Pixels | None:
        """The estimate of a tile; None: it has no layers."""
        return None if tile in self.plain else self.grid.box(tile).of(self.estimate)


@dataclass(frozen=True)
class Encoded:
    """A finished stream.

    Attributes:
        data: the `.oslic` file.
        layers: the layers in it; they differ from those that `finish` was given if the settings required others.
        tiles: the coded residual of each tile.
        plan: how the residual was coded.
        refined: whether the decoder refines the picture.
        section_bytes: payload bytes by section name.
        overhead_bytes: bytes of the file that belong to no payload.
        stages: wall seconds of each stage, summed over the tiles: more than has passed if several tiles ran at a time.
        processor: processor seconds of each stage.
    """

    data: bytes
    layers: Layers
    tiles: tuple[CodedTile, ...]
    plan: ResidualPlan
    refined: bool
    section_bytes: dict[str, int]
    overhead_bytes: int
    stages: dict[str, float]
    processor: dict[str, float]

    @property
    def quality(self) -> float:
        """The quality, 0..100."""
        return self.plan.settings.quality

    @property
    def image(self) -> Pixels:
        """The picture that was coded, uint8, in its layout."""
        return self.layers.image

    @property
    def layout(self) -> Layout:
        """The channels of the picture."""
        return self.layers.layout

    @property
    def grid(self) -> Grid:
        """Size of the picture and its tiles."""
        return self.layers.grid

    def details(self) -> dict[str, Any]:
        """Further facts, such as the PSNR of the estimate in dB, as plain JSON types."""
        layers = self.layers
        estimate = psnr(layers.color, layers.estimate)
        return {
            "quality": self.quality,
            "psnr_estimate": estimate if math.isfinite(estimate) else None,  # JSON has no infinity
            "coarseness": layers.reduction.coarseness,
            "smoothing": layers.reduction.smoothing,
            "plain_tiles": len(layers.plain),
            "refined": self.refined,
        }


def encode_residuals(
    layers: Layers,
    plan: ResidualPlan,
    pool: TilePool,
    *,
    stages: Stages,
    refinement: Refinement | None,
    tiles: Sequence[int] | None = None,
    plain: bool | None = None,
) -> list[CodedTile]:
    """Code the residual of some tiles.

    Args:
        layers: of the image.
        plan: how its residual is coded.
        pool: works on several tiles at a time.
        stages: gets the time.
        refinement: how the decoder refines the picture; None: not at all.
        tiles: which; None: all.
        plain: whether they are coded without layers; None: as the layers say.
    """
    grid, color = layers.grid, layers.color

    def code(number: int) -> CodedTile:
        without = number in layers.plain if plain is None else plain
        box = grid.box(number)
        return encode_tile(
            box.of(color),
            None if without else box.of(layers.estimate),
            layers.digests[number],
            plan=plan,
            gains=plan.gains_of(box),
            stages=stages,
            # Trained on photographs, it may do harm to drawings.
            doubted=refinement if number in layers.graphic and without else None,
        )

    return list(pool.run(code, range(grid.count) if tiles is None else tiles))


def parameters_of(plan: ResidualPlan, label_scale: int, *, refined: bool) -> Parameters:
    """What the header says of how a picture is coded.

    Args:
        plan: how its residual is coded.
        label_scale: S.
        refined: whether the decoder refines the picture.
    """
    settings = plan.settings
    return Parameters(
        plan.stored_quality,
        label_scale,
        visual=settings.visual,
        exact=plan.exact,
        refined=refined,
        gains=plan.table,
        max_error=settings.max_error,
    )


def write_layers(
    layers: Layers,
    coded: Sequence[CodedTile],
    identity: bytes,
    stages: Stages,
    *,
    plan: ResidualPlan,
    refined: bool,
    metadata: Metadata | None = None,
) -> Encoded:
    """Put a stream together.

    Args:
        layers: of the image.
        coded: the residual of each tile.
        identity: 8 bytes that name the networks, see `stream.identity_of`.
        stages: time spent on the residual.
        plan: how its residual is coded.
        refined: whether the decoder refines the picture.
        metadata: ICC, EXIF and so on to carry.
    """
    writers = sections_of(
        {kind: [Payload(data) for data in parts] for kind, parts in layers.payloads.items()}
    )
    writers[SectionType.RESIDUAL] = writer = SectionWriter()
    for tile in coded:
        writer.add(tile.payload)
    settings = plan.settings
    parameters = parameters_of(plan, layers.label_scale, refined=refined)
    header = header_of(layers.layout, identity, layers.grid, parameters)
    file = io.BytesIO()
    sizes = write_stream(file, header, writers | metadata_writers(metadata))
    data = file.getvalue()
    if not settings.quality:
        del sizes["residual"]
    return Encoded(
        data,
        layers,
        tuple(coded),
        plan,
        refined,
        sizes,
        len(data) - sum(sizes.values()),
        {**layers.stages.seconds, **stages.seconds},
        {**layers.stages.processor, **stages.processor},
    )
