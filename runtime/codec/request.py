"""What a caller asks of the encoder, checked before any work is done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, SupportsFloat

import numpy as np

from ..errors import ImageError, UsageError
from .class_gains import focused
from .settings import DEFAULT_QUALITY, LayerMode, Settings, Tune

if TYPE_CHECKING:
    from ..image.files import Picture
    from ..image.metadata import Metadata


@dataclass(frozen=True)
class Request:
    """How one picture is to be coded, and what its file may cost or must reach.

    Attributes:
        settings: of the encoder; their quality counts where neither `bpp` nor `psnr` is given.
        bpp: the most bits per pixel, all bytes of the file counted; None: the quality decides.
        psnr: the least PSNR in dB; None: the quality decides.
        keep_invisible: whether color under alpha 0 is coded as it is; else by what is cheap.
        metadata: to carry in place of the picture's own; None: its own.
        tile: side of the tiles, a multiple of 32, the same for pictures of all sizes; None: see `tiling.choose`.
    """

    settings: Settings
    bpp: float | None = None
    psnr: float | None = None
    keep_invisible: bool = False
    metadata: Metadata | None = None
    tile: int | None = None


def make_request(
    quality: SupportsFloat | None = None,
    *,
    bpp: SupportsFloat | None = None,
    psnr: SupportsFloat | None = None,
    effort: SupportsFloat = Settings.effort,
    layers: LayerMode = Settings.layers,
    tune: Tune = Settings.tune,
    refine: bool = True,
    class_quality: Mapping[str, SupportsFloat] | None = None,
    focus: str | None = None,
    lossless: bool = False,
    max_error: SupportsFloat | None = None,
    rate_weight: SupportsFloat = Settings.rate_weight,
    keep_invisible: bool = False,
    metadata: Metadata | None = None,
) -> Request:
    """Put a request together from the arguments of `Codec.compress`, which has what they mean.

    Raises:
        UsageError: a value of the wrong type or out of its range, or two that say the same thing.
    """
    ways = (
        ("quality", quality),
        ("bpp", bpp),
        ("psnr", psnr),
        ("lossless", lossless or None),
        ("max_error", max_error),
    )
    given = [name for name, value in ways if value is not None]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} are ways to say one thing: give one of them")
    level = DEFAULT_QUALITY if quality is None else real_number(quality, "quality")
    if not isinstance(class_quality or {}, Mapping):
        raise UsageError(
            f"class_quality is {class_quality!r}, must map names of classes to points: {{'person': 25}}"
        )
    changes = tuple(
        (name, real_number(value, f"the change of {name}")) for name, value in (class_quality or {}).items()
    )
    if focus is not None:
        if not isinstance(focus, str):
            raise UsageError(f"focus is {focus!r}, must be the name of a class or a group")
        if changes:
            raise UsageError("focus and class_quality are two ways to say one thing: give one of them")
        level, changes = focused(level, focus)
    return Request(
        Settings(
            level,
            _whole_number(effort, "effort"),
            layers,
            "psnr" if psnr is not None else tune,
            refine,
            changes,
            0 if lossless else _bound(max_error),
            real_number(rate_weight, "rate_weight"),
        ),
        None if bpp is None else _above_zero(bpp, "bpp"),
        None if psnr is None else _above_zero(psnr, "psnr"),
        keep_invisible,
        metadata,
    )


def require_original(picture: Picture, request: Request) -> None:
    """Refuse to promise the original of a picture that is not there.

    Raises:
        ImageError: it is to be lossless, and had to be converted.
    """
    if request.settings.max_error == 0 and picture.converted:
        raise ImageError(
            "the picture had to be converted to 8-bit gray or RGB: it cannot come back bit for bit; give a quality in "
            "place of lossless"
        )


def _bound(max_error: SupportsFloat | None) -> int | None:
    if max_error is None:
        return None
    number = _whole_number(max_error, "max_error")
    if number == 0:
        raise UsageError("max_error is 0, must be at least 1: that is lossless")
    return number


def real_number(value: SupportsFloat, name: str) -> float:
    """A number of any real type (int, float, Fraction, Decimal, NumPy's), as an int where it is whole, else a float.

    Args:
        value: the number.
        name: of the argument, for messages.

    Raises:
        UsageError: it is no number, or not finite.
    """
    if isinstance(value, bool | np.bool_) or not hasattr(type(value), "__float__"):
        raise UsageError(f"{name} is {value!r}, a {type(value).__name__}: must be a number")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError(f"{name} is {value!r}: must be a number ({error})") from error
    if not np.isfinite(number):
        raise UsageError(f"{name} is {value!r}: must be a finite number")
    return int(number) if number.is_integer() else number


def _whole_number(value: SupportsFloat, name: str) -> int:
    number = real_number(value, name)
    if not isinstance(number, int):
        raise UsageError(f"{name} is {value!r}: must be a whole number")
    return number


def _above_zero(value: SupportsFloat, name: str) -> float:
    number = real_number(value, name)
    if number <= 0:
        raise UsageError(f"{name} is {value!r}: must be above 0")
    return number
