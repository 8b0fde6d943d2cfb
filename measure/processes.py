"""Python programs in processes of their own, so that nothing of this one counts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from ..runtime.errors import OslicError

_TIMEOUT_S: Final = 6 * 3600.0


def run_python(words: Sequence[str], what: str, timeout: float = _TIMEOUT_S) -> str:
    """Run this interpreter, and return what it printed.

    If it takes too long, or this process is interrupted, it ends with all processes that it has started.

    Args:
        words: its arguments.
        what: names the program in messages.
        timeout: seconds that it may take.

    Raises:
        OslicError: it fails, or takes longer.
    """
    with subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            printed, said = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            _end(process)
            raise OslicError(f"{what} failed: it took more than {timeout:g} seconds") from None
        except BaseException:
            _end(process)
            raise
    if process.returncode:
        lines = said.strip().splitlines() or [f"exit code {process.returncode}"]
        raise OslicError(f"{what} failed: {lines[-1]}")
    return printed


def _end(process: subprocess.Popen[str]) -> None:
    """End the session that a process leads."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
