"""Reading files within limits, and writing them so that no partial one is ever seen."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from .errors import LimitError, OslicError, UsageError

HEAD_BYTES: Final = 1 << 12
"""How much is read of a file before its format says how long it is."""

_PART_BYTES: Final = 1 << 20
_KINDS: Final = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


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


def read_file(
    path: str | Path, what: str, limit: int, *, expected: Callable[[bytes], int] | None = None
) -> bytes:
    """Read a file that the user named, whole; pipes and devices are read to their end.

    Args:
        path: the file.
        what: names it in messages: "image", "stream".
        limit: the most bytes that its format allows.
        expected: says from the first `HEAD_BYTES` bytes how long the file is; one byte more is read at most, which
            tells the reader of the format that there is too much. It raises what it finds wrong with them.

    Raises:
        UsageError: it cannot be read.
        LimitError: it is longer than `limit`.
    """
    with _reading(path, what, UsageError) as file:
        if expected is None:
            return _within(file, path, what, limit, LimitError)
        head = file.read(HEAD_BYTES)
        return head + _at_most(file, min(expected(head), limit) + 1 - len(head))


def read_regular_file(path: str | Path, what: str, limit: int, error: type[OslicError] = UsageError) -> bytes:
    """Read a file that must be an ordinary one, whole: no pipe, which may never end, and no device.

    Args:
        path: the file; links are followed.
        what: names it in messages: "manifest", "graph".
        limit: the most bytes that it may have; no more are read.
        error: the class of the error that is raised.

    Raises:
        OslicError: of the class `error`: it cannot be read, is no regular file, or is longer than `limit`.
    """
    require_regular_file(path, what, error)
    # Without waiting for a writer: what stands there may have become a pipe since.
    with _reading(path, what, error, os.O_NONBLOCK) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise error(f"the {what} {path} is not a regular file")
        return _within(file, path, what, limit, error)


def require_regular_file(path: str | Path, what: str, error: type[OslicError] = UsageError) -> None:
    """Refuse what is no regular file, before a library that opens files by name waits for a pipe without end.

    Raises:
        OslicError: of the class `error`: there is no such file, it cannot be looked at, or it is of another kind.
    """
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError) as problem:
        raise error(f"cannot read the {what} {path}: {_reason(problem)}") from problem
    if not stat.S_ISREG(mode):
        kind = next((name for test, name in _KINDS if test(mode)), "something else")
        raise error(f"cannot read the {what} {path}: it is {kind}, not a regular file")


@contextlib.contextmanager
def _reading(path: str | Path, what: str, error: type[OslicError], flags: int = 0) -> Iterator[BinaryIO]:
    """Open a file; what goes wrong while it is read becomes an error of ours."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags), "rb") as file:  # noqa: PTH123 (a descriptor)
            yield file
    except (OSError, ValueError) as problem:
        raise error(f"cannot read the {what} {path}: {_reason(problem)}") from problem


def _within(file: BinaryIO, path: str | Path, what: str, limit: int, error: type[OslicError]) -> bytes:
    """The bytes of a file, if there are no more than the limit."""
    size = os.fstat(file.fileno()).st_size  # 0 for pipes, devices and files of /proc
    data = b"" if size > limit else _at_most(file, limit + 1)
    if max(size, len(data)) > limit:
        raise error(f"the {what} {path} has more than {limit} bytes, the most that are read of a {what}")
    return data


def _at_most(file: BinaryIO, most: int) -> bytes:
    """What is left in a file, cut. Memory is taken for what is there, and of a pipe or device as the bytes come."""
    asked = max(os.fstat(file.fileno()).st_size + 1, _PART_BYTES)
    parts: list[bytes] = []
    while most > 0:
        part = file.read(min(asked, most))
        parts.append(part)
        if len(part) < min(asked, most):
            break
        most, asked = most - len(part), _PART_BYTES
    return b"".join(parts)


def _reason(problem: OSError | ValueError) -> str:
    """What the system says of a name; ValueError: it holds a NUL, which no name does."""
    return (problem.strerror or str(problem)) if isinstance(problem, OSError) else "the name holds a NUL"
