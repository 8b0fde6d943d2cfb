"""The `oslic` command: a table of subcommands, each loaded only when it is called.

A subcommand is a module with two functions:

* `configure(parser)` adds its arguments to an `argparse.ArgumentParser`;
* `run(args) -> int` does the work and returns the exit code; `args.debug` says whether tracebacks are wanted.

The table holds module *names*: `oslic compress` never imports torch, and the runtime never imports the
rooms whose commands are listed here.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NoReturn, Protocol, cast

from ..runtime import ledger
from ..runtime.dependencies import NAMESPACE, naming_missing, without_matrix_threads, without_telemetry
from ..runtime.errors import LimitError, OslicError, UsageError, out_of_memory, printable, told
from .examples import add_examples
from .file_arguments import parse
from .streams import discard, lasting_output

if TYPE_CHECKING:
    from types import FrameType


@dataclass(frozen=True)
class Command:
    """One row of the table.

    Attributes:
        module: the module to import, relative to the namespace `oslic`.
        summary: one line for `oslic --help`.
        extra: the extra of the distribution that brings what the module imports; None for the runtime.
    """

    module: str
    summary: str
    extra: str | None = None


class CommandModule(Protocol):
    """What a subcommand's module offers."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""

    def run(self, args: argparse.Namespace) -> int:
        """Do the work; return the exit code."""


_GRACE_SECONDS: Final = 10.0

COMMANDS: dict[str, Command] = {
    "compress": Command("cli.commands.compress", "compress images into .oslic files"),
    "decompress": Command("cli.commands.decompress", "turn .oslic files back into images"),
    "verify": Command("cli.commands.verify", "check .oslic files: checksums, digests, and that they decode"),
    "info": Command("cli.commands.info", "show the header and the sections of an .oslic file"),
    "labels": Command("cli.commands.labels", "say what pictures show, and where, without decoding them"),
    "doctor": Command("cli.commands.doctor", "say what works here, what does not, why, and what mends it"),
    "backends": Command("cli.commands.backends", "list the backends and say why each is usable or not"),
    "run": Command("cli.commands.run", "run any ONNX graph or engine once, and keep its outputs"),
    "inspect": Command("cli.commands.inspect", "show what an ONNX graph, an engine or a bundle holds"),
    "flif": Command("cli.commands.flif", "encode, decode and examine FLIF files"),
    "batch": Command(
        "cli.commands.batch",
        "compress or decode many images, on this machine or on a Ray cluster",
        "batch",
    ),
    "triton": Command("cli.commands.triton", "write a bundle as models of Triton Inference Server"),
    "export": Command("cli.commands.export", "export a checkpoint to a bundle", "export"),
    "fuse": Command("cli.commands.fuse", "fuse the octave convolutions of any ONNX graph", "onnx"),
    "cast": Command("cli.commands.cast", "cast an ONNX graph or a bundle to float16", "onnx"),
    "build": Command("cli.commands.build", "build TensorRT engines of an ONNX graph or a bundle", "onnx"),
    "calibrate": Command("cli.commands.calibrate", "quantize an ONNX graph or a bundle to int8", "calibrate"),
    "train": Command("cli.commands.train", "train and evaluate checkpoints", "train"),
    "compare": Command(
        "cli.commands.compare",
        "compare graphs, backends or precisions, down to the layer",
        "onnx",
    ),
    "bench": Command("cli.commands.bench", "measure latency, rate-distortion, fusion, drift", "bench"),
    "demo": Command("cli.commands.demo", "compress photographs and show every layer"),
    "completion": Command("cli.commands.completion", "print a completion script for a shell"),
    "man": Command("cli.commands.man", "print the manual page"),
}


def load(name: str) -> CommandModule:
    """Import the module of a subcommand.

    Raises:
        DependencyError: a package that it needs is not installed.
    """
    with naming_missing(f"oslic {name}", COMMANDS[name].extra):
        return cast("CommandModule", importlib.import_module(f"{NAMESPACE}.{COMMANDS[name].module}"))


class _Parser(argparse.ArgumentParser):
    """Tells wrong arguments in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(UsageError.exit_code, f"{self.prog}: error: {message} (`{self.prog} --help` explains)\n")


def make_parser(name: str) -> tuple[CommandModule, argparse.ArgumentParser]:
    """The module of a subcommand, and the parser of its arguments.

    Raises:
        DependencyError: a package that it needs is not installed.
    """
    module, summary = load(name), COMMANDS[name].summary
    parser = _Parser(
        prog=f"oslic {name}",
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog="--debug shows the traceback of an error.",
    )
    with naming_missing(f"oslic {name}", COMMANDS[name].extra):
        module.configure(parser)
    add_examples(parser, name)
    return module, parser


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    return (
        f"commands:\n{rows}\n\n`oslic COMMAND --help` explains one of them.\n\n"
        "examples:\n  oslic compress photo.jpg\n  oslic decompress photo.jpg.oslic -o photo.png"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code (0: done; else the `exit_code` of the error)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        # Names of files may hold what the output's encoding does not.
        sys.stdout.reconfigure(errors="backslashreplace")
    with lasting_output():
        return _main(arguments, is_ours=argv is None)


def _main(arguments: list[str], *, is_ours: bool) -> int:
    try:
        with _signals_raised(), without_telemetry(), ledger.opened():
            code = _run(arguments, is_ours=is_ours)
    except _Terminated as ended:
        print(f"terminated by {ended.signal.name}", file=sys.stderr)
        code = 128 + ended.signal
    except SystemExit:  # by argparse: --help, or wrong arguments
        _flush()
        raise
    return _flush() or code


class _Terminated(BaseException):
    """SIGTERM or SIGHUP has come."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def _signals_raised() -> Iterator[None]:
    """SIGTERM and SIGHUP end the call as ctrl-C does: what it was writing is taken away, no part is left.

    Only the first of them: `timeout` sends two, and the second must not break off the taking away. A signal that is
    ignored (`nohup`) or handled by the program that calls us stays so. What does not end within some seconds, such as a
    graph that runs on one of our threads for good, ends with the process.
    """
    timers: list[threading.Timer] = []

    def raise_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if timers:
            return
        timers.append(threading.Timer(_GRACE_SECONDS, os._exit, (128 + number,)))
        timers[0].daemon = True
        timers[0].start()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise _Terminated(number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        usual = (signal.SIG_DFL, signal.default_int_handler)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            if signal.getsignal(number) in usual:
                before[number] = signal.signal(number, raise_once)
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _flush() -> int:
    """Write out what is buffered, before the interpreter does it when nothing can be caught any more."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        discard(sys.stdout.fileno())
        print(f"oslic: error: cannot write the output: {error.strerror}", file=sys.stderr)
        return UsageError.exit_code
    return 0


def _run(arguments: list[str], *, is_ours: bool) -> int:
    top = _Parser(
        prog="oslic",
        description="Deployment toolkit for learned image coding.",
        epilog=_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="store_true", help="print the version and exit")
    top.add_argument("--debug", action="store_true", help="show the traceback of an error")
    top.add_argument("command", nargs="?", choices=list(COMMANDS), metavar="COMMAND")
    # Everything behind the command's name belongs to the command.
    position = next((i for i, word in enumerate(arguments) if not word.startswith("-")), len(arguments))
    options = top.parse_args(arguments[: position + 1])
    if options.version:
        from importlib.metadata import version

        print(f"oslic {version('oslic')}")
        return 0
    if options.command is None:
        top.print_help()
        return 2
    debug = options.debug or "--debug" in arguments[position + 1 :]
    rest = [word for word in arguments[position + 1 :] if word != "--debug"]
    with _speaking(debug):
        return _call(options.command, rest, debug=debug, is_ours=is_ours)


@contextlib.contextmanager
def _speaking(debug: bool) -> Iterator[None]:
    """With `--debug`, ours and ONNX Runtime's loggers speak, until the command has ended."""
    logger = logging.getLogger(NAMESPACE)
    level = logger.level
    if debug:
        logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(level)


def _starting(command: str, *, is_ours: bool) -> contextlib.AbstractContextManager[None]:
    """How NumPy starts, if it does: the runtime multiplies no matrices, what has an extra and who calls us may."""
    needs_none = is_ours and COMMANDS[command].extra is None
    return without_matrix_threads() if needs_none else contextlib.nullcontext()


def _call(command: str, rest: list[str], *, debug: bool, is_ours: bool) -> int:
    """Run a command; returns its exit code. `is_ours`: the process does nothing else."""
    # What Pillow says of tags that it leaves out of a damaged EXIF block.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    try:
        with _starting(command, is_ours=is_ours):
            module, parser = make_parser(command)
        parsed = parse(parser, rest)
        parsed.debug = debug
        # Commands import most of what they need when they run.
        with naming_missing(f"oslic {command}", COMMANDS[command].extra):
            return module.run(parsed)
    except OslicError as error:
        if debug:
            raise
        message = printable(told(error))
        print(f"oslic {command}: error: {message}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        # What no command foresaw: folders that may not be entered, names that are too long, output on a full disk.
        if debug:
            raise
        place = "" if error.filename is None else f": {printable(str(error.filename))}"
        print(f"oslic {command}: error: {error.strerror or error}{place}", file=sys.stderr)
        return UsageError.exit_code
    except MemoryError as error:
        if debug:
            raise
        print(f"oslic {command}: error: {out_of_memory(error)}", file=sys.stderr)
        return LimitError.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
