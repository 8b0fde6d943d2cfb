"""Chunks of PNG files, without decoding any pixels, and PNG files of repeated and of uncompressed rows."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from .arrays import Pixels

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
# Signature and IHDR with its length, name and checksum.
_HEAD: Final = len(SIGNATURE) + 25
# Filters of a row, and types of color.
_PLAIN: Final = b"\0"
_UP: Final = b"\2"
_GRAY: Final = 0
_PALETTE: Final = 3
_BY_CHANNELS: Final = {1: _GRAY, 2: 4, 3: 2, 4: 6}
_PIECE_BYTES: Final = 1 << 22


def chunks_before_pixels(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of the chunks before the first IDAT whose checksums are right; none of other files."""
    position = len(SIGNATURE) if data.startswith(SIGNATURE) else len(data)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        name = data[position + 4 : position + 8]
        end = position + 8 + length
        if name == b"IDAT" or end + 4 > len(data):
            return
        if zlib.crc32(data[position + 4 : end]) == int.from_bytes(data[end : end + 4], "big"):
            yield name, data[position + 8 : end]
        position = end + 4


def add_chunks(data: bytes, chunks: Mapping[bytes, bytes]) -> bytes:
    """Return a PNG file with chunks put behind its header, where every kind of chunk may stand that colors need."""
    return with_chunks(data, _HEAD, chunks)


def with_chunks(data: bytes, start: int, chunks: Mapping[bytes, bytes]) -> bytes:
    """Return the beginning of a PNG file with chunks in place of those between its header and the byte `start`."""
    made = [_chunk(name, content) for name, content in chunks.items()]
    return b"".join([data[:_HEAD], *made, data[start:]])


def start_of_pixels(data: bytes) -> int | None:
    """Where the first IDAT chunk begins in the beginning of a PNG file; None: further on."""
    position = len(SIGNATURE)
    while position + 8 <= len(data):
        if data[position + 4 : position + 8] == b"IDAT":
            return position
        position += 12 + int.from_bytes(data[position : position + 4], "big")
    return None


def repeated_rows(
    width: int, bands: Iterable[tuple[bytes, int]], *, depth: int, palette: bytes | None = None
) -> bytes:
    """A PNG file made of rows that are repeated, without an array of the picture's size.

    Args:
        width: in pixels.
        bands: each the bytes of a row, and how often it is repeated; at least once.
        depth: bits a sample: 1, 2, 4 or 8; the rows are packed so, the first sample in the highest bits.
        palette: RGB, 3 bytes for each value of a sample; None: samples are gray.
    """
    packer, height, packed = zlib.compressobj(), 0, []
    for row, count in bands:
        # A row that repeats the one above it is its difference to it: zeros, which cost next to nothing.
        again = _UP + bytes(len(row))
        packed += [packer.compress(_PLAIN + row), packer.compress(again * (count - 1))]
        height += count
    packed.append(packer.flush())
    kind = _GRAY if palette is None else _PALETTE
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([depth, kind, 0, 0, 0])
    colors = [] if palette is None else [_chunk(b"PLTE", palette)]
    parts = [_chunk(b"IHDR", head), *colors, _chunk(b"IDAT", b"".join(packed)), _chunk(b"IEND", b"")]
    return SIGNATURE + b"".join(parts)


def uncompressed(strips: Iterable[Pixels], size: tuple[int, int], channels: int) -> Iterator[bytes]:
    """A PNG file with its samples as they are, some megabytes of it at a time.

    Args:
        strips: uint8 (h, W) or (h, W, C), from top to bottom.
        size: width and height of the picture in pixels.
        channels: C: 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA.
    """
    head = b"".join(side.to_bytes(4, "big") for side in size) + bytes([8, _BY_CHANNELS[channels], 0, 0, 0])
    yield SIGNATURE + _chunk(b"IHDR", head)
    packer, row_bytes = zlib.compressobj(0), size[0] * channels
    count = max(1, _PIECE_BYTES // row_bytes)
    for strip in strips:
        for top in range(0, len(strip), count):
            part = strip[top : top + count]
            rows = np.zeros((len(part), 1 + row_bytes), np.uint8)  # the first byte of a row says: no filter
            rows[:, 1:] = part.reshape(len(part), row_bytes)
            yield _chunk(b"IDAT", packer.compress(rows.data))
    yield _chunk(b"IDAT", packer.flush()) + _chunk(b"IEND", b"")


def _chunk(name: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
