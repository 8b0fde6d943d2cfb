"""Leaving metadata out: all that is about the photograph, or where it was taken."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal, get_args

from PIL import ExifTags, Image

from ..errors import ImageError
from .metadata import Metadata

Strip = Literal["all", "location"]
STRIPS: Final[tuple[Strip, ...]] = get_args(Strip)

# Words of the properties that say where: exif:GPSLatitude, photoshop:City, Iptc4xmpExt:LocationCreated, ...
_PLACES: Final = (b"gps", b"location", b"city", b"country", b"state", b"geo", b"latitude", b"longitude")


def strip(metadata: Metadata, what: Strip | None) -> Metadata:
    """Leave some metadata out.

    Args:
        metadata: to look through.
        what: "all": EXIF, XMP and resolution; what the colors mean stays, without which they would change. "location":
            of EXIF the GPS block and the maker's notes, in which some cameras note the place in their own ways; the
            XMP packet as a whole if it has a word of a place. None: nothing.

    Raises:
        ImageError: the EXIF block is damaged, so nobody knows what it holds.
    """
    if what == "all":
        return Metadata(icc=metadata.icc, color=metadata.color)
    if what == "location":
        return replace(metadata, exif=_without_place(metadata.exif), xmp=_without_words(metadata.xmp))
    return metadata


def _without_place(block: bytes) -> bytes:
    if not block:
        return block
    exif = Image.Exif()
    try:
        exif.load(block)
        exif.pop(ExifTags.IFD.GPSInfo, None)
        if ExifTags.IFD.Exif in exif:
            exif.get_ifd(ExifTags.IFD.Exif).pop(ExifTags.IFD.MakerNote, None)
        return exif.tobytes() if len(exif) else b""
    except Exception as error:  # Pillow's readers raise what they come across in damaged blocks
        raise ImageError(
            f"the EXIF block is damaged ({error or type(error).__name__}): strip all of it"
        ) from error


def _without_words(packet: bytes) -> bytes:
    text = packet.replace(b"\0", b"").lower()  # also of UTF-16
    return b"" if any(word in text for word in _PLACES) else packet
