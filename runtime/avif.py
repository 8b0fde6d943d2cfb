"""AV1 still pictures with and without their AVIF container.

An AVIF file of one picture spends some 275 bytes on boxes that follow from the picture's size and kind. The
stream keeps only the AV1 data; `wrap` builds a container around it again. Boxes: ISO/IEC 14496-12 and 23008-12;
`av1C`: AV1 Codec ISO Media File Format Binding, section 2.3; OBUs: AV1 Bitstream Specification, section 5.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from .errors import StreamError

_TEMPORAL_DELIMITER: Final = 2
_SEQUENCE_HEADER: Final = 1
# Colour primaries BT.709, transfer sRGB, matrix BT.601, full range (ITU-T H.273): what Pillow writes.
_NCLX: Final = struct.pack(">4sHHHB", b"nclx", 1, 13, 6, 0x80)


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of the content of each box in `data[start:end]`."""
    while start < end:
        if end - start < 8:
            raise StreamError(f"AVIF: a box at byte {start} is cut off")
        size, kind = struct.unpack_from(">I4s", data, start)
        header = 8
        if size == 1:
            if end - start < 16:
                raise StreamError(f"AVIF: a box at byte {start} is cut off")
            size, header = struct.unpack_from(">Q", data, start + 8)[0], 16
        elif size == 0:
            size = end - start
        if size < header or size > end - start:
            raise StreamError(f"AVIF: the box {kind!r} at byte {start} has an impossible length {size}")
        yield kind, start + header, start + size
        start += size


def _obus(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Yield type, start, start of the content and end of each open bitstream unit."""
    position = 0
    while position < len(data):
        start, head = position, data[position]
        position += 2 if head & 4 else 1
        if not head & 2:
            yield (head >> 3) & 15, start, position, len(data)
            return
        size = 0
        for shift in range(0, 56, 7):
            if position >= len(data):
                raise StreamError(f"AV1: the unit at byte {start} is cut off")
            part = data[position]
            position += 1
            size |= (part & 0x7F) << shift
            if part < 0x80:
                break
        if size > len(data) - position:
            raise StreamError(
                f"AV1: the unit at byte {start} has {size} bytes, {len(data) - position} are left"
            )
        yield (head >> 3) & 15, start, position, position + size
        position += size


def unwrap(avif: bytes) -> bytes:
    """Return the AV1 data of an AVIF file with one picture, temporal delimiters left out.

    Args:
        avif: a file as Pillow writes it for one image without alpha: one coded item in one extent.

    Raises:
        StreamError: a file of another structure.
    """
    content = [(a, b) for kind, a, b in _boxes(avif, 0, len(avif)) if kind == b"mdat"]
    if len(content) != 1:
        raise StreamError(f"AVIF: expected one mdat box, found {len(content)}")
    data = avif[content[0][0] : content[0][1]]
    kept = [data[start:end] for kind, start, _, end in _obus(data) if kind != _TEMPORAL_DELIMITER]
    return b"".join(kept)


def _configuration(av1: bytes, width: int, height: int, monochrome: bool) -> bytes:
    """Return the content of the `av1C` box; check that every sequence header gives the picture's size.

    A decoder would take memory for the size in the last sequence header, and scale: both are refused here.
    """
    headers = [av1[start:end] for kind, _, start, end in _obus(av1) if kind == _SEQUENCE_HEADER]
    if not headers:
        raise StreamError("AV1: no sequence header: the residual is damaged")
    read = [_profile_and_level(header, width, height) for header in headers]
    profile, level = read[0]
    # Monochrome counts as subsampled in both directions.
    return bytes([0x81, profile << 5 | level, 0b00011100 if monochrome else 0, 0])


def _profile_and_level(header: bytes, width: int, height: int) -> tuple[int, int]:
    """Read a sequence header, and check that it is a still picture's of the given size."""
    if len(header) < 3:
        raise StreamError("AV1: a sequence header is cut off: the residual is damaged")
    bits = int.from_bytes(header[:8].ljust(8, b"\0"), "big")
    position = 64

    def read(count: int) -> int:
        nonlocal position
        position -= count
        return bits >> position & ((1 << count) - 1)

    profile, _still, reduced, level = read(3), read(1), read(1), read(5)
    if not reduced:
        raise StreamError("AV1: not a reduced still picture header: the residual is damaged")
    width_bits, height_bits = read(4) + 1, read(4) + 1
    size = (read(width_bits) + 1, read(height_bits) + 1)
    if size != (width, height):
        raise StreamError(f"the residual is {size[0]}x{size[1]}, the image {width}x{height}: damaged stream")
    return profile, level


def _box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def _full_box(kind: bytes, version: int, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags), *parts)


def wrap(av1: bytes, width: int, height: int, *, monochrome: bool) -> bytes:
    """Build the AVIF container around AV1 data.

    Args:
        av1: as `unwrap` returns it.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        monochrome: one plane in place of three planes 4:4:4.

    Raises:
        StreamError: the AV1 data has no usable sequence header, or is of another size.
    """
    planes = 1 if monochrome else 3
    properties = _box(
        b"ipco",
        _full_box(b"ispe", 0, 0, struct.pack(">II", width, height)),
        _full_box(b"pixi", 0, 0, bytes([planes, *[8] * planes])),
        _box(b"av1C", _configuration(av1, width, height, monochrome)),
        _box(b"colr", _NCLX),
    )
    # One item, four properties, the third (av1C) essential.
    association = _full_box(b"ipma", 0, 0, struct.pack(">IHB4B", 1, 1, 4, 1, 2, 0x83, 4))
    entry = _full_box(b"infe", 2, 0, struct.pack(">HH4sB", 1, 0, b"av01", 0))
    before = [
        _full_box(b"hdlr", 0, 0, struct.pack(">I4s12xB", 0, b"pict", 0)),
        _full_box(b"pitm", 0, 0, struct.pack(">H", 1)),
    ]
    after = [
        _full_box(b"iinf", 0, 0, struct.pack(">H", 1), entry),
        _box(b"iprp", properties, association),
    ]
    file_type = _box(b"ftyp", b"avif", struct.pack(">I", 0), b"avifmif1miafMA1A")

    def location(offset: int) -> bytes:
        return _full_box(b"iloc", 0, 0, struct.pack(">BBHHHHII", 0x44, 0, 1, 1, 0, 1, offset, len(av1)))

    meta_size = len(_full_box(b"meta", 0, 0, *before, location(0), *after))
    meta = _full_box(b"meta", 0, 0, *before, location(len(file_type) + meta_size + 8), *after)
    return file_type + meta + _box(b"mdat", av1)
