"""FLIF16: a native codec for still images of the Free Lossless Image Format.

    data = flif.encode(pixels)          # uint8 or uint16; (H, W), (H, W, 3) or (H, W, 4)
    pixels = flif.decode(data)          # exactly what was encoded

The work is done by the compiled module `_flif`, without the GIL; see README.md beside this file. Needs numpy only.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import FormatError, LimitError
from . import _flif

if TYPE_CHECKING:
    import numpy.typing as npt

    Buffer = bytes | bytearray | memoryview[int] | npt.NDArray[np.uint8]

    Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

__all__ = [
    "DEFAULT_EFFORT",
    "DEFAULT_MAX_METADATA",
    "DEFAULT_MAX_PIXELS",
    "Chunk",
    "FlifError",
    "FlifLimitError",
    "Header",
    "decode",
    "encode",
    "read_header",
    "read_metadata",
]

DEFAULT_MAX_PIXELS: Final = 1 << 26
"""Width times height that is accepted unless the caller says otherwise."""

DEFAULT_MAX_METADATA: Final = 1 << 24
"""Bytes of inflated metadata, all chunks together, that are accepted unless the caller says otherwise."""

DEFAULT_EFFORT: Final = 60


class FlifError(FormatError):
    """A file that is damaged, truncated or unsupported, or pixels that FLIF cannot hold."""


class FlifLimitError(FlifError, LimitError):
    """A size beyond the limits in force."""

    exit_code = LimitError.exit_code


@dataclass(frozen=True)
class Chunk:
    """A metadata chunk as it lies in the file.

    Attributes:
        name: four ASCII characters: `iCCP`, `eXif`, `eXmp`, or an unknown name in lower case.
        offset: where its content starts in the file.
        size: length of the content in bytes; a raw DEFLATE stream.
    """

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Header:
    """What a file says about itself in front of the pixels.

    Attributes:
        width: columns.
        height: rows.
        channels: 1 (gray), 3 (RGB) or 4 (RGBA).
        bit_depth: bits per sample, 1..16.
        interlaced: scan mode.
        alpha_zero: color under alpha 0 is not stored, and comes back as 0.
        custom_chances: (cutoff, divisor) of the chance tables; None for the default ones.
        transforms: names, in the order of application.
        chunks: metadata.
    """

    width: int
    height: int
    channels: int
    bit_depth: int
    interlaced: bool
    alpha_zero: bool
    custom_chances: tuple[int, int] | None
    transforms: tuple[str, ...]
    chunks: tuple[Chunk, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the decoded array."""
        return (self.height, self.width) if self.channels == 1 else (self.height, self.width, self.channels)

    @property
    def dtype(self) -> type[np.uint8 | np.uint16]:
        """Type of the decoded array: uint8 up to 8 bits per sample, else uint16."""
        return np.uint8 if self.bit_depth <= 8 else np.uint16


def _bytes(data: Buffer) -> npt.NDArray[np.uint8]:
    try:
        return np.frombuffer(data, dtype=np.uint8)
    except (TypeError, ValueError, BufferError) as error:
        raise FlifError(
            f"a FLIF file must be given as contiguous bytes, not as {type(data).__name__}"
        ) from error


def _limit(max_pixels: int) -> int:
    """The limit as 64 bits hold it; no picture is larger."""
    return min(max(max_pixels, 0), 2**64 - 1)


def decode(data: Buffer, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Samples:
    """Decode a still FLIF16 file.

    Args:
        data: the whole file.
        max_pixels: refuse pictures with more pixels, before any memory is taken.

    Returns:
        uint8 (up to 8 bits per sample) or uint16; (H, W), (H, W, 3) or (H, W, 4). Samples are not scaled. Where
        the file does not store the color under alpha 0, it is 0.

    Raises:
        FlifError: the file is damaged, truncated, or of an unsupported kind (animations).
        FlifLimitError: the picture, or a table within the file, is larger than the limits.
    """
    try:
        return _flif.decode(_bytes(data), max_pixels=_limit(max_pixels))
    except _flif.LimitError as error:
        raise FlifLimitError(f"FLIF: {error}") from None
    except _flif.Error as error:
        raise FlifError(f"FLIF: {error}") from None


def encode(
    pixels: npt.NDArray[Any],
    *,
    effort: int = DEFAULT_EFFORT,
    interlaced: bool = False,
    crc: bool = True,
    keep_invisible: bool = True,
    metadata: Mapping[str, bytes] | None = None,
) -> bytes:
    """Encode an array losslessly as a FLIF16 file.

    Args:
        pixels: uint8 or uint16; (H, W) gray, (H, W, 3) RGB or (H, W, 4) RGBA; H and W at least 1.
        effort: 0 (fastest) to 100 (smallest).
        interlaced: store the picture from coarse to fine, so that a prefix of the file shows all of it.
        crc: store a checksum of the pixels (4 bytes).
        keep_invisible: store the color under alpha 0; without it that color comes back as 0.
        metadata: content by chunk name: `iCCP`, `eXif`, `eXmp`.

    Returns:
        The file.

    Raises:
        FlifError: an array that FLIF cannot hold, or arguments out of range.
    """
    if not isinstance(pixels, np.ndarray) or pixels.dtype not in (np.uint8, np.uint16):
        kind = pixels.dtype if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise FlifError(f"FLIF stores arrays of uint8 or uint16, not {kind}")
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise FlifError(f"FLIF stores shapes (H, W), (H, W, 3) and (H, W, 4), not {pixels.shape}")
    if pixels.size == 0:
        raise FlifError(f"FLIF cannot store an image without pixels: shape {pixels.shape}")
    if not 0 <= effort <= 100:
        raise FlifError(f"effort must be 0..100, not {effort}")
    try:
        return _flif.encode(
            np.ascontiguousarray(pixels),
            effort=effort,
            interlaced=interlaced,
            crc=crc,
            keep_invisible=keep_invisible,
            chunks=[(name, _deflate(name, content)) for name, content in (metadata or {}).items()],
        )
    except _flif.Error as error:
        raise FlifError(f"FLIF: {error}") from None


def _deflate(name: str, content: bytes) -> bytes:
    if len(name) != 4 or not name.isascii() or not name.isalpha() or not name[0].islower():
        raise FlifError(
            f"a metadata chunk is named by four ASCII letters, the first in lower case, not {name!r}"
        )
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush()


def read_header(data: Buffer, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Header:
    """Read what stands in front of the pixels, without decoding any.

    Args:
        data: the file, or a prefix of it that reaches beyond the transforms.
        max_pixels: as for `decode`.

    Raises:
        FlifError: as for `decode`.
    """
    try:
        found = _flif.read_header(_bytes(data), max_pixels=_limit(max_pixels))
    except _flif.LimitError as error:
        raise FlifLimitError(f"FLIF: {error}") from None
    except _flif.Error as error:
        raise FlifError(f"FLIF: {error}") from None
    return Header(
        width=found["width"],
        height=found["height"],
        channels=found["channels"],
        bit_depth=found["maximum"].bit_length(),
        interlaced=found["interlaced"],
        alpha_zero=found["alpha_zero"],
        custom_chances=(found["cutoff"], found["divisor"]) if found["cutoff"] else None,
        transforms=tuple(found["transforms"]),
        chunks=tuple(Chunk(*chunk) for chunk in found["chunks"]),
    )


def read_metadata(
    data: Buffer, *, max_bytes: int = DEFAULT_MAX_METADATA, max_pixels: int = DEFAULT_MAX_PIXELS
) -> dict[str, bytes]:
    """Inflate the metadata chunks.

    Args:
        data: the file.
        max_bytes: refuse more inflated bytes than this, all chunks together.
        max_pixels: as for `decode`.

    Returns:
        Content by chunk name; of several chunks with one name the last.

    Raises:
        FlifError: the file or a chunk is damaged.
        FlifLimitError: the chunks inflate to more than `max_bytes`.
    """
    whole = _bytes(data)
    found: dict[str, bytes] = {}
    left = max_bytes
    for chunk in read_header(data, max_pixels=max_pixels).chunks:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = inflater.decompress(whole[chunk.offset : chunk.offset + chunk.size].tobytes(), left + 1)
        except zlib.error as error:
            raise FlifError(f"FLIF: corrupt: metadata chunk {chunk.name} does not inflate: {error}") from None
        left -= len(content)
        if left < 0:
            raise FlifLimitError(f"FLIF: the metadata inflates to more than {max_bytes} bytes (max_bytes)")
        if not inflater.eof:
            raise FlifError(f"FLIF: corrupt: metadata chunk {chunk.name} ends within its DEFLATE stream")
        found[chunk.name] = content
    return found
