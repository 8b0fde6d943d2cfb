"""Reading image files of any common kind into arrays; `image.writing` is the way back."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ..errors import DataError, ImageError, OslicError, UsageError
from ..files import read_file
from ..ledger import note_inputs
from ..limits import Limits
from ..memory import READING, MemoryUse
from .conversion import Conversion, to_srgb, turn_to
from .deep_png import is_deep_png
from .exif import set_size
from .metadata import Metadata, Resolution, Unit, color_of, resolution
from .pixel_check import checking_pixels
from .plugins import plugin_for
from .png import chunks_before_pixels

if TYPE_CHECKING:
    import numpy.typing as npt

_REFUSED: Final = {
    "I;16": "16-bit gray",
    "I;16L": "16-bit gray",
    "I;16B": "16-bit gray",
    "I;16N": "16-bit gray",
    "I": "32-bit integer",
    "F": "32-bit float",
    "CMYK": "CMYK",
    "LAB": "CIE Lab",
    "HSV": "HSV",
}
ENDINGS: Final = frozenset({".png", ".webp", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".ppm"})
"""Endings of the names of image files in a folder, in small letters: those that everything here reads."""
PICTURE_ENDINGS: Final = ENDINGS | {
    ".avif", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jxl", ".pbm", ".pgm", ".pnm", ".tga",
}  # fmt: skip
"""Endings of what people keep as pictures, in small letters."""

# Formats whose files hold several pictures that are one for the user: previews and gain maps, layers.
_PARTS_OF_ONE: Final = frozenset({"MPO", "PSD"})
_CONVERT: Final = "`oslic compress --convert`"
# Numbers of the transfer functions of cICP (ITU-T H.273): PQ, HLG.
_HDR_CURVES: Final = frozenset({16, 18})
_PROFILE_SPACES: Final = frozenset({b"GRAY", b"RGB ", b"CMYK"})


# Modes whose conversion to gray or RGB rounds.
_ROUNDED: Final = frozenset({"La", "RGBa", "YCbCr"})


@dataclass(frozen=True)
class Picture:
    """A decoded image file.

    Attributes:
        pixels: uint8, (H, W) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB or (H, W, 4) RGBA.
        metadata: what the file says beside the pixels.
        notes: what of it was left out and why, each a line for the user.
        converted: whether the samples are not the image's own: those of 16 bits, of CMYK, of premultiplied alpha. A
            palette's colors are the image's.
    """

    pixels: npt.NDArray[np.uint8]
    metadata: Metadata
    notes: tuple[str, ...] = ()
    converted: bool = False


def _is_deep_tiff(image: Image.Image) -> bool:
    bits = getattr(image, "tag_v2", {}).get(258, (8,))
    return bool(max(bits if isinstance(bits, tuple) else (bits,)) > 8)


def _mode_of(image: Image.Image, name: str) -> str:
    """Return the mode the pixels are taken in: L, LA, RGB or RGBA."""
    if image.mode in {"1", "L"}:
        # A gray image may name one of its values as transparent.
        return "LA" if image.has_transparency_data else "L"
    if image.mode in {"LA", "La"}:
        return "LA"
    if image.mode in {"RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "YCbCr"}:
        return "RGBA" if image.has_transparency_data else "RGB"
    raise ImageError(f"{name}: images of mode {image.mode} are not supported: convert to 8-bit gray or RGB")


def decode_image(
    data: bytes,
    limits: Limits,
    name: str = "the input",
    *,
    use: MemoryUse = READING,
    conversion: Conversion | None = None,
) -> Picture:
    """Decode an image file's bytes.

    EXIF orientation is applied; palette images become the colors they show; gray stays gray; alpha is kept. Of the
    pictures that a camera puts into one JPEG file (MPO: previews, gain maps, second views), the first is taken.

    Args:
        data: the file.
        limits: on pixels and memory; checked before any pixel is decoded.
        name: of the file, for messages.
        use: memory that the work on the picture takes.
        conversion: how what would lose by 8-bit gray or RGB is converted; None: it is refused.

    Raises:
        ImageError: empty, not an image, an animation, or 16-bit, CMYK and other kinds that would lose by 8-bit RGB.
        LimitError: more pixels or memory than the limits.
        UsageError: the page that was asked for does not exist.
    """
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)")
    check = _check_by(limits, use)
    with checking_pixels(check):
        return _decode(data, check, limits, name, conversion)


def _check_by(limits: Limits, use: MemoryUse) -> Callable[[int, int], None]:
    def check(width: int, height: int) -> None:
        limits.check_pixels(width, height)
        limits.check_memory(width, height, use)

    return check


@contextlib.contextmanager
def open_stored(path: str | Path, limits: Limits) -> Iterator[Image.Image]:
    """Open an image file whose samples count as they are stored, such as a label map; pictures: see `read_image`.

    Raises:
        LimitError: more pixels or memory than the limits, by the header.
        OSError: as `PIL.Image.open` does, and here or later as the image is decoded.
    """
    check = _check_by(limits, READING)
    with checking_pixels(check), Image.open(path) as image:
        check(image.width, image.height)
        yield image


def _decode(
    data: bytes, check: Callable[[int, int], None], limits: Limits, name: str, conversion: Conversion | None
) -> Picture:
    color = color_of(dict(chunks_before_pixels(data)))
    with _open(data, name) as image:
        check(image.width, image.height)
        try:
            notes = []
            if conversion is None:
                _refuse_several(image, name)
            else:
                if (several := _several(image)) is not None:
                    notes.append(f"{name} {several}: page {conversion.page} is taken")
                turn_to(image, conversion.page, name)
                check(image.width, image.height)
            kind = "a 16-bit PNG" if is_deep_png(data) else _kind_beyond_rgb(image)
            taken: Image.Image = image
            if kind is not None:
                _refuse_kind(kind, color, name, conversion)
                taken, said = to_srgb(image, data, name)
                notes.append(said)
        except (OslicError, MemoryError):
            raise
        except Exception as error:  # Pillow's readers raise what they come across in damaged files
            raise ImageError(f"{name} is damaged: {error or type(error).__name__}") from error
        picture = _seen(taken, limits, name, color=color)
        return replace(
            picture,
            notes=(*notes, *picture.notes),
            converted=picture.converted or kind is not None,
        )


def _open(data: bytes, name: str) -> Image.Image:
    """Have Pillow open a file, with a plug-in if it needs one."""
    try:
        try:
            return Image.open(io.BytesIO(data))
        except UnidentifiedImageError:
            plugin = plugin_for(data[:32])
            if plugin is None:
                raise ImageError(f"{name} is not an image that Pillow can read") from None
            if not plugin.load():
                raise ImageError(
                    f"{name} is a {plugin.format} file, which Pillow reads with a plug-in: pip install {plugin.package}"
                ) from None
            return Image.open(io.BytesIO(data))
    except (OslicError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise what they come across in damaged files
        raise ImageError(f"{name} cannot be read as an image: {error}") from error


def picture_of(
    image: Image.Image, limits: Limits, name: str = "the image", *, use: MemoryUse = READING
) -> Picture:
    """The picture in an image of Pillow's, as `decode_image` makes it of a file; of several the one that it shows.

    Args:
        image: opened or made; it is left as it is.
        limits: on pixels and memory.
        name: of the image, for messages.
        use: memory that the work on the picture takes.

    Raises:
        ImageError, LimitError: as `decode_image`.
    """
    check = _check_by(limits, use)
    with checking_pixels(check):
        check(image.width, image.height)
        color = _color_of_info(image.info)
        kind = _kind_beyond_rgb(image)
        if kind is not None:
            _refuse_kind(kind, color, name, None)
        return _seen(image, limits, name, color=color)


def _seen(
    image: Image.Image, limits: Limits, name: str, *, color: tuple[tuple[bytes, bytes], ...]
) -> Picture:
    """The picture as it is to be seen, upright."""
    try:
        turned = ImageOps.exif_transpose(image)
        pixels = np.array(turned.convert(_mode_of(turned, name)), dtype=np.uint8)
    except (OslicError, MemoryError):
        raise
    except Exception as error:  # as above
        raise ImageError(f"{name} is damaged: {error or type(error).__name__}") from error
    picture = _picture(pixels, image, turned, color=color, limits=limits, name=name)
    return replace(picture, converted=turned.mode in _ROUNDED)


def _color_of_info(info: Mapping[Any, Any]) -> tuple[tuple[bytes, bytes], ...]:
    """What Pillow tells of a PNG file's sRGB, gAMA and cHRM chunks, as chunks; it tells nothing of cICP."""
    chunks: dict[bytes, bytes] = {}
    with contextlib.suppress(TypeError, ValueError, OverflowError, struct.error):
        if "srgb" in info:
            chunks[b"sRGB"] = bytes([info["srgb"]])
        if "gamma" in info:
            chunks[b"gAMA"] = struct.pack(">I", round(info["gamma"] * 100_000))
        if "chromaticity" in info:
            chunks[b"cHRM"] = struct.pack(">8I", *(round(value * 100_000) for value in info["chromaticity"]))
    return color_of(chunks)


def _refuse_several(image: Image.Image, name: str) -> None:
    """Raise ImageError if a file holds several pictures."""
    if (several := _several(image)) is not None:
        raise ImageError(
            f"{name} {several}: only single still pictures are coded; {_CONVERT} --page N takes one"
        )


def _several(image: Image.Image) -> str | None:
    """What a file holds that has several pictures, in words; None: one."""
    if image.format == "TIFF":
        # Counting them would walk a chain of any length.
        return "has several pages" if _has_second_page(image) else None
    frames = 1 if image.format in _PARTS_OF_ONE else getattr(image, "n_frames", 1)
    return f"is an animation of {frames} frames" if frames > 1 else None


def _kind_beyond_rgb(image: Image.Image) -> str | None:
    """What an image is that would lose by 8-bit gray or RGB, in words; None: it is none."""
    if image.mode in _REFUSED:
        return f"a {_REFUSED[image.mode]} image"
    if image.format == "TIFF" and _is_deep_tiff(image):
        return "of more than 8 bits a sample"
    return None


def _refuse_kind(
    kind: str, color: tuple[tuple[bytes, bytes], ...], name: str, conversion: Conversion | None
) -> None:
    """Raise ImageError unless an image of a kind that would lose by 8-bit gray or RGB is to be converted."""
    if conversion is None:
        raise ImageError(
            f"{name} is {kind}: only 8 bits a sample in gray or RGB are coded; {_CONVERT} makes that of it"
        )
    if dict(color).get(b"cICP", b"\0\0")[1] in _HDR_CURVES:
        raise ImageError(
            f"{name} is {kind} of high dynamic range (PQ or HLG), which 8 bits do not hold: tone-map it"
        )


def _has_second_page(image: Image.Image) -> bool:
    try:
        image.seek(1)
    except EOFError:
        return False
    finally:
        image.seek(0)
    return True


def _picture(
    pixels: npt.NDArray[np.uint8],
    image: Image.Image,
    turned: Image.Image,
    *,
    color: tuple[tuple[bytes, bytes], ...],
    limits: Limits,
    name: str,
) -> Picture:
    """Put pixels and metadata together.

    Args:
        pixels: the picture as it is to be seen.
        image: as it was opened.
        turned: by the orientation that EXIF names.
        color: what the samples mean, see `Metadata`.
        limits: on the bytes of each block.
        name: of the file, for messages.
    """
    metadata, notes = _metadata(
        image,
        turned,
        (pixels.shape[1], pixels.shape[0]),
        is_gray=pixels.ndim == 2 or pixels.shape[2] == 2,
        color=color,
        limits=limits,
        name=name,
    )
    return Picture(pixels, metadata, notes)


def described(
    path: str | Path, limits: Limits, size: tuple[int, int], *, is_gray: bool
) -> tuple[Metadata, tuple[str, ...]]:
    """The metadata of an image file, as `read_image` has them, without decoding any pixels.

    Args:
        path: of the file.
        limits: on the bytes of each block.
        size: width and height of the picture as it is to be seen, in pixels.
        is_gray: whether its pixels are gray.

    Returns:
        The metadata, and what was left out, as in `Picture.notes`.

    Raises:
        ImageError: Pillow cannot read the file, or a block is damaged or too long.
        UsageError: the file cannot be read.
    """
    name = str(path)
    try:
        with Path(path).open("rb") as file, checking_pixels(lambda *_: None), Image.open(file) as image:
            # A picture of two pixels that has what the file says is turned in place of the file's.
            model = Image.new("L", (2, 1))
            model.info = dict(image.info)
            file.seek(0)
            color = color_of(dict(chunks_before_pixels(file.read(limits.metadata_bytes))))
    except OSError as error:
        if isinstance(error, UnidentifiedImageError):
            raise ImageError(f"{name} is not an image that Pillow can read") from error
        raise UsageError(f"cannot read {name}: {error.strerror or error}") from error
    except Exception as error:  # Pillow's readers raise what they come across in damaged files
        raise ImageError(f"{name} cannot be read as an image: {error}") from error
    turned = ImageOps.exif_transpose(model)
    return _metadata(model, turned, size, is_gray=is_gray, color=color, limits=limits, name=name)


def _metadata(
    image: Image.Image,
    turned: Image.Image,
    size: tuple[int, int],
    *,
    is_gray: bool,
    color: tuple[tuple[bytes, bytes], ...],
    limits: Limits,
    name: str,
) -> tuple[Metadata, tuple[str, ...]]:
    """Metadata, and notes of what was left out; `size` is the picture's, the other arguments as for `_picture`."""
    notes = []
    icc = bytes(turned.info.get("icc_profile") or b"")
    wanted = b"GRAY" if is_gray else b"RGB "
    if icc and icc[16:20] in _PROFILE_SPACES - {wanted}:
        # PNG forbids it, and viewers ignore it or show wrong colors.
        kind = icc[16:20].decode("ascii").strip()
        notes.append(f"its {kind} profile does not fit {'gray' if is_gray else 'RGB'} pixels: left out")
        icc = b""
    xmp = turned.info.get("xmp") or b""
    metadata = Metadata(
        icc,
        _exif(turned, size, name),
        xmp.encode("utf-8", "replace") if isinstance(xmp, str) else bytes(xmp).rstrip(b"\0"),
        color,
        _resolution(image, swapped=image.size != turned.size),
    )
    if max(map(len, (metadata.icc, metadata.exif, metadata.xmp))) > limits.metadata_bytes:
        raise ImageError(
            f"{name} has a profile, EXIF block or XMP packet of more than {limits.metadata_bytes} bytes: strip it"
        )
    return metadata, tuple(notes)


def _exif(image: Image.Image, size: tuple[int, int], name: str) -> bytes:
    """The EXIF block of an image that stands upright, with the picture's size where it names one."""
    try:
        exif = image.getexif()
        exif.pop(ExifTags.Base.Orientation, None)
        set_size(exif, size)
        return exif.tobytes() if len(exif) else b""
    except Exception as error:  # Pillow's readers raise what they come across in damaged files
        raise ImageError(
            f"{name} has a damaged EXIF block: {error or type(error).__name__}; strip it"
        ) from error


def _resolution(image: Image.Image, *, swapped: bool) -> Resolution | None:
    """Pixels per unit of length; across and down change places with the image's sides."""
    info: Mapping[Any, Any] = image.info
    try:
        if "jfif_density" in info:
            x, y = info["jfif_density"]
            unit = {1: Unit.INCH, 2: Unit.CENTIMETER}.get(info.get("jfif_unit", 0), Unit.ASPECT)
        elif "dpi" in info:
            (x, y), unit = info["dpi"], Unit.INCH
        elif "aspect" in info:
            (x, y), unit = info["aspect"], Unit.ASPECT
        else:
            return None
        return resolution(float(y), float(x), unit) if swapped else resolution(float(x), float(y), unit)
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):
        return None


def find_images(folder: str | Path) -> list[Path]:
    """The image files in a folder, by the endings of their names, sorted by name; sub-folders are not entered.

    Raises:
        DataError: no such folder, or no images in it.
    """
    path = Path(folder)
    if not path.exists():
        raise DataError(f"the folder of images {path} does not exist")
    if not path.is_dir():
        raise DataError(f"{path} is not a folder; name a folder of images")
    # No pipes or devices: who names a folder waits for none of them.
    images = sorted(
        p for p in path.iterdir() if p.suffix.lower() in ENDINGS and (p.is_file() or not p.exists())
    )
    if not images:
        raise DataError(f"the folder {path} holds no images ({', '.join(sorted(ENDINGS))})")
    note_inputs(*images)
    return images


def read_image(
    path: str | Path, limits: Limits, *, use: MemoryUse = READING, conversion: Conversion | None = None
) -> Picture:
    """Read an image file: see `decode_image`.

    Raises:
        UsageError: the file cannot be read.
        LimitError: it has more bytes than an image within the limits.
    """
    data = read_file(path, "image", limits.image_bytes)
    return decode_image(data, limits, str(path), use=use, conversion=conversion)
