"""What callers hand to the codec: pictures as arrays, Pillow images or files; streams as bytes or files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from ..errors import ImageError, UsageError
from ..files import read_file
from ..image.files import Picture, decode_image, picture_of, read_image
from ..image.metadata import Metadata
from .container import read_info

if TYPE_CHECKING:
    from ..limits import Limits
    from ..memory import MemoryUse

PictureSource: TypeAlias = Any
"""An array-like of uint8, a `PIL.Image.Image`, the path of an image file, or such a file's bytes."""
StreamSource: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str]
"""The bytes (any contiguous buffer) of an `.oslic` file, or its path."""


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


def read_stream(source: StreamSource, limits: Limits) -> bytes | bytearray | memoryview:
    """The bytes of a stream.

    Of a file that is no stream the head is read, of one that goes on behind its end one byte more; a truncated one is
    read as far as it goes.

    Args:
        source: any contiguous buffer of bytes (bytes, bytearray, memoryview, ...), or the path of a file.
        limits: on what is read.

    Raises:
        UsageError: the file cannot be read, or the source is none of these.
        StreamError, LimitError: as `container.read_info` of the file's first bytes.
    """
    if isinstance(source, str | os.PathLike):
        return read_file(
            os.fspath(source),
            "stream",
            limits.stream_bytes,
            expected=lambda head: read_info(head, limits).total_bytes,
        )
    if isinstance(source, bytes | bytearray):
        return source
    try:
        return memoryview(source).cast("B")
    except TypeError as error:
        raise UsageError(
            f"a stream cannot be a {type(source).__name__}: give its bytes or the path of a file ({error})"
        ) from error
