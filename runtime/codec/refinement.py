"""Refining a decoded tile."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..image.arrays import luma, three_channels

if TYPE_CHECKING:
    from ..image.arrays import Pixels
    from .class_gains import Gains
    from .networks import Graphs
    from .stage_timer import Stages


@dataclass(frozen=True)
class Refinement:
    """How the tiles of a stream are refined.

    Attributes:
        graphs: with a refine graph.
        quality: of the residual, where its gain is 1.
        visual: whether the residual was tuned for the eye.
        stages: gets the time as "refine".
    """

    graphs: Graphs
    quality: float
    visual: bool
    stages: Stages

    def tile(self, decoded: Pixels, estimate: Pixels | None, gains: Gains | None = None) -> Pixels:
        """Refine a tile; nothing of other tiles is seen.

        Args:
            decoded: uint8 (h, w, 3) or (h, w).
            estimate: in the shape of `decoded`; None: the tile has no layers.
            gains: of its residual; None: there are none. A part with a smaller gain is as good as a picture of a lower
                quality, and is refined as one.

        Returns:
            uint8, in the shape of `decoded`.
        """
        with self.stages.measure("refine"):
            seen = three_channels(decoded)
            beside = seen if estimate is None else three_channels(estimate)
            refine = self._refined if gains is None else partial(self._mixed, gains)
            refined = refine(seen, beside, self.quality)
            return luma(refined) if decoded.ndim == 2 else refined

    def _refined(self, seen: Pixels, beside: Pixels, quality: float) -> Pixels:
        return self.graphs.refine(seen, beside, quality=round(quality), visual=self.visual)

    def _mixed(self, gains: Gains, seen: Pixels, beside: Pixels, quality: float) -> Pixels:
        """As for the highest and for the lowest quality in the tile, and between them where its quality is."""
        qualities = np.maximum(gains.qualities(quality), np.float32(1))
        low, high = float(qualities.min()), float(qualities.max())
        best = self._refined(seen, beside, high)
        if round(low) == round(high):
            return best
        worst = self._refined(seen, beside, low)
        share = ((qualities - np.float32(low)) / np.float32(high - low))[:, :, np.newaxis]
        mixed: Pixels = np.rint(worst + share * (best.astype(np.float32) - worst)).astype(np.uint8)
        return mixed
