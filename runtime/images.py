"""Image files: reading any common kind into arrays, writing arrays with their metadata."""

from __future__ import annotations

import contextlib
import io
import struct
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from .errors import DataError, ImageError, OslicError, UsageError
from .files import read_file
from .ledger import note_inputs
from .limits import Limits
from .memory import READING, MemoryUse
from .metadata import Metadata, Resolution, Unit, color_of, png_chunks, resolution
from .pixel_check import checking_pixels
from .png import add_chunks, chunks_before_pixels

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
"""Endings of the names of image files in a folder, in small letters."""

_WRITERS: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    ".png": ("PNG", {"compress_level": 3}),
    ".tif": ("TIFF", {"compression": "tiff_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_deflate"}),
    ".webp": ("WEBP", {"lossless": True, "method": 2, "exact": True}),
    ".bmp": ("BMP", {}),
    ".ppm": ("PPM", {}),
}
# Formats whose files hold several pictures that are one for the user: previews and gain maps, layers.
_PARTS_OF_ONE: Final = frozenset({"MPO", "PSD"})
_PROFILE_SPACES: Final = frozenset({b"GRAY", b"RGB ", b"CMYK"})
_XMP_TAG: Final = 700
# Neither alpha, of which Pillow would drop all but the colour, nor metadata.
_BARE: Final = frozenset({"BMP", "PPM"})
# Fields of EXIF blocks that in a TIFF file say how the pixels are stored.
_TIFF_STRUCTURE: Final = frozenset(
    {
        "NewSubfileType", "SubfileType", "ImageWidth", "ImageLength", "BitsPerSample", "Compression",
        "PhotometricInterpretation", "FillOrder", "StripOffsets", "SamplesPerPixel", "RowsPerStrip", "StripByteCounts",
        "PlanarConfiguration", "TransferFunction", "Predictor", "ColorMap", "TileWidth", "TileLength", "TileOffsets",
        "TileByteCounts", "SubIFDs", "ExtraSamples", "SampleFormat", "JPEGTables", "JPEGProc", "JpegIFOffset",
        "JpegIFByteCount", "YCbCrCoefficients", "YCbCrSubSampling", "YCbCrPositioning", "ReferenceBlackWhite",
        "InterColorProfile",
    }
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A decoded image file.

    Attributes:
        pixels: uint8, (H, W) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB or (H, W, 4) RGBA.
        metadata: what the file says beside the pixels.
        notes: what of it was left out and why, each a line for the user.
    """

    pixels: npt.NDArray[np.uint8]
    metadata: Metadata
    notes: tuple[str, ...] = ()


def _is_deep_png(data: bytes) -> bool:
    """Whether this is a PNG of 16 bits a sample: Pillow would silently cut its colour to 8."""
    return data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR" and data[24:25] == b"\x10"


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
    data: bytes, limits: Limits, name: str = "the input", *, use: MemoryUse = READING
) -> Picture:
    """Decode an image file's bytes.

    EXIF orientation is applied; palette images become the colours they show; gray stays gray; alpha is kept. Of the
    pictures that a camera puts into one JPEG file (MPO: previews, gain maps, second views), the first is taken.

    Args:
        data: the file.
        limits: on pixels and memory; checked before any pixel is decoded.
        name: of the file, for messages.
        use: memory that the work on the picture takes.

    Raises:
        ImageError: empty, not an image, an animation, or 16-bit, CMYK and other kinds that would lose by 8-bit RGB.
        LimitError: more pixels or memory than the limits.
    """
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)")
    if _is_deep_png(data):
        raise ImageError(f"{name} is a 16-bit PNG: only 8 bits a sample are supported; convert it first")
    check = _check_by(limits, use)
    with checking_pixels(check):
        return _decode(data, check, limits, name)


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


def _decode(data: bytes, check: Callable[[int, int], None], limits: Limits, name: str) -> Picture:
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not an image that Pillow can read") from None
    except (OslicError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise what they come across in damaged files
        raise ImageError(f"{name} cannot be read as an image: {error}") from error
    with image:
        return _opened(image, check, limits, name, color=color_of(dict(chunks_before_pixels(data))))


def picture_of(
    image: Image.Image, limits: Limits, name: str = "the image", *, use: MemoryUse = READING
) -> Picture:
    """The picture in an image of Pillow's, as `decode_image` makes it of a file.

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
        return _opened(image, check, limits, name, color=_color_of_info(image.info))


def _opened(
    image: Image.Image,
    check: Callable[[int, int], None],
    limits: Limits,
    name: str,
    *,
    color: tuple[tuple[bytes, bytes], ...],
) -> Picture:
    """Decode what Pillow has opened."""
    check(image.width, image.height)
    try:
        _refuse_kinds(image, name)
        turned = ImageOps.exif_transpose(image)
        pixels = np.array(turned.convert(_mode_of(turned, name)), dtype=np.uint8)
    except (OslicError, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise what they come across in damaged files
        raise ImageError(f"{name} is damaged: {error or type(error).__name__}") from error
    return _picture(pixels, image, turned, color=color, limits=limits, name=name)


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


def _refuse_kinds(image: Image.Image, name: str) -> None:
    """Raise ImageError if the image would lose by becoming one picture of 8 bits a sample."""
    if image.format == "TIFF":
        # Counting them would walk a chain of any length.
        if _has_second_page(image):
            raise ImageError(f"{name} has several pages: save the one to compress as a file of its own")
    elif image.format not in _PARTS_OF_ONE and (frames := getattr(image, "n_frames", 1)) > 1:
        raise ImageError(f"{name} is an animation of {frames} frames: only still images are supported")
    if image.mode in _REFUSED:
        raise ImageError(f"{name} is a {_REFUSED[image.mode]} image: convert it to 8-bit gray or RGB first")
    if image.format == "TIFF" and _is_deep_tiff(image):
        raise ImageError(f"{name} has more than 8 bits a sample: convert it to 8-bit gray or RGB first")


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
    notes = []
    icc = bytes(turned.info.get("icc_profile") or b"")
    wanted = b"GRAY" if pixels.ndim == 2 or pixels.shape[2] == 2 else b"RGB "
    if icc and icc[16:20] in _PROFILE_SPACES - {wanted}:
        # PNG forbids it, and viewers ignore it or show wrong colours.
        kind = icc[16:20].decode("ascii").strip()
        notes.append(
            f"its {kind} profile does not fit {'gray' if wanted == b'GRAY' else 'RGB'} pixels: left out"
        )
        icc = b""
    xmp = turned.info.get("xmp") or b""
    metadata = Metadata(
        icc,
        _exif(turned, name),
        xmp.encode("utf-8", "replace") if isinstance(xmp, str) else bytes(xmp).rstrip(b"\0"),
        color,
        _resolution(image, swapped=image.size != turned.size),
    )
    if max(map(len, (metadata.icc, metadata.exif, metadata.xmp))) > limits.metadata_bytes:
        raise ImageError(
            f"{name} has a profile, EXIF block or XMP packet of more than {limits.metadata_bytes} bytes: strip it"
        )
    return Picture(pixels, metadata, tuple(notes))


def _exif(image: Image.Image, name: str) -> bytes:
    """The EXIF block of an image that stands upright, with the image's size where it names one."""
    try:
        exif = image.getexif()
        exif.pop(ExifTags.Base.Orientation, None)
        _set_size(exif, ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength, image.size)
        if ExifTags.IFD.Exif in exif:
            inner = exif.get_ifd(ExifTags.IFD.Exif)
            _set_size(inner, ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight, image.size)
        return exif.tobytes() if len(exif) else b""
    except Exception as error:  # Pillow's readers raise what they come across in damaged files
        raise ImageError(
            f"{name} has a damaged EXIF block: {error or type(error).__name__}; strip it"
        ) from error


def _set_size(tags: MutableMapping[int, Any], across: int, down: int, size: tuple[int, int]) -> None:
    for tag, value in ((across, size[0]), (down, size[1])):
        if tag in tags:
            tags[tag] = value


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


def read_image(path: str | Path, limits: Limits, *, use: MemoryUse = READING) -> Picture:
    """Read an image file: see `decode_image`.

    Raises:
        UsageError: the file cannot be read.
        LimitError: it has more bytes than an image within the limits.
    """
    return decode_image(read_file(path, "image", limits.image_bytes), limits, str(path), use=use)


def check_writable_kind(path: str | Path) -> None:
    """Raise UsageError unless images can be written to a file of this name."""
    if Path(path).suffix.lower() not in _WRITERS:
        known = ", ".join(_WRITERS)
        raise UsageError(f"cannot write {path}: its ending names no lossless image format (known: {known})")


def encode_image(pixels: npt.NDArray[np.uint8], metadata: Metadata, path: str | Path) -> bytes:
    """Return the bytes of an image file, losslessly, in the format that the ending of `path` names.

    Raises:
        UsageError: an ending that names no known lossless format, or one that cannot hold these channels.
    """
    check_writable_kind(path)
    kind, options = _WRITERS[Path(path).suffix.lower()]
    if kind in _BARE and pixels.ndim == 3 and pixels.shape[2] in {2, 4}:
        raise UsageError(f"cannot write {path}: {kind} files hold no alpha; write .png, .tif or .webp")
    file = io.BytesIO()
    try:
        extras = _extras(kind, metadata)
        if kind == "TIFF" and "exif" in extras:
            # Pillow writes EXIF with its sub-directories into uncompressed files only.
            options = {}
        Image.fromarray(pixels).save(file, kind, **options, **extras)
    except Exception as error:  # Pillow's writers raise what they come across in EXIF
        raise UsageError(
            f"cannot write {path}: {kind} does not hold this image or its metadata: {error or type(error).__name__}; "
            "write another kind (.png)"
        ) from error
    return add_chunks(file.getvalue(), png_chunks(metadata)) if kind == "PNG" else file.getvalue()


def _extras(kind: str, metadata: Metadata) -> dict[str, Any]:
    """What Pillow's writer of a format takes of the metadata."""
    extras: dict[str, Any] = {}
    if kind not in _BARE:
        extras = {"icc_profile": metadata.icc, "exif": metadata.exif}
    if kind == "WEBP":
        extras["xmp"] = metadata.xmp
    if kind == "TIFF" and (metadata.exif or metadata.xmp):
        extras["exif"] = _without_structure(metadata.exif)
        if metadata.xmp:
            extras["exif"][_XMP_TAG] = metadata.xmp
    if kind in {"TIFF", "BMP"} and metadata.resolution is not None:
        extras["dpi"] = metadata.resolution.per_inch
    return {key: value for key, value in extras.items() if value}


def left_out(metadata: Metadata, path: str | Path) -> tuple[str, ...]:
    """What `encode_image` does not write into a file of this name, in words for a warning."""
    kind = _WRITERS[Path(path).suffix.lower()][0]
    has_length = metadata.resolution is not None and metadata.resolution.per_inch is not None
    lost = {
        "the ICC profile": bool(metadata.icc) and kind in _BARE,
        "EXIF": bool(metadata.exif) and kind in _BARE,
        "XMP": bool(metadata.xmp) and kind in _BARE,
        "the meaning of its colors (" + ", ".join(name.decode() for name, _ in metadata.color) + ")": (
            metadata.changes_colors and kind != "PNG"
        ),
        "the resolution": metadata.resolution is not None
        and not (kind == "PNG" or (kind in {"TIFF", "BMP"} and has_length)),
    }
    return tuple(what for what, gone in lost.items() if gone)


def _without_structure(block: bytes) -> Image.Exif:
    exif = Image.Exif()
    if block:
        exif.load(block)
    for tag in [tag for tag in exif if ExifTags.TAGS.get(tag) in _TIFF_STRUCTURE]:
        del exif[tag]
    return exif
