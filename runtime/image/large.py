"""Large image files by libvips: read and written from the top to the bottom, never whole in memory.

Needs `pyvips` and libvips: `pip install 'oslic[large]'`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

import numpy as np

from ..errors import DependencyError, ImageError, UsageError, one_line
from ..stopping import checker
from .arrays import Layout, three_channels
from .files import described
from .metadata import Metadata, png_chunks
from .png import start_of_pixels, uncompressed, with_chunks
from .writing import FORMATS, ImageFormat, Writer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..limits import Limits
    from .arrays import Pixels

_ICC: Final = "icc-profile-data"
_XMP: Final = "xmp-data"
_MM_PER_INCH: Final = 25.4


class _StripFormat(NamedTuple):
    """A format that strips are written in, as libvips writes it, and libvips' options."""

    format: ImageFormat
    options: dict[str, Any]


_TIFF: Final = _StripFormat(
    # libvips writes no EXIF into TIFF.
    replace(FORMATS["tiff"], blocks=frozenset({"icc_profile", "xmp"})),
    {"compression": "deflate", "bigtiff": True, "tile": True},
)
_FORMATS: Final = {
    # What libvips says of its own beside the pixels is left out: see `_PngSink`.
    ".png": _StripFormat(FORMATS["png"], {"compression": 3, "filter": "all", "keep": "none"}),
    ".tif": _TIFF,
    ".tiff": _TIFF,
}
"""Formats by the endings of the files that strips can be written to."""


def libvips() -> Any:
    """The module `pyvips`.

    Raises:
        DependencyError: it or the library is not installed.
    """
    try:
        import pyvips
    except (ImportError, OSError) as error:
        raise DependencyError(
            f"pictures larger than the memory need libvips: pip install 'oslic[large]' ({error})"
        ) from error
    # Its cache of operations would hold strips that are never asked for again.
    pyvips.cache_set_max(0)
    return pyvips


class LargeImage:
    """An image file that is read row by row: a `RowSource`.

    Args:
        path: an image file that libvips reads: PNG, JPEG, TIFF, WebP and others.
        limits: sizes beyond which the file is refused; memory is not checked.

    Raises:
        DependencyError: libvips is not installed.
        ImageError: not an image, or not 8 bits per sample in gray or RGB.
        LimitError: more pixels than the limit.

    Attributes:
        layout: channels of the picture.
        metadata: what the file says beside the pixels.
        notes: what of it was left out and why, each a line for the user.
    """

    def __init__(self, path: str | Path, limits: Limits) -> None:
        self._vips = libvips()
        self._path = str(path)
        self._image = self._open()
        limits.check_pixels(self._image.width, self._image.height)
        if self._image.format != "uchar" or self._image.interpretation not in {"srgb", "b-w"}:
            raise ImageError(
                f"{path} holds {self._image.format} samples in {self._image.interpretation}: large pictures must have "
                "8 bits a sample, gray or RGB; convert it first"
            )
        if self._image.get_n_pages() > 1:
            raise ImageError(f"{path} has several pages: only single pictures are supported")
        self.layout = Layout(self._image.bands)
        self.metadata, self.notes = described(
            path, limits, (self._image.width, self._image.height), is_gray=self.layout.is_gray
        )
        self._lines = self._vips.Region.new(self._image)
        self._row = 0

    def _open(self) -> Any:
        try:
            image = self._vips.Image.new_from_file(self._path, access="sequential", fail_on="truncated")
            if image.get_typeof("orientation") and image.get("orientation") > 1:
                # A turned picture is decoded into a temporary file.
                image = self._vips.Image.new_from_file(self._path, fail_on="truncated").autorot()
        except self._vips.Error as error:
            raise ImageError(f"{self._path} cannot be read as an image: {one_line(error)}") from error
        return image

    @property
    def width(self) -> int:
        """Width of the picture in pixels."""
        return int(self._image.width)

    @property
    def height(self) -> int:
        """Height of the picture in pixels."""
        return int(self._image.height)

    def reduced(self, factor: int) -> Pixels:
        """The picture at 1/`factor` of the size, averaged: uint8 (ceil(H/factor), ceil(W/factor), 3)."""
        image = self._open()
        if self.layout.has_alpha:
            image = image.extract_band(0, n=image.bands - 1)
        return three_channels(self._pixels(image.shrink(factor, factor, ceil=True)))

    def rows(self, count: int) -> Pixels:
        """Read the next rows: uint8 (count, W) or (count, W, C).

        Raises:
            ImageError: the file is damaged.
        """
        # Not a crop: at the end of each evaluation libvips forgets the lines that it has read ahead, to which it cannot
        # go back.
        try:
            data = self._lines.fetch(0, self._row, self.width, count)
        except self._vips.Error as error:
            raise ImageError(f"{self._path} is damaged: {one_line(error)}") from error
        self._row += count
        return self._array(data, count, self.width, self._image.bands)

    def _pixels(self, image: Any) -> Pixels:
        try:
            data = image.write_to_memory()
        except self._vips.Error as error:
            raise ImageError(f"{self._path} is damaged: {one_line(error)}") from error
        return self._array(data, image.height, image.width, image.bands)

    @staticmethod
    def _array(data: Any, height: int, width: int, bands: int) -> Pixels:
        shape = (height, width, bands) if bands > 1 else (height, width)
        return np.frombuffer(data, np.uint8).reshape(shape)


def strips_kind(name: Path) -> str:
    """The ending that says in which format strips are written to a file.

    Raises:
        UsageError: a format that cannot be written so.
    """
    kind = name.suffix.lower()
    if kind not in _FORMATS:
        raise UsageError(
            f"cannot write {name}: the picture is larger than the memory that it may take, and in strips only "
            f"{', '.join(_FORMATS)} are written: name such a file, or allow more with --max-memory"
        )
    return kind


def left_out(metadata: Metadata, kind: str) -> tuple[str, ...]:
    """What `write_strips` does not write of some metadata, in words for a warning; `kind` is from `strips_kind`."""
    return Writer(_FORMATS[kind].format).left_out(metadata)


def write_strips(
    strips: Iterable[Pixels],
    size: tuple[int, int],
    layout: Layout,
    *,
    metadata: Metadata,
    kind: str,
    target: BinaryIO,
) -> None:
    """Write an image file from strips, which are kept in a temporary file until all have come.

    Args:
        strips: uint8 (h, W) or (h, W, C), from top to bottom.
        size: width and height of the picture in pixels.
        layout: channels of the strips.
        metadata: to write as far as the format holds it, see `left_out`.
        kind: from `strips_kind`.
        target: a file, open to be read and written.

    Raises:
        DependencyError: libvips is not installed.
        UsageError: there is no space left for the temporary file, or the picture cannot be written.
        OSError: `target` cannot be written to.
    """
    vips = libvips()
    # Without a name, so that nothing is left of it however this ends.
    with tempfile.TemporaryFile(prefix=".oslic-", buffering=0) as spool:
        for piece in uncompressed(strips, size, int(layout)):
            _write(spool, piece)
        spool.seek(0)
        # Not raw samples: libvips would map those into memory as a whole.
        source = vips.Source.new_from_descriptor(spool.fileno())
        image = vips.Image.new_from_source(source, "", access="sequential").copy()
        sink = _PngSink(target, metadata) if kind == ".png" else _Sink(target)
        if kind != ".png":
            image = _with_metadata(image, metadata, vips)
        try:
            image.write_to_target(sink.target(vips), kind, **_FORMATS[kind].options)
        except vips.Error as error:
            if sink.error is not None:
                raise sink.error from error
            raise UsageError(f"the picture cannot be written: {one_line(error)}") from error


def _with_metadata(image: Any, metadata: Metadata, vips: Any) -> Any:
    """An image of libvips with what it writes of metadata."""
    density = None if metadata.resolution is None else metadata.resolution.per_inch
    if density is not None:
        image = image.copy(xres=density[0] / _MM_PER_INCH, yres=density[1] / _MM_PER_INCH)
        image.set_type(vips.GValue.gstr_type, "resolution-unit", "in")
    for name, block in ((_ICC, metadata.icc), (_XMP, metadata.xmp)):
        if block:
            image.set_type(vips.GValue.blob_type, name, block)
    return image


class _Sink:
    """A file for libvips to write to, which says nothing of the errors that it meets there.

    Attributes:
        error: the first one; None: there was none.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._check_stopped = checker()  # libvips writes on threads of its own
        self.error: BaseException | None = None

    def target(self, vips: Any) -> Any:
        """What libvips takes."""
        target = vips.TargetCustom()
        target.on_write(lambda data: self._kept(-1, self._write, bytes(data)))
        target.on_read(lambda length: self._kept(b"", self._file.read, length))
        target.on_seek(lambda offset, whence: self._kept(-1, self._file.seek, offset, whence))
        return target

    def _write(self, data: bytes) -> int:
        self._file.write(data)
        return len(data)

    def _kept(self, failed: Any, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do something, or return `failed`: what it raises is kept, as it cannot pass through libvips."""
        if self.error is None:
            try:
                self._check_stopped()
                return work(*arguments)
            except BaseException as error:
                self.error = error
        return failed


class _PngSink(_Sink):
    """Puts chunks of metadata in place of those that libvips writes before the pixels."""

    def __init__(self, file: BinaryIO, metadata: Metadata) -> None:
        super().__init__(file)
        self._chunks = png_chunks(metadata)
        self._head: bytes | None = b""

    def _write(self, data: bytes) -> int:
        if self._head is None:
            return super()._write(data)
        self._head += data
        start = start_of_pixels(self._head)
        if start is not None:
            self._file.write(with_chunks(self._head, start, self._chunks))
            self._head = None
        return len(data)


def _write(file: IO[bytes], piece: bytes) -> None:
    rest = memoryview(piece)
    try:
        while rest:
            rest = rest[file.write(rest) :]
    except OSError as error:
        folder = tempfile.gettempdir()
        raise UsageError(
            f"cannot write the temporary file of the picture's pixels into {folder}: {error.strerror}; name another "
            "folder in TMPDIR"
        ) from error
