"""Times of the stages of one image."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stages:
    """Seconds of each stage, in the order in which they began.

    Attributes:
        seconds: wall-clock time.
        processor: processor time of the thread that ran the stage, without that of other threads that it used.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.processor: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time spent inside the `with` block to the stage `name`."""
        self.seconds.setdefault(name, 0.0)
        self.processor.setdefault(name, 0.0)
        start, busy = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start
            self.processor[name] += time.thread_time() - busy
