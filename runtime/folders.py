"""Folders that are written whole or not at all, and replaced in one step."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write a folder of files in the place of the one that is there, if one is.

    Whoever looks sees the old folder or the new one, whole; so does who looks after a crash. Where the file system
    cannot exchange two folders in one step, the old one is moved to `displaced(folder)` for a moment.

    Args:
        folder: where to; a link stays, and the folder that it names is replaced.
        files: contents by file name, or by path inside of the folder (`1/model.py`).

    Raises:
        OSError: it cannot be written; the old folder is where it was.
    """
    place = Path(os.path.realpath(folder))
    part = Path(tempfile.mkdtemp(prefix=".oslic-", suffix=".part", dir=place.parent))
    try:
        for name, data in files.items():
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            with (part / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        part.chmod(0o755)
        restore(place)
        if not place.exists():
            part.rename(place)
        elif not _exchange(part, place):
            old = displaced(place)
            place.rename(old)
            try:
                part.rename(place)
            except BaseException:
                old.rename(place)
                raise
            shutil.rmtree(old, ignore_errors=True)
    finally:
        # After an exchange it holds what was replaced. Remains are no failure: the new folder stands.
        with contextlib.suppress(OSError):
            shutil.rmtree(part)


def displaced(folder: Path) -> Path:
    """Where a folder is for the moment in which another takes its place, if that takes two steps."""
    return folder.with_name(f".{folder.name}.replaced")


def restore(folder: Path) -> None:
    """Put back what a replacement in two steps had moved away when it was killed.

    Raises:
        OSError: it cannot be put back.
    """
    old = displaced(folder)
    if old.is_dir() and not folder.exists():
        old.rename(folder)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; says whether the system could."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # no Linux, or a C library from before 2018
        return False
    call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    done: int = call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    return done == 0
