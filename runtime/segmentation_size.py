"""The size at which the label map's network sees a picture.

It was trained on pictures of some 400 pixels and names what fills them, so a larger picture is shown to it reduced. The
label map is as much smaller than the picture; see `docs/reference/stream.md`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from .image.arrays import ceil_div

if TYPE_CHECKING:
    from .image.arrays import Pixels
    from .tiling import Box

_LONG_SIDE: Final = 420


def reduction_for(height: int, width: int) -> int:
    """The whole number by which a picture of this size is reduced: its long side comes near 420 pixels."""
    return max(1, (2 * max(height, width) + _LONG_SIDE) // (2 * _LONG_SIDE))


def reduce_image(image: Pixels, factor: int) -> Pixels:
    """Average blocks of `factor` x `factor` pixels; blocks that the edge cuts are averages of what is there.

    Args:
        image: uint8, (H, W, 3).
        factor: at least 1.

    Returns:
        uint8, (ceil(H/factor), ceil(W/factor), 3).
    """
    return image if factor == 1 else np.asarray(Image.fromarray(image).reduce(factor))


def labels_on(labels: Pixels, label_scale: int, box: Box, scale: int) -> Pixels:
    """The label map on a rectangle's grid of 1/`scale`: each position has the label of the map's pixel it lies in.

    Args:
        labels: uint8 (ceil(H/S), ceil(W/S)).
        label_scale: S.
        box: a rectangle of the picture; its upper left corner stands on the grid.
        scale: of the grid.

    Returns:
        uint8 (ceil(h/scale), ceil(w/scale)), h and w those of the rectangle.
    """
    rows = (box.top + np.arange(ceil_div(box.height, scale)) * scale) // label_scale
    columns = (box.left + np.arange(ceil_div(box.width, scale)) * scale) // label_scale
    return labels[np.ix_(rows, columns)]
