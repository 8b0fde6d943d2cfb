"""What commands say that work on many files: a line or an object for each, errors at the end, and progress."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ..runtime.errors import OslicError, printable, told
from ..runtime.threads import in_order
from .jobs import Found, Job

_ERASE: Final = "\r\x1b[K"
_LEAST_SECONDS: Final = 0.1
"""Between two states of the progress that are shown."""


class Reporter:
    """Prints a line or a JSON object for each file, or one JSON document; tells errors at the end.

    Use it as a context manager: errors are told, too, when the command is interrupted.

    Args:
        command: its name.
        args: its arguments, of which `json`, `debug` and, where there is one, `quiet` count.
        lines: whether the JSON is one object per line, printed as the files come, and not one document.
        total: how many files there are; None: nobody knows, and progress is not shown.

    Attributes:
        exit_code: of the first error; 0: there was none.
    """

    def __init__(
        self, command: str, args: argparse.Namespace, *, lines: bool = False, total: int | None = None
    ) -> None:
        self.exit_code = 0
        self._command = command
        self._debug: bool = args.debug
        self._json: bool = args.json
        self._quiet: bool = getattr(args, "quiet", False)
        self._lines = lines
        self._resumable = total is not None and total > 1 and hasattr(args, "existing")
        self._rows: list[dict[str, Any]] = []
        self._errors: list[str] = []
        shown = total is not None and total > 1 and not self._quiet
        self._progress = Progress(total) if shown and total is not None and sys.stderr.isatty() else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.end()
        for message in self._errors:
            print(message, file=sys.stderr)
        if error is not None and not isinstance(error, Exception) and self._resumable:
            print("what is done is whole; the same command with --skip-existing goes on", file=sys.stderr)

    def found(self, found: Found) -> None:
        """Report what was found wrong or left out when the sources were looked up."""
        for note in found.notes:
            self.warn(note)
        for path, error in found.failed:
            self.failed(path, error, counts=False)

    def work_through(
        self,
        plan: Iterable[Job],
        work: Callable[[Job], dict[str, Any]],
        jobs: int,
        tell: Callable[[Job, dict[str, Any]], None],
    ) -> None:
        """Do jobs, several at a time, and report each.

        Args:
            plan: the jobs.
            work: does one; what it returns has `skipped` where there was nothing to do.
            jobs: how many at a time.
            tell: reports one that was done.
        """
        for job, outcome in in_order(plan, work, jobs):
            if isinstance(outcome, OslicError):
                self.failed(job.source, outcome)
            elif outcome.get("skipped"):
                self.done(outcome, f"{job.source}: skipped, {job.target} is there", worked=False)
            else:
                tell(job, outcome)

    def done(self, row: dict[str, Any], line: str, *, worked: bool = True) -> None:
        """Report a file that went through.

        Args:
            row: what JSON says of it.
            line: what is said else.
            worked: whether there was something to do for it.
        """
        self._add(row, failed=False)
        if not (self._json or self._quiet):
            self._print(printable(line))
        if self._progress is not None:
            self._progress.count(worked=worked)

    def warn(self, message: str) -> None:
        """Report something the user should know."""
        self._print(f"oslic {self._command}: warning: {printable(message)}", error=True)

    def failed(
        self, source: Path, error: OslicError, row: dict[str, Any] | None = None, *, counts: bool = True
    ) -> None:
        """Note a file that did not go through; the others are still worked on. With --debug, raise the error.

        Args:
            source: the file.
            error: what is wrong with it.
            row: what JSON says of it beside that.
            counts: whether it is one of the files that progress counts.
        """
        if self._debug:
            raise error
        self.exit_code = self.exit_code or error.exit_code
        message = told(error, str(source))
        self._errors.append(f"oslic {self._command}: error: {printable(message)}")
        self._add(
            {"input": str(source)} | (row or {}) | {"error": message, "exit_code": error.exit_code},
            failed=True,
        )
        if self._progress is not None and counts:
            self._progress.count(failed=True)

    def _add(self, row: dict[str, Any], *, failed: bool) -> None:
        if not self._json:
            return
        if not self._lines:
            self._rows.append(row)
        elif failed or not self._quiet:
            self._print(json.dumps(row))

    def _print(self, line: str, *, error: bool = False) -> None:
        if self._progress is not None:
            self._progress.erase()
        print(line, file=sys.stderr if error else sys.stdout, flush=True)

    def finish(self) -> int:
        """Print the JSON document if asked for; return the exit code."""
        if self._json and not self._lines:
            print(json.dumps({"files": self._rows}, indent=2))
        return self.exit_code


class Progress:
    """One line at the bottom of a terminal: how many files are done, how fast, and the time left.

    Args:
        total: how many files there are.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._start = time.monotonic()
        self._shown_at = float("-inf")
        self._done = self._worked = self._failed = 0
        self._visible = False

    def count(self, *, worked: bool = True, failed: bool = False) -> None:
        """A file is done.

        Args:
            worked: whether there was something to do; what was skipped says nothing of the time left.
            failed: whether it did not go through.
        """
        self._done += 1
        self._worked += worked
        self._failed += failed
        now = time.monotonic()
        if now - self._shown_at >= _LEAST_SECONDS:
            self._shown_at = now
            line = self.line(now - self._start)[: max(1, shutil.get_terminal_size().columns - 1)]
            print(_ERASE + line, end="", file=sys.stderr, flush=True)
            self._visible = True

    def line(self, seconds: float) -> str:
        """What is shown.

        Args:
            seconds: since the start.
        """
        text = f"{self._done}/{self._total}"
        if self._worked and seconds > 0:
            rate = self._worked / seconds
            left = round((self._total - self._done) / rate)
            text += f", {rate:.2f} files/s, {clock(left)} left"
        if self._failed:
            text += f", {self._failed} failed"
        return text

    def erase(self) -> None:
        """Take the line away, for another to be printed."""
        if self._visible:
            print(_ERASE, end="", file=sys.stderr, flush=True)
            self._visible = False

    def end(self) -> None:
        """Say what came of it."""
        self.erase()
        text = f"{self._done} of {self._total} files in {clock(round(time.monotonic() - self._start))}"
        if self._failed:
            text += f", {self._failed} failed"
        print(text, file=sys.stderr, flush=True)


def clock(seconds: int) -> str:
    """Seconds as minutes and seconds, or with hours: 0:05, 12:30, 1:02:03."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
