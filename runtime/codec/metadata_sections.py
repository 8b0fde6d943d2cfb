"""Metadata as sections of a stream; see docs/reference/stream.md."""

from __future__ import annotations

import contextlib
import struct
from typing import Final

from ..errors import StreamError
from ..image.metadata import COLOR_CHUNKS, MOST, Metadata, Resolution, Unit
from .container import MissingError, Payload, SectionType, SectionWriter, StreamReader, sections_of

_RESOLUTION: Final = struct.Struct("<BII")
METADATA_TYPES: Final = frozenset(
    {SectionType.ICC, SectionType.EXIF, SectionType.XMP, SectionType.COLOR, SectionType.RESOLUTION}
)


def metadata_sections(metadata: Metadata) -> dict[SectionType, bytes]:
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


def metadata_writers(metadata: Metadata | None) -> dict[int, SectionWriter]:
    """`metadata_sections`, ready to be written; None has none."""
    sections = {} if metadata is None else metadata_sections(metadata)
    return sections_of({kind: [Payload(content)] for kind, content in sections.items()})


def read_metadata(reader: StreamReader) -> Metadata:
    """Inverse of `metadata_sections`; what a truncated stream lacks is empty, where that is allowed.

    Raises:
        StreamError: a section that is not as docs/reference/stream.md says.
    """

    def content(kind: SectionType) -> bytes:
        with contextlib.suppress(MissingError):
            return reader.payload(kind) if reader.has(kind) else b""
        return b""

    return Metadata(
        icc=content(SectionType.ICC),
        exif=content(SectionType.EXIF),
        xmp=content(SectionType.XMP),
        color=_read_color(content(SectionType.COLOR)),
        resolution=_read_resolution(content(SectionType.RESOLUTION)),
    )


def missing_metadata(reader: StreamReader) -> tuple[str, ...]:
    """Names of the sections of metadata that a truncated stream does not hold to their end."""
    return tuple(
        section.name
        for section in reader.info.sections
        if section.type in METADATA_TYPES and reader.total < section.end
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


def _read_resolution(data: bytes) -> Resolution | None:
    if not data:
        return None
    if len(data) != _RESOLUTION.size:
        raise StreamError(f"the resolution section has {len(data)} bytes, must be {_RESOLUTION.size}")
    unit, x, y = _RESOLUTION.unpack(data)
    if unit > max(Unit) or not (1 <= x <= MOST and 1 <= y <= MOST):
        raise StreamError(f"the resolution section says {x}x{y} by unit {unit}: damaged")
    return Resolution(x, y, Unit(unit))
