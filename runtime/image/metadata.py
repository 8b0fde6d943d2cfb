"""What travels beside the pixels: profile, EXIF, XMP, color, resolution; and the PNG chunks that hold some of it."""

from __future__ import annotations

import enum
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

COLOR_CHUNKS: Final[dict[bytes, int]] = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
"""Names of the PNG chunks that say what the samples mean -> bytes of their content."""

_INCH: Final = 0.0254
MOST: Final = (1 << 31) - 1
"""The most pixels per unit that a PNG file can say."""


class Unit(enum.IntEnum):
    """Unit of length of a resolution."""

    ASPECT = 0
    """No length: only the proportion of a pixel's sides is known."""
    METER = 1
    INCH = 2
    CENTIMETER = 3


@dataclass(frozen=True)
class Resolution:
    """Pixels per unit of length.

    Attributes:
        x: pixels per unit across, 1..2^31 - 1.
        y: pixels per unit down, 1..2^31 - 1.
        unit: unit of length; `ASPECT`: only the proportion of x and y is known.
    """

    x: int
    y: int
    unit: Unit

    @property
    def per_meter(self) -> tuple[int, int]:
        """Pixels per meter across and down, rounded; unchanged if there is no unit of length."""
        factor = {Unit.INCH: 1 / _INCH, Unit.CENTIMETER: 100.0}.get(self.unit, 1.0)
        return min(MOST, round(self.x * factor)), min(MOST, round(self.y * factor))

    @property
    def per_inch(self) -> tuple[float, float] | None:
        """Pixels per inch across and down; None if there is no unit of length."""
        if self.unit is Unit.ASPECT:
            return None
        factor = {Unit.METER: _INCH, Unit.CENTIMETER: 2.54}.get(self.unit, 1.0)
        return self.x * factor, self.y * factor


def resolution(x: float, y: float, unit: Unit) -> Resolution | None:
    """A resolution in whole numbers; fractions are kept by counting per meter. None for what is none."""
    if not (0 < x < MOST and 0 < y < MOST):
        return None
    if unit is not Unit.ASPECT and (x != int(x) or y != int(y)):
        factor = {Unit.INCH: 1 / _INCH, Unit.CENTIMETER: 100.0}.get(unit, 1.0)
        x, y, unit = round(x * factor), round(y * factor), Unit.METER
    whole = round(x), round(y)
    if not (min(whole) >= 1 and max(whole) <= MOST) or (unit is Unit.ASPECT and whole[0] == whole[1]):
        return None
    return Resolution(*whole, unit)


@dataclass(frozen=True)
class Metadata:
    r"""Metadata of a picture; empty or None if there is none.

    Attributes:
        icc: ICC profile.
        exif: EXIF block with its `Exif\0\0` prefix, the orientation tag removed.
        xmp: XMP packet, UTF-8.
        color: the PNG chunks cICP, sRGB, gAMA and cHRM that there are, name and content, in this order.
        resolution: pixels per unit of length.
    """

    icc: bytes = b""
    exif: bytes = b""
    xmp: bytes = b""
    color: tuple[tuple[bytes, bytes], ...] = ()
    resolution: Resolution | None = None

    @property
    def changes_colors(self) -> bool:
        """Whether the samples mean other colors than sRGB by `color` alone: without it they look different."""
        names = {name for name, _ in self.color}
        if b"cICP" in names:
            return True
        return not self.icc and b"sRGB" not in names and bool(names)


def color_of(chunks: Mapping[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """What `Metadata.color` takes of a PNG file's chunks; those of a wrong length are left out."""
    return tuple(
        (name, chunks[name]) for name, length in COLOR_CHUNKS.items() if len(chunks.get(name, b"")) == length
    )


def png_chunks(metadata: Metadata) -> dict[bytes, bytes]:
    """The PNG chunks of everything, in an order that the standard allows before the pixels."""
    chunks = dict(metadata.color)
    if metadata.icc:
        # The standard wants one of the two.
        chunks.pop(b"sRGB", None)
        chunks[b"iCCP"] = b"ICC Profile" + bytes(2) + zlib.compress(metadata.icc)
    if metadata.resolution is not None:
        x, y = metadata.resolution.per_meter
        chunks[b"pHYs"] = struct.pack(">IIB", x, y, metadata.resolution.unit is not Unit.ASPECT)
    if metadata.xmp:
        chunks[b"iTXt"] = b"XML:com.adobe.xmp" + bytes(5) + metadata.xmp
    if metadata.exif:
        chunks[b"eXIf"] = metadata.exif.removeprefix(b"Exif\0\0")
    return chunks
