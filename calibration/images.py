"""Photographs to calibrate with: read, checked, cropped."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from ..runtime.errors import DataError
from ..runtime.image.files import find_images, read_image
from ..runtime.limits import Limits

if TYPE_CHECKING:
    from ..runtime.image.arrays import Pixels

_MOST_ROWS: Final = 384
_MOST_COLUMNS: Final = 512


@dataclass(frozen=True)
class Photograph:
    """A crop of a photograph.

    Attributes:
        name: of its file.
        pixels: uint8 (H, W, 3), both sides multiples of the bundle's number.
    """

    name: str
    pixels: Pixels


def read_photographs(
    folder: Path, count: int, multiple: int, limits: Limits | None = None
) -> list[Photograph]:
    """Read photographs of a folder, evenly spread over its names, each cut to its middle.

    Args:
        folder: image files; other files are passed over, sub-folders are not entered.
        count: how many at the most.
        multiple: what heights and widths must be multiples of.
        limits: what to refuse; None for the defaults.

    Returns:
        At least one photograph.

    Raises:
        DataError: no folder, no images, or an image that is gray or too small.
        ImageError: a file that is not an image, or of a kind that the codec does not take either.
    """
    files = find_images(folder)
    chosen = [files[i * len(files) // count] for i in range(count)] if len(files) > count else files
    return [_crop(path, multiple, limits or Limits()) for path in chosen]


def _crop(path: Path, multiple: int, limits: Limits) -> Photograph:
    pixels = read_image(path, limits).pixels
    if pixels.ndim != 3 or pixels.shape[2] < 3:
        raise DataError(f"{path} is gray; the networks see color, calibrate with color photographs")
    height, width = (
        min(side, most) // multiple * multiple
        for side, most in zip(pixels.shape[:2], (_MOST_ROWS, _MOST_COLUMNS), strict=True)
    )
    if height == 0 or width == 0:
        raise DataError(
            f"{path} has {pixels.shape[1]}x{pixels.shape[0]} pixels; both sides must be at least {multiple}"
        )
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return Photograph(path.name, np.ascontiguousarray(pixels[top : top + height, left : left + width, :3]))


def digest(photographs: list[Photograph]) -> str:
    """SHA-256 of all pixels and shapes, 64 hexadecimal digits."""
    found = hashlib.sha256()
    for photograph in photographs:
        found.update(repr(photograph.pixels.shape).encode())
        found.update(photograph.pixels.tobytes())
    return found.hexdigest()
