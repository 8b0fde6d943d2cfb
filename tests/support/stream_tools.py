"""Taking streams apart and putting them together again, for tests that change a part."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

from oslic.runtime.codec.container import (
    Header,
    Payload,
    SectionType,
    StreamReader,
    sections_of,
    write_stream,
)
from oslic.runtime.codec.parameters import TileRecord
from oslic.runtime.limits import Limits

Parts = dict[int, list[Payload]]


def take_apart(data: bytes, limits: Limits | None = None) -> tuple[Header, Parts]:
    """The header of a stream, and the payloads of each section with their records."""
    reader = StreamReader.of_bytes(data, limits or Limits(memory=1))
    parts: Parts = {}
    for section in reader.info.sections:
        kind = section.type
        pieces = reader.pieces(kind)
        parts[kind] = [Payload(reader.payload(kind, i), piece.record) for i, piece in enumerate(pieces)]
    return reader.header, parts


def put_together(header: Header, parts: Mapping[int, Sequence[Payload]]) -> bytes:
    """Inverse of `take_apart`: all checksums are right."""
    file = io.BytesIO()
    write_stream(file, header, sections_of(parts))
    return file.getvalue()


def changed(data: bytes, section: SectionType, content: bytes, tile: int = 0) -> bytes:
    """A stream of which one payload is another, with right checksums."""
    header, parts = take_apart(data)
    parts[section][tile] = replace(parts[section][tile], data=content)
    return put_together(header, parts)


def with_record(data: bytes, tile: int = 0, **changes: object) -> bytes:
    """A stream of which one tile's record says something else."""
    header, parts = take_apart(data)
    payload = parts[SectionType.RESIDUAL][tile]
    record = replace(TileRecord.from_bytes(payload.record), **changes)
    parts[SectionType.RESIDUAL][tile] = replace(payload, record=record.to_bytes())
    return put_together(header, parts)
