"""Refining a decoded tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..pixels import luma, three_channels

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..graphs import Graphs
    from ..stages import Stages

    Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Refinement:
    """How the tiles of a stream are refined.

    Attributes:
        graphs: with a refine graph.
        quality: of the residual.
        visual: whether the residual was tuned for the eye.
        stages: gets the time as "refine".
    """

    graphs: Graphs
    quality: float
    visual: bool
    stages: Stages

    def tile(self, decoded: Pixels, estimate: Pixels | None) -> Pixels:
        """Refine a tile; nothing of other tiles is seen.

        Args:
            decoded: uint8 (h, w, 3) or (h, w).
            estimate: in the shape of `decoded`; None: the tile has no layers.

        Returns:
            uint8, in the shape of `decoded`.
        """
        with self.stages.measure("refine"):
            seen = three_channels(decoded)
            refined = self.graphs.refine(
                seen,
                seen if estimate is None else three_channels(estimate),
                quality=round(self.quality),
                visual=self.visual,
            )
            return luma(refined) if decoded.ndim == 2 else refined
