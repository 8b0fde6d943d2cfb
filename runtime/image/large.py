"""Large image files by libvips: read and written from the top to the bottom, never whole in memory.

Needs `pyvips` and libvips: `pip install 'oslic[large]'`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np

from ..errors import DependencyError, ImageError, UsageError, one_line
from .arrays import Layout, three_channels
from .metadata import Metadata
from .png import uncompressed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..limits import Limits
    from .arrays import Pixels

WRITABLE: Final[dict[str, dict[str, Any]]] = {
    ".png": {"compression": 3},
    ".tif": {"compression": "deflate", "bigtiff": True, "tile": True},
}
"""Endings of the files that strips can be written to, with libvips' options."""
WRITABLE[".tiff"] = WRITABLE[".tif"]
_ICC: Final = "icc-profile-data"
_EXIF: Final = "exif-data"


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

    @property
    def metadata(self) -> Metadata:
        """ICC profile and EXIF."""

        def block(name: str) -> bytes:
            return bytes(self._image.get(name)) if self._image.get_typeof(name) else b""

        return Metadata(block(_ICC), block(_EXIF))

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
    if kind not in WRITABLE:
        raise UsageError(f"cannot write {name}: a picture in strips is written to {', '.join(WRITABLE)}")
    return kind


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
        metadata: ICC profile and EXIF to write; other metadata are left out.
        kind: from `strips_kind`.
        target: a file, open to be read and written.

    Raises:
        DependencyError: libvips is not installed.
        UsageError: there is no space left, for the file or for the temporary one.
    """
    vips = libvips()
    with tempfile.NamedTemporaryFile(prefix=".oslic-", suffix=".png") as spool:
        for piece in uncompressed(strips, size, int(layout)):
            _write(spool.file, piece)
        # Not a raw file: libvips would map that into memory as a whole.
        image = vips.Image.new_from_file(spool.name, access="sequential").copy()
        for name, block in ((_ICC, metadata.icc), (_EXIF, metadata.exif)):
            if block:
                image.set_type(vips.GValue.blob_type, name, block)
        try:
            image.write_to_target(vips.Target.new_to_descriptor(target.fileno()), kind, **WRITABLE[kind])
        except vips.Error as error:
            raise UsageError(f"the picture cannot be written: {one_line(error)}") from error


def _write(file: IO[bytes], piece: bytes) -> None:
    try:
        file.write(piece)
        file.flush()
    except OSError as error:
        raise UsageError(f"cannot write into {Path(file.name).parent}: {error.strerror}") from error
