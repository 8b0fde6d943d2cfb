"""Several tiles in work at a time, results in their order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from ..stopping import check_stopped
from ..threads import Workers

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class TilePool:
    """Threads that work on tiles, so that networks, FLIF and AV1 of different tiles overlap.

    All of these spend their time outside the interpreter's lock.

    Args:
        workers: how many at a time.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Iterator[_Result]:
        """Work on the items; at most one more than there are workers is waiting, so that memory stays bounded.

        Args:
            work: what is done to each.
            items: taken one by one.

        Yields:
            The results, in the order of the items. The first exception ends the work and is raised.
        """
        with Workers(self.workers) as pool:
            pending: deque[Future[_Result]] = deque()
            try:
                for item in items:
                    check_stopped()
                    pending.append(pool.submit(work, item))
                    if len(pending) > self.workers:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()
