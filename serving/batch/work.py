"""The work on the items of a batch, several at a time."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ...runtime.backends import Options
from ...runtime.codec.request import Request, make_request
from ...runtime.errors import OslicError, VerificationError, one_line, out_of_memory, told
from ...runtime.image.arrays import visible_psnr
from ...runtime.image.files import decode_image
from ...runtime.image.writing import encode_image
from ...runtime.kinds.opening import AnyCodec, open_codec
from ...runtime.limits import Limits
from ...runtime.threads import in_order
from . import storage
from .sources import STREAM_ENDING, Item
from .table import Row

if TYPE_CHECKING:
    from ...runtime.kinds.opening import AnyDecoded

_IMAGE_ENDING: Final = ".png"


@dataclass(frozen=True)
class CodecOptions:
    """How a codec is opened; goes to other machines as it is. See `Codec.open`.

    Attributes:
        bundle: a folder, the name of a shipped bundle, or None for the default one.
        backend: a name from `oslic backends`, or "auto".
        threads: CPU threads of the networks.
        max_pixels: of a picture.
        max_memory: bytes that a process may take; None: half of what is free there.
        options: what else the backend is told.
    """

    bundle: str | None = None
    backend: str = "auto"
    threads: int | None = None
    max_pixels: int = Limits.pixels
    max_memory: int | None = None
    options: Options = field(default_factory=Options)

    def open(self) -> AnyCodec:
        """Open the codec on this machine.

        Raises:
            BundleError, BackendError: as `Codec.open`.
        """
        limits = (
            Limits(self.max_pixels)
            if self.max_memory is None
            else Limits(self.max_pixels, memory=self.max_memory)
        )
        return open_codec(self.bundle, self.backend, self.threads, limits, options=self.options)


@dataclass(frozen=True)
class Job:
    """What is done to each item; goes to other machines as it is.

    Attributes:
        target: path or URL of the folder of the results.
        request: how pictures are coded.
        decode: the items are streams, and are decoded to PNG files.
        verify: what was written is read again, and decoded; of streams that are decoded, the digests count.
        networks: fingerprint of the bundle that compresses.
    """

    target: str
    request: Request = field(default_factory=make_request)
    decode: bool = False
    verify: bool = False
    networks: str = ""

    def described(self) -> str:
        """The job as the table states it; what is equal here gives equal results."""
        if self.decode:
            return json.dumps({"decode": True, "verify": self.verify})
        return json.dumps({"networks": self.networks, **asdict(self.request), "verify": self.verify})

    def output_of(self, item: Item) -> str:
        """Where the result of an item goes: `a/b.jpg` to `a/b.jpg.oslic`, `a/b.jpg.oslic` to `a/b.jpg.png`."""
        if self.decode:
            return storage.join(self.target, item.name.removesuffix(STREAM_ENDING) + _IMAGE_ENDING)
        return storage.join(self.target, item.name + STREAM_ENDING)


class Work:
    """Does a job. An item that fails, whatever the reason, becomes a row that says why.

    Args:
        codec: does the coding; one thread for its networks is best, see `runtime.codec.batch`.
        job: what is to be done.
        jobs: how many items are in work at a time.
    """

    def __init__(self, codec: AnyCodec, job: Job, jobs: int) -> None:
        self._codec = codec
        self._job = job
        self._jobs = jobs
        self._described = job.described()

    def rows(self, items: Iterable[Item]) -> Iterator[Row]:
        """Work on items, several at a time.

        Yields:
            A row for each, in their order.
        """
        for item, outcome in in_order(items, self._row, self._jobs):
            if isinstance(outcome, OslicError):  # no memory for another thread
                yield _failed(Row(item.source, self._described), outcome)
            else:
                yield outcome

    def _row(self, item: Item) -> Row:
        row, start = Row(item.source, self._described), time.perf_counter()
        try:
            row = self._decode(item, row) if self._job.decode else self._encode(item, row)
        except OslicError as error:
            row = _failed(row, error)
        except MemoryError as error:
            row = _failed(row, out_of_memory(error))
        except Exception as error:  # one file of a million must not end the run, whatever it triggers
            row = _failed(row, OslicError(f"unexpected {type(error).__name__}: {one_line(error)}"))
        return replace(row, seconds=time.perf_counter() - start, finished=datetime.now(UTC))

    def _encode(self, item: Item, row: Row) -> Row:
        codec, job = self._codec, self._job
        data = storage.read(item.source, "image", codec.limits.image_bytes)
        picture = decode_image(data, codec.limits, item.source, use=codec.encoding)
        encoded = codec.encode(picture.pixels, replace(job.request, metadata=picture.metadata))
        output = job.output_of(item)
        storage.write(output, encoded.data)
        if job.verify:
            decoded = codec.decode(storage.read(output, "stream", codec.limits.stream_bytes))
            _require_match(decoded)
            made = decoded.image
        else:
            made = codec.reconstruct(encoded)
        height, width = picture.pixels.shape[:2]
        return replace(
            row,
            output=output,
            width=width,
            height=height,
            bytes_in=len(data),
            bytes_out=len(encoded.data),
            psnr=visible_psnr(encoded.image, made),
            digest_matches=True if job.verify else None,
            digest=hashlib.sha256(encoded.data).hexdigest(),
        )

    def _decode(self, item: Item, row: Row) -> Row:
        data = storage.read(item.source, "stream", self._codec.limits.stream_bytes)
        decoded = self._codec.decode(data)
        if self._job.verify or decoded.is_wrong:
            _require_match(decoded)
        output = self._job.output_of(item)
        image = encode_image(decoded.image, decoded.metadata, output)
        storage.write(output, image)
        height, width = decoded.image.shape[:2]
        return replace(
            row,
            output=output,
            width=width,
            height=height,
            bytes_in=len(data),
            bytes_out=len(image),
            digest_matches=decoded.digest_matches,
            digest=hashlib.sha256(image).hexdigest(),
        )


def _require_match(decoded: AnyDecoded) -> None:
    if decoded.drift is not None:
        raise VerificationError(decoded.drift)


def _failed(row: Row, error: OslicError) -> Row:
    return replace(row, error=told(error, row.source), exit_code=error.exit_code)
