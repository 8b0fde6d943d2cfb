"""Reading files within limits, and writing them so that no partial one is ever seen.

Both know the ledger of the running command (`runtime.ledger`): what was read is not written over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from .errors import LimitError, OslicError, UsageError
from .ledger import current, note_inputs
from .stopping import check_stopped

HEAD_BYTES: Final = 1 << 12
"""How much is read of a file before its format says how long it is."""

_MOST_LINKS: Final = 40
_NEW_FILE: Final = 0o666
_DESCRIPTORS: Final = Path("/proc/self/fd")
# What systems and file systems say that know no files without a name.
_NO_SUCH_FILES: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS, errno.ENOENT})
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
        UsageError: it is a folder, a block device or write-protected, its folder does not exist, or it is an input of
            the running command.
    """
    for path in paths:
        if path is not None:
            _check(path)


def _check(path: str | Path) -> os.stat_result | None:
    """See `check_target`; returns the status of what is there, None where nothing is."""
    ledger = current()
    try:
        if ledger is not None:
            ledger.check(path)
        status = _status(path)
        if status is None:
            # A link into nowhere names a file to be.
            parent = Path(os.path.realpath(path)).parent
            if not parent.is_dir():
                raise UsageError(f"cannot write {path}: the folder {parent} does not exist; create it first")
        elif (problem := _obstacle(path, status)) is not None:
            raise UsageError(f"cannot write {path}: it is {problem}")
    except (OSError, ValueError) as problem:
        raise UsageError(f"cannot write {path}: {_reason(problem)}") from problem
    return status


def _obstacle(path: str | Path, status: os.stat_result) -> str | None:
    if stat.S_ISDIR(status.st_mode):
        return "a folder"
    if stat.S_ISBLK(status.st_mode):
        return "a block device, such as a disk"
    # Its folder may allow to replace what must not be changed.
    protected = not (status.st_mode & 0o222 and os.access(path, os.W_OK))
    return (
        "write-protected" if stat.S_ISREG(status.st_mode) and protected and descriptor(path) is None else None
    )


def _status(path: str | Path) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except FileNotFoundError:
        return None


def descriptor(path: str | Path) -> int | None:
    """The descriptor of this process that a name such as `/dev/stdout` stands for; None for other names.

    What is behind a descriptor is not replaced but written to: a file that a shell has opened to append to it would
    lose what it held, and a pipe has no other name.
    """
    place = Path(path)
    for _ in range(_MOST_LINKS):
        folder = re.fullmatch(r"/proc/(\d+)(/task/\d+)?/fd", os.path.realpath(place.parent))
        if place.name.isdecimal() and folder is not None and int(folder[1]) == os.getpid():
            return int(place.name)
        try:
            place = place.parent / place.readlink()
        except (OSError, ValueError):
            break
    return None


def write_atomically(path: str | Path, data: bytes, *, replace: bool = True) -> None:
    """Write `data` to `path`: the file appears whole or not at all.

    A link stays what it is, and the file that it names is written. Devices, pipes and descriptors (`/dev/stdout`) take
    the bytes as they come. A file that is replaced keeps its owner and permissions.

    Args:
        path: the file.
        data: its content.
        replace: whether a file that is there is replaced; else it is an error, also if it has come in between.

    Raises:
        UsageError: as `check_target`; the folder cannot be written to, or is full: nothing is left behind.
    """
    with atomic_file(path, replace=replace) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_file(path: str | Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """Open `path` to be written piece by piece: the file appears whole when the `with` block ends, or not at all.

    See `write_atomically`. What is no regular file takes the bytes as they come. Until it is whole the file has no
    name, where the system can do that: then nothing is left of it even if the process is killed.

    Raises:
        UsageError: as `write_atomically`, for errors of the system inside the block, too.
    """
    status = _check(path)
    number = descriptor(path)
    if number is not None or (status is not None and not stat.S_ISREG(status.st_mode)):
        with _open_through(path, number) as through:
            yield through
        return
    if status is not None and not replace:
        raise exists_already(path)
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".oslic-{os.urandom(8).hex()}.part")
    try:
        handle = _open_without_name(target.parent)
        nameless = handle is not None
        if handle is None:
            handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _NEW_FILE)
        with os.fdopen(handle, "w+b") as file:
            if status is not None:
                with contextlib.suppress(OSError):  # the superuser alone may
                    os.fchown(handle, status.st_uid, status.st_gid)
                os.fchmod(handle, status.st_mode & 0o777)
            yield file
            file.flush()
            os.fsync(handle)
            check_stopped()
            placed = nameless and status is None and _give_name(handle, target)
            if nameless and not placed:
                _give_name(handle, temporary)
        if not placed:
            _move(temporary, target, replace=replace)
    except BaseException as error:
        # Whatever it was, a signal included. No other file has this name.
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise UsageError(f"cannot write {path}: {error.strerror}; no partial file was left") from error
        raise
    ledger = current()
    if ledger is not None:
        ledger.note_made(target)


def exists_already(path: str | Path) -> UsageError:
    """The error of a file that is there and is not to be replaced."""
    return UsageError(f"{path} exists already: it is not replaced")


def _open_without_name(folder: Path) -> int | None:
    """Open a file to be written that has no name yet; None where the system or the file system has no such files."""
    if not _DESCRIPTORS.is_dir():  # by which it will get its name
        return None
    try:
        # With the mode of a new file, from which the system takes the umask: asking for the umask would change it for
        # a moment, for all threads.
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, _NEW_FILE)
    except OSError as error:
        if error.errno in _NO_SUCH_FILES:
            return None
        raise


def _give_name(handle: int, path: Path) -> bool:
    """Give a file without a name one; False: there is something of this name."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Python follows the link of /proc only if a folder is given by its descriptor.
        os.link(_DESCRIPTORS / str(handle), path.name, dst_dir_fd=folder, follow_symlinks=True)
    except FileExistsError:
        return False
    finally:
        os.close(folder)
    return True


def _move(temporary: Path, target: Path, *, replace: bool) -> None:
    """Give a file the name that it was written for.

    Raises:
        UsageError: there is one of this name, and it is not to be replaced.
    """
    if not replace:
        try:
            os.link(temporary, target)
        except FileExistsError:
            raise exists_already(target) from None
        except OSError:  # a file system without hard links
            if os.path.lexists(target):
                raise exists_already(target) from None
        else:
            temporary.unlink()
            return
    temporary.replace(target)


@contextlib.contextmanager
def _open_through(path: str | Path, number: int | None) -> Iterator[BinaryIO]:
    """Open what is no file of its own, or is open already."""
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC) if number is None else os.dup(number)
        with os.fdopen(handle, "wb") as file:
            yield file
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from error


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
    note_inputs(path)
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
    note_inputs(path)


@contextlib.contextmanager
def _reading(path: str | Path, what: str, error: type[OslicError], flags: int = 0) -> Iterator[BinaryIO]:
    """Open a file; what goes wrong while it is read becomes an error of ours."""
    try:
        number = descriptor(path)
        # What is open already may be a socket, which cannot be opened by name.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags) if number is None else os.dup(number)
        with open(handle, "rb") as file:  # noqa: PTH123 (a descriptor)
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
