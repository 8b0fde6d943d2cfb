"""Programs in processes of their own: their output, their errors, and their end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from oslic.measure.processes import run_python
from oslic.runtime.errors import OslicError

STARTING = """
import pathlib, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(60)
"""


def test_what_it_printed_comes_back():
    assert run_python(["-c", "print(6 * 7)"], "counting") == "42\n"


def test_its_last_line_says_why_it_failed():
    with pytest.raises(OslicError, match=r"^counting failed: ValueError: no$"):
        run_python(["-c", "raise ValueError('no')"], "counting")
    with pytest.raises(OslicError, match=r"^counting failed: exit code 3$"):
        run_python(["-c", "raise SystemExit(3)"], "counting")


def test_what_takes_too_long_ends_with_all_that_it_started(tmp_path):
    noted = tmp_path / "pid"
    with pytest.raises(OslicError, match="it took more than 4 seconds"):
        run_python(["-c", STARTING, str(noted)], "waiting", timeout=4)
    assert _is_gone(int(noted.read_text()))


def _is_gone(pid: int) -> bool:
    """Whether a process has ended, or ends within seconds; who has nobody to wait for it is a zombie then."""
    for _ in range(50):
        try:
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == "Z":
            return True
        time.sleep(0.1)
    return False
