"""AV1 still pictures with and without their AVIF container.

An AVIF file of one picture spends some 275 bytes on boxes that follow from the picture's size and kind. The
stream keeps only the AV1 data; `wrap` builds a container around it again. Boxes: ISO/IEC 14496-12 and 23008-12;
`av1C`: AV1 Codec ISO Media File Format Binding, section 2.3; OBUs: AV1 Bitstream Specification, section 5.3.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from ..errors import StreamError

_TEMPORAL_DELIMITER: Final = 2
_SEQUENCE_HEADER: Final = 1
_FRAME_HEADER: Final = 3
_TILE_GROUP: Final = 4
_FRAME: Final = 6
_FRAMES: Final = frozenset({_FRAME_HEADER, _FRAME})
# Matrix coefficients (ITU-T H.273): 5 and 6 are the same.
_UNSPECIFIED: Final = 2
_BT601: Final = frozenset({_UNSPECIFIED, 5, 6})
# Color primaries BT.709, transfer sRGB, matrix BT.601, full range (ITU-T H.273): what Pillow writes.
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


class _Bits:
    """Reads bits of a sequence header, most significant first."""

    def __init__(self, data: bytes) -> None:
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def read(self, count: int) -> int:
        self._left -= count
        if self._left < 0:
            raise StreamError("AV1: a sequence header is cut off: the residual is damaged")
        return self._value >> self._left & ((1 << count) - 1)


def _configuration(av1: bytes, width: int, height: int, monochrome: bool) -> bytes:
    """Return the content of the `av1C` box; check that the data are one picture as docs/reference/stream.md has it.

    A decoder would take memory for the size in the last sequence header, scale, convert, and add noise: all of that is
    refused here.
    """
    units = [(kind, start, end) for kind, _, start, end in _obus(av1)]
    unknown = sorted({kind for kind, _, _ in units} - {_SEQUENCE_HEADER, _TILE_GROUP, *_FRAMES})
    if unknown:
        raise StreamError(f"AV1: a unit of type {unknown[0]} in a residual: no part of one picture")
    headers = [av1[start:end] for kind, start, end in units if kind == _SEQUENCE_HEADER]
    if not headers:
        raise StreamError("AV1: no sequence header: the residual is damaged")
    read = [_profile_and_level(header, width, height, monochrome) for header in headers]
    frames = sum(kind in _FRAMES for kind, _, _ in units)
    if frames != 1:
        raise StreamError(f"AV1: the residual has {frames} frames, must have 1")
    profile, level = read[0]
    # Monochrome counts as subsampled in both directions.
    return bytes([0x81, profile << 5 | level, 0b00011100 if monochrome else 0, 0])


def _profile_and_level(header: bytes, width: int, height: int, monochrome: bool) -> tuple[int, int]:
    """Read a sequence header (AV1 Bitstream Specification, section 5.5), and check what it says of the picture.

    Raises:
        StreamError: not a reduced still picture header, another size, or another kind of picture than 8 bit, full
            range, 4:4:4 (or one plane, if `monochrome`), BT.601, without film grain.
    """
    bits = _Bits(header)
    profile, _still, reduced, level = bits.read(3), bits.read(1), bits.read(1), bits.read(5)
    if not reduced:
        raise StreamError("AV1: not a reduced still picture header: the residual is damaged")
    width_bits, height_bits = bits.read(4) + 1, bits.read(4) + 1
    size = (bits.read(width_bits) + 1, bits.read(height_bits) + 1)
    if size != (width, height):
        raise StreamError(f"the residual is {size[0]}x{size[1]}, the image {width}x{height}: damaged stream")
    bits.read(3)  # superblocks of 128x128, filter intra, intra edge filter: tools of the coder
    superres = bits.read(1)
    bits.read(2)  # CDEF, restoration
    high_depth = bits.read(1)
    if high_depth and profile == 2:
        bits.read(1)  # whether 12 bit or 10
    one_plane = profile != 1 and bits.read(1) == 1
    if high_depth or profile not in {0, 1} or one_plane != monochrome or (profile == 0) != monochrome:
        raise StreamError(
            f"AV1: the residual has profile {profile}{', one plane' if one_plane else ''}"
            f"{', more than 8 bit' if high_depth else ''}; it must be 8 bit, "
            f"{'one plane' if monochrome else 'YCbCr 4:4:4'}"
        )
    matrix = _UNSPECIFIED
    if bits.read(1):
        _primaries, _transfer, matrix = bits.read(8), bits.read(8), bits.read(8)
    if matrix not in _BT601:
        raise StreamError(f"AV1: the residual has matrix coefficients {matrix}, must be BT.601")
    if not bits.read(1):
        raise StreamError("AV1: the residual has limited range, must have full range")
    if not monochrome:
        bits.read(1)  # whether U and V have quantizers of their own
    if superres or bits.read(1):
        raise StreamError("AV1: the residual has super-resolution or film grain, which streams do not have")
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
        StreamError: the AV1 data are not one picture of this size as docs/reference/stream.md has it.
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
