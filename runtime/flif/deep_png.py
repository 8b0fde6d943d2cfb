"""PNG files of 16 bits a sample, which Pillow would cut to 8 bits where they have colour."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Final

import numpy as np

from ..errors import ImageError, LimitError

if TYPE_CHECKING:
    import numpy.typing as npt

_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_CHANNELS: Final = {0: 1, 2: 3, 4: 2, 6: 4}
_COLOR_TYPES: Final = {1: 0, 3: 2, 4: 6}


def is_deep_png(data: bytes) -> bool:
    """Whether this is a PNG of 16 bits a sample."""
    return data[:8] == _SIGNATURE and data[12:16] == b"IHDR" and data[24:25] == b"\x10"


def deep_png_size(data: bytes) -> tuple[int, int]:
    """Width and height that a PNG's header names; the header of `is_deep_png` is there."""
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def _chunks(data: bytes, name: str) -> list[tuple[bytes, bytes]]:
    found, position = [], len(_SIGNATURE)
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        kind, content = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        checksum = data[position + 8 + length : position + 12 + length]
        if len(checksum) != 4 or zlib.crc32(kind + content) != int.from_bytes(checksum, "big"):
            raise ImageError(
                f"{name} is a damaged PNG: chunk at byte {position} is cut or has a wrong checksum"
            )
        found.append((kind, content))
        position += 12 + length
        if kind == b"IEND":
            return found
    raise ImageError(f"{name} is a truncated PNG: the end chunk is missing")


def _paeth(left: int, up: int, corner: int) -> int:
    estimate = left + up - corner
    distances = abs(estimate - left), abs(estimate - up), abs(estimate - corner)
    return (left, up, corner)[distances.index(min(distances))]


def _unfilter(kind: int, row: npt.NDArray[np.uint8], above: npt.NDArray[np.uint8], step: int) -> None:
    """Undo the filter of one row in place; `step` is the number of bytes of a pixel (PNG, section 9)."""
    if kind == 1:
        row[:] = np.add.accumulate(row.reshape(-1, step), axis=0, dtype=np.uint8).reshape(-1)
    elif kind == 2:
        row += above
    else:
        out, up = bytearray(row.tobytes()), above.tobytes()
        for i in range(len(out)):
            left, corner = (out[i - step], up[i - step]) if i >= step else (0, 0)
            guess = (left + up[i]) >> 1 if kind == 3 else _paeth(left, up[i], corner)
            out[i] = (out[i] + guess) & 255
        row[:] = np.frombuffer(out, np.uint8)


def decode_deep_png(data: bytes, max_pixels: int, name: str = "the input") -> npt.NDArray[np.uint16]:
    """Decode a 16-bit PNG to (H, W), (H, W, 3) or (H, W, 4), uint16; gray with alpha becomes RGBA.

    Raises:
        ImageError: a damaged file, or one with Adam7 interlacing or a transparent colour.
        LimitError: more pixels than `max_pixels`.
    """
    chunks = _chunks(data, name)
    if len(chunks[0][1]) != 13:
        raise ImageError(f"{name} is a damaged PNG: its header has {len(chunks[0][1])} bytes in place of 13")
    width, height, _, color, _, _, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    if not width or not height:
        raise ImageError(f"{name} is a damaged PNG: its size is {width}x{height}")
    if interlace or any(kind == b"tRNS" for kind, _ in chunks):
        raise ImageError(f"{name} is a 16-bit PNG with interlacing or a transparent colour: convert it first")
    if color not in _CHANNELS:
        raise ImageError(f"{name} is a damaged PNG: colour type {color} has no 16-bit samples")
    if width * height > max_pixels:
        raise LimitError(f"{name} is {width}x{height} pixels, more than the limit of {max_pixels}")
    channels = _CHANNELS[color]
    step = 2 * channels
    size = height * (1 + width * step)
    inflater = zlib.decompressobj()
    try:
        raw = inflater.decompress(b"".join(content for kind, content in chunks if kind == b"IDAT"), size)
    except zlib.error as error:
        raise ImageError(f"{name} is a damaged PNG: {error}") from None
    if len(raw) != size:
        raise ImageError(f"{name} is a damaged PNG: {len(raw)} bytes of pixels in place of {size}")
    rows = np.frombuffer(bytearray(raw), np.uint8).reshape(height, 1 + width * step)
    above = np.zeros(width * step, np.uint8)
    for row in rows:
        if row[0] > 4:
            raise ImageError(f"{name} is a damaged PNG: there is no filter {row[0]}")
        if row[0]:
            _unfilter(int(row[0]), row[1:], above, step)
        above = row[1:]
    pixels = np.ascontiguousarray(rows[:, 1:]).view(">u2").astype(np.uint16).reshape(height, width, channels)
    if channels == 2:
        return pixels[:, :, [0, 0, 0, 1]]
    return pixels[:, :, 0] if channels == 1 else pixels


def encode_deep_png(pixels: npt.NDArray[np.uint16]) -> bytes:
    """Encode (H, W), (H, W, 3) or (H, W, 4), uint16, as a 16-bit PNG."""
    height, width = pixels.shape[:2]
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    samples = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    rows = np.zeros((height, 1 + samples.shape[1]), np.uint8)
    rows[:, 0] = 2  # the filter "up"
    rows[:, 1:] = samples
    rows[1:, 1:] -= samples[:-1]

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", width, height, 16, _COLOR_TYPES[channels], 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 6)
    return _SIGNATURE + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
