"""Work on several images at once: one's entropy coding beside another's networks.

    >>> for data in compress_many(codec, images, quality=60):
    ...     ...
    >>> for image in decompress_many(codec, streams):
    ...     ...

Inside one image the networks overlap with the coding of its lossless layers already (`Codec.layers`); what these two
add is that residuals are coded, and streams unpacked, while the device works on the next image.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Final, TypeVar

from .codec.settings import LayerMode, Settings, Tune
from .errors import OslicError, out_of_memory
from .threads import Workers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from .codec import Codec

    Pixels = npt.NDArray[np.uint8]

_IN_WORK: Final = 2

_Item = TypeVar("_Item")
_Half = TypeVar("_Half")
_Whole = TypeVar("_Whole")


def overlap(
    items: Iterable[_Item], first: Callable[[_Item], _Half], second: Callable[[_Item, _Half], _Whole]
) -> Iterator[tuple[_Item, _Whole | OslicError]]:
    """Run `second` of each item on another thread while `first` of the next one runs on this thread.

    At most two items are in work, so memory stays bounded. Both steps should spend their time outside the
    interpreter's lock, as the networks, FLIF and AVIF do.

    Args:
        items: what to work on, taken one by one.
        first: the first half of the work.
        second: the second half; gets the item and what `first` returned.

    Yields:
        Each item with its result, or with the OslicError that either half raised (a LimitError where memory was
        short), in the order of the items. Other exceptions are raised.
    """
    with Workers(1) as pool:
        pending: tuple[_Item, Future[_Whole] | OslicError] | None = None
        for item in items:
            following: Future[_Whole] | OslicError
            try:
                following = pool.submit(second, item, first(item))
            except OslicError as error:
                following = error
            except MemoryError as error:
                following = out_of_memory(error)
            if pending is not None:
                outcome = _outcome(pending[1])
                yield pending[0], outcome
            pending = (item, following)
        if pending is not None:
            outcome = _outcome(pending[1])
            yield pending[0], outcome


def _outcome(pending: Future[_Whole] | OslicError) -> _Whole | OslicError:
    if isinstance(pending, OslicError):
        return pending
    try:
        return pending.result()
    except OslicError as error:
        return error
    except MemoryError as error:
        return out_of_memory(error)


def ahead(
    items: Iterable[_Item], work: Callable[[_Item], _Whole]
) -> Iterator[tuple[_Item, _Whole | OslicError]]:
    """Run `work` on two items at a time, each on a thread of its own.

    Args:
        items: what to work on, taken one by one.
        work: the whole work; should spend its time outside the interpreter's lock.

    Yields:
        Each item with its result, or with the OslicError that it raised (a LimitError where memory was short), in the
        order of the items. Other exceptions are raised.
    """
    with Workers(_IN_WORK) as pool:
        pending: deque[tuple[_Item, Future[_Whole]]] = deque()
        for item in items:
            pending.append((item, pool.submit(work, item)))
            if len(pending) == _IN_WORK:
                first, future = pending.popleft()
                outcome = _outcome(future)
                yield first, outcome
        for item, future in pending:
            outcome = _outcome(future)
            yield item, outcome


def compress_many(
    codec: Codec,
    images: Iterable[Pixels],
    *,
    quality: float = Settings.quality,
    effort: int = Settings.effort,
    layers: LayerMode = Settings.layers,
    tune: Tune = Settings.tune,
    refine: bool = True,
    keep_invisible: bool = False,
) -> Iterator[bytes | OslicError]:
    """Compress many images, the residual of one beside the networks of the next.

    Args:
        codec: from `Codec.open`.
        images: uint8, as for `Codec.compress`; taken one by one, at most two are held.
        quality: 0..100, as for `Codec.compress`.
        effort: as for `Codec.compress`.
        layers: as for `Codec.compress`.
        tune: as for `Codec.compress`.
        refine: as for `Codec.compress`.
        keep_invisible: as for `Codec.compress`.

    Yields:
        In the order of the images, the bytes that `Codec.compress` gives, or the error of that image: a bad image
        does not stop the others.
    """
    settings = Settings(quality, effort, layers, tune, refine)
    for _, outcome in overlap(
        images,
        lambda image: codec.layers(image, settings, keep_invisible=keep_invisible),
        lambda _, made: codec.finish(made).data,
    ):
        yield outcome


def decompress_many(
    codec: Codec, streams: Iterable[bytes], *, strict: bool = False
) -> Iterator[Pixels | OslicError]:
    """Decompress many streams, the networks of one beside the layers and the residual of the next.

    Args:
        codec: from `Codec.open`.
        streams: contents of `.oslic` files; taken one by one, at most two are held.
        strict: as for `Codec.decompress`.

    Yields:
        In the order of the streams, the image that `Codec.decompress` gives, or the error of that stream.
    """
    for _, outcome in ahead(streams, lambda data: codec.decompress(data, strict=strict)):
        yield outcome
