"""Standard output and error that outlive their readers: `oslic fuse ... | head -1` still writes its file."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Lasting(io.RawIOBase):
    """Writes to a descriptor until its reader has gone away, and to nowhere from then on.

    Args:
        number: the descriptor; it is not closed.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return os.write(self._number, data)
        except BrokenPipeError:
            # For all others that write to it, too, such as libraries and processes that we start.
            discard(self._number)
            return memoryview(data).nbytes


def discard(number: int) -> None:
    """Let what is written to a descriptor go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


@contextlib.contextmanager
def lasting_output() -> Iterator[None]:
    """While it lasts, writing to a standard output or error whose reader has gone away does not stop the work.

    Streams that a program that calls us has put in their place stay as they are.
    """
    with _lasting("stdout"), _lasting("stderr"):
        yield


@contextlib.contextmanager
def _lasting(name: str) -> Iterator[None]:
    before = getattr(sys, name)
    if type(before) is not io.TextIOWrapper or not isinstance(
        getattr(before.buffer, "raw", before.buffer), io.FileIO
    ):
        yield
        return
    # `python -u` has no buffer between.
    raw = isinstance(before.buffer, io.FileIO)
    number = before.fileno()
    with contextlib.suppress(BrokenPipeError):
        before.flush()
    lasting = _Lasting(number)
    made = io.TextIOWrapper(
        cast("BinaryIO", lasting) if raw else io.BufferedWriter(lasting),
        encoding=before.encoding,
        errors=before.errors,
        line_buffering=before.line_buffering,
        write_through=before.write_through,
    )
    setattr(sys, name, made)
    try:
        yield
    finally:
        setattr(sys, name, before)
        with contextlib.suppress(OSError):  # said already by who has flushed it
            made.flush()
