"""The container with sections of every shape: what was written is read, and no damage goes unseen."""

from __future__ import annotations

import io
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oslic.runtime.bundle.manifest import OSLIC
from oslic.runtime.codec.container import (
    FieldReader,
    Header,
    MissingError,
    Payload,
    SectionType,
    StreamReader,
    layout_of,
    sections_of,
    varint,
    write_stream,
)
from oslic.runtime.errors import LimitError, StreamError
from oslic.runtime.image.arrays import Layout
from oslic.runtime.limits import Limits
from oslic.runtime.tiling import UNIT, Grid, single

LIMITS = Limits(memory=1 << 30)
ANCILLARY = range(0x80, 0x100)
OF_OSLIC = tuple(type_ for type_ in SectionType if type_ not in ANCILLARY)
TYPES_OF_OTHERS = range(0x80)


@dataclass(frozen=True)
class Written:
    """A stream and what it was made of."""

    header: Header
    parts: dict[int, list[Payload]]
    data: bytes


@st.composite
def grids(draw) -> Grid:
    """One tile, or up to 16."""
    if draw(st.booleans()):
        return single(draw(st.integers(1, 5000)), draw(st.integers(1, 5000)))
    tile_width, tile_height = (UNIT * draw(st.integers(1, 4)) for _ in range(2))
    columns, rows = draw(st.sampled_from([(1, 2), (2, 1), (2, 2), (3, 2), (4, 4)]))
    width, height = (
        side * (count - 1) + draw(st.integers(1, side))
        for side, count in ((tile_width, columns), (tile_height, rows))
    )
    halo = UNIT * draw(st.integers(0, min(tile_width, tile_height) // UNIT))
    return Grid(width, height, tile_width, tile_height, halo)


@st.composite
def streams(draw) -> Written:
    """A stream of the kind `oslic` or of another, with sections of any types that it may have."""
    kind = draw(st.one_of(st.just(OSLIC), st.from_regex(r"[a-z][a-z0-9]{0,11}", fullmatch=True)))
    header = Header(
        draw(st.sampled_from(Layout)),
        kind,
        draw(st.binary(min_size=8, max_size=8)),
        draw(grids()),
        draw(st.binary(max_size=40)),
    )
    critical = st.sampled_from(OF_OSLIC if kind == OSLIC else TYPES_OF_OTHERS)
    types = draw(st.sets(st.one_of(critical, st.sampled_from(ANCILLARY)), max_size=6))
    parts = {}
    for type_ in sorted(types):
        layout = layout_of(type_, kind)
        size = layout.record_bytes
        payload = st.builds(Payload, st.binary(max_size=60), st.binary(min_size=size, max_size=size))
        count = header.grid.count if layout.tiled else 1
        parts[type_] = draw(st.lists(payload, min_size=count, max_size=count))
    target = io.BytesIO()
    write_stream(target, header, sections_of(parts))
    return Written(header, parts, target.getvalue())


def read_all(reader: StreamReader) -> dict[int, list[Payload]]:
    """All payloads of a stream, with their records."""
    return {
        section.type: [
            Payload(reader.payload(section.type, tile), piece.record)
            for tile, piece in enumerate(reader.pieces(section.type))
        ]
        for section in reader.info.sections
    }


@settings(max_examples=200, deadline=None)
@given(streams())
def test_what_was_written_is_read(written):
    for reader in (
        StreamReader.of_bytes(written.data, LIMITS),
        StreamReader.of_file(io.BytesIO(written.data), LIMITS),
    ):
        assert reader.header == written.header
        assert reader.info.total_bytes == len(written.data)
        assert read_all(reader) == written.parts


@settings(max_examples=200, deadline=None)
@given(streams(), st.data())
def test_a_truncated_stream_is_refused_wherever_it_ends(written, data):
    start = written.data[: data.draw(st.integers(0, len(written.data) - 1))]
    with pytest.raises(StreamError):
        StreamReader.of_bytes(start, LIMITS)


@settings(max_examples=200, deadline=None)
@given(streams(), st.data())
def test_of_a_truncated_stream_that_is_taken_only_true_payloads_are_read(written, data):
    header_bytes = StreamReader.of_bytes(written.data, LIMITS).info.header_bytes
    length = data.draw(st.integers(header_bytes, len(written.data)))
    reader = StreamReader.of_bytes(written.data[:length], LIMITS, partial=True)
    for type_, payloads in written.parts.items():
        for tile, payload in enumerate(payloads):
            try:
                piece = reader.pieces(type_)[tile]
                found = reader.payload(type_, tile)
            except MissingError:
                section = reader.info.section(type_)
                assert section.end > length
                continue
            assert Payload(found, piece.record) == payload
            assert not piece.length or piece.offset + piece.length <= length


@settings(max_examples=500, deadline=None)
@given(streams(), st.data())
def test_no_flipped_bit_goes_unseen(written, data):
    damaged = bytearray(written.data)
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((StreamError, LimitError)):
        read_all(StreamReader.of_bytes(damaged, LIMITS))


@settings(deadline=None)
@given(streams(), st.binary(min_size=1, max_size=20))
def test_what_follows_a_stream_is_refused(written, tail):
    with pytest.raises(StreamError, match="trailing bytes"):
        StreamReader.of_bytes(written.data + tail, LIMITS)


@given(st.integers(0, (1 << 62) - 1))
def test_numbers_survive_and_have_one_form(value):
    coded = varint(value)
    reader = FieldReader(coded, 0, len(coded), "header")
    assert reader.varint("number", 1 << 62) == value
    reader.finish()
    longer = bytes([*coded[:-1], coded[-1] | 0x80, 0])
    with pytest.raises(StreamError, match="shortest form"):
        FieldReader(longer, 0, len(longer), "header").varint("number", 1 << 62)
