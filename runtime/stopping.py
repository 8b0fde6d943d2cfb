"""Calling off work that is going on in threads, which nothing can end from outside."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Final


class StoppedError(BaseException):
    """The work was called off. No `Exception`, so that nothing takes it for a fault of a file."""


_STOP: Final[ContextVar[threading.Event | None]] = ContextVar("oslic_stop", default=None)


def may_be_stopped_by(stop: threading.Event) -> None:
    """Let an event call off what this thread does from now on, and the threads of `threads.Workers` that it starts."""
    _STOP.set(stop)


def check_stopped() -> None:
    """Raise StoppedError if the work of this thread was called off.

    To be asked where a second or more of work begins, and before a file gets its name.
    """
    checker()()


def checker() -> Callable[[], None]:
    """`check_stopped` for the work of this thread, to be called on any other."""
    stop = _STOP.get()

    def check() -> None:
        if stop is not None and stop.is_set():
            raise StoppedError

    return check
