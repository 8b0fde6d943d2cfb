"""The container: round trips, known bytes, and every way of damaging it."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oslic.runtime._native import crc32c
from oslic.runtime.codec.container import (
    Header,
    MissingError,
    Payload,
    SectionType,
    StreamReader,
    digest,
    read_info,
    varint,
)
from oslic.runtime.codec.parameters import Parameters, ResidualMode, TileRecord
from oslic.runtime.codec.stream import open_stream
from oslic.runtime.errors import LimitError, OslicError, StreamError
from oslic.runtime.image.arrays import Layout
from oslic.runtime.limits import Limits
from oslic.runtime.tiling import Grid, single
from stream_tools import Parts, put_together, take_apart

LIMITS = Limits(memory=1 << 30)
RECORD = TileRecord(ResidualMode.AV1, 1, 5, b"esti", b"resi")
HEADER = Header(
    Layout.RGB, "oslic", bytes(range(1, 6)) + bytes(3), single(768, 512), Parameters(60, 8).to_bytes()
)
TILED = replace(HEADER, grid=Grid(3000, 2000, 768, 672, 64))


def _parts(tiles: int) -> Parts:
    return {
        SectionType.LABELS: [Payload(b"labels")],
        SectionType.COMPACT: [Payload(bytes([i]) * (5000 + i)) for i in range(tiles)],
        SectionType.RESIDUAL: [
            Payload(bytes(range(256)) * 80, replace(RECORD, weight=i % 9).to_bytes()) for i in range(tiles)
        ],
    }


@pytest.fixture
def stream() -> bytes:
    return put_together(HEADER, _parts(1))


@pytest.fixture
def tiled() -> bytes:
    return put_together(TILED, _parts(12))


def _read(data: bytes, limits: Limits = LIMITS) -> StreamReader:
    """Read all of a stream."""
    reader = open_stream(data, limits)
    for section in reader.info.sections:
        for tile in range(len(reader.pieces(section.type))):
            reader.payload(section.type, tile)
    return reader


def test_crc32c_matches_the_vectors_of_rfc_3720():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


@pytest.mark.parametrize(("header", "tiles"), [(HEADER, 1), (TILED, 12)])
def test_round_trip(header, tiles):
    data = put_together(header, _parts(tiles))
    assert take_apart(data, LIMITS) == (header, _parts(tiles))
    info = _read(data).info
    assert [s.name for s in info.sections] == ["labels", "compact", "residual"]
    assert info.total_bytes == len(data)


def test_overhead_of_one_tile_is_at_most_64_bytes():
    header = replace(HEADER, grid=single(1023, 1024), parameters=Parameters(99.75, 12).to_bytes())
    parts = {
        SectionType.LABELS: [Payload(bytes(900))],
        SectionType.COMPACT: [Payload(bytes(16000))],
        SectionType.RESIDUAL: [Payload(bytes(2_000_000), RECORD.to_bytes())],
    }
    assert len(put_together(header, parts)) - 900 - 16000 - 2_000_000 <= 64


def test_the_header_alone_can_be_read(stream, tiled):
    assert read_info(stream[:100], LIMITS).header == HEADER
    assert read_info(tiled[:100], LIMITS).header == TILED


def test_a_file_is_read_in_parts(tiled):
    class Counting(io.BytesIO):
        count = 0

        def read(self, size=-1, /):
            data = super().read(size)
            self.count += len(data)
            return data

    file = Counting(tiled)
    reader = StreamReader.of_file(file, LIMITS)
    assert reader.payload(SectionType.COMPACT, 7) == bytes([7]) * 5007
    assert file.count < 4200 + 200 + 5007
    assert len(tiled) > 250_000


def test_every_truncation_is_an_error(stream):
    for length in [*range(120), len(stream) // 2, len(stream) - 1]:
        with pytest.raises(StreamError):
            _read(stream[:length])


def test_truncation_names_the_section(stream):
    with pytest.raises(StreamError, match="truncated inside its residual section"):
        _read(stream[:-1])
    with pytest.raises(StreamError, match="truncated inside its labels section"):
        _read(stream[: read_info(stream, LIMITS).sections[0].offset + 2])


def test_a_truncated_stream_gives_what_it_has(tiled):
    residual = read_info(tiled, LIMITS).sections[2]
    reader = StreamReader.of_bytes(tiled[: residual.offset + residual.index + 50_000], LIMITS, partial=True)
    assert reader.payload(SectionType.COMPACT, 11) == bytes([11]) * 5011
    assert reader.payload(SectionType.RESIDUAL, 1) == bytes(range(256)) * 80
    with pytest.raises(MissingError, match="ends inside its residual section"):
        reader.payload(SectionType.RESIDUAL, 2)


def test_trailing_bytes_are_an_error(stream):
    for partial in (False, True):
        with pytest.raises(StreamError, match="trailing bytes"):
            StreamReader.of_bytes(stream + b"\0", LIMITS, partial=partial)


@pytest.mark.parametrize("name", ["stream", "tiled"])
def test_every_flipped_bit_of_the_header_is_an_error(name, request):
    data = request.getfixturevalue(name)
    for position in range(read_info(data, LIMITS).header_bytes):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[position] ^= 1 << bit
            with pytest.raises(OslicError):
                _read(bytes(damaged))


@pytest.mark.parametrize("kind", [SectionType.COMPACT, SectionType.RESIDUAL])
def test_every_flipped_bit_of_an_index_is_an_error(tiled, kind):
    section = read_info(tiled, LIMITS).section(kind)
    for position in range(section.offset, section.offset + section.index):
        damaged = bytearray(tiled)
        damaged[position] ^= 0x10
        with pytest.raises(StreamError, match=r"index of the .* section does not match its checksum"):
            _read(bytes(damaged))


@pytest.mark.parametrize("name", ["labels", "compact", "residual"])
def test_a_flipped_bit_in_a_section_names_it(stream, tiled, name):
    for data in (stream, tiled):
        section = next(s for s in read_info(data, LIMITS).sections if s.name == name)
        damaged = bytearray(data)
        damaged[section.end - 1] ^= 4
        with pytest.raises(StreamError, match=f"the {name} section .* does not match its checksum"):
            _read(bytes(damaged))


def _with_body(stream: bytes, change) -> bytes:
    """Change the header's body and mend its checksum, so that the fields themselves are judged."""
    end = 10 + stream[9]
    body = change(stream[10:end])
    head = stream[:9] + varint(len(body)) + body
    return head + crc32c(head).to_bytes(4, "little") + stream[end + 4 :]


# Body: [0:2] width, [2:4] height, [4] layout, [5] kind, [6:14] identity, [14] length of the parameters, [15] flags,
# [16:18] quality, [18] label scale, [19] type, [20] length, [21:25] CRC, [25] type, ...
@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, b"\x80\x00", "width at byte 10 of the header is not a number in its shortest form"),
        (4, b"\x00", "unknown layout 0"),
        (4, b"\x05", "unknown layout 5"),
        (4, b"\x13", "unknown flags 0x13 beside the layout"),
        (5, b"\x21", "kind of codec at byte 15 of the header is 33, not 0 to 32"),
        (5, b"\x03a/c", "kind of codec 'a/c' is no name"),
        (15, b"\x40", "unknown flags 0x40 in the parameters"),
        (16, b"\x91\x03", "quality .* is 401, not 0 to 400"),
        (18, b"\x00", "label scale .* is 0, not 1 to 65535"),
        (19, b"\x44", "unknown critical section 0x44"),
        (25, b"\x01", "section 0x01 stands behind 0x01: must ascend"),
        (14, b"\x03", "."),
    ],
)
def test_fields_are_judged_behind_a_valid_checksum(stream, position, value, message):
    data = _with_body(stream, lambda body: body[:position] + value + body[position + len(value) :])
    with pytest.raises(StreamError, match=message):
        Parameters.from_bytes(_read(data).header.parameters)


@pytest.mark.parametrize(
    ("grid", "error", "message"),
    [
        (
            Grid(3000, 2000, 768, 672, 704),
            StreamError,
            "halo of 704 pixels is larger than the tiles of 768x672",
        ),
        (Grid(3000, 2000, 3008, 2016, 64), StreamError, "tiles of 3008x2016 for a picture of 3000x2000"),
        (Grid(3000, 2000, 32, 32, 32), LimitError, "94x63 tiles, more than 4096"),
        (Grid(1 << 20, 1 << 20, 1024, 1024, 64), LimitError, "more than the limit"),
    ],
)
def test_grids_that_cannot_be_are_refused(tiled, grid, error, message):
    columns = b"".join(varint(v) for v in (grid.width, grid.height)) + b"\x0b\0" + bytes(8)
    columns += b"".join(varint(v // 32) for v in (grid.tile_width, grid.tile_height, grid.halo))
    with pytest.raises(error, match=message):
        _read(_with_body(tiled, lambda body: columns + body[17:]))


def _with_index(tiled: bytes, change) -> bytes:
    """Change the index of the compact section, and mend its checksum and the header's."""
    section = read_info(tiled, LIMITS).section(SectionType.COMPACT)
    index = change(bytearray(tiled[section.offset : section.offset + section.index]))
    old, new = section.crc.to_bytes(4, "little"), crc32c(index).to_bytes(4, "little")
    data = tiled[: section.offset] + index + tiled[section.offset + section.index :]
    return _with_body(data, lambda body: body.replace(old, new))


def test_an_index_that_lies_is_found(tiled):
    def longer(index: bytearray) -> bytes:
        index[0] += 1
        return bytes(index)

    def shorter(index: bytearray) -> bytes:
        index[0] -= 1
        return bytes(index)

    def swapped(index: bytearray) -> bytes:
        entry = len(index) // 12
        return bytes(index[entry : 2 * entry] + index[:entry] + index[2 * entry :])

    for change in (longer, shorter, swapped):
        with pytest.raises(StreamError):
            _read(_with_index(tiled, change))


def test_versions(stream):
    for version, message in ((0x10, "was never released"), (0x30, r"3\.0, this one reads 2\.x")):
        with pytest.raises(StreamError, match=message):
            _read(stream[:8] + bytes([version]) + stream[9:])


def test_unknown_ancillary_sections_are_skipped():
    data = put_together(HEADER, {**_parts(1), 0xF0: [Payload(b"from the future")]})
    reader = _read(data)
    assert reader.info.sections[-1].name == "0xf0"
    assert reader.payload(0xF0) == b"from the future"


def test_missing_and_superfluous_sections_are_named():
    for missing in (SectionType.LABELS, SectionType.COMPACT, SectionType.RESIDUAL):
        rest = {k: v for k, v in _parts(1).items() if k is not missing}
        with pytest.raises(StreamError, match=f"no section for {missing.name.lower()}"):
            _read(put_together(HEADER, rest))
    with pytest.raises(StreamError, match="has a section for alpha"):
        _read(put_together(HEADER, {**_parts(1), SectionType.ALPHA: [Payload(b"a")]}))


def test_limits_are_checked_on_the_header(stream):
    with pytest.raises(LimitError, match="768x512 = 393216 pixels, more than the limit of 1000"):
        read_info(stream, Limits(pixels=1000, memory=1))
    with pytest.raises(LimitError, match="more than 100"):
        _read(stream, Limits(stream_bytes=100, memory=1))
    with pytest.raises(LimitError, match="more than 2 sections"):
        _read(stream, Limits(sections=2, memory=1))


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n" + bytes(50), b"\x8fOSL"])
def test_what_is_not_a_stream_is_an_error(data):
    with pytest.raises(StreamError):
        _read(data)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 60))
def test_arbitrary_bytes_raise_nothing_but_our_errors(tail, keep):
    data = put_together(HEADER, _parts(1))[:keep] + tail
    try:
        _read(data)
    except OslicError:
        return
    raise AssertionError("random bytes were taken for a stream")


@given(
    st.integers(0, 1),
    st.integers(0, 1),
    st.integers(0, 400),
    st.integers(1, 65535),
    st.one_of(st.none(), st.integers(0, 16)),
)
def test_parameters_survive(visual, exact, quarters, scale, bound):
    tuned = bool(visual) and bound is None
    parameters = Parameters(quarters / 4, scale, tuned, bool(exact), max_error=bound)
    assert Parameters.from_bytes(parameters.to_bytes()) == parameters


@given(st.sampled_from(ResidualMode), st.integers(1, 2), st.integers(0, 8), st.binary(min_size=4, max_size=4))
def test_records_survive(mode, scale, weight, found):
    other = bytes(4) if mode is ResidualMode.NONE else found[::-1]
    scale = 1 if mode.is_bounded else scale
    weight = 0 if mode is ResidualMode.FLIF_PICTURE else weight
    record = TileRecord(mode, scale, weight, found, other)
    assert TileRecord.from_bytes(record.to_bytes()) == record


def test_digest_depends_on_every_pixel(photo):
    other = photo.copy()
    other[-1, -1, 2] ^= 1
    assert digest(photo) != digest(other)
    assert len(digest(photo)) == 4
    assert digest(photo) == digest(np.ascontiguousarray(photo[::-1])[::-1])
