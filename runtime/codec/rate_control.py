"""The quality that meets a rate or a PSNR: residuals are coded again, estimates where the compact image changes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from ..errors import RateError
from ..image.arrays import visible_psnr
from .parameters import MAX_QUALITY

if TYPE_CHECKING:
    from ..image.metadata import Metadata
    from . import Codec, Encoded, Layers


def highest_within(
    codec: Codec,
    layers: Layers,
    bits_per_pixel: float,
    *,
    metadata: Metadata | None = None,
) -> Encoded:
    """Code an image with the highest quality that takes at most `bits_per_pixel`, all bytes of the stream counted.

    Args:
        codec: the codec that made `layers`.
        layers: from `Codec.layers`.
        bits_per_pixel: the most that the stream may take.
        metadata: to carry.

    Raises:
        RateError: below the floor: what labels, compact image, alpha and metadata take.
    """
    attempt = _attempts(codec, layers, metadata)
    pixels = int(layers.image.shape[0]) * int(layers.image.shape[1])

    def fits(quality: int) -> bool:
        return len(attempt(quality).data) * 8 <= bits_per_pixel * pixels

    if not fits(0):
        floor = attempt(0)
        parts = ", ".join(f"{k} {v * 8 / pixels:.4f}" for k, v in floor.section_bytes.items())
        raise RateError(
            f"{bits_per_pixel} bpp is below the floor of this image, {len(floor.data) * 8 / pixels:.4f} bpp "
            f"({parts}): that is spent before any residual"
        )
    return attempt(_last(fits))


def lowest_reaching(
    codec: Codec,
    layers: Layers,
    min_psnr: float,
    *,
    metadata: Metadata | None = None,
) -> Encoded:
    """Code an image with the lowest quality whose reconstruction has a PSNR of at least `min_psnr` dB.

    Args:
        codec: the codec that made `layers`.
        layers: from `Codec.layers`.
        min_psnr: of what is to be seen, dB; see `image.arrays.visible_psnr`.
        metadata: to carry.

    Raises:
        RateError: above what the highest quality reaches.
    """
    attempt = _attempts(codec, layers, metadata)

    def reached(quality: int) -> float:
        return visible_psnr(layers.image, codec.reconstruct(attempt(quality)))

    if reached(0) >= min_psnr:
        return attempt(0)
    below = _last(lambda quality: reached(quality) < min_psnr)
    if below == MAX_QUALITY:
        raise RateError(f"{min_psnr} dB is out of reach: quality {below} gives {reached(below):.2f} dB")
    return attempt(below + 1)


def _attempts(codec: Codec, layers: Layers, metadata: Metadata | None) -> Callable[[int], Encoded]:
    @cache
    def attempt(quality: int) -> Encoded:
        return codec.finish(layers, quality=quality, metadata=metadata)

    return attempt


def _last(holds: Callable[[int], bool]) -> int:
    """The highest quality of which `holds` is true; it is of 0, and false above the first of which it is not."""
    low, high = 0, MAX_QUALITY + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
