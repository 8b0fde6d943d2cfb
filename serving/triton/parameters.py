"""Parameters of requests to the two models that clients call: those of `Codec.compress` and `Codec.decompress`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from ...runtime.codec.request import Request, make_request
from ...runtime.errors import UsageError
from ...runtime.image.writing import FORMATS, Writer, writer_for

_ENCODE: Final[dict[str, type | tuple[type, ...]]] = {
    "quality": (int, float),
    "bpp": (int, float),
    "psnr": (int, float),
    "effort": (int, float),
    "layers": str,
    "tune": str,
    "refine": bool,
    "focus": str,
    "rate_weight": (int, float),
    "keep_invisible": bool,
}
_DECODE: Final[dict[str, type | tuple[type, ...]]] = {
    "format": str,
    "quality": (int, float),
    "strict": bool,
    "region": str,
}
_MOST_QUALITY: Final = 100
_KINDS: Final[dict[Any, str]] = {bool: "true or false", str: "a text", (int, float): "a number"}
# Triton's own.
_RESERVED: Final = "triton_"


@dataclass(frozen=True)
class DecodeRequest:
    """What a client asks of the decoder.

    Attributes:
        writer: of the image file.
        strict: whether an estimate that is not, bit for bit, the encoder's is an error.
        region: left, top, width, height; None: all of the picture.
    """

    writer: Writer
    strict: bool = False
    region: tuple[int, int, int, int] | None = None


def encode_request(parameters: Mapping[str, Any], tile: int | None = None) -> Request:
    """What the parameters of a request to the encoder ask for.

    Args:
        parameters: of the request.
        tile: of the model's configuration, see `Request`.

    Raises:
        UsageError: an unknown one, or a value of the wrong type or out of its range.
    """
    return replace(make_request(**_checked(parameters, _ENCODE)), tile=tile)


def decode_request(parameters: Mapping[str, Any]) -> DecodeRequest:
    """What the parameters of a request to the decoder ask for.

    Raises:
        UsageError: as `encode_request`.
    """
    given = _checked(parameters, _DECODE)
    kind, quality = given.get("format", "png"), given.get("quality")
    if kind not in FORMATS:
        raise UsageError(f"the parameter format is {kind!r}, must be one of {', '.join(FORMATS)}")
    if quality is not None and not (quality == round(quality) and 1 <= quality <= _MOST_QUALITY):
        raise UsageError(f"the parameter quality is {quality}, must be a whole number, 1..{_MOST_QUALITY}")
    writer = writer_for("the image", kind, None if quality is None else round(quality))
    return DecodeRequest(
        writer, given.get("strict", False), _region(given["region"]) if "region" in given else None
    )


def _checked(parameters: Mapping[str, Any], known: Mapping[str, type | tuple[type, ...]]) -> dict[str, Any]:
    given = {name: value for name, value in parameters.items() if not name.startswith(_RESERVED)}
    for name, value in given.items():
        if name not in known:
            raise UsageError(f"unknown parameter {name!r}; known: {', '.join(known)}")
        kind = known[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise UsageError(f"the parameter {name} is {value!r}, must be {_KINDS[kind]}")
    return given


def _region(text: str) -> tuple[int, int, int, int]:
    parts = text.split(",")
    if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
        raise UsageError(f"the parameter region is {text!r}, must be LEFT,TOP,WIDTH,HEIGHT in pixels")
    left, top, width, height = map(int, parts)
    return left, top, width, height
