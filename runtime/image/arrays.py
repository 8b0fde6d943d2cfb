"""Arrays of samples: their layout, their parts, their borders, and how far two of them lie apart."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from ..errors import ImageError

if TYPE_CHECKING:
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]
    """Samples of a picture or of a layer."""


_ROWS: Final = 256


class Layout(enum.IntEnum):
    """Channels of the input image."""

    GRAY = 1
    GRAY_ALPHA = 2
    RGB = 3
    RGBA = 4

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self in (Layout.GRAY_ALPHA, Layout.RGBA)

    @property
    def is_gray(self) -> bool:
        """Whether color is one channel."""
        return self in (Layout.GRAY, Layout.GRAY_ALPHA)


def layout_of(image: Pixels) -> Layout:
    """The layout of an image's samples, by its shape.

    Raises:
        ImageError: not uint8, or not (H, W), (H, W, 2), (H, W, 3) or (H, W, 4) with both sides at least 1.
    """
    if image.dtype != np.uint8:
        raise ImageError(f"the image has dtype {image.dtype}, must be uint8")
    channels = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
    if channels not in (1, 2, 3, 4) or (image.ndim == 3 and channels == 1):
        raise ImageError(
            f"the image has shape {image.shape}, must be (H, W), (H, W, 2), (H, W, 3) or (H, W, 4)"
        )
    if image.shape[0] < 1 or image.shape[1] < 1:
        raise ImageError(f"the image has shape {image.shape}: both sides must be at least 1")
    return Layout(channels)


def split(image: Pixels, layout: Layout) -> tuple[Pixels, Pixels | None]:
    """Return color, (H, W) or (H, W, 3), and alpha, (H, W) or None."""
    if layout is Layout.GRAY_ALPHA:
        return np.ascontiguousarray(image[:, :, 0]), np.ascontiguousarray(image[:, :, 1])
    if layout is Layout.RGBA:
        return np.ascontiguousarray(image[:, :, :3]), np.ascontiguousarray(image[:, :, 3])
    return np.ascontiguousarray(image), None


def three_channels(color: Pixels) -> Pixels:
    """Repeat gray, (H, W), in three channels: (H, W, 3), which is also what RGB stays."""
    return np.repeat(color[:, :, np.newaxis], 3, axis=2) if color.ndim == 2 else color


def join(color: Pixels, alpha: Pixels | None) -> Pixels:
    """Inverse of `split`."""
    if alpha is None:
        return color
    return np.dstack([color, alpha])


def luma(estimate: Pixels) -> Pixels:
    """Luma of RGB, (H, W, 3) -> (H, W), in whole numbers (BT.601 weights in 65536ths, rounded)."""
    return luma_levels(estimate).astype(np.uint8)


def luma_levels(rgb: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int32]:
    """As `luma`, of whole numbers of either sign, up to 32767 in size: int32 (H, W)."""
    red, green, blue = (rgb[:, :, i].astype(np.int32) for i in range(3))
    levels: npt.NDArray[np.int32] = (red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16
    return levels


def extend(plane: Pixels, height: int, width: int) -> Pixels:
    """Extend (H, W) or (H, W, C) at the bottom and right to the given size, repeating the edge."""
    return _extended(plane, height, width, "edge")


def mirror(plane: Pixels, height: int, width: int) -> Pixels:
    """Extend (H, W) or (H, W, C) at the bottom and right to the given size, mirrored at the edge.

    What stands there is more of the picture, not stripes, which SegNet, that looks far, takes for something else
    (training/EXPERIMENTS.md).
    """
    return _extended(plane, height, width, "symmetric")


def _extended(plane: Pixels, height: int, width: int, mode: Literal["edge", "symmetric"]) -> Pixels:
    below, right = height - plane.shape[0], width - plane.shape[1]
    if below == 0 and right == 0:
        return np.ascontiguousarray(plane)
    return np.pad(plane, ((0, below), (0, right), *((0, 0),) * (plane.ndim - 2)), mode=mode)


def ceil_div(value: int, divisor: int) -> int:
    """The quotient, rounded upwards."""
    return -(-value // divisor)


def visible_psnr(image: Pixels, other: Pixels) -> float:
    """Return the PSNR of what is to be seen of two uint8 images of one shape, in dB; infinite if it is equal.

    Alpha is lossless, so it does not count; nor does color where alpha is 0.
    """
    layout = layout_of(image)
    if not layout.has_alpha:
        return psnr(image, other)
    seen = image[:, :, -1] > 0
    return psnr(image[seen][:, :-1], other[seen][:, :-1]) if seen.any() else float("inf")


def fill_hidden(color: Pixels, alpha: Pixels) -> Pixels:
    """Replace the color of pixels that nobody sees by what is cheap to code: a smooth continuation of the others.

    Args:
        color: (H, W) or (H, W, 3).
        alpha: (H, W).

    Returns:
        `color` where alpha is above 0, means of ever larger neighborhoods elsewhere, mid-gray if nothing is seen.
    """
    seen = alpha > 0
    if seen.all():
        return color
    samples = color.reshape(*alpha.shape, -1)
    filled = _filled(samples.astype(np.float32), seen.astype(np.float32)[:, :, np.newaxis])
    smooth = np.clip(np.rint(filled), 0, 255).astype(np.uint8)
    return np.where(seen[:, :, np.newaxis], samples, smooth).reshape(color.shape)


def _filled(samples: npt.NDArray[np.float32], weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Samples (H, W, C) where the weight (H, W, 1) is 1; elsewhere those of half the size, which are means."""
    height, width = weight.shape[:2]
    if height == width == 1:
        return np.where(weight > 0, samples, np.float32(128))
    even = ((0, height % 2), (0, width % 2), (0, 0))

    def halved(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        padded = np.pad(values, even)
        parts = (padded[i::2, j::2] for i in (0, 1) for j in (0, 1))
        total = next(parts).copy()
        for part in parts:
            total += part
        return total

    count = halved(weight)
    means = (halved(samples * weight) / np.maximum(count, 1)).astype(np.float32, copy=False)
    coarse = _filled(means, np.minimum(count, np.float32(1)))
    repeated = coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    return np.where(weight > 0, samples, repeated)


def psnr(image: Pixels, other: Pixels) -> float:
    """Return the PSNR over all channels of two uint8 images of one shape, in dB; infinite for equal ones."""
    total = 0.0
    # Some rows at a time: the differences of a whole picture would take many times its memory.
    for top in range(0, len(image), _ROWS):
        difference = np.subtract(image[top : top + _ROWS], other[top : top + _ROWS], dtype=np.float32)
        total += float(np.sum(difference * difference, dtype=np.float64))
    return float("inf") if total == 0 else 10 * float(np.log10(255 * 255 * image.size / total))
