"""Writing files so that no partial one is ever seen."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import UsageError


def check_target(*paths: str | Path | None) -> None:
    """Refuse paths that no file can be written to, before the work whose results are to go there; None is left out.

    Raises:
        UsageError: it is a folder, or its folder does not exist.
    """
    for path in paths:
        if path is None:
            continue
        target = Path(path).absolute()
        if target.is_dir():
            raise UsageError(f"cannot write {path}: it is a folder")
        if not target.parent.is_dir():
            raise UsageError(
                f"cannot write {path}: the folder {Path(path).parent} does not exist; create it first"
            )


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`: the file appears whole or not at all.

    A link stays what it is, and the file that it names is written. Devices and pipes take the bytes as they come.

    Raises:
        UsageError: the folder does not exist, cannot be written to, or is full; nothing is left behind.
    """
    target = Path(os.path.realpath(path)) if Path(path).is_symlink() else Path(path)
    check_target(target)
    if target.exists() and not target.is_file():
        try:
            target.write_bytes(data)
        except OSError as error:
            raise UsageError(f"cannot write {target}: {error.strerror}") from error
        return
    # Opened with the mode of a new file, from which the system takes the umask: asking for the umask would change it
    # for a moment, for all threads.
    temporary = target.with_name(f".oslic-{secrets.token_hex(8)}.part")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise UsageError(f"cannot write into {target.parent}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise UsageError(f"cannot write {target}: {error.strerror}; no partial file was left") from error
        raise


def refuse_overwriting(inputs: Iterable[str | Path], outputs: Iterable[str | Path]) -> None:
    """Raise UsageError if one of the outputs is one of the inputs, under whatever name."""
    known = {(status.st_dev, status.st_ino): path for path, status in _regular(inputs)}
    for path, status in _regular(outputs):
        source = known.get((status.st_dev, status.st_ino))
        if source is not None:
            raise UsageError(f"{path} would be written over the input {source}: give another name")


def _regular(paths: Iterable[str | Path]) -> Iterator[tuple[str | Path, os.stat_result]]:
    """Those of the paths that are files, with their status; what is wrong with others is said when they are opened."""
    for path in paths:
        with contextlib.suppress(OSError):
            status = Path(path).stat()
            if stat.S_ISREG(status.st_mode):
                yield path, status


def read_file(path: str | Path, what: str) -> bytes:
    """Read a whole file.

    Raises:
        UsageError: it cannot be read; `what` names it in the message.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the {what} {path}: {error.strerror}") from error
