"""The pictures that callers hand to the codec: as arrays, Pillow images or files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from ..errors import ImageError
from ..image.files import Picture, decode_image, picture_of, read_image
from ..image.metadata import Metadata

if TYPE_CHECKING:
    from ..limits import Limits
    from ..memory import MemoryUse

PictureSource: TypeAlias = Any
"""An array-like of uint8, a `PIL.Image.Image`, the path of an image file, or such a file's bytes."""


def read_picture(source: PictureSource, limits: Limits, use: MemoryUse) -> Picture:
    """The pixels of a picture, and the metadata that it brings.

    Args:
        source: uint8, (H, W) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB or (H, W, 4) RGBA, as an array or as
            anything that NumPy makes an array of; a Pillow image; the path of an image file, or its bytes.
        limits: on pixels and memory.
        use: memory that the work on the picture takes.

    Raises:
        ImageError: no picture, or one of a kind that is not supported.
        UsageError: the file cannot be read.
        LimitError: more pixels or memory than the limits.
    """
    if isinstance(source, str | os.PathLike):
        return read_image(os.fspath(source), limits, use=use)
    if isinstance(source, bytes | bytearray):
        return decode_image(bytes(source), limits, use=use)
    if isinstance(source, Image.Image):
        return picture_of(source, limits, use=use)
    try:
        pixels = np.asarray(source)
    except Exception as error:  # other libraries' arrays raise what they like: of a GPU, with a gradient
        raise ImageError(f"the {type(source).__name__} is no array: {error}") from error
    if pixels.dtype == object or pixels.ndim == 0:
        raise ImageError(
            f"a picture cannot be a {type(source).__name__}: give a uint8 array, a Pillow image or a path"
        )
    return Picture(pixels, Metadata())
