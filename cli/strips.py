"""Compressing and decompressing in strips: for pictures that the memory limit does not allow whole."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PIL import Image

from ..runtime.codec.container import StreamReader
from ..runtime.codec.decoding import drift_message
from ..runtime.codec.metadata_sections import read_metadata
from ..runtime.codec.stream import check_stream
from ..runtime.errors import UsageError, VerificationError
from ..runtime.files import atomic_file
from ..runtime.image.pixel_check import checking_pixels
from ..runtime.image.stripping import Strip, strip

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..runtime.codec import Codec, Settings
    from ..runtime.memory import MemoryUse
    from .jobs import Job


def size_of(path: Path) -> tuple[int, int] | None:
    """Width and height of an image file by its header; None if Pillow cannot tell, or it can be read only once."""
    if not path.is_file():
        return None
    try:
        # The limits are asked later, by whoever reads the picture.
        with checking_pixels(lambda *_: None), Image.open(path) as image:
            return image.size
    except Exception:
        return None


def exceeds(codec: Codec, size: tuple[int, int] | None, use: MemoryUse) -> bool:
    """Whether a picture is allowed, but not whole in memory."""
    if size is None or size[0] * size[1] > codec.limits.pixels:
        return False
    return use.for_picture(*size) > codec.limits.memory


def compress_strips(
    codec: Codec, job: Job, *, settings: Settings, keep_invisible: bool, stripped: Strip | None
) -> dict[str, Any]:
    """Compress a picture that is read from the top to the bottom; returns what there is to say.

    Args:
        codec: to use.
        job: the files.
        settings: of the encoder.
        keep_invisible: as for `Codec.compress`.
        stripped: what of the metadata is left out.

    Raises:
        DependencyError: libvips is not installed.
        LimitError: not even strips fit into the memory.
        ImageError, UsageError: as for pictures in memory.
    """
    from ..runtime.image.large import LargeImage

    start = time.perf_counter()
    image = LargeImage(job.source, codec.limits)
    with atomic_file(job.target, replace=job.replaces) as file:
        counted = _Counted(file)
        sizes = codec.compress_rows(
            image,
            counted,
            settings,
            metadata=strip(image.metadata, stripped),
            keep_invisible=keep_invisible,
        )
    length = counted.length
    return {
        "input": str(job.source),
        "output": str(job.target),
        "width": image.width,
        "height": image.height,
        "layout": image.layout.name.lower(),
        "bytes": length,
        "bpp": length * 8 / (image.width * image.height),
        "section_bytes": sizes,
        "overhead_bytes": length - sum(sizes.values()),
        "quality": settings.quality,
        "strips": True,
        "notes": list(image.notes),
        "stages_ms": {"all": round((time.perf_counter() - start) * 1e3, 3)},
    }


class _Counted:
    """Counts what is written into a file, which may be a pipe."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.length = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.length += len(data)


def decompress_strips(codec: Codec, job: Job, name: Path, *, strict: bool) -> dict[str, Any]:
    """Decompress a stream from the top to the bottom; returns what there is to say.

    Args:
        codec: to use.
        job: the files.
        name: whose ending says the format.
        strict: whether an estimate that is not the encoder's is an error.

    Raises:
        DependencyError: libvips is not installed.
        UsageError: the target's format cannot be written in strips.
        StreamError, BundleError, LimitError, VerificationError: as for streams in memory.
    """
    from ..runtime.image.large import left_out, strips_kind, write_strips

    start = time.perf_counter()
    kind = strips_kind(name)
    with job.source.open("rb") as stream:
        reader = StreamReader.of_file(stream, codec.limits)
        check_stream(reader)
        header = reader.header
        drift = _Drift(strict=strict)
        with atomic_file(job.target, replace=job.replaces) as file:
            if not file.seekable():
                raise UsageError(f"cannot write {job.target}: a picture in strips needs a file")
            strips = drift.watch(codec, reader)
            size = (header.width, header.height)
            metadata = read_metadata(reader)
            write_strips(strips, size, header.layout, metadata=metadata, kind=kind, target=file)
    return {
        "width": header.width,
        "height": header.height,
        "layout": header.layout.name.lower(),
        "digest_matches": drift.message is None,
        "drift": drift.message,
        "refinement": drift.refinement,
        "left_out": list(left_out(metadata, kind)),
        "tiles": header.grid.count,
        "backend": codec.backend,
        "strips": True,
        "stages_ms": {"all": time.perf_counter() - start},
    }


class _Drift:
    """Notes whether strips are what the encoder saw.

    Attributes:
        message: what to tell; None: all digests match.
        refinement: what to tell of the network that refined; None: it is the encoder's.
    """

    def __init__(self, *, strict: bool) -> None:
        self.message: str | None = None
        self.refinement: str | None = None
        self._strict = strict

    def watch(self, codec: Codec, reader: StreamReader) -> Iterator[npt.NDArray[np.uint8]]:
        """The pixels of the strips.

        Raises:
            VerificationError: a digest does not match, and that is an error.
        """
        for part in codec.decompress_rows(reader):
            self.refinement = part.refinement_note
            if part.drifted or part.residual_drifted:
                self.message = drift_message(estimate=part.drifted)
                if part.is_wrong:
                    raise VerificationError(self.message)
                if self._strict:
                    raise VerificationError(f"{self.message}; leave --strict out to accept that")
            yield part.pixels
