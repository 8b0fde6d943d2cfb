"""Which engines this user built on this machine.

Deserializing an engine can run code: TensorRT takes an engine as a program, and one that carries a runtime of its own
version is one. A bundle's own files cannot vouch for it, so `oslic build` records the hash of each engine that it makes
in a folder that no bundle reaches, `$XDG_STATE_HOME/oslic/engines` (by default below `~/.local/state`).
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..errors import BackendError, UsageError
from ..files import write_atomically

if TYPE_CHECKING:
    from .engine_files import EngineInfo

UNTRUSTED: Final = (
    "it was not built by this user on this machine, and loading an engine can run code: build it again, or allow it "
    "with --trust-engines (`Options(trust_engines=True)`) if you trust where it comes from"
)


def state_folder() -> Path:
    """Where the records lie; it need not exist."""
    named = os.environ.get("XDG_STATE_HOME", "")
    # The XDG base directory specification has relative paths ignored.
    base = Path(named) if os.path.isabs(named) else Path.home() / ".local" / "state"  # noqa: PTH117
    return base / "oslic" / "engines"


def require_recordable() -> Path:
    """Make the folder of the records, before minutes are spent on an engine that could not be recorded.

    Raises:
        UsageError: it cannot be written to.
    """
    try:
        folder = state_folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied", str(folder))
    except (OSError, RuntimeError) as error:  # RuntimeError: no home folder
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"the folder that records which engines were built here cannot be written to ({reason}); set "
            "XDG_STATE_HOME to one that can"
        ) from error
    return folder


def record(info: EngineInfo) -> None:
    """Remember an engine that was just built.

    Args:
        info: its sidecar.

    Raises:
        UsageError: the folder cannot be written to.
    """
    write_atomically(require_recordable() / info.sha256, info.to_json().encode())


def built_here(info: EngineInfo) -> bool:
    """Whether this user built the engine on this machine, and with the same claim to carry code of its own.

    Args:
        info: the engine's sidecar, whose hash the engine is checked against when it is read.
    """
    from .engine_files import EngineInfo

    with contextlib.suppress(BackendError, OSError, RuntimeError):
        file = state_folder() / info.sha256
        if file.is_file():
            return EngineInfo.read(file).version_compatible == info.version_compatible
    return False
