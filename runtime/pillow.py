"""A plug-in for Pillow: `.oslic` files are images like others once this module is imported.

    >>> from PIL import Image
    >>> import oslic.runtime.pillow
    >>> Image.open("photo.png").save("photo.oslic", quality=60)  # or bpp=, psnr=, effort=, focus= of `Codec.compress`
    >>> image = Image.open("photo.oslic")  # reads the header; size, mode and metadata are there
    >>> image.size
    (256, 256)
    >>> _ = image.draft(None, (100, 80))  # as for JPEG: decode at 1/2, 1/4 or 1/8, never smaller than this
    >>> _ = image.load()  # now networks run
    >>> image.size
    (128, 128)

As Pillow's own writers do, `save` carries EXIF and XMP only if it is told to (`exif=image.info["exif"]`), and the ICC
profile by itself. Errors are `PillowError`, which is an OSError as Pillow's are.
"""

from __future__ import annotations

import inspect
import io
import threading
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, cast

import numpy as np
from PIL import ExifTags, Image, ImageFile

from .bundle.finder import find_bundle
from .codec import Codec
from .codec.container import MAGIC, StreamReader
from .codec.metadata_sections import read_metadata
from .codec.preview import thumbnail
from .codec.request import make_request
from .codec.stream import check_all, check_stream, fingerprint_of
from .errors import OslicError
from .image.arrays import Layout
from .image.files import picture_of
from .image.metadata import Metadata, Unit, resolution
from .limits import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

FORMAT: Final = "OSLIC"
MIME: Final = "image/x-oslic"

_MODES: Final = {Layout.GRAY: "L", Layout.GRAY_ALPHA: "LA", Layout.RGB: "RGB", Layout.RGBA: "RGBA"}
_SCALES: Final = (8, 4, 2)
# What `save` passes on to the codec.
_OPTIONS: Final = frozenset(inspect.signature(make_request).parameters) - {"metadata"}


class PillowError(OslicError, OSError):
    """An error of the codec, for programs that expect those of Pillow."""


class _Shared:
    """The codec that all images use, opened when the first one needs it."""

    def __init__(self) -> None:
        self._codec: Codec | None = None
        self._lock = threading.Lock()

    def get(self) -> Codec:
        with self._lock:
            if self._codec is None:
                self._codec = Codec.open()
            return self._codec

    def set(self, codec: Codec | None) -> None:
        with self._lock:
            self._codec = codec


_shared: Final = _Shared()


def use_codec(codec: Codec | None) -> None:
    """Set the codec that images are coded with, for instance one with other limits or on another backend.

    Args:
        codec: a codec that stays open; None: the default one.
    """
    _shared.set(codec)


class OslicImageFile(ImageFile.ImageFile):
    """An `.oslic` file, opened by `PIL.Image.open`."""

    format = FORMAT
    format_description = "OSLIC learned image codec"

    _scale = 1

    def _open(self) -> None:
        """Read the header and the metadata; no network runs."""
        try:
            reader = self._reader()
            layout, metadata = reader.header.layout, read_metadata(reader)
        except OslicError as error:
            raise PillowError(str(error)) from error
        self._size = reader.header.width, reader.header.height
        self._mode = _MODES[layout]
        for name, block in (("icc_profile", metadata.icc), ("exif", metadata.exif), ("xmp", metadata.xmp)):
            if block:
                self.info[name] = block
        if metadata.resolution is not None and metadata.resolution.per_inch is not None:
            self.info["dpi"] = metadata.resolution.per_inch
        self._expect()

    def _expect(self) -> None:
        self.tile = [ImageFile._Tile("raw", (0, 0, *self.size), 0, self.mode)]  # noqa: SLF001 (for plug-ins)

    def _reader(self) -> StreamReader:
        assert self.fp is not None
        file = cast("BinaryIO", self.fp)
        reader = StreamReader.of_file(file, Limits(), partial=ImageFile.LOAD_TRUNCATED_IMAGES)
        check_stream(reader)
        return reader

    def draft(
        self, mode: str | None, size: tuple[int, int] | None
    ) -> tuple[str, tuple[int, int, float, float]] | None:
        """Decode at 1/2, 1/4 or 1/8 of the size, the smallest that is at least `size`.

        Args:
            mode: ignored.
            size: width and height in pixels that are needed; None: nothing changes.

        Returns:
            The mode, and the box of the whole picture in the smaller one; None: nothing changed.
        """
        del mode
        if size is None or len(self.tile) != 1 or self._scale != 1:
            return None
        width, height = self.size
        most = min(width // max(1, size[0]), height // max(1, size[1]))
        scale = next((s for s in _SCALES if s <= most), 1)
        if scale == 1:
            return None
        self._scale = scale
        self._size = -(-width // scale), -(-height // scale)
        self._expect()
        return self.mode, (0, 0, width / scale, height / scale)

    def load(self) -> Any:
        """Decode the picture, if that has not been done.

        Returns:
            Pillow's access object for the pixels.

        Raises:
            PillowError: the stream is damaged, or its networks are not known.
        """
        if self.tile and self.fp is not None:
            try:
                self.fp.seek(0)
                decoded = _shared.get().decode(self.fp.read(), partial=ImageFile.LOAD_TRUNCATED_IMAGES)
            except OslicError as error:
                raise PillowError(str(error)) from error
            pixels = decoded.image
            if self._scale > 1:
                pixels = np.asarray(Image.fromarray(pixels).reduce(self._scale))
            if self._exclusive_fp:
                self.fp.close()
            self.fp = io.BytesIO(pixels.tobytes())
        return super().load()

    def preview(self) -> Image.Image:
        """The picture at 1/8 of its size, from the compact image alone; no network runs.

        Raises:
            PillowError: it is loaded already, or its networks are not known.
        """
        if not self.tile:
            raise PillowError("the picture is loaded: `reduce(8)` is better than its preview")
        try:
            reader = self._reader()
            return Image.fromarray(thumbnail(reader, find_bundle(fingerprint_of(reader.header))))
        except OslicError as error:
            raise PillowError(str(error)) from error

    def verify(self) -> None:
        """Check the checksums of all sections. As with other formats, open the file again afterwards.

        Raises:
            PillowError: it is damaged.
        """
        try:
            check_all(self._reader())
        except OslicError as error:
            raise PillowError(str(error)) from error
        super().verify()


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(MAGIC)


def _save(image: Image.Image, file: IO[bytes], filename: str | bytes) -> None:
    """Compress an image; what `Image.save` calls."""
    del filename
    info: Mapping[str, Any] = image.encoderinfo
    codec = _shared.get()
    try:
        request = make_request(**{key: value for key, value in info.items() if key in _OPTIONS})
        picture = picture_of(image, codec.limits, f"the image of mode {image.mode}", use=codec.encoding)
        request = replace(request, metadata=_metadata(picture.metadata, info))
        data = codec.encode(picture.pixels, request).data
    except OslicError as error:
        raise PillowError(f"cannot write it as OSLIC: {error}") from error
    file.write(data)


def _metadata(own: Metadata, info: Mapping[str, Any]) -> Metadata:
    """What the file carries: profile and resolution of the image's own, all else if it was given."""
    given = info.get("exif")
    exif = Image.Exif()
    if isinstance(given, Image.Exif):
        given = given.tobytes()
    if given:
        exif.load(bytes(given))
        exif.pop(ExifTags.Base.Orientation, None)  # the picture stands upright
    xmp = info.get("xmp") or b""
    dpi = info.get("dpi")
    return replace(
        own,
        icc=bytes(info["icc_profile"] or b"") if "icc_profile" in info else own.icc,
        exif=exif.tobytes() if len(exif) else b"",
        xmp=xmp.encode() if isinstance(xmp, str) else bytes(xmp),
        resolution=own.resolution if dpi is None else resolution(float(dpi[0]), float(dpi[1]), Unit.INCH),
    )


Image.register_open(FORMAT, OslicImageFile, _accept)
Image.register_save(FORMAT, _save)
Image.register_extension(FORMAT, ".oslic")
Image.register_mime(FORMAT, MIME)
