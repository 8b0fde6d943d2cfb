"""Python programs in processes of their own, so that nothing of this one counts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Final

from ..runtime.errors import OslicError

_TIMEOUT_S: Final = 3600


def run_python(words: Sequence[str], what: str) -> str:
    """Run this interpreter, and return what it printed.

    Args:
        words: its arguments.
        what: names the program in messages.

    Raises:
        OslicError: it fails, or takes more than an hour.
    """
    try:
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise OslicError(f"{what} failed: it took more than {_TIMEOUT_S} seconds") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise OslicError(f"{what} failed: {said[-1]}")
    return done.stdout
