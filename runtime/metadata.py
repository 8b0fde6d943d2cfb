"""What travels beside the pixels: profile, EXIF, XMP, colour, resolution; as sections of a stream and as PNG chunks."""

from __future__ import annotations

import enum
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from .errors import StreamError
from .stream import SectionType

COLOR_CHUNKS: Final[dict[bytes, int]] = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}
"""Names of the PNG chunks that say what the samples mean -> bytes of their content."""

_RESOLUTION: Final = struct.Struct("<BII")
_INCH: Final = 0.0254
_MOST: Final = (1 << 31) - 1


class Unit(enum.IntEnum):
    """What a resolution is counted by."""

    ASPECT = 0
    """No length: only the proportion of a pixel's sides is known."""
    METER = 1
    INCH = 2
    CENTIMETER = 3


@dataclass(frozen=True)
class Resolution:
    """Pixels per unit of length.

    Attributes:
        x: across, 1..2^31 - 1.
        y: down, 1..2^31 - 1.
        unit: of length.
    """

    x: int
    y: int
    unit: Unit

    @property
    def per_meter(self) -> tuple[int, int]:
        """Across and down, rounded; as they are where there is no length."""
        factor = {Unit.INCH: 1 / _INCH, Unit.CENTIMETER: 100.0}.get(self.unit, 1.0)
        return min(_MOST, round(self.x * factor)), min(_MOST, round(self.y * factor))

    @property
    def per_inch(self) -> tuple[float, float] | None:
        """Across and down; None where there is no length."""
        if self.unit is Unit.ASPECT:
            return None
        factor = {Unit.METER: _INCH, Unit.CENTIMETER: 2.54}.get(self.unit, 1.0)
        return self.x * factor, self.y * factor


def resolution(x: float, y: float, unit: Unit) -> Resolution | None:
    """A resolution in whole numbers; fractions are kept by counting per meter. None for what is none."""
    if not (0 < x < _MOST and 0 < y < _MOST):
        return None
    if unit is not Unit.ASPECT and (x != int(x) or y != int(y)):
        factor = {Unit.INCH: 1 / _INCH, Unit.CENTIMETER: 100.0}.get(unit, 1.0)
        x, y, unit = round(x * factor), round(y * factor), Unit.METER
    whole = round(x), round(y)
    if not (min(whole) >= 1 and max(whole) <= _MOST) or (unit is Unit.ASPECT and whole[0] == whole[1]):
        return None
    return Resolution(*whole, unit)


@dataclass(frozen=True)
class Metadata:
    r"""What travels beside the pixels; empty or None for none.

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
        """Whether the samples mean other colours than sRGB by `color` alone: without it they look different."""
        names = {name for name, _ in self.color}
        if b"cICP" in names:
            return True
        return not self.icc and b"sRGB" not in names and bool(names)


def to_sections(metadata: Metadata) -> dict[SectionType, bytes]:
    """The ancillary sections of a stream; only those that have content."""
    found = metadata.resolution
    sections = {
        SectionType.ICC: metadata.icc,
        SectionType.EXIF: metadata.exif,
        SectionType.XMP: metadata.xmp,
        SectionType.COLOR: b"".join(name + content for name, content in metadata.color),
        SectionType.RESOLUTION: b"" if found is None else _RESOLUTION.pack(found.unit, found.x, found.y),
    }
    return {kind: content for kind, content in sections.items() if content}


def from_sections(sections: Mapping[SectionType, bytes]) -> Metadata:
    """Inverse of `to_sections`.

    Raises:
        StreamError: a section that is not as docs/stream.md says.
    """
    return Metadata(
        icc=sections.get(SectionType.ICC, b""),
        exif=sections.get(SectionType.EXIF, b""),
        xmp=sections.get(SectionType.XMP, b""),
        color=_read_color(sections.get(SectionType.COLOR, b"")),
        resolution=_read_resolution(sections.get(SectionType.RESOLUTION)),
    )


def _read_color(data: bytes) -> tuple[tuple[bytes, bytes], ...]:
    found, position = [], 0
    for name, length in COLOR_CHUNKS.items():
        end = position + 4 + length
        if data[position : position + 4] == name and end <= len(data):
            found.append((name, data[position + 4 : end]))
            position = end
    if position != len(data):
        raise StreamError(f"the color section is damaged at byte {position}: cICP, sRGB, gAMA, cHRM expected")
    return tuple(found)


def _read_resolution(data: bytes | None) -> Resolution | None:
    if data is None:
        return None
    if len(data) != _RESOLUTION.size:
        raise StreamError(f"the resolution section has {len(data)} bytes, must be {_RESOLUTION.size}")
    unit, x, y = _RESOLUTION.unpack(data)
    if unit > max(Unit) or not (1 <= x <= _MOST and 1 <= y <= _MOST):
        raise StreamError(f"the resolution section says {x}x{y} by unit {unit}: damaged")
    return Resolution(x, y, Unit(unit))


def color_of(chunks: Mapping[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """What `Metadata.color` takes of a PNG file's chunks; those of a wrong length are left out."""
    return tuple(
        (name, chunks[name]) for name, length in COLOR_CHUNKS.items() if len(chunks.get(name, b"")) == length
    )


def png_chunks(metadata: Metadata) -> dict[bytes, bytes]:
    """The PNG chunks of colour, XMP and resolution; Pillow writes those of profile and EXIF."""
    chunks = dict(metadata.color)
    if metadata.icc:
        # The standard wants one of the two.
        chunks.pop(b"sRGB", None)
    if metadata.resolution is not None:
        x, y = metadata.resolution.per_meter
        chunks[b"pHYs"] = struct.pack(">IIB", x, y, metadata.resolution.unit is not Unit.ASPECT)
    if metadata.xmp:
        chunks[b"iTXt"] = b"XML:com.adobe.xmp" + bytes(5) + metadata.xmp
    return chunks
