"""Arguments and small habits that the runtime's commands share."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from ..backends import BACKENDS, Options, PassedOverWarning
from ..codec import Codec
from ..codec.container import read_info
from ..engines import PRECISIONS
from ..errors import OslicError, UsageError, printable
from ..files import descriptor, read_file
from ..ledger import declare_outputs
from ..limits import Limits
from ..memory import return_freed_arrays
from .arguments import require_ending
from .limits import add_limit_arguments, limits_of
from .trust import add_trust_argument

STREAM_SUFFIX: Final = ".oslic"
STREAM_KIND: Final = "an OSLIC stream"
_LEAST_SHARE: Final = 0.01


def add_codec_arguments(
    parser: argparse.ArgumentParser, json_help: str = "print one JSON document instead of lines"
) -> None:
    """Add what every command needs that opens a codec."""
    parser.add_argument(
        "--bundle", metavar="FOLDER", help="the networks (default: the shipped `lite` bundle)"
    )
    parser.add_argument("--backend", default="auto", metavar="NAME", help=f"auto, {', '.join(BACKENDS)}")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="CPU threads of the networks (default: all cores)"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of the engines (default: the fastest that the bundle holds)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        metavar="SECONDS",
        help="that one run of a graph may take, for bundles that nobody vouches for (default: no limit)",
    )
    add_trust_argument(parser)
    parser.add_argument("--json", action="store_true", help=json_help)
    add_limit_arguments(parser)


def open_codec(args: argparse.Namespace) -> Codec:
    """Open the codec that the arguments of `add_codec_arguments` ask for."""
    return_freed_arrays()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PassedOverWarning)
        options = Options(timeout=args.timeout, trust_engines=args.trust_engines)
        codec = Codec.open(
            args.bundle,
            args.backend,
            args.threads,
            limits_of(args),
            precision=args.precision,
            options=options,
        )
    for warning in caught:
        if issubclass(warning.category, PassedOverWarning):
            print(f"oslic: warning: {printable(str(warning.message))}", file=sys.stderr)
    return codec


def plan_outputs(inputs: list[str], output: str | None, suffix: str, kind: str) -> dict[Path, Path]:
    """Pair every input with its output file, and enter the outputs into the call's ledger.

    Args:
        inputs: the files to read.
        output: a file for a single input, or an existing folder; None: the folder of each input.
        suffix: ending of the files made in a folder.
        kind: what the files will hold, see `arguments.require_ending`.

    Raises:
        UsageError: several inputs and no folder, two inputs that would become the same file, an output that is one of
            the inputs, or a name that promises another kind of file.
    """
    target = None if output is None else Path(output)
    if target is None or _is_folder(target):
        sources = map(Path, inputs)
        plan = [(source, (target or source.parent) / (source.stem + suffix)) for source in sources]
    elif len(inputs) > 1 or str(output).endswith("/"):
        raise UsageError(f"the output folder {output} does not exist; create it first")
    else:
        plan = [(Path(inputs[0]), target)]
    made: dict[Path, Path] = {}
    for source, file in plan:
        if file in made:
            raise UsageError(
                f"{made[file]} and {source} would both be written to {file}: give them different names"
            )
        made[file] = source
    declare_outputs(*made)
    for file in made:
        require_ending(file, kind)
    return dict(plan)


def _is_folder(path: Path) -> bool:
    with contextlib.suppress(OSError, ValueError):  # what is wrong with a name is said when it is written to
        return path.is_dir()
    return False


def read_stream_file(path: str | Path, limits: Limits) -> bytes:
    """Read an `.oslic` file: of one that is no stream the head, of one that goes on behind its end one byte more.

    A truncated file is read as far as it goes.

    Raises:
        UsageError: it cannot be read.
        StreamError, LimitError: as `container.read_info` of its first bytes.
    """
    return read_file(
        path,
        "stream",
        limits.stream_bytes,
        expected=lambda head: read_info(head, limits).total_bytes,
    )


def image_name(target: Path) -> Path:
    """The name whose ending says in which format an image is written to `target`.

    What has no ending because it is no file (`/dev/stdout`, a pipe) takes PNG.
    """
    with contextlib.suppress(OSError, ValueError):
        if not target.suffix and (
            descriptor(target) is not None or (target.exists() and not target.is_file())
        ):
            return target.with_suffix(".png")
    return target


class Reporter:
    """Prints one line per file, or collects them into one JSON document; remembers the first error.

    Args:
        command: its name.
        args: its arguments, of which `json` and `debug` count.
        lines: whether the JSON is one object per line, printed as the files come, and not one document.
    """

    def __init__(self, command: str, args: argparse.Namespace, *, lines: bool = False) -> None:
        self.exit_code = 0
        self._lines = lines
        self._debug: bool = args.debug
        self._command = command
        self._json: bool = args.json
        self._rows: list[dict[str, Any]] = []

    def done(self, row: dict[str, Any], line: str) -> None:
        """Report a file that went through."""
        self._add(row)
        if not self._json:
            print(printable(line))

    def warn(self, message: str) -> None:
        """Report something the user should know."""
        print(f"oslic {self._command}: warning: {printable(message)}", file=sys.stderr)

    def failed(self, source: Path, error: OslicError) -> None:
        """Report a file that did not go through; the others are still worked on. With --debug, raise the error."""
        if self._debug:
            raise error
        self.exit_code = self.exit_code or error.exit_code
        message = " ".join(str(error).split("\n"))
        if str(source) not in message:
            message = f"{source}: {message}"
        print(f"oslic {self._command}: error: {printable(message)}", file=sys.stderr)
        self._add({"input": str(source), "error": message, "exit_code": error.exit_code})

    def _add(self, row: dict[str, Any]) -> None:
        if not self._json:
            return
        if self._lines:
            print(json.dumps(row), flush=True)
        else:
            self._rows.append(row)

    def finish(self) -> int:
        """Print the JSON document if asked for; return the exit code."""
        if self._json and not self._lines:
            print(json.dumps({"files": self._rows}, indent=2))
        return self.exit_code


def milliseconds(stages: dict[str, float]) -> dict[str, float]:
    """Seconds by stage -> milliseconds by stage, rounded to microseconds."""
    return {name: round(value * 1e3, 3) for name, value in stages.items()}


def largest_shares(shares: Mapping[str, float]) -> str:
    """Shares of a picture's classes in words, the largest first, of those that have at least 1 %."""
    largest = sorted(shares.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * share:.1f} %" for name, share in largest if share >= _LEAST_SHARE)


def table(rows: Iterable[tuple[str, str]]) -> str:
    """Two aligned columns."""
    pairs = list(rows)
    width = max((len(name) for name, _ in pairs), default=0)
    return "\n".join(f"{name:<{width}}  {value}" for name, value in pairs)
