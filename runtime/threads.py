"""Threads that work on parts of a picture, or on several pictures."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, Final, ParamSpec, TypeVar

from .errors import OslicError, UsageError, out_of_memory
from .stopping import check_stopped, may_be_stopped_by

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_MOST_JOBS: Final = 16
# Networks, FLIF and AV1 of one picture leave a core idle now and then; those of another take it.
_JOBS_PER_CORE: Final = 2


def usable_cores() -> int:
    """Cores that this process may use; all of the machine where the system does not say."""
    # macOS has no affinities.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def most_workers() -> int:
    """The cores that this process may use, or 2: there are always two kinds of work to overlap."""
    return max(2, usable_cores())


def default_jobs() -> int:
    """How many pictures are in work at a time where nobody says: two for each core, at most 16."""
    return min(_MOST_JOBS, _JOBS_PER_CORE * most_workers())


class Workers(ThreadPoolExecutor):
    """A pool of threads that tells a thread that cannot start for what it is; what called off its user calls it off."""

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """As `ThreadPoolExecutor.submit`.

        Raises:
            MemoryError: there is no memory for another thread.
        """
        try:
            context = copy_context()
            return super().submit(lambda: context.run(fn, *args, **kwargs))
        except RuntimeError as error:
            if "start new thread" not in str(error):
                raise
            raise MemoryError(str(error)) from error


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
        order of the items. Other exceptions are raised. Where it ends before its time, ctrl-C included, what is in work
        is called off: see `stopping`.
    """
    if jobs < 1:
        raise UsageError(f"jobs is {jobs}, must be at least 1")
    stop = threading.Event()

    def stoppable(item: _Item) -> _Result:
        may_be_stopped_by(stop)
        check_stopped()
        return work(item)

    with Workers(jobs) as pool:
        pending: deque[tuple[_Item, Future[_Result] | OslicError]] = deque()
        try:
            for item in items:
                pending.append((item, _submit(pool, stoppable, item)))
                if len(pending) == 2 * jobs:
                    oldest, future = pending.popleft()
                    yield oldest, _fetch(future)
            while pending:
                oldest, future = pending.popleft()
                yield oldest, _fetch(future)
        finally:
            stop.set()
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
