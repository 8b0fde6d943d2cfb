"""PNG files of 16 bits a sample, by OpenCV: Pillow would cut them to 8 bits where they have color.

Needs `cv2` of any flavor, which the extras `cpu` and `gpu` bring.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import DependencyError, ImageError, LimitError, UsageError
from .png import SIGNATURE

if TYPE_CHECKING:
    import numpy.typing as npt

_COLOR_TYPES: Final = frozenset({0, 2, 4, 6})
_HEAD: Final = 13


def opencv(purpose: str) -> Any:
    """The module `cv2`.

    Args:
        purpose: what needs it, in words.

    Raises:
        DependencyError: it is not installed, or does not load.
    """
    try:
        import cv2
    except ImportError as error:
        raise DependencyError(f"{purpose} needs OpenCV: pip install 'oslic[cpu]' ({error})") from error
    return cv2


def is_deep_png(data: bytes) -> bool:
    """Whether this is a PNG of 16 bits a sample."""
    return data.startswith(SIGNATURE) and data[12:16] == b"IHDR" and data[24:25] == b"\x10"


def deep_png_size(data: bytes) -> tuple[int, int]:
    """Width and height that a PNG's header names; the header of `is_deep_png` is there."""
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def decode_deep_png(data: bytes, max_pixels: int, name: str = "the input") -> npt.NDArray[np.uint16]:
    """Decode a 16-bit PNG to (H, W), (H, W, 3) or (H, W, 4), uint16, RGB; gray with alpha becomes RGBA.

    Raises:
        ImageError: a damaged file, or one with a transparent color.
        LimitError: more pixels than `max_pixels`.
        DependencyError: OpenCV is not installed.
    """
    _check_chunks(data, max_pixels, name)
    cv2 = opencv("reading 16-bit PNG files")
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ImageError(f"{name} cannot be read by OpenCV: {error}") from error
    if pixels is None or pixels.dtype != np.uint16:
        raise ImageError(f"{name} is a damaged PNG: its pixels cannot be decoded")
    return _reversed(pixels)


def encode_deep_png(pixels: npt.NDArray[np.uint16]) -> bytes:
    """Encode (H, W), (H, W, 3) or (H, W, 4), uint16, RGB, as a 16-bit PNG.

    Raises:
        DependencyError: OpenCV is not installed.
        UsageError: OpenCV cannot write it.
    """
    cv2 = opencv("writing 16-bit PNG files")
    done, data = cv2.imencode(".png", _reversed(pixels))
    if not done:
        raise UsageError(f"OpenCV cannot write a picture of shape {pixels.shape} as PNG")
    return bytes(data)


def _reversed(pixels: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint16]:
    """RGB as BGR, which OpenCV has, and back; alpha stays the last."""
    if pixels.ndim == 2:
        return pixels
    order = [2, 1, 0, 3][: pixels.shape[2]]
    return np.ascontiguousarray(pixels[:, :, order])


def _check_chunks(data: bytes, max_pixels: int, name: str) -> None:
    """Refuse what is damaged or too large before libpng sees it, which prints what it finds to standard error.

    Raises:
        ImageError, LimitError: as `decode_deep_png`.
    """
    kinds: list[bytes] = []
    position = len(SIGNATURE)
    while position + 12 <= len(data) and b"IEND" not in kinds:
        length = int.from_bytes(data[position : position + 4], "big")
        kind, content = data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        checksum = data[position + 8 + length : position + 12 + length]
        if len(checksum) != 4 or zlib.crc32(kind + content) != int.from_bytes(checksum, "big"):
            raise ImageError(
                f"{name} is a damaged PNG: chunk at byte {position} is cut or has a wrong checksum"
            )
        if not kinds:
            _check_head(content, max_pixels, name)
        kinds.append(kind)
        position += 12 + length
    if b"IEND" not in kinds:
        raise ImageError(f"{name} is a truncated PNG: the end chunk is missing")
    if b"tRNS" in kinds:
        raise ImageError(f"{name} is a 16-bit PNG with a transparent color: convert it first")


def _check_head(head: bytes, max_pixels: int, name: str) -> None:
    if len(head) != _HEAD:
        raise ImageError(f"{name} is a damaged PNG: its header has {len(head)} bytes in place of {_HEAD}")
    width, height, _, color = struct.unpack(">IIBB", head[:10])
    if not width or not height:
        raise ImageError(f"{name} is a damaged PNG: its size is {width}x{height}")
    if color not in _COLOR_TYPES:
        raise ImageError(f"{name} is a damaged PNG: color type {color} has no 16-bit samples")
    if width * height > max_pixels:
        raise LimitError(f"{name} is {width}x{height} pixels, more than the limit of {max_pixels}")
