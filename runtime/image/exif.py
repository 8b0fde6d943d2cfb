"""EXIF blocks that say something of the picture's pixels."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from PIL import ExifTags, Image


def set_size(exif: Image.Exif, size: tuple[int, int]) -> None:
    """Make the size of an EXIF block, where it states one, that of the picture: width and height in pixels."""
    _set(exif, ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength, size)
    if ExifTags.IFD.Exif in exif:
        inner = exif.get_ifd(ExifTags.IFD.Exif)
        _set(inner, ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight, size)


def of_size(block: bytes, size: tuple[int, int]) -> bytes:
    """An EXIF block for a part or a smaller form of its picture.

    Args:
        block: with its prefix; empty: there is none. One that cannot be read stays as it is.
        size: width and height in pixels.
    """
    if not block:
        return block
    exif = Image.Exif()
    try:
        exif.load(block)
        before = exif.tobytes()
        set_size(exif, size)
        after = exif.tobytes()
    except Exception:  # Pillow's readers raise what they come across in damaged blocks
        return block
    return block if after == before else after


def _set(tags: MutableMapping[int, Any], across: int, down: int, size: tuple[int, int]) -> None:
    for tag, value in ((across, size[0]), (down, size[1])):
        if tag in tags:
            tags[tag] = value
