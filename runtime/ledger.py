"""What one call of a command reads and writes: nothing that it reads is written over, nothing is written twice.

The command line opens a ledger for each call. Arguments that name files are entered when they are parsed
(`cli.file_arguments`), other inputs when they are read or listed, and everything is asked for by
`files.check_target` and `files.write_atomically`; a new command has nothing to remember. Without a ledger, as in a
program that uses the library, nothing is refused: there the program knows what it does.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .errors import UsageError

_Identity = tuple[int, int]


@dataclass(frozen=True)
class _Output:
    """A declared output.

    Attributes:
        name: as the user gave it.
        update: it is read and then written again, on purpose.
    """

    name: str
    update: bool


class Ledger:
    """The files of one call. Files are told apart by device and inode, so other names and links change nothing.

    Attributes:
        ending: what is undone when the call ends.
    """

    def __init__(self) -> None:
        self.ending = contextlib.ExitStack()
        self._lock = threading.RLock()
        self._inputs: dict[_Identity, str] = {}
        self._outputs: dict[str, _Output] = {}
        self._made: set[_Identity] = set()

    def note_input(self, path: str | Path) -> None:
        """Enter a file that the call reads; what is no regular file, or was made by this call, is left out.

        Raises:
            UsageError: it is an output of the call.
        """
        identity = _identity(path)
        if identity is None:
            return
        with self._lock:
            # Of one that is known, the outputs have been looked at, or will be when they are declared or written.
            if identity in self._made or identity in self._inputs:
                return
            for output in self._outputs.values():
                if not output.update and _identity(output.name) == identity:
                    raise _written_over(output.name, path)
            self._inputs.setdefault(identity, str(path))

    def declare_output(self, path: str | Path, *, update: bool = False) -> None:
        """Enter a file that the call is going to write.

        Args:
            path: the file; it need not exist.
            update: the call reads it, too, and writes it again: the only way to write what was read.

        Raises:
            UsageError: it is an input of the call, or another of its outputs.
        """
        real = os.path.realpath(path)
        with self._lock:
            other = self._outputs.get(real)
            if other is not None and not _takes_many(path):
                both = "" if other.name == str(path) else f" and {path} are the same file: it"
                raise UsageError(f"{other.name}{both} would be written twice: give different names")
            self.check(path)
            self._outputs[real] = _Output(str(path), update)

    def check(self, path: str | Path) -> None:
        """Raise UsageError if a file that is about to be written is an input of the call."""
        identity = _identity(path)
        with self._lock:
            source = None if identity is None else self._inputs.get(identity)
            if source is None or identity in self._made:
                return
            declared = self._outputs.get(os.path.realpath(path))
            # An input that has been removed may have left its inode to another file.
            if (declared is None or not declared.update) and _identity(source) == identity:
                raise _written_over(path, source)

    def note_made(self, path: str | Path) -> None:
        """Enter a file that the call has written: it may write it again, and read it."""
        identity = _identity(path)
        if identity is not None:
            with self._lock:
                self._made.add(identity)
                self._inputs.pop(identity, None)


def _written_over(output: str | Path, source: str | Path) -> UsageError:
    return UsageError(f"{output} would be written over the input {source}: give another name")


def _identity(path: str | Path) -> _Identity | None:
    """Device and inode of a regular file; None for all else, also for what cannot be looked at."""
    with contextlib.suppress(OSError, ValueError):
        status = Path(path).stat()
        if stat.S_ISREG(status.st_mode):
            return status.st_dev, status.st_ino
    return None


def _takes_many(path: str | Path) -> bool:
    """Whether several outputs may go there: a device, a pipe."""
    with contextlib.suppress(OSError, ValueError):
        return not stat.S_ISREG(Path(path).stat().st_mode)
    return False


# Not a context variable: commands read and write on threads of pools, which have contexts of their own.
_current: list[Ledger] = []


@contextlib.contextmanager
def opened() -> Iterator[Ledger]:
    """Keep a ledger for the call inside."""
    ledger = Ledger()
    _current.append(ledger)
    try:
        with ledger.ending:
            yield ledger
    finally:
        _current.remove(ledger)


def current() -> Ledger | None:
    """The ledger of the call that is running; None outside the command line."""
    return _current[-1] if _current else None


def declare_outputs(*paths: str | Path) -> None:
    """Enter files that the running call is going to write, if their names are not those of arguments.

    Raises:
        UsageError: one of them is an input of the call, or another of its outputs.
    """
    ledger = current()
    if ledger is not None:
        for path in paths:
            ledger.declare_output(path)


def note_inputs(*paths: str | Path) -> None:
    """Enter files that the running call reads: for those which are opened by others than `runtime.files`.

    Raises:
        UsageError: one of them is an output of the call.
    """
    ledger = current()
    if ledger is not None:
        for path in paths:
            ledger.note_input(path)
