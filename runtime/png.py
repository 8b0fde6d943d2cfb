"""Chunks of PNG files, without decoding any pixels."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from typing import Final

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
# Signature and IHDR with its length, name and checksum.
_HEAD: Final = len(SIGNATURE) + 25


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
    """Return a PNG file with chunks put behind its header, where every kind of chunk may stand that colours need."""
    made = [
        len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")
        for name, content in chunks.items()
    ]
    return b"".join([data[:_HEAD], *made, data[_HEAD:]])
