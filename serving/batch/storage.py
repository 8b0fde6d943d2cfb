"""Files by local path or by URL (`s3://`, `gs://`, `memory://`, ...: whatever fsspec knows).

Local files go through `runtime.files`, so they appear whole or not at all; object stores promise that by themselves.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...runtime.errors import DependencyError, LimitError, OslicError, UsageError, one_line
from ...runtime.files import read_file, write_atomically

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_SCHEME: Final = "://"


def is_url(place: str) -> bool:
    """Whether a name is for fsspec; all others are local paths."""
    return _SCHEME in place


def join(folder: str, name: str) -> str:
    """The name of a file below a folder."""
    return f"{folder.rstrip('/')}/{name}"


def read(place: str, what: str, limit: int) -> bytes:
    """Read a file, whole.

    Args:
        place: path or URL.
        what: names it in messages: "image", "stream".
        limit: the most bytes that it may have; no more are read.

    Raises:
        UsageError: it cannot be read.
        LimitError: it is longer.
    """
    if not is_url(place):
        return read_file(place, what, limit)
    with _told(f"cannot read the {what} {place}"):
        files, path = _filesystem(place)
        with files.open(path, "rb") as file:
            data: bytes = file.read(limit + 1)
    if len(data) > limit:
        raise LimitError(
            f"the {what} {place} has more than {limit} bytes, the most that are read of a {what}"
        )
    return data


def write(place: str, data: bytes) -> None:
    """Write a file; it appears whole or not at all. Folders above it are made.

    Raises:
        UsageError: it cannot be written.
    """
    with _told(f"cannot write {place}"):
        if is_url(place):
            files, path = _filesystem(place)
            files.makedirs(files._parent(path), exist_ok=True)  # noqa: SLF001 (the only name fsspec has for it)
            files.pipe_file(path, data)
        else:
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(place, data)


def exists(place: str) -> bool:
    """Whether there is a file or a folder of this name.

    Raises:
        UsageError: it cannot be found out.
    """
    with _told(f"cannot look at {place}"):
        if not is_url(place):
            return Path(place).exists()
        files, path = _filesystem(place)
        return bool(files.exists(path))


def is_folder(place: str) -> bool:
    """Whether there is a folder of this name, or in an object store a file below it.

    Raises:
        UsageError: it cannot be found out.
    """
    with _told(f"cannot look at {place}"):
        if not is_url(place):
            return Path(place).is_dir()
        files, path = _filesystem(place)
        return bool(files.isdir(path))


def find(folder: str) -> Iterator[str]:
    """Names of all files below a folder, relative to it, sorted within each folder.

    Raises:
        UsageError: it cannot be read.
    """
    with _told(f"cannot read the folder {folder}"):
        if not is_url(folder):
            yield from _walk(Path(folder))
            return
        files, path = _filesystem(folder)
        top = path.rstrip("/") + "/"
        # What find() returns is sorted, and a list of all names.
        yield from (name.removeprefix(top) for name in files.find(path))


def _walk(top: Path) -> Iterator[str]:
    def failed(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(top, onerror=failed):
        folders.sort()
        for name in sorted(names):
            yield (Path(folder) / name).relative_to(top).as_posix()


def require_writable(folder: str) -> None:
    """Make a folder, and say before the work begins that nothing can be written there.

    Raises:
        UsageError: it cannot be made, or written to.
    """
    probe = join(folder, f".oslic-{secrets.token_hex(8)}.probe")
    try:
        write(probe, b"")
    except UsageError as error:
        reason = getattr(error.__cause__, "strerror", None) or one_line(error)
        raise UsageError(f"cannot write to the folder {folder}: {reason}") from error
    with _told(f"cannot write to the folder {folder}"):
        if is_url(probe):
            files, path = _filesystem(probe)
            files.rm_file(path)
        else:
            Path(probe).unlink()


def _filesystem(url: str) -> tuple[AbstractFileSystem, str]:
    """The file system of a URL, and the path in it; fsspec keeps one of a kind."""
    import fsspec

    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:  # fsspec says which package it lacks for this scheme
        raise DependencyError(
            f"cannot open {url.partition(_SCHEME)[0]}{_SCHEME} URLs: {one_line(error)}"
        ) from error
    except ValueError as error:  # an unknown scheme
        raise UsageError(f"cannot open {url}: {one_line(error)}") from error
    return files, str(path)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what a file system raises into one line. Each of fsspec's has errors of its own: any kind is caught."""
    try:
        yield
    except (OslicError, MemoryError, ModuleNotFoundError):
        raise
    except OSError as error:
        raise UsageError(f"{what}: {error.strerror or one_line(error)}") from error
    except Exception as error:
        raise UsageError(f"{what}: {type(error).__name__}: {one_line(error)}") from error


def parquet_file(place: str) -> Any:
    """Open a Parquet file.

    Raises:
        UsageError: it cannot be read, or is none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _told(f"cannot read the table {place}"):
        try:
            if not is_url(place):
                return pq.ParquetFile(place)
            files, path = _filesystem(place)
            return pq.ParquetFile(files.open(path, "rb"))
        except pa.ArrowInvalid as error:
            raise UsageError(f"{place} is not a Parquet file: {one_line(error)}") from error
