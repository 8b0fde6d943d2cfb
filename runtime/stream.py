"""The `.oslic` container: header, section table, sections.

All numbers are little-endian; *varint* is LEB128: seven bits a byte, least significant first, the top bit set
on every byte but the last, shortest form only.

| bytes | content |
|---|---|
| 8 | magic `8F 4F 53 4C 0D 0A 1A 0A` (in the PNG manner: a byte above 127, `OSL`, both line ends, ctrl-Z) |
| 1 | version: major in the high nibble, minor in the low one |
| varint | length of the body |
| body | see below |
| 4 | CRC-32C of all bytes before it |
| ... | the payloads of the sections, in the order of the table, nothing between and nothing behind |

The body: width (varint), height (varint), layout (1: channels of the input), prefix of the bundle's fingerprint
(8), residual codec (1), residual scale (1), residual weight (1), tile columns (varint), tile rows (varint), digest
of the estimate (8), number of sections (varint), and for each section its type (1), length (varint) and CRC-32C (4).

A section's type has its top bit set if it is *ancillary*: a reader that does not know it skips it. An unknown
critical section, or another major version, is refused. Types stand in ascending order, each at most once.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from ._native import crc32c
from .errors import LimitError, StreamError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .limits import Limits

MAGIC: Final = b"\x8fOSL\r\n\x1a\n"
MAJOR: Final = 1
MINOR: Final = 0
FINGERPRINT_BYTES: Final = 8
DIGEST_BYTES: Final = 8
MAX_WEIGHT: Final = 8
"""Weight of an estimate that is the whole prediction of the residual: weights are in eighths."""
_MAX_BODY: Final = 1 << 12
_ANCILLARY: Final = 0x80
_E = TypeVar("_E", bound=enum.IntEnum)


class Layout(enum.IntEnum):
    """Channels of the input image."""

    GRAY = 1
    GRAY_ALPHA = 2
    RGB = 3
    RGBA = 4

    @property
    def has_alpha(self) -> bool:
        """Whether the last channel is alpha."""
        return self in (Layout.GRAY_ALPHA, Layout.RGBA)

    @property
    def is_gray(self) -> bool:
        """Whether colour is one channel."""
        return self in (Layout.GRAY, Layout.GRAY_ALPHA)


class ResidualCodec(enum.IntEnum):
    """How the residual is coded."""

    NONE = 0
    """No residual: the reconstruction is the estimate."""
    AVIF = 1
    """AV1 intra frame, 8 bit, full range, YCbCr 4:4:4 (BT.601) or monochrome, without its AVIF container."""


class SectionType(enum.IntEnum):
    """Known sections. Ancillary ones have the top bit set."""

    LABELS = 0x01
    COMPACT = 0x02
    RESIDUAL = 0x03
    ALPHA = 0x04
    ICC = 0x81
    EXIF = 0x82
    XMP = 0x83
    COLOR = 0x84
    RESOLUTION = 0x85


_KNOWN: Final = frozenset(int(kind) for kind in SectionType)


@dataclass(frozen=True)
class Header:
    """What a stream says of itself.

    Attributes:
        width: of the image, in pixels.
        height: of the image, in pixels.
        layout: channels of the input.
        fingerprint: first 8 bytes of the bundle's fingerprint.
        residual_codec: how the residual is coded.
        residual_scale: 1 if the coded samples are r + 128, 2 if they are r/2 + 128.
        residual_weight: w of the prediction 128 + w/8 (e - 128) that r is the difference to: 1..8; see `residual`.
        digest: first 8 bytes of the estimate's digest (`estimate_digest`).
        tiles: columns and rows of the tile grid; this version writes and reads (1, 1).
    """

    width: int
    height: int
    layout: Layout
    fingerprint: bytes
    residual_codec: ResidualCodec
    residual_scale: int
    residual_weight: int
    digest: bytes
    tiles: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class Section:
    """One row of the section table: `data[offset:offset + length]` of the file is the payload."""

    type: int
    offset: int
    length: int
    crc: int

    @property
    def name(self) -> str:
        """Lower-case name, or the number of an unknown type."""
        try:
            return SectionType(self.type).name.lower()
        except ValueError:
            return f"0x{self.type:02x}"


@dataclass(frozen=True)
class StreamInfo:
    """The header and the section table, without any payload."""

    header: Header
    version: tuple[int, int]
    sections: tuple[Section, ...]
    total_bytes: int

    @property
    def overhead_bytes(self) -> int:
        """Bytes of the file that belong to no payload."""
        return self.total_bytes - sum(s.length for s in self.sections)


def estimate_digest(estimate: npt.NDArray[np.uint8]) -> bytes:
    """Return the 8-byte BLAKE2b digest of an estimate, uint8 (H, W, 3) or (H, W), C order."""
    return hashlib.blake2b(estimate.tobytes(), digest_size=DIGEST_BYTES).digest()


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class _Reader:
    """Reads fields of the body; every read is checked against its end."""

    def __init__(self, data: bytes, position: int, end: int) -> None:
        self.data, self.position, self.end = data, position, end

    def take(self, count: int, what: str) -> bytes:
        if self.end - self.position < count:
            raise StreamError(
                f"the header ends inside its {what} (byte {self.position}): truncated or damaged"
            )
        self.position += count
        return self.data[self.position - count : self.position]

    def byte(self, what: str) -> int:
        return self.take(1, what)[0]

    def varint(self, what: str, largest: int) -> int:
        start, value = self.position, 0
        for shift in range(0, 63, 7):
            part = self.byte(what)
            value |= (part & 0x7F) << shift
            if part < 0x80:
                if part == 0 and shift:
                    break
                if value > largest:
                    raise StreamError(f"the {what} at byte {start} is {value}, more than {largest}")
                return value
        raise StreamError(f"the {what} at byte {start} is not a number in its shortest form: damaged header")


def write_stream(header: Header, sections: dict[SectionType, bytes]) -> bytes:
    """Put a stream together.

    Args:
        header: the header's fields.
        sections: payload of each section; written in ascending order of type.

    Returns:
        The whole file.
    """
    ordered = sorted(sections.items())
    body = bytearray()
    body += _varint(header.width) + _varint(header.height)
    body.append(header.layout)
    body += header.fingerprint[:FINGERPRINT_BYTES].ljust(FINGERPRINT_BYTES, b"\0")
    body.append(header.residual_codec)
    body.append(header.residual_scale)
    body.append(header.residual_weight)
    body += _varint(header.tiles[0]) + _varint(header.tiles[1])
    body += header.digest
    body += _varint(len(ordered))
    for kind, payload in ordered:
        body.append(kind)
        body += _varint(len(payload)) + crc32c(payload).to_bytes(4, "little")
    head = MAGIC + bytes([MAJOR << 4 | MINOR]) + _varint(len(body)) + bytes(body)
    return b"".join([head, crc32c(head).to_bytes(4, "little"), *(payload for _, payload in ordered)])


def _choice(kind: type[_E], value: int, what: str) -> _E:
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(int(k)) for k in kind)
        raise StreamError(f"unknown {what} {value} (known: {known}): install a newer oslic") from None


def read_info(data: bytes, limits: Limits, *, complete: bool = True) -> StreamInfo:
    """Read the header and the section table; decode nothing.

    Args:
        data: the file, or at least its first 4 KiB.
        limits: checked before anything is allocated.
        complete: whether `data` is the whole file; then its length is checked too.

    Raises:
        StreamError: not an OSLIC stream, of another major version, truncated or damaged.
        LimitError: a size beyond the limits.
    """
    if not data:
        raise StreamError("the stream is empty (0 bytes)")
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise StreamError("not an .oslic stream: the magic bytes are missing")
    fixed = len(MAGIC) + 2
    if len(data) < fixed:
        raise StreamError(f"the stream ends after {len(data)} bytes, inside its header: truncated")
    major, minor = data[len(MAGIC)] >> 4, data[len(MAGIC)] & 0xF
    if major != MAJOR:
        raise StreamError(
            f"the stream has version {major}.{minor}, this one reads {MAJOR}.x: install a newer oslic"
        )
    reader = _Reader(data, len(MAGIC) + 1, len(data))
    length = reader.varint("header length", _MAX_BODY)
    body_end = reader.position + length
    if body_end + 4 > len(data):
        raise StreamError(
            f"the stream ends after {len(data)} bytes, inside its header of {body_end + 4}: truncated"
        )
    if crc32c(data[:body_end]) != int.from_bytes(data[body_end : body_end + 4], "little"):
        raise StreamError("the header's checksum does not match: the stream is damaged")
    reader.end = body_end
    header = _read_header(reader, limits)
    sections = _read_table(reader, body_end + 4, limits)
    if reader.position != body_end:
        raise StreamError(f"the header has {body_end - reader.position} bytes too many: damaged")
    total = body_end + 4 + sum(s.length for s in sections)
    if complete and len(data) != total:
        what = "truncated" if len(data) < total else "it has trailing bytes"
        where = next((s.name for s in sections if len(data) < s.offset + s.length), None)
        place = f" inside its {where} section" if where else ""
        raise StreamError(f"the stream has {len(data)} bytes, its header says {total}: {what}{place}")
    return StreamInfo(header, (major, minor), sections, total)


def _read_header(reader: _Reader, limits: Limits) -> Header:
    width = reader.varint("width", 1 << 31)
    height = reader.varint("height", 1 << 31)
    if width < 1 or height < 1:
        raise StreamError(f"the image is {width}x{height}: both sides must be at least 1")
    limits.check_pixels(width, height)
    layout = _choice(Layout, reader.byte("layout"), "layout")
    fingerprint = reader.take(FINGERPRINT_BYTES, "fingerprint")
    codec = _choice(ResidualCodec, reader.byte("residual codec"), "residual codec")
    scale = reader.byte("residual scale")
    if scale not in (1, 2):
        raise StreamError(f"the residual scale is {scale}, must be 1 or 2")
    weight = reader.byte("residual weight")
    if not 1 <= weight <= MAX_WEIGHT:
        raise StreamError(f"the residual weight is {weight}, must be 1 to {MAX_WEIGHT}")
    tiles = (reader.varint("tile columns", 1 << 16), reader.varint("tile rows", 1 << 16))
    if tiles[0] * tiles[1] > limits.tiles:
        raise LimitError(f"the stream has {tiles[0]}x{tiles[1]} tiles, more than {limits.tiles}")
    if tiles != (1, 1):
        raise StreamError(
            f"the stream has {tiles[0]}x{tiles[1]} tiles, this runtime reads 1x1: install a newer oslic"
        )
    digest = reader.take(DIGEST_BYTES, "digest")
    return Header(width, height, layout, fingerprint, codec, scale, weight, digest, tiles)


def _read_table(reader: _Reader, offset: int, limits: Limits) -> tuple[Section, ...]:
    count = reader.varint("number of sections", 1 << 16)
    if count > limits.sections:
        raise LimitError(f"the stream has {count} sections, more than {limits.sections}")
    sections: list[Section] = []
    for _ in range(count):
        kind = reader.byte("section type")
        if sections and kind <= sections[-1].type:
            raise StreamError(f"section 0x{kind:02x} stands behind 0x{sections[-1].type:02x}: must ascend")
        if kind not in _KNOWN and not kind & _ANCILLARY:
            raise StreamError(f"unknown critical section 0x{kind:02x}: install a newer oslic")
        length = reader.varint("section length", limits.stream_bytes)
        crc = int.from_bytes(reader.take(4, "section checksum"), "little")
        sections.append(Section(kind, offset, length, crc))
        offset += length
    if offset > limits.stream_bytes:
        raise LimitError(f"the stream's sections have {offset} bytes, more than {limits.stream_bytes}")
    return tuple(sections)


def payload(data: bytes, section: Section) -> bytes:
    """Return a section's payload, its checksum verified.

    Raises:
        StreamError: the checksum does not match.
    """
    part = data[section.offset : section.offset + section.length]
    if len(part) != section.length:
        raise StreamError(f"the stream ends inside its {section.name} section: truncated")
    if crc32c(part) != section.crc:
        raise StreamError(
            f"the {section.name} section (bytes {section.offset} to {section.offset + section.length - 1}) "
            "does not match its checksum: the stream is damaged"
        )
    return part


def read_stream(data: bytes, limits: Limits) -> tuple[StreamInfo, dict[SectionType, bytes]]:
    """Read a whole stream: header, table, and the payloads of the known sections, all checksums verified.

    Raises:
        StreamError: as `read_info`; a damaged section; a section missing that the image needs.
        LimitError: a size beyond the limits.
    """
    if len(data) > limits.stream_bytes:
        raise LimitError(f"the stream has {len(data)} bytes, more than {limits.stream_bytes}")
    info = read_info(data, limits)
    parts = {SectionType(s.type): payload(data, s) for s in info.sections if s.type in _KNOWN}
    needed = {SectionType.LABELS, SectionType.COMPACT}
    if info.header.residual_codec != ResidualCodec.NONE:
        needed.add(SectionType.RESIDUAL)
    if info.header.layout.has_alpha:
        needed.add(SectionType.ALPHA)
    critical = {kind for kind in parts if not kind & _ANCILLARY}
    for kind in sorted(needed - critical):
        raise StreamError(f"the stream has no section for {kind.name.lower()}, which its header calls for")
    for kind in sorted(critical - needed):
        raise StreamError(
            f"the stream has a section for {kind.name.lower()}, which its header does not call for"
        )
    return info, parts
