"""Samples for AVIF encoders whose conversion to YUV rounds down.

libavif, as Pillow calls it, rounds Y but cuts the fraction of U and V: each comes out half a level too small in the
mean, a cast of -0.55, +0.5 and -0.6 in R, G and B. Pillow takes no planes, so the remedy is in the samples: they are
moved to where the conversion gives the rounded values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..image.arrays import Pixels


def compensate_rounding(rgb: Pixels) -> Pixels:
    """Move RGB samples so that a conversion to YUV that cuts U and V gives their rounded values.

    Y, U and V (BT.601, full range; ITU-T T.871) are rounded, U and V raised by half a level, and all converted back.

    Args:
        rgb: uint8, (H, W, 3).

    Returns:
        uint8, (H, W, 3). Nearly all samples differ by less than two gray levels from `rgb`.
    """
    # A row of one array per plane: contiguous operands are what NumPy is fast on.
    red, green, blue = (np.ascontiguousarray(rgb[:, :, i], np.float32) for i in range(3))
    y = np.float32(0.299) * red
    y += np.float32(0.587) * green
    y += np.float32(0.114) * blue
    u = np.rint((blue - y) * np.float32(1 / 1.772))
    v = np.rint((red - y) * np.float32(1 / 1.402))
    y = np.rint(y, out=y)
    u += np.float32(0.5)
    v += np.float32(0.5)
    # The last summand rounds: `astype` cuts the fraction.
    out = np.empty_like(rgb)
    out[:, :, 0] = np.clip(y + (np.float32(1.402) * v + np.float32(0.5)), 0, 255)
    out[:, :, 2] = np.clip(y + (np.float32(1.772) * u + np.float32(0.5)), 0, 255)
    y -= np.float32(0.344136) * u
    y -= np.float32(0.714136) * v
    y += np.float32(0.5)
    out[:, :, 1] = np.clip(y, 0, 255)
    return out
