"""The networks on the tiles of a picture: what each tile takes of the compact image and the label map around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..bundle.manifest import COMPACT_SCALE
from ..image.arrays import ceil_div, luma
from ..segmentation_size import labels_on
from .search import SearchSettings

if TYPE_CHECKING:
    from ..image.arrays import Pixels
    from ..tiling import Box, Grid
    from .networks import Graphs


def compact_shape(width: int, height: int) -> tuple[int, int, int]:
    """Shape of the compact image of a picture or a tile: (ceil(H/8), ceil(W/8), 3)."""
    return ceil_div(height, COMPACT_SCALE), ceil_div(width, COMPACT_SCALE), 3


class TileNetworks:
    """`analyse` and `synthesise` on the tiles of one picture. Safe to use from several threads.

    Args:
        graphs: the bundle's graphs on a backend.
        grid: the picture's tiles.
        labels: uint8 (ceil(H/S), ceil(W/S)).
        label_scale: S.
        compact: uint8 (ceil(H/8), ceil(W/8), 3) of the whole picture; what `analyse` fills, and `estimate` reads.
        search: how `analyse` looks for a better one.
    """

    def __init__(
        self,
        graphs: Graphs,
        grid: Grid,
        labels: Pixels,
        label_scale: int,
        compact: Pixels,
        *,
        search: SearchSettings | None = None,
    ) -> None:
        self.graphs = graphs
        self.grid = grid
        self.labels = labels
        self.label_scale = label_scale
        self.compact = compact
        self.search = search or SearchSettings()

    def analyse(self, tile: int, rgb: Pixels) -> None:
        """Make the compact image of a tile and put it into that of the picture.

        Args:
            tile: its number.
            rgb: uint8 (h, w, 3), the picture on the tile's input box.
        """
        box, inner = self.grid.input_box(tile), self.grid.box(tile)
        labels = self._labels(box)
        made = self.graphs.analyse(rgb, labels)
        if self.search.steps:
            made = self.graphs.search(made, labels, rgb, self.search)
        own = inner.scaled(COMPACT_SCALE)
        own.of(self.compact)[:] = made[own.within(box.scaled(COMPACT_SCALE))]

    def estimate(self, tile: int, *, gray: bool) -> Pixels:
        """The estimate of a tile: `synthesise` on its input box, cut.

        Args:
            tile: its number; the compact image must be there on its input box.
            gray: return luma.

        Returns:
            uint8 (h, w, 3), or (h, w) for gray layouts.
        """
        box, inner = self.grid.input_box(tile), self.grid.box(tile)
        own = box.scaled(COMPACT_SCALE)
        compact = self.compact[own.top : own.bottom, own.left : own.right]
        made = self.graphs.synthesise(compact, self._labels(box), box.height, box.width)
        cut = np.ascontiguousarray(made[inner.within(box)])
        return luma(cut) if gray else cut

    def _labels(self, box: Box) -> Pixels:
        return labels_on(self.labels, self.label_scale, box, self.graphs.bundle.manifest.label_scale)
