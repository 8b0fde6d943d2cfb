"""Work on several pictures at a time, with the results in the order of the pictures.

    >>> from oslic.runtime import Codec, compress_many, decompress_many
    >>> codec = Codec.open()
    >>> streams = list(compress_many(codec, ["photo.jpg", "photo.png"], quality=60))
    >>> [image.shape for image in decompress_many(codec, streams)]
    [(256, 256, 3), (256, 256, 3)]

Networks, FLIF and AV1 spend their time outside the interpreter's lock, so threads are enough. On a CPU a codec with one
thread for its networks (`Codec.open(threads=1)`) is the fastest then: pictures beside each other use the cores better
than the parts of one picture do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Final, SupportsFloat, TypeVar

from ..errors import OslicError, UsageError, out_of_memory
from ..threads import Workers
from .request import make_request
from .tile_pool import most_workers

if TYPE_CHECKING:
    from ..image.arrays import Pixels
    from . import Codec
    from .sources import PictureSource, StreamSource

_MOST_JOBS: Final = 16
# Networks, FLIF and AV1 of one picture leave a core idle now and then; those of another take it.
_JOBS_PER_CORE: Final = 2

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def default_jobs() -> int:
    """How many pictures are in work at a time where nobody says: two for each core, at most 16."""
    return min(_MOST_JOBS, _JOBS_PER_CORE * most_workers())


def in_order(
    items: Iterable[_Item], work: Callable[[_Item], _Result], jobs: int
) -> Iterator[tuple[_Item, _Result | OslicError]]:
    """Run `work` on several items at a time, each on a thread.

    Args:
        items: what to work on, taken one by one; of those taken, at most twice as many as there are jobs are waiting,
            in work, or done and not yet fetched.
        work: the whole work; should spend its time outside the interpreter's lock.
        jobs: how many items are in work at a time, at least 1.

    Yields:
        Each item with its result, or with the OslicError that it raised (a LimitError where memory was short), in the
        order of the items. Other exceptions are raised.
    """
    if jobs < 1:
        raise UsageError(f"jobs is {jobs}, must be at least 1")
    with Workers(jobs) as pool:
        pending: deque[tuple[_Item, Future[_Result] | OslicError]] = deque()
        try:
            for item in items:
                pending.append((item, _submit(pool, work, item)))
                if len(pending) == 2 * jobs:
                    oldest, future = pending.popleft()
                    yield oldest, _fetch(future)
            while pending:
                oldest, future = pending.popleft()
                yield oldest, _fetch(future)
        finally:
            for _, waiting in pending:
                if isinstance(waiting, Future):
                    waiting.cancel()


def _submit(pool: Workers, work: Callable[[_Item], _Result], item: _Item) -> Future[_Result] | OslicError:
    try:
        return pool.submit(work, item)
    except MemoryError as error:
        return out_of_memory(error)


def _fetch(pending: Future[Any] | OslicError) -> Any:
    if isinstance(pending, OslicError):
        return pending
    try:
        return pending.result()
    except OslicError as error:
        return error
    except MemoryError as error:
        return out_of_memory(error)


def compress_many(
    codec: Codec,
    images: Iterable[PictureSource],
    quality: SupportsFloat | None = None,
    *,
    jobs: int | None = None,
    **options: Any,
) -> Iterator[bytes | OslicError]:
    """Compress many pictures, several at a time.

    Args:
        codec: from `Codec.open`; on a CPU best with `threads=1`.
        images: an iterable of what `Codec.compress` takes: arrays, Pillow images, paths. At most twice as many as there
            are jobs are held at a time.
        quality: as for `Codec.compress`.
        jobs: number of pictures to process at a time; None: two for each core, at most 16.
        options: the other arguments of `Codec.compress`: `bpp`, `psnr`, `effort`, `focus`, `class_quality`, ...

    Yields:
        In the order of the pictures, the bytes of the `.oslic` file, or the error of that picture, which does not stop
        the others.

    Raises:
        UsageError: a setting out of its range; at the first picture.
    """
    request = make_request(quality, **options)
    for _, outcome in in_order(
        images, lambda image: codec.encode(image, request).data, jobs or default_jobs()
    ):
        yield outcome


def decompress_many(
    codec: Codec, streams: Iterable[StreamSource], *, jobs: int | None = None, **options: Any
) -> Iterator[Pixels | OslicError]:
    """Decompress many streams, several at a time.

    Args:
        codec: from `Codec.open`; on a CPU best with `threads=1`.
        streams: an iterable of what `Codec.decompress` takes: contents or paths of `.oslic` files. At most twice as
            many as there are jobs are held at a time.
        jobs: number of streams to process at a time; None: two for each core, at most 16.
        options: the other arguments of `Codec.decompress`: `strict`, `region`.

    Yields:
        In the order of the streams, the picture, uint8, or the error of that stream, which does not stop the others.
    """
    for _, outcome in in_order(
        streams, lambda data: codec.decompress(data, **options), jobs or default_jobs()
    ):
        yield outcome
