"""Writing image files: the formats, what each holds of the metadata, and which ones lose by their coding."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import ExifTags, Image

from ..errors import UsageError
from .metadata import Metadata, png_chunks
from .png import add_chunks

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_XMP_TAG: Final = 700
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
class ImageFormat:
    """A format that pictures are written in.

    Attributes:
        kind: Pillow's name of it.
        endings: of the names of its files, in small letters, the usual one first.
        options: for Pillow's writer.
        lossy: for Pillow's writer where a quality is given; None: the format has none.
        quality: where none is given; None: it is written without loss then.
        alpha: whether it holds alpha.
        blocks: which of "icc_profile", "exif" and "xmp" are written into it.
        dpi: whether Pillow writes a resolution into it.
    """

    kind: str
    endings: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    lossy: dict[str, Any] | None = None
    quality: int | None = None
    alpha: bool = True
    blocks: frozenset[str] = frozenset({"icc_profile", "exif", "xmp"})
    dpi: bool = False


FORMATS: Final[dict[str, ImageFormat]] = {
    # All metadata are chunks that we add: Pillow writes no color and no XMP.
    "png": ImageFormat("PNG", (".png",), {"compress_level": 3}),
    "jpeg": ImageFormat(
        "JPEG",
        (".jpg", ".jpeg", ".jfif"),
        lossy={"subsampling": 0, "optimize": True},
        quality=95,
        alpha=False,
        dpi=True,
    ),
    "webp": ImageFormat(
        "WEBP", (".webp",), {"lossless": True, "method": 2, "exact": True}, lossy={"method": 4}
    ),
    "avif": ImageFormat("AVIF", (".avif",), lossy={"subsampling": "4:4:4", "speed": 6}, quality=90),
    "tiff": ImageFormat("TIFF", (".tif", ".tiff"), {"compression": "tiff_deflate"}, dpi=True),
    "bmp": ImageFormat("BMP", (".bmp",), alpha=False, blocks=frozenset(), dpi=True),
    "ppm": ImageFormat("PPM", (".ppm", ".pgm"), alpha=False, blocks=frozenset()),
}
"""Formats by the name that the command line has for them."""


@dataclass(frozen=True)
class Writer:
    """Writes pictures in one format.

    Attributes:
        format: in which.
        quality: 1..100 of what is lossy; None: without loss.
    """

    format: ImageFormat
    quality: int | None = None

    def encode(self, pixels: npt.NDArray[np.uint8], metadata: Metadata, name: str | Path) -> bytes:
        """The bytes of an image file.

        Args:
            pixels: uint8, (H, W), (H, W, 2), (H, W, 3) or (H, W, 4).
            metadata: to write as far as the format holds it, see `left_out`.
            name: of the file, for messages.

        Raises:
            UsageError: the format does not hold these channels, or Pillow cannot write the metadata.
        """
        form = self.format
        if not form.alpha and pixels.ndim == 3 and pixels.shape[2] in {2, 4}:
            raise UsageError(
                f"cannot write {name}: {form.kind} files hold no alpha; write .png, .tif or .webp"
            )
        if pixels.ndim == 3 and str(name).lower().endswith(".pgm"):
            raise UsageError(f"cannot write {name}: PGM files are gray; write .ppm or .png")
        options = form.options if self.quality is None else {**(form.lossy or {}), "quality": self.quality}
        extras = {} if form.kind == "PNG" else self._extras(metadata)
        file = io.BytesIO()
        # By the name Pillow loads the writer of this format; told the format, it would load five.
        file.name = f"image{form.endings[0]}"
        try:
            if form.kind == "TIFF" and "exif" in extras:
                # Pillow writes EXIF with its sub-directories into uncompressed files only.
                options, extras["exif"] = {}, _tiff_exif(metadata)
            Image.fromarray(pixels).save(file, **options, **extras)
        except Exception as error:  # Pillow's writers raise what they come across in EXIF
            raise UsageError(
                f"cannot write {name}: {form.kind} does not hold this image or its metadata: "
                f"{error or type(error).__name__}; write another kind (.png)"
            ) from error
        return add_chunks(file.getvalue(), png_chunks(metadata)) if form.kind == "PNG" else file.getvalue()

    def _extras(self, metadata: Metadata) -> dict[str, Any]:
        """What Pillow's writer takes of the metadata."""
        found = {"icc_profile": metadata.icc, "exif": metadata.exif, "xmp": metadata.xmp}
        extras: dict[str, Any] = {
            key: value for key, value in found.items() if value and key in self.format.blocks
        }
        if self.format.kind == "TIFF" and extras.pop("xmp", None):
            extras["exif"] = metadata.exif  # TIFF has a field for it
        if self.format.dpi and metadata.resolution is not None and metadata.resolution.per_inch is not None:
            extras["dpi"] = metadata.resolution.per_inch
        return extras

    def left_out(self, metadata: Metadata) -> tuple[str, ...]:
        """What `encode` does not write of some metadata, in words for a warning."""
        kind, blocks = self.format.kind, self.format.blocks
        has_length = metadata.resolution is not None and metadata.resolution.per_inch is not None
        lost = {
            "the ICC profile": bool(metadata.icc) and "icc_profile" not in blocks,
            "EXIF": bool(metadata.exif) and "exif" not in blocks,
            "XMP": bool(metadata.xmp) and "xmp" not in blocks,
            "the meaning of its colors (" + ", ".join(name.decode() for name, _ in metadata.color) + ")": (
                metadata.changes_colors and kind != "PNG"
            ),
            "the resolution": metadata.resolution is not None
            and not (kind == "PNG" or (self.format.dpi and has_length)),
        }
        return tuple(what for what, gone in lost.items() if gone)


def writer_for(name: str | Path, chosen: str | None = None, quality: int | None = None) -> Writer:
    """The writer of a file.

    Args:
        name: of the file, whose ending says the format.
        chosen: the format, a key of `FORMATS`; None: the ending says it.
        quality: 1..100, for formats that lose by it; None: without loss where the format can, else its usual one.

    Raises:
        UsageError: the ending names no format or another than the chosen one, or the format has no quality.
    """
    ending = Path(name).suffix.lower()
    named = next((key for key, found in FORMATS.items() if ending in found.endings), None)
    if chosen is None and named is None:
        known = ", ".join(found.endings[0] for found in FORMATS.values())
        raise UsageError(
            f"cannot write {name}: its ending names no image format that is written (known: {known})"
        )
    if chosen is not None and named not in {None, chosen}:
        raise UsageError(f"cannot write {name}: its ending says {named}, and {chosen} was asked for")
    key = chosen or named
    assert key is not None
    form = FORMATS[key]
    if quality is not None and form.lossy is None:
        lossy = ", ".join(key for key, found in FORMATS.items() if found.lossy is not None)
        raise UsageError(
            f"{key} files have no quality, they are written without loss; a quality goes with {lossy}"
        )
    return Writer(form, form.quality if quality is None else quality)


def lossless_writer_for(name: str | Path) -> Writer:
    """The writer of a file that must be without loss.

    Raises:
        UsageError: the ending names no format that is.
    """
    ending = Path(name).suffix.lower()
    for found in FORMATS.values():
        if ending in found.endings and found.quality is None:
            return Writer(found)
    known = ", ".join(
        ending for found in FORMATS.values() if found.quality is None for ending in found.endings
    )
    raise UsageError(f"cannot write {name}: its ending names no lossless image format (known: {known})")


def encode_image(pixels: npt.NDArray[np.uint8], metadata: Metadata, path: str | Path) -> bytes:
    """The bytes of an image file, without loss, in the format that the ending of `path` names.

    Raises:
        UsageError: as `lossless_writer_for` and `Writer.encode`.
    """
    return lossless_writer_for(path).encode(pixels, metadata, path)


def _tiff_exif(metadata: Metadata) -> Image.Exif:
    """An EXIF block for a TIFF file, with the XMP packet, without what says how pixels are stored."""
    exif = Image.Exif()
    if metadata.exif:
        exif.load(metadata.exif)
    for tag in [tag for tag in exif if ExifTags.TAGS.get(tag) in _TIFF_STRUCTURE]:
        del exif[tag]
    if metadata.xmp:
        exif[_XMP_TAG] = metadata.xmp
    return exif
