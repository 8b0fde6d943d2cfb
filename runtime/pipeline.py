"""Work on several images at once: one's entropy coding beside another's networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from .errors import OslicError

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
        Each item with its result, or with the OslicError that either half raised, in the order of the items.
        Other exceptions are raised.
    """
    with ThreadPoolExecutor(1) as pool:
        pending: tuple[_Item, Future[_Whole] | OslicError] | None = None
        for item in items:
            following: Future[_Whole] | OslicError
            try:
                following = pool.submit(second, item, first(item))
            except OslicError as error:
                following = error
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
