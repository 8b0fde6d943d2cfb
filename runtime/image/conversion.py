"""Pictures of other kinds as 8-bit sRGB: 16 bits a sample, CMYK, Lab, HSV, integers and floats, one page of several."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageCms

from ..errors import DependencyError, ImageError, UsageError
from .deep_png import decode_deep_png, is_deep_png

if TYPE_CHECKING:
    import numpy.typing as npt

_DEEP_GRAY: Final = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
_SIXTEEN: Final = 65535.0
_ROWS: Final = 256
_RGB_SPACE: Final = b"RGB "


@dataclass(frozen=True)
class Conversion:
    """That pictures of other kinds are converted.

    Attributes:
        page: which picture of a file that holds several, from 1 on.
    """

    page: int = 1


def turn_to(image: Image.Image, page: int, name: str) -> None:
    """Have an opened file show one of its pictures.

    Raises:
        UsageError: it has no such page.
    """
    if page == 1:
        return
    try:
        image.seek(page - 1)
    except EOFError:
        raise UsageError(f"{name} has no page {page}") from None


def to_srgb(image: Image.Image, data: bytes, name: str) -> tuple[Image.Image, str]:
    """Convert a picture whose samples do not fit into 8 bits of gray or RGB.

    A profile is applied where the picture has one, and gone then. Integers and floats of 0..1, 0..255 or 0..65535 are
    taken as that, those of other ranges are stretched.

    Args:
        image: as Pillow opened it.
        data: its file.
        name: of the file, for messages.

    Returns:
        The picture in a mode of 8 bits, with the metadata in `info`, and what was done, for the user.

    Raises:
        ImageError: its profile or its pixels are damaged.
    """
    kind = image.mode
    icc = image.info.get("icc_profile") or b""
    info = {key: value for key, value in image.info.items() if key != "icc_profile"}
    exif = image.getexif()
    if len(exif):
        info["exif"] = exif.tobytes()
    if kind == "CMYK":
        done = _by_profile(image, icc, name) if icc else image.convert("RGB")
        how = "by its profile" if icc else "without a profile, so colors are a guess"
        said = f"CMYK converted to sRGB {how}"
    elif kind == "LAB":
        done, said = _from_lab(image), "CIE Lab converted to sRGB"
    elif kind == "HSV":
        done, said = image.convert("RGB"), "HSV converted to RGB"
    else:
        done, how = _to_eight_bits(image, data, name)
        said = f"{how} converted to 8 bits"
        if icc[16:20] == _RGB_SPACE and done.mode in {"RGB", "RGBA"}:
            done, said = _by_profile(done, icc, name), f"{said} and sRGB"
        elif icc:
            info["icc_profile"] = icc
    done.info = info
    return done, said


def _to_eight_bits(image: Image.Image, data: bytes, name: str) -> tuple[Image.Image, str]:
    if is_deep_png(data):
        try:
            deep = decode_deep_png(data, image.width * image.height, name)
            return Image.fromarray(_scaled(deep, 0, _SIXTEEN)), "16 bits a sample"
        except DependencyError:
            pass  # Pillow cuts in place of rounding: a level at most
    if image.mode in _DEEP_GRAY:
        return Image.fromarray(_scaled(np.asarray(image), 0, _SIXTEEN)), "16 bits a sample"
    if image.mode in {"I", "F"}:
        samples = np.asarray(image)
        low, high = _range(samples)
        for most in (1.0, 255.0, _SIXTEEN):
            if low >= 0 and high <= most:
                return Image.fromarray(_scaled(samples, 0, most)), f"samples of 0..{most:g}"
        return Image.fromarray(_scaled(samples, low, high)), f"samples of {low:g}..{high:g}, stretched,"
    return image.copy(), "more than 8 bits a sample"  # which Pillow cut as it read them


def _range(samples: npt.NDArray[Any]) -> tuple[float, float]:
    """The least and the largest of the samples that are finite."""
    low, high = np.inf, -np.inf
    for top in range(0, len(samples), _ROWS):
        rows = samples[top : top + _ROWS]
        finite = rows[np.isfinite(rows)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    return (low, high) if low <= high else (0.0, 0.0)


def _scaled(samples: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Bring samples of low..high to 0..255, rounded; what is no number becomes 0.

    Some rows at a time: the floats of a whole picture would take many times its memory.
    """
    scaled = np.empty(samples.shape, np.uint8)
    for top in range(0, len(samples), _ROWS):
        levels = (samples[top : top + _ROWS].astype(np.float64) - low) * (255 / (high - low))
        scaled[top : top + _ROWS] = np.clip(np.rint(np.nan_to_num(levels, posinf=255, neginf=0)), 0, 255)
    return scaled


def _by_profile(image: Image.Image, icc: bytes, name: str) -> Image.Image:
    mode = "RGBA" if image.mode == "RGBA" else "RGB"
    try:
        done = ImageCms.profileToProfile(
            image, io.BytesIO(icc), ImageCms.createProfile("sRGB"), outputMode=mode
        )
    except ImageCms.PyCMSError as error:
        raise ImageError(f"{name} has a profile that cannot be applied: {error}; strip it") from error
    assert done is not None
    return done


def _from_lab(image: Image.Image) -> Image.Image:
    transform = ImageCms.buildTransform(
        ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB"
    )
    done = ImageCms.applyTransform(image, transform)
    assert done is not None
    return done
