"""A second reader of `.oslic` streams, written from docs/reference/stream.md alone: plain Python, nothing of oslic.

It walks every byte of a file of the kind `oslic`, checks what the document asks for as far as it can be checked without
decoding pictures, and tells what is there. `python tests/support/stream_reader.py FILE...` prints it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

MAGIC = bytes.fromhex("8F4F534C0D0A1A0A")
MAJOR = 2
LARGEST_BODY = 4096
LARGEST_SIDE = 1 << 31
LAYOUTS = {1: "gray", 2: "gray and alpha", 3: "RGB", 4: "RGBA"}
LABELS, COMPACT, RESIDUAL, ALPHA = 0x01, 0x02, 0x03, 0x04
ICC, EXIF, XMP, COLOR, RESOLUTION = 0x81, 0x82, 0x83, 0x84, 0x85
TILED = {COMPACT, RESIDUAL, ALPHA}
RECORD_BYTES = {RESIDUAL: 9}
COLOR_CHUNKS = {b"cICP": 4, b"sRGB": 1, b"gAMA": 4, b"cHRM": 32}


class Refused(ValueError):
    """The document does not allow this file."""


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Refused(what)


@dataclass
class Record:
    mode: int
    scale: int
    weight: int
    estimate: bytes
    residual: bytes
    plain: bool
    unrefined: bool


@dataclass
class Piece:
    """One payload: where it is in the file, and its record."""

    offset: int
    data: bytes
    record: Record | None = None


@dataclass
class Section:
    type: int
    offset: int
    length: int
    index: int
    pieces: list[Piece]


@dataclass
class Stream:
    width: int
    height: int
    layout: int
    tiled: bool
    kind: str
    identity: bytes
    tile: tuple[int, int]
    halo: int
    flags: int
    quality: float
    label_scale: int
    bound: int | None
    header: int
    sections: dict[int, Section] = field(default_factory=dict)
    unknown: dict[int, bytes] = field(default_factory=dict)
    walked: int = 0

    def boxes(self) -> list[tuple[int, int, int, int]]:
        """Left, top, right and bottom of each tile, row by row."""
        across, down = self.tile
        return [
            (left, top, min(self.width, left + across), min(self.height, top + down))
            for top in range(0, self.height, down)
            for left in range(0, self.width, across)
        ]


def _table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _table()


def crc(data: bytes) -> bytes:
    """CRC-32C, little-endian."""
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC[(value ^ byte) & 0xFF]
    return (value ^ 0xFFFFFFFF).to_bytes(4, "little")


class Cursor:
    """Takes bytes one after the other, up to an end."""

    def __init__(self, data: bytes, at: int, end: int, where: str) -> None:
        require(end <= len(data), f"{where} ends behind the file")
        self.data, self.at, self.end, self.where = data, at, end, where

    def take(self, count: int) -> bytes:
        require(self.at + count <= self.end, f"{self.where} is cut off")
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                require(byte != 0 or shift == 7, f"{self.where}: a number is not in its shortest form")
                require(value < 1 << 63, f"{self.where}: a number is above 2^63 - 1")
                return value

    def finish(self) -> None:
        require(self.at == self.end, f"{self.where} is longer than its content")


def read(data: bytes) -> Stream:
    """Walk a whole file."""
    start = Cursor(data, 0, len(data), "the file")
    require(start.take(8) == MAGIC, "no magic")
    require(start.byte() >> 4 == MAJOR, "another version")
    length = start.varint()
    require(length <= LARGEST_BODY, "the header's body is too long")
    body = Cursor(data, start.at, start.at + length, "the header")
    require(Cursor(data, body.end, len(data), "the file").take(4) == crc(data[: body.end]), "header CRC")
    stream = _header(body)
    at = stream.walked = stream.header = body.end + 4
    last = 0
    while body.at < body.end:
        kind = body.byte()
        require(kind > last, "sections out of order")
        last = kind
        known = kind in {LABELS, COMPACT, RESIDUAL, ALPHA, ICC, EXIF, XMP, COLOR, RESOLUTION}
        require(known or kind >= 0x80, f"unknown section {kind:#x}")
        indexed = kind in TILED and stream.tiled
        index = body.varint() if indexed else 0
        record = body.take(RECORD_BYTES[kind]) if kind in RECORD_BYTES and not indexed else b""
        length, checksum = body.varint(), body.take(4)
        require(at + length <= len(data), f"section {kind:#x} ends behind the file")
        section = Section(kind, at, length, index, [])
        if indexed:
            _pieces(data, stream, section, checksum)
        else:
            content = data[at : at + length]
            require(crc(content) == checksum, f"CRC of section {kind:#x}")
            section.pieces.append(Piece(at, content, _record(record) if record else None))
            stream.walked += length
        if known:
            stream.sections[kind] = section
        else:
            stream.unknown[kind] = section.pieces[0].data
        at += length
    require(at == len(data), "bytes behind the last section")
    _contents(stream)
    return stream


def _header(body: Cursor) -> Stream:
    width, height = body.varint(), body.varint()
    require(1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE, "impossible sides")
    bits = body.byte()
    layout, tiled = bits & 7, bool(bits & 8)
    require(layout in LAYOUTS and bits < 16, "unknown layout")
    name = body.byte()
    require(name <= 32, "the name of the kind is too long")
    kind = body.take(name)
    require(name == 0, f"kind {kind!r}: this page says nothing of it")
    identity = body.take(8)
    tile, halo = (width, height), 0
    if tiled:
        tile = body.varint() * 32, body.varint() * 32
        halo = body.varint() * 32
        require(min(tile) > 0, "a tile without pixels")
        require(width > tile[0] or height > tile[1], "one tile, and still tiled")
        require(halo <= min(tile), "the halo is larger than a tile")
    length = body.varint()
    parameters = Cursor(body.data, body.at, body.at + length, "the parameters")
    body.take(length)
    flags, quality, scale = parameters.byte(), parameters.varint(), parameters.varint()
    require(flags & ~0b11111 == 0, "flags that this version does not know")
    require(quality <= 400, "quality above 100")
    bound = None
    if flags & 4:
        require(flags & 0b1011 == 0, "lossless, and refined, tuned or with gains")
        bound = parameters.varint()
        require(bound <= 16, "an error above 16")
    gains = []
    if flags & 8:
        gains = [(parameters.byte(), parameters.byte()) for _ in range(parameters.varint())]
        require(sorted({k for k, _ in gains}) == [k for k, _ in gains] != [], "gains out of order, or none")
        require(all(gain for _, gain in gains), "a gain of 0")
    require(1 <= scale <= 65535, "impossible label scale")
    require(bool(flags & 1) or identity[5:] == bytes(3), "a refinement network, and not refined")
    parameters.finish()
    return Stream(
        width, height, layout, tiled, "oslic", identity, tile, halo, flags, quality / 4, scale, bound, 0
    )  # fmt: skip


def _pieces(data: bytes, stream: Stream, section: Section, checksum: bytes) -> None:
    """The index of a tiled section, and the payloads behind it."""
    name, at = f"section {section.type:#x}", section.offset
    require(section.index <= section.length, f"the index of {name} is longer than the section")
    content = Cursor(data, at, at + section.index, f"the index of {name}")
    require(crc(data[at : content.end]) == checksum, f"CRC of the index of {name}")
    columns, rows = -(-stream.width // stream.tile[0]), -(-stream.height // stream.tile[1])
    size = RECORD_BYTES.get(section.type, 0)
    require(columns * rows * (size + 5) <= section.index, f"the index of {name} is cut off")
    at = content.end
    stream.walked += section.index
    for tile in range(columns * rows):
        record = _record(content.take(size)) if size else None
        length, wanted = content.varint(), content.take(4)
        require(at + length <= section.offset + section.length, f"tile {tile} of {name} ends behind it")
        payload = data[at : at + length]
        require(crc(payload) == wanted, f"CRC of tile {tile} of {name}")
        section.pieces.append(Piece(at, payload, record))
        stream.walked += length
        at += length
    content.finish()
    require(at == section.offset + section.length, f"{name} is longer than its payloads")


def _record(data: bytes) -> Record:
    bits = data[0]
    mode, weight = bits & 3, bits >> 4
    plain = bool(bits & 8)
    require(not plain or (weight <= 1 and mode > 0 and data[1:5] == bytes(4)), "no layers, and an estimate")
    unrefined, weight = plain and weight == 1, 0 if plain else weight
    require(weight <= 8, f"weight {weight}")
    require(mode < 2 or not (unrefined or bits & 4), "a scale of FLIF, or no refinement of it")
    require(mode != 3 or weight == 0, "a weight of a picture")
    require(mode != 0 or data[5:] == bytes(4), "a digest of no residual")
    return Record(mode, 2 if bits & 4 else 1, weight, data[1:5], data[5:], plain, unrefined)


def _contents(stream: Stream) -> None:
    """What must be there, and the sizes of what is there."""
    require({LABELS, COMPACT, RESIDUAL} <= stream.sections.keys(), "a section is missing")
    require((ALPHA in stream.sections) == (stream.layout in {2, 4}), "the alpha section belongs to alpha")
    scale, (labels,) = stream.label_scale, stream.sections[LABELS].pieces
    _flif(labels.data, -(-stream.width // scale), -(-stream.height // scale), (1,))
    for number, (left, top, right, bottom) in enumerate(stream.boxes()):
        width, height = right - left, bottom - top
        compact = stream.sections[COMPACT].pieces[number].data
        _flif(compact, -(-width // 8), -(-height // 8), (1, 3))
        if ALPHA in stream.sections:
            _flif(stream.sections[ALPHA].pieces[number].data, width, height, (1,))
        residual = stream.sections[RESIDUAL].pieces[number]
        assert residual.record is not None
        mode = residual.record.mode
        require((mode == 0) == (residual.data == b""), "a payload of mode 0, or none of another")
        require(
            (mode >= 2) == (stream.bound is not None),
            "FLIF in a lossy stream, or another mode in a lossless one",
        )
        if mode >= 2:
            _flif(residual.data, width, height, (1,) if stream.layout in {1, 2} else (1, 3))
    _metadata({kind: part.pieces[0].data for kind, part in stream.sections.items() if kind >= 0x80})


def _flif(data: bytes, width: int, height: int, planes: tuple[int, ...]) -> None:
    """The head of a FLIF file of one frame with 8 bits; its sizes stand in groups of 7 bits, the highest first."""
    require(data[:4] == b"FLIF" and len(data) > 6, "no FLIF file")
    require(data[4] >> 4 in {3, 4} and data[4] & 15 in planes, "a FLIF file of other planes")
    require(data[5:6] == b"1", "a FLIF file of other samples")
    sizes, at = [], 6
    for _ in range(2):
        value = 0
        while True:
            require(at < len(data), "a FLIF file is cut off")
            value, at = value << 7 | data[at] & 0x7F, at + 1
            if data[at - 1] < 0x80:
                break
        sizes.append(value + 1)
    require(sizes == [width, height], f"a FLIF file of {sizes} where {[width, height]} belong")


def _metadata(found: dict[int, bytes]) -> None:
    require(found.get(EXIF, b"Exif\0\0").startswith(b"Exif\0\0"), "EXIF without its prefix")
    try:
        found.get(XMP, b"").decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused("XMP is not UTF-8") from error
    if COLOR in found:
        content, names = found[COLOR], list(COLOR_CHUNKS)
        require(content != b"", "no chunk of color")
        while content:
            name = content[:4]
            require(name in names, "a chunk of color is unknown, or out of order")
            names = names[names.index(name) + 1 :]
            require(len(content) >= 4 + COLOR_CHUNKS[name], "a chunk of color is cut off")
            content = content[4 + COLOR_CHUNKS[name] :]
    if RESOLUTION in found:
        content = found[RESOLUTION]
        require(len(content) == 9 and content[0] <= 3, "a resolution of another form")
        for at in (1, 5):
            require(1 <= int.from_bytes(content[at : at + 4], "little") < 1 << 31, "impossible resolution")


if __name__ == "__main__":
    for path in sys.argv[1:]:
        print(path, read(Path(path).read_bytes()))
