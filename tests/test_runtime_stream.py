"""The container: round trips, known bytes, and every way of damaging it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oslic.runtime._native import crc32c
from oslic.runtime.errors import LimitError, OslicError, StreamError
from oslic.runtime.limits import Limits
from oslic.runtime.stream import (
    Header,
    Layout,
    ResidualCodec,
    SectionType,
    estimate_digest,
    payload,
    read_info,
    read_stream,
    write_stream,
)

LIMITS = Limits(memory=1 << 30)
HEADER = Header(
    width=768,
    height=512,
    layout=Layout.RGB,
    fingerprint=bytes(range(8)),
    residual_codec=ResidualCodec.AVIF,
    residual_scale=1,
    residual_weight=5,
    digest=bytes(range(8, 16)),
)
SECTIONS = {
    SectionType.RESIDUAL: bytes(range(256)) * 80,
    SectionType.LABELS: b"labels",
    SectionType.COMPACT: b"c" * 5000,
}


@pytest.fixture
def stream() -> bytes:
    return write_stream(HEADER, SECTIONS)


def test_crc32c_matches_the_vectors_of_rfc_3720():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E
    assert crc32c(b"") == 0


def test_round_trip(stream):
    info, parts = read_stream(stream, LIMITS)
    assert info.header == HEADER
    assert parts == SECTIONS
    assert [s.name for s in info.sections] == ["labels", "compact", "residual"]
    assert info.total_bytes == len(stream)


def test_overhead_of_a_stream_with_large_sections_is_at_most_64_bytes(stream):
    info = read_info(stream, LIMITS)
    assert info.overhead_bytes == len(stream) - sum(map(len, SECTIONS.values()))
    assert info.overhead_bytes <= 64


def test_header_alone_can_be_read(stream):
    assert read_info(stream[:100], LIMITS, complete=False).header == HEADER


def test_every_truncation_is_an_error(stream):
    for length in [*range(120), len(stream) // 2, len(stream) - 1]:
        with pytest.raises(StreamError):
            read_stream(stream[:length], LIMITS)


def test_truncation_names_the_section(stream):
    with pytest.raises(StreamError, match="truncated inside its residual section"):
        read_stream(stream[:-1], LIMITS)
    with pytest.raises(StreamError, match="truncated inside its labels section"):
        read_stream(stream[: read_info(stream, LIMITS).sections[0].offset + 2], LIMITS)


def test_trailing_bytes_are_an_error(stream):
    with pytest.raises(StreamError, match="trailing bytes"):
        read_stream(stream + b"\0", LIMITS)


def test_every_flipped_bit_of_the_header_is_an_error(stream):
    for position in range(read_info(stream, LIMITS).sections[0].offset):
        for bit in range(8):
            damaged = bytearray(stream)
            damaged[position] ^= 1 << bit
            with pytest.raises(OslicError):
                read_stream(bytes(damaged), LIMITS)


@pytest.mark.parametrize("name", ["labels", "compact", "residual"])
def test_a_flipped_bit_in_a_section_names_it(stream, name):
    section = next(s for s in read_info(stream, LIMITS).sections if s.name == name)
    damaged = bytearray(stream)
    damaged[section.offset + section.length // 2] ^= 4
    with pytest.raises(StreamError, match=f"the {name} section .* does not match its checksum"):
        read_stream(bytes(damaged), LIMITS)


def _with_body(stream: bytes, change) -> bytes:
    """Change the header's body and mend its checksum, so that the fields themselves are judged."""
    end = 10 + stream[9]
    head = stream[:9] + change(bytearray(stream[9:end]))
    return head + crc32c(head).to_bytes(4, "little") + stream[end + 4 :]


def _set(position: int, value: int):
    def change(body: bytearray) -> bytes:
        body[position] = value
        return bytes(body)

    return change


# Body: [0] length, [1:3] width, [3:5] height, [5] layout, [6:14] fingerprint, [14] codec, [15] scale,
# [16] weight, [17] columns, [18] rows, [19:27] digest, [27] count, [28] type, ...
@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (5, 9, "unknown layout 9"),
        (14, 7, "unknown residual codec 7"),
        (15, 3, "residual scale is 3"),
        (16, 0, "residual weight is 0"),
        (16, 9, "residual weight is 9"),
        (17, 2, "2x1 tiles"),
        (28, 0x44, "unknown critical section 0x44"),
        (27, 2, "bytes too many|does not match|trailing"),
        (2, 0x00, "width at byte 10 is not a number in its shortest form"),
    ],
)
def test_fields_are_judged_behind_a_valid_checksum(stream, position, value, message):
    with pytest.raises(StreamError, match=message):
        read_stream(_with_body(stream, _set(position, value)), LIMITS)


def test_another_major_version_is_refused(stream):
    newer = bytearray(stream)
    newer[8] = 0x20
    with pytest.raises(StreamError, match=r"version 2\.0, this one reads 1\.x"):
        read_stream(bytes(newer), LIMITS)


def test_unknown_ancillary_sections_are_skipped():
    class Known(int):
        @property
        def name(self):
            return "unknown"

    data = write_stream(HEADER, {**SECTIONS, Known(0xF0): b"from the future"})
    info, parts = read_stream(data, LIMITS)
    assert parts == SECTIONS
    assert info.sections[-1].name == "0xf0"
    assert payload(data, info.sections[-1]) == b"from the future"


def test_missing_and_superfluous_sections_are_named():
    for missing in (SectionType.LABELS, SectionType.COMPACT, SectionType.RESIDUAL):
        rest = {k: v for k, v in SECTIONS.items() if k is not missing}
        with pytest.raises(StreamError, match=f"no section for {missing.name.lower()}"):
            read_stream(write_stream(HEADER, rest), LIMITS)
    with pytest.raises(StreamError, match="has a section for alpha"):
        read_stream(write_stream(HEADER, {**SECTIONS, SectionType.ALPHA: b"a"}), LIMITS)


def test_limits_are_checked_on_the_header():
    with pytest.raises(LimitError, match="768x512 = 393216 pixels, more than the limit of 1000"):
        read_info(write_stream(HEADER, SECTIONS), Limits(pixels=1000, memory=1))
    with pytest.raises(LimitError, match="more than 100"):
        read_stream(write_stream(HEADER, SECTIONS), Limits(stream_bytes=100, memory=1))
    with pytest.raises(LimitError, match="3 sections, more than 2"):
        read_stream(write_stream(HEADER, SECTIONS), Limits(sections=2, memory=1))


@pytest.mark.parametrize("data", [b"", b"\x89PNG\r\n\x1a\n" + bytes(50), b"\x8fOSL"])
def test_what_is_not_a_stream_is_an_error(data):
    with pytest.raises(StreamError):
        read_stream(data, LIMITS)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 60))
def test_arbitrary_bytes_raise_nothing_but_our_errors(tail, keep):
    data = write_stream(HEADER, SECTIONS)[:keep] + tail
    try:
        read_stream(data, LIMITS)
    except OslicError:
        return
    raise AssertionError("random bytes were taken for a stream")


def test_digest_depends_on_every_pixel(photo):
    other = photo.copy()
    other[-1, -1, 2] ^= 1
    assert estimate_digest(photo) != estimate_digest(other)
    assert len(estimate_digest(photo)) == 8
    assert estimate_digest(photo) == estimate_digest(np.ascontiguousarray(photo[::-1])[::-1])
