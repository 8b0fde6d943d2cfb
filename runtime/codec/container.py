"""The `.oslic` container: header, table of sections, sections with an index by tile. See docs/reference/stream.md.

It knows nothing of a kind of codec but how its sections are laid out: those of `oslic` each in its own way, those of
every other kind all alike, so that streams of kinds that are not installed can be checked and listed. What it reads, it
has checked: sizes, order, lengths, checksums. What a kind writes into its parameters and records, the kind checks.
"""

from __future__ import annotations

import enum
import hashlib
import io
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, BinaryIO, Final, TypeVar

from .._native import crc32c
from ..bundle.manifest import MAX_KIND_NAME, OSLIC, is_kind_name
from ..errors import LimitError, StreamError
from ..image.arrays import Layout
from ..tiling import UNIT, Grid, single

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from _typeshed import SupportsWrite

    from ..limits import Limits

MAGIC: Final = b"\x8fOSL\r\n\x1a\n"
MAJOR: Final = 2
MINOR: Final = 0
IDENTITY_BYTES: Final = 8
DIGEST_BYTES: Final = 4
HEADER_BYTES: Final = 8 + 1 + 2 + 4096 + 4
"""No header is longer."""
_MAX_BODY: Final = 1 << 12
_MAX_SIDE: Final = 1 << 31
_LAYOUT_BITS: Final = 0x07
_TILED: Final = 0x08
_ANCILLARY: Final = 0x80
_CRC_BYTES: Final = 4
_E = TypeVar("_E", bound=enum.IntEnum)


class SectionType(enum.IntEnum):
    """Known sections. Ancillary ones have the top bit set; the others are those of the kind `oslic`."""

    LABELS = 0x01
    COMPACT = 0x02
    RESIDUAL = 0x03
    ALPHA = 0x04
    ICC = 0x81
    EXIF = 0x82
    XMP = 0x83
    COLOR = 0x84
    RESOLUTION = 0x85


class SharedSection(enum.IntEnum):
    """Critical sections that streams of all kinds but `oslic` have of the toolkit, beside the kind's own."""

    CHECKS = 0x7E
    ALPHA = 0x7F


def section_name(type_: int, kind: str = OSLIC) -> str:
    """Lower-case name of a type of section in streams of a kind, or its number where it is unknown."""
    known = SectionType if kind == OSLIC or type_ & _ANCILLARY else SharedSection
    try:
        return known(type_).name.lower()
    except ValueError:
        return f"0x{type_:02x}"


@dataclass(frozen=True)
class SectionLayout:
    """How a section of a kind of codec is laid out.

    Attributes:
        tiled: whether it has a payload for each tile.
        record_bytes: bytes of each payload's record; 0: none.
    """

    tiled: bool
    record_bytes: int = 0


_OF_OSLIC: Final[Mapping[int, SectionLayout]] = {
    SectionType.LABELS: SectionLayout(tiled=False),
    SectionType.COMPACT: SectionLayout(tiled=True),
    SectionType.RESIDUAL: SectionLayout(tiled=True, record_bytes=1 + 2 * DIGEST_BYTES),
    SectionType.ALPHA: SectionLayout(tiled=True),
}


def layout_of(type_: int, kind: str) -> SectionLayout | None:
    """How a type of section is laid out in streams of a kind; None: it is critical and unknown."""
    if type_ & _ANCILLARY:
        return SectionLayout(tiled=False)
    return _OF_OSLIC.get(type_) if kind == OSLIC else SectionLayout(tiled=True)


@dataclass(frozen=True)
class Header:
    """What a stream says of itself.

    Attributes:
        layout: channels of the picture.
        kind: of codec.
        identity: 8 bytes that name the networks.
        grid: size and tiles of the picture.
        parameters: of the kind, as they are coded.
    """

    layout: Layout
    kind: str
    identity: bytes
    grid: Grid
    parameters: bytes

    @property
    def width(self) -> int:
        """Of the picture, in pixels."""
        return self.grid.width

    @property
    def height(self) -> int:
        """Of the picture, in pixels."""
        return self.grid.height


@dataclass(frozen=True)
class Payload:
    """One payload of a section, as it is written.

    Attributes:
        data: its bytes.
        record: what the section's table says of it.
    """

    data: bytes
    record: bytes = b""


@dataclass(frozen=True)
class Piece:
    """Where a payload stands in the file: `length` bytes at `offset`, with its checksum and its record."""

    offset: int
    length: int
    crc: int
    record: bytes = b""


@dataclass(frozen=True)
class Section:
    """One row of the table of sections.

    Attributes:
        type: of the section.
        offset: of its first byte in the file.
        length: in bytes, the index included.
        index: length of the index; 0: none.
        crc: of the index, or of the whole section.
        record: of the section, where it has records and no index.
        kind: of codec of the stream.
    """

    type: int
    offset: int
    length: int
    index: int
    crc: int
    record: bytes = b""
    kind: str = OSLIC

    @property
    def name(self) -> str:
        """Of its type."""
        return section_name(self.type, self.kind)

    @property
    def end(self) -> int:
        """Offset of the first byte behind it."""
        return self.offset + self.length


@dataclass(frozen=True)
class StreamInfo:
    """The header and the table of sections, without any payload."""

    header: Header
    version: tuple[int, int]
    sections: tuple[Section, ...]
    header_bytes: int

    @property
    def total_bytes(self) -> int:
        """Length of the whole file."""
        return self.sections[-1].end if self.sections else self.header_bytes

    def section(self, kind: int) -> Section | None:
        """The section of a type, None where there is none."""
        return next((s for s in self.sections if s.type == kind), None)


def digest(samples: npt.NDArray[np.uint8]) -> bytes:
    """Return the 4-byte digest of samples, uint8 in C order: the beginning of BLAKE2b with a digest size of 8."""
    return hashlib.blake2b(samples.tobytes(), digest_size=8).digest()[:DIGEST_BYTES]


# -- writing -------------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    """A number of at least 0 as LEB128 in its shortest form."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class SectionWriter:
    """Collects the payloads of one section, in the order of the tiles.

    Args:
        spill: where the payloads go; by default memory. An encoder that streams gives a temporary file.
    """

    def __init__(self, spill: IO[bytes] | None = None) -> None:
        self.spill: IO[bytes] = spill or io.BytesIO()
        self.length = 0
        self._rows: list[tuple[bytes, int, int]] = []

    def add(self, payload: Payload) -> None:
        """Append the payload of the next tile, or the only one."""
        self.spill.write(payload.data)
        self.length += len(payload.data)
        self._rows.append((payload.record, len(payload.data), crc32c(payload.data)))

    def index(self) -> bytes:
        """The index by tile."""
        return b"".join(
            record + varint(length) + crc.to_bytes(_CRC_BYTES, "little") for record, length, crc in self._rows
        )

    def only(self) -> tuple[bytes, int]:
        """Record and checksum of the only payload."""
        ((record, _, crc),) = self._rows
        return record, crc

    def copy_to(self, target: SupportsWrite[bytes]) -> None:
        """Write all payloads, one after the other."""
        self.spill.seek(0)
        while block := self.spill.read(1 << 20):
            target.write(block)


def write_stream(
    target: SupportsWrite[bytes], header: Header, sections: Mapping[int, SectionWriter]
) -> dict[str, int]:
    """Write a file.

    Args:
        target: where to.
        header: its fields.
        sections: by type; each holds one payload, or one for each tile if it is tiled and the picture is.

    Returns:
        The payload bytes of each section, by its name.
    """
    rows, indices = bytearray(), {}
    for kind, section in sorted(sections.items()):
        layout = layout_of(kind, header.kind)
        assert layout is not None
        rows.append(kind)
        if layout.tiled and header.grid.is_tiled:
            indices[kind] = index = section.index()
            rows += varint(len(index)) + varint(len(index) + section.length)
            rows += crc32c(index).to_bytes(_CRC_BYTES, "little")
        else:
            record, crc = section.only()
            rows += record + varint(section.length) + crc.to_bytes(_CRC_BYTES, "little")
    body = _header_bytes(header) + bytes(rows)
    head = MAGIC + bytes([MAJOR << 4 | MINOR]) + varint(len(body)) + body
    target.write(head + crc32c(head).to_bytes(_CRC_BYTES, "little"))
    sizes = {}
    for kind, section in sorted(sections.items()):
        target.write(indices.get(kind, b""))
        section.copy_to(target)
        sizes[section_name(kind, header.kind)] = section.length
    return sizes


def _header_bytes(header: Header) -> bytes:
    grid = header.grid
    out = bytearray(varint(grid.width) + varint(grid.height))
    out.append(header.layout | (_TILED if grid.is_tiled else 0))
    if header.kind == OSLIC:
        out.append(0)
    else:
        name = header.kind.encode("ascii")
        out += varint(len(name)) + name
    out += header.identity
    if grid.is_tiled:
        for length in (grid.tile_width, grid.tile_height, grid.halo):
            out += varint(length // UNIT)
    return bytes(out + varint(len(header.parameters)) + header.parameters)


# -- reading -------------------------------------------------------------------------------------------------


class FieldReader:
    """Reads fields of a header or an index; every read is checked against its end.

    Args:
        data: what holds them.
        position: of the first byte.
        end: of the first byte behind them.
        where: names them in messages.
    """

    def __init__(self, data: bytes, position: int, end: int, where: str) -> None:
        self.data, self.position, self.end, self.where = data, position, end, where

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        if self.end - self.position < count:
            raise StreamError(
                f"the {self.where} ends inside its {what} (byte {self.position}): truncated or damaged"
            )
        self.position += count
        return self.data[self.position - count : self.position]

    def byte(self, what: str) -> int:
        """The next byte."""
        return self.take(1, what)[0]

    def varint(self, what: str, largest: int, least: int = 0) -> int:
        """The next number, `least` to `largest`."""
        start, value = self.position, 0
        for shift in range(0, 63, 7):
            part = self.byte(what)
            value |= (part & 0x7F) << shift
            if part < 0x80:
                if part == 0 and shift:
                    break
                if not least <= value <= largest:
                    raise StreamError(
                        f"the {what} at byte {start} of the {self.where} is {value}, not {least} to {largest}"
                    )
                return value
        raise StreamError(
            f"the {what} at byte {start} of the {self.where} is not a number in its shortest form: damaged"
        )

    def crc(self, what: str) -> int:
        """The next checksum."""
        return int.from_bytes(self.take(_CRC_BYTES, what), "little")

    def finish(self) -> None:
        """Raise StreamError unless all was read."""
        if self.position != self.end:
            raise StreamError(f"the {self.where} has {self.end - self.position} bytes too many: damaged")


def choice(kind: type[_E], value: int, what: str) -> _E:
    """The member of an enumeration.

    Raises:
        StreamError: there is none.
    """
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(int(k)) for k in kind)
        raise StreamError(f"unknown {what} {value} (known: {known}): install a newer oslic") from None


def read_info(data: bytes, limits: Limits) -> StreamInfo:
    """Read the header and the table of sections; decode nothing.

    Args:
        data: the file, or at least its first `HEADER_BYTES`.
        limits: checked before anything is allocated.

    Raises:
        StreamError: not an OSLIC stream, of another major version, truncated inside its header, or damaged.
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
    if major < MAJOR:
        raise StreamError(
            f"the stream has version {major}.{minor}, which was never released: compress the picture again"
        )
    if major > MAJOR:
        raise StreamError(
            f"the stream has version {major}.{minor}, this one reads {MAJOR}.x: install a newer oslic"
        )
    reader = FieldReader(data, len(MAGIC) + 1, len(data), "header")
    length = reader.varint("length", _MAX_BODY)
    body_end = reader.position + length
    if body_end + _CRC_BYTES > len(data):
        raise StreamError(
            f"the stream ends after {len(data)} bytes, inside its header of {body_end + _CRC_BYTES}: truncated"
        )
    if crc32c(data[:body_end]) != int.from_bytes(data[body_end : body_end + _CRC_BYTES], "little"):
        raise StreamError("the header's checksum does not match: the stream is damaged")
    reader.end = body_end
    header = _read_header(reader, limits)
    sections = _read_table(reader, header, body_end + _CRC_BYTES, limits)
    return StreamInfo(header, (major, minor), sections, body_end + _CRC_BYTES)


def _read_header(reader: FieldReader, limits: Limits) -> Header:
    width = reader.varint("width", _MAX_SIDE, 1)
    height = reader.varint("height", _MAX_SIDE, 1)
    limits.check_pixels(width, height)
    flags = reader.byte("layout")
    layout = choice(Layout, flags & _LAYOUT_BITS, "layout")
    if flags & ~(_LAYOUT_BITS | _TILED):
        raise StreamError(f"unknown flags 0x{flags:02x} beside the layout: install a newer oslic")
    kind = _read_kind(reader)
    identity = reader.take(IDENTITY_BYTES, "identity of the networks")
    grid = _read_grid(reader, width, height, limits) if flags & _TILED else single(width, height)
    parameters = reader.take(reader.varint("length of the parameters", _MAX_BODY), "parameters")
    return Header(layout, kind, identity, grid, parameters)


def _read_kind(reader: FieldReader) -> str:
    length = reader.varint("kind of codec", MAX_KIND_NAME)
    if not length:
        return OSLIC
    name = reader.take(length, "kind of codec")
    kind = name.decode("ascii", "replace")
    if not is_kind_name(kind) or kind == OSLIC:
        raise StreamError(f"the kind of codec {kind!r} is no name: the stream is damaged")
    return kind


def _read_grid(reader: FieldReader, width: int, height: int, limits: Limits) -> Grid:
    tile_width = UNIT * reader.varint("width of a tile", _MAX_SIDE // UNIT, 1)
    tile_height = UNIT * reader.varint("height of a tile", _MAX_SIDE // UNIT, 1)
    halo = UNIT * reader.varint("halo", _MAX_SIDE // UNIT)
    grid = Grid(width, height, tile_width, tile_height, halo)
    if halo > min(tile_width, tile_height):
        raise StreamError(f"the halo of {halo} pixels is larger than the tiles of {tile_width}x{tile_height}")
    if not grid.is_tiled:
        raise StreamError(
            f"tiles of {tile_width}x{tile_height} for a picture of {width}x{height}: damaged header"
        )
    if grid.count > limits.tiles:
        raise LimitError(f"the stream has {grid.columns}x{grid.rows} tiles, more than {limits.tiles}")
    return grid


def _read_table(reader: FieldReader, header: Header, offset: int, limits: Limits) -> tuple[Section, ...]:
    sections: list[Section] = []
    while reader.position < reader.end:
        if len(sections) == limits.sections:
            raise LimitError(f"the stream has more than {limits.sections} sections")
        kind = reader.byte("section type")
        if sections and kind <= sections[-1].type:
            raise StreamError(f"section 0x{kind:02x} stands behind 0x{sections[-1].type:02x}: must ascend")
        layout = layout_of(kind, header.kind)
        if layout is None:
            raise StreamError(f"unknown critical section 0x{kind:02x}: install a newer oslic")
        index, record = 0, b""
        if layout.tiled and header.grid.is_tiled:
            least = header.grid.count * (layout.record_bytes + 1 + _CRC_BYTES)
            index = reader.varint("length of an index", limits.stream_bytes, least)
        else:
            record = reader.take(layout.record_bytes, "record")
        length = reader.varint("section length", limits.stream_bytes, index)
        crc = reader.crc("section checksum")
        sections.append(Section(kind, offset, length, index, crc, record, header.kind))
        offset += length
    if offset > limits.stream_bytes:
        raise LimitError(f"the stream's sections have {offset} bytes, more than {limits.stream_bytes}")
    return tuple(sections)


def read_index(data: bytes, section: Section, layout: SectionLayout, tiles: int) -> tuple[Piece, ...]:
    """Read the index of a section.

    Args:
        data: the index, `section.index` bytes.
        section: its row of the table.
        layout: of the section.
        tiles: number of tiles.

    Raises:
        StreamError: damaged, or not what the table says.
    """
    if crc32c(data) != section.crc:
        raise StreamError(
            f"the index of the {section.name} section does not match its checksum: damaged stream"
        )
    reader = FieldReader(data, 0, len(data), f"index of the {section.name} section")
    pieces, offset = [], section.offset + section.index
    for _ in range(tiles):
        record = reader.take(layout.record_bytes, "record")
        length = reader.varint("length", section.end - offset)
        pieces.append(Piece(offset, length, reader.crc("checksum"), record))
        offset += length
    reader.finish()
    if offset != section.end:
        raise StreamError(
            f"the {section.name} section has {section.end - offset} bytes that belong to no tile: damaged stream"
        )
    return tuple(pieces)


class MissingError(StreamError):
    """A truncated file, which is taken, ends before what was asked for."""


@dataclass
class StreamReader:
    """Reads parts of a stream, each checked when it is read: indices once, payloads at every call.

    Args:
        read: gives up to so many bytes at an offset of the file.
        total: length of the file.
        limits: checked before anything is allocated.
        partial: whether a truncated file is taken: what is missing then raises MissingError when it is asked for.

    Raises:
        StreamError: as `read_info`; truncated, or trailing bytes; a section that the kind needs is missing.
        LimitError: a size beyond the limits.
    """

    read: Callable[[int, int], bytes]
    total: int
    limits: Limits
    partial: bool = False
    info: StreamInfo = field(init=False)
    _indices: dict[int, tuple[Piece, ...]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        if self.total > self.limits.stream_bytes:
            raise LimitError(f"the stream has {self.total} bytes, more than {self.limits.stream_bytes}")
        self.info = read_info(self.read(0, min(self.total, HEADER_BYTES)), self.limits)
        expected = self.info.total_bytes
        if self.total > expected or (self.total < expected and not self.partial):
            what = "truncated" if self.total < expected else "it has trailing bytes"
            where = next((s.name for s in self.info.sections if self.total < s.end), None)
            place = (
                f" inside its {where} section (`oslic decompress --partial` takes what is there)"
                if where
                else ""
            )
            raise StreamError(f"the stream has {self.total} bytes, its header says {expected}: {what}{place}")

    @classmethod
    def of_bytes(
        cls, data: bytes | bytearray | memoryview, limits: Limits, *, partial: bool = False
    ) -> StreamReader:
        """A reader of a stream in memory."""
        view = memoryview(data).cast("B")
        return cls(lambda offset, count: bytes(view[offset : offset + count]), len(view), limits, partial)

    @classmethod
    def of_file(cls, file: BinaryIO, limits: Limits, *, partial: bool = False) -> StreamReader:
        """A reader of an open file, of which only what is asked for is read."""
        total, lock = file.seek(0, io.SEEK_END), threading.Lock()

        def read(offset: int, count: int) -> bytes:
            with lock:
                file.seek(offset)
                return file.read(count)

        return cls(read, total, limits, partial)

    @property
    def header(self) -> Header:
        """Of the stream."""
        return self.info.header

    def has(self, kind: int) -> bool:
        """Whether there is a section of this type."""
        return self.info.section(kind) is not None

    def pieces(self, kind: int) -> tuple[Piece, ...]:
        """Where the payloads of a section stand, one for each tile or one in all.

        Raises:
            StreamError: there is no such section, or its index is damaged.
        """
        found = self._indices.get(kind)
        if found is None:
            section = self.info.section(kind)
            if section is None:
                name = section_name(kind, self.header.kind)
                raise StreamError(f"the stream has no section for {name}, which its header calls for")
            if section.index:
                layout = layout_of(kind, self.header.kind)
                assert layout is not None
                data = self._bytes(section.offset, section.index, f"index of the {section.name} section")
                found = read_index(data, section, layout, self.header.grid.count)
            else:
                found = (Piece(section.offset, section.length, section.crc, section.record),)
            self._indices[kind] = found
        return found

    def payload(self, kind: int, tile: int = 0) -> bytes:
        """Return a payload, its checksum verified.

        Raises:
            StreamError: there is no such section, or the checksum does not match.
        """
        piece, name = self.pieces(kind)[tile], section_name(kind, self.header.kind)
        data = self._bytes(piece.offset, piece.length, f"{name} section")
        if crc32c(data) != piece.crc:
            raise StreamError(
                f"the {name} section (bytes {piece.offset} to {piece.offset + piece.length - 1}) does not match its "
                "checksum: the stream is damaged"
            )
        return data

    def _bytes(self, offset: int, count: int, what: str) -> bytes:
        data = self.read(offset, count)
        if len(data) < count:
            kind = MissingError if self.partial else StreamError
            raise kind(f"the stream ends inside its {what}: truncated")
        return data

    def check_sections(self, needed: Iterable[int]) -> None:
        """Raise StreamError unless the critical sections are exactly the needed ones."""
        wanted = set(needed)
        there = {s.type for s in self.info.sections if not s.type & _ANCILLARY}
        for kind in sorted(wanted - there):
            name = section_name(kind, self.header.kind)
            raise StreamError(f"the stream has no section for {name}, which its header calls for")
        for kind in sorted(there - wanted):
            name = section_name(kind, self.header.kind)
            raise StreamError(f"the stream has a section for {name}, which its header does not call for")


def sections_of(payloads: Mapping[int, Sequence[Payload]]) -> dict[int, SectionWriter]:
    """Section writers that hold these payloads."""
    writers = {}
    for kind, each in payloads.items():
        writers[kind] = SectionWriter()
        for payload in each:
            writers[kind].add(payload)
    return writers
