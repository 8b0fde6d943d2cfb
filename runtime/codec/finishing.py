"""The residual of an image's layers: which tiles have layers, whether the decoder refines them, and the stream."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..image.arrays import join, split
from .container import SectionType
from .encoding import Encoded, Layers, encode_residuals, write_layers
from .layer_choice import has_layers
from .layering import make_layers, remake
from .refinement import Refinement
from .residual import coding_cost, mean_squared_error
from .residual_plan import ResidualPlan, plan_residual, wanted_reduction
from .stage_timer import Stages
from .stream import identity_of
from .tile_residual import CodedTile, decode_tile

if TYPE_CHECKING:
    from ..image.arrays import Pixels
    from ..image.metadata import Metadata
    from .networks import Graphs
    from .settings import Settings
    from .tile_pool import TilePool


def finish_layers(
    graphs: Graphs,
    layers: Layers,
    settings: Settings,
    pool: TilePool,
    metadata: Metadata | None = None,
) -> Encoded:
    """Code the residual of an image and put its stream together.

    Args:
        graphs: the bundle's graphs on a backend.
        layers: of the image.
        settings: how it is coded.
        pool: works on several tiles at a time.
        metadata: ICC, EXIF and so on to carry.
    """
    stages = Stages()
    layers = _fitted(graphs, layers, settings, pool)
    plan = plan_residual(settings, layers.labels, layers.label_scale, graphs.bundle.manifest)
    refinement = refinement_for(graphs, plan, stages)
    if settings.layers == "auto" and settings.quality:
        layers, coded = _chosen(graphs, layers, plan, pool, stages=stages, refinement=refinement)
    else:
        coded = encode_residuals(layers, plan, pool, stages=stages, refinement=refinement)
    refined = refinement is not None
    identity = identity_of(graphs.bundle, refined=refined)
    return write_layers(layers, coded, identity, stages, plan=plan, refined=refined, metadata=metadata)


def refinement_for(graphs: Graphs, plan: ResidualPlan, stages: Stages) -> Refinement | None:
    """How the decoder may refine what is coded by a plan; None: not at all."""
    settings = plan.settings
    wanted = settings.refine and settings.quality and settings.max_error is None
    if not wanted or "refine" not in graphs.bundle.manifest.graphs:
        return None
    return Refinement(graphs, plan.stored_quality, settings.visual, stages)


def reconstruct(graphs: Graphs, encoded: Encoded) -> Pixels:
    """Return what the decoder will make of a stream, in the shape of the image."""
    layers = encoded.layers
    if encoded.plan.settings.max_error == 0:
        return layers.image
    color = layers.estimate
    if encoded.quality:
        refinement = refinement_for(graphs, encoded.plan, Stages())
        color = np.empty_like(layers.estimate)
        for tile, coded in enumerate(encoded.tiles):
            box, estimate = layers.grid.box(tile), layers.estimate_of(tile)
            assert coded.residual is not None
            gains = encoded.plan.gains_of(box)
            part = decode_tile(coded.residual, estimate, box.of(color).shape, gains)
            if refinement is not None and not coded.unrefined:
                part = refinement.tile(part, estimate, gains)
            box.of(color)[:] = part
    return join(color, split(layers.image, layers.layout)[1])


def _fitted(graphs: Graphs, layers: Layers, settings: Settings, pool: TilePool) -> Layers:
    """The layers as these settings want them: coarser or finer, of more or of fewer tiles."""
    tiles = range(layers.grid.count)
    plain = frozenset(t for t in tiles if not has_layers(settings, graphic=t in layers.graphic))
    reduction = wanted_reduction(settings, graphs.bundle.manifest)
    if reduction == layers.reduction and plain == layers.plain:
        return layers
    if not layers.plain <= plain:
        # The networks have not seen all of it yet.
        return make_layers(
            graphs, layers.image, layout=layers.layout, grid=layers.grid, settings=settings, pool=pool
        )
    changed = tiles if reduction != layers.reduction else plain - layers.plain
    return remake(graphs, layers, reduction=reduction, plain=plain, tiles=changed, pool=pool)


def _chosen(
    graphs: Graphs,
    layers: Layers,
    plan: ResidualPlan,
    pool: TilePool,
    *,
    stages: Stages,
    refinement: Refinement | None,
) -> tuple[Layers, list[CodedTile]]:
    """Leave the layers of those tiles out that are cheaper without them, at equal distortion."""
    asked = [tile for tile in range(layers.grid.count) if tile not in layers.plain]
    code = partial(encode_residuals, plan=plan, pool=pool, stages=stages, refinement=refinement)
    coded = code(layers)
    without = dict(zip(asked, code(layers, tiles=asked, plain=True), strict=True))
    cheaper = frozenset(
        tile
        for tile in asked
        if _cost(layers, tile, without[tile], plan, refinement=refinement, plain=True)
        < _cost(layers, tile, coded[tile], plan, refinement=refinement, plain=False)
    )
    if not cheaper:
        return layers, coded
    made = remake(
        graphs,
        layers,
        reduction=layers.reduction,
        plain=layers.plain | cheaper,
        tiles=cheaper,
        pool=pool,
    )
    # The estimates of their neighbors have changed with them.
    again = [
        tile
        for tile in range(layers.grid.count)
        if tile not in made.plain and made.digests[tile] != layers.digests[tile]
    ]
    for tile, new in zip(again, code(made, tiles=again), strict=True):
        coded[tile] = new
    return made, [without[tile] if tile in cheaper else coded[tile] for tile in range(layers.grid.count)]


def _cost(
    layers: Layers,
    tile: int,
    coded: CodedTile,
    plan: ResidualPlan,
    *,
    refinement: Refinement | None,
    plain: bool,
) -> float:
    box = layers.grid.box(tile)
    color, estimate = box.of(layers.color), None if plain else box.of(layers.estimate)
    assert coded.residual is not None
    gains = plan.gains_of(box)
    found = decode_tile(coded.residual, estimate, color.shape, gains)
    if refinement is not None:
        found = refinement.tile(found, estimate, gains)
    shared = len(layers.payloads[SectionType.LABELS][0]) / layers.grid.count
    compact = 0 if plain else len(layers.payloads[SectionType.COMPACT][tile])
    size = shared + compact + len(coded.payload.data)
    return coding_cost(mean_squared_error(found, color), round(size))
