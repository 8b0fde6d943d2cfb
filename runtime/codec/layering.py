"""Making the layers of an image, and making them anew where the residual wants others."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ..bundle.manifest import COMPACT_SCALE, LAYER_GRAPHS
from ..image.arrays import luma, split, three_channels
from ..segmentation_size import reduce_image, reduction_for
from ..threads import Workers
from .coarseness import Reduction, reduce_compact
from .container import DIGEST_BYTES, SectionType, digest
from .encoding import Layers
from .layer_choice import constant_levels, has_layers, is_graphic
from .lossless import encode_plane
from .preview import preview_colors
from .residual_plan import wanted_reduction
from .search import wanted_search
from .stage_timer import Stages
from .tile_networks import TileNetworks, compact_shape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..image.arrays import Layout, Pixels
    from ..tiling import Grid
    from .networks import Graphs
    from .settings import Settings
    from .tile_pool import TilePool


def make_layers(
    graphs: Graphs, image: Pixels, *, layout: Layout, grid: Grid, settings: Settings, pool: TilePool
) -> Layers:
    """Run the networks and code the lossless layers.

    Args:
        graphs: the bundle's graphs on a backend.
        image: uint8, (H, W), (H, W, 2), (H, W, 3) or (H, W, 4).
        layout: its channels.
        grid: its tiles.
        settings: how it is coded.
        pool: works on several tiles at a time.
    """
    height, width = image.shape[:2]
    color, alpha = split(image, layout)
    stages, effort = Stages(), settings.coders.lossless
    graphs.load(*LAYER_GRAPHS)
    graphic = frozenset(tile for tile in range(grid.count) if is_graphic(grid.box(tile).of(color)))
    plain = frozenset(t for t in range(grid.count) if not has_layers(settings, graphic=t in graphic))
    with stages.measure("segment"):
        factor = reduction_for(height, width)
        labels = graphs.segment(reduce_image(three_channels(color), factor))
    label_scale = graphs.bundle.manifest.label_scale * factor
    fine = np.zeros(compact_shape(width, height), np.uint8)
    search = wanted_search(settings, graphs.bundle.manifest)
    networks = TileNetworks(graphs, grid, labels, label_scale, fine, search=search)

    def analyse(tile: int) -> None:
        with stages.measure("analyse"):
            networks.analyse(tile, three_channels(grid.input_box(tile).of(color)))

    # The entropy coders work beside the networks.
    with Workers(1) as coder:
        coded = {SectionType.LABELS: [coder.submit(_encode, labels, effort, stages, "labels")]}
        if alpha is not None:
            coded[SectionType.ALPHA] = [
                coder.submit(_encode, grid.box(tile).of(alpha), effort, stages, "alpha")
                for tile in range(grid.count)
            ]
        for _ in pool.run(analyse, (tile for tile in range(grid.count) if tile not in plain)):
            pass
        start = Layers(
            image,
            layout,
            grid,
            labels,
            label_scale,
            fine,
            np.empty_like(color),
            (bytes(DIGEST_BYTES),) * grid.count,
            {SectionType.COMPACT: (b"",) * grid.count},
            settings,
            fine,
            plain=plain,
            graphic=graphic,
            stages=stages,
        )
        reduction = wanted_reduction(settings, graphs.bundle.manifest)
        made = remake(graphs, start, reduction=reduction, plain=plain, tiles=range(grid.count), pool=pool)
        payloads = {kind: tuple(future.result() for future in futures) for kind, futures in coded.items()}
    if grid.is_tiled:
        graphs.give_back()
    return replace(made, payloads={**made.payloads, **payloads})


def remake(
    graphs: Graphs,
    layers: Layers,
    *,
    reduction: Reduction,
    plain: frozenset[int],
    tiles: Iterable[int],
    pool: TilePool,
) -> Layers:
    """Make compact images and estimates of some tiles anew.

    Args:
        graphs: the bundle's graphs on a backend.
        layers: that there are.
        reduction: of the compact images.
        plain: tiles without layers.
        tiles: whose compact images change; estimates that depend on them are made anew as well.
        pool: works on several tiles at a time.
    """
    grid, manifest, stages = layers.grid, graphs.bundle.manifest, layers.stages
    changed, effort = sorted(tiles), layers.settings.coders.lossless
    compact, estimate, color = layers.compact.copy(), layers.estimate.copy(), layers.color
    flat: dict[int, Pixels] = {}
    for tile in changed:
        own = grid.box(tile).scaled(COMPACT_SCALE)
        if tile in plain:
            part = three_channels(grid.box(tile).of(color))
            flat[tile] = constant_levels(part, manifest)
            own.of(compact)[:] = flat[tile]
        else:
            own.of(compact)[:] = reduce_compact(own.of(layers.fine), reduction, manifest.levels)
    networks = TileNetworks(graphs, grid, layers.labels, layers.label_scale, compact)

    def synthesise(tile: int) -> bytes:
        with stages.measure("synthesise"):
            part = networks.estimate(tile, gray=layers.layout.is_gray)
        grid.box(tile).of(estimate)[:] = part
        return digest(part)

    payloads, digests = list(layers.payloads[SectionType.COMPACT]), list(layers.digests)
    reached = {other for tile in changed for other in grid.touching(grid.input_box(tile))} - plain
    # The entropy coder of one layer works beside the network of the next.
    with Workers(1) as coder:
        coded = {
            tile: coder.submit(
                _encode, grid.box(tile).scaled(COMPACT_SCALE).of(compact), effort, stages, "compact"
            )
            for tile in changed
        }
        for tile, found in zip(sorted(reached), pool.run(synthesise, sorted(reached)), strict=True):
            digests[tile] = found
        for tile, future in coded.items():
            payloads[tile] = future.result()
    for tile, levels in flat.items():
        rgb = preview_colors(levels, manifest).reshape(1, 1, 3)
        grid.box(tile).of(estimate)[:] = luma(rgb) if layers.layout.is_gray else rgb
        digests[tile] = bytes(DIGEST_BYTES)
    return replace(
        layers,
        compact=compact,
        estimate=estimate,
        digests=tuple(digests),
        payloads={**layers.payloads, SectionType.COMPACT: tuple(payloads)},
        reduction=reduction,
        plain=plain,
    )


def _encode(plane: Pixels, effort: int, stages: Stages, name: str) -> bytes:
    with stages.measure(name):
        return encode_plane(np.ascontiguousarray(plane), effort)
