"""`oslic man`: the manual page, made from the parsers of all commands."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Iterator
from importlib.metadata import version

from ...runtime import errors
from ...runtime.errors import OslicError
from ...runtime.files import write_atomically
from ..catalog import Entry, arguments_of, entries, help_of, options_of
from ..examples import EXAMPLES
from ..file_arguments import output_file

_ENVIRONMENT = (
    (
        "OSLIC_BUNDLES",
        "folders of bundles, with colons between them, in which the networks of a stream are looked for",
    ),
    ("TMPDIR", "where pictures wait that are worked on in strips"),
    ("ORT_DISABLE_TELEMETRY", "set to 0 keeps the telemetry of ONNX Runtime, which is off otherwise"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", type=output_file("a manual page"), metavar="FILE", help="write it to this file, not to "
        "standard output",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    text = "\n".join(_page()) + "\n"
    if args.output is None:
        print(text, end="")
    else:
        write_atomically(args.output, text.encode())
    return 0


def _page() -> Iterator[str]:
    yield f'.TH OSLIC 1 "" "oslic {version("oslic")}" "User Commands"'
    yield from (".SH NAME", "oslic \\- learned image codec and its deployment toolkit")
    yield from (".SH SYNOPSIS", ".B oslic", "[\\-\\-debug]", ".I COMMAND", "[...]")
    yield from (
        ".SH DESCRIPTION",
        "Compresses photographs into .oslic files and back, and brings the networks for it",
    )
    yield "from PyTorch to ONNX Runtime and TensorRT. \\-\\-debug shows the traceback of an error, \\-\\-help behind a"
    yield "command explains it."
    yield ".SH COMMANDS"
    for entry in entries():
        yield from _command(entry)
    yield ".SH EXIT STATUS"
    yield from _listed("0", "done")
    for kind, code in _codes():
        yield from _listed(str(code), f"{(kind.__doc__ or '').splitlines()[0]}")
    yield from _listed("129, 130, 143", "ended by SIGHUP, SIGINT, SIGTERM; no partial file is left")
    yield ".SH ENVIRONMENT"
    for name, text in _ENVIRONMENT:
        yield from _listed(name, text)


def _command(entry: Entry) -> Iterator[str]:
    words = " ".join(entry.words)
    yield f".SS {_roff(words)}"
    yield _roff(f"{entry.summary[:1].upper()}{entry.summary[1:]}.")
    if entry.parser is None:
        yield from (".PP", "(A package that it needs is not installed here.)")
        return
    usage = entry.parser.format_usage().removeprefix("usage: ")
    yield from (".PP", ".nf", _roff(usage.rstrip()), ".fi")
    for action in arguments_of(entry.parser):
        name = action.metavar or action.dest
        yield from _listed(name if isinstance(name, str) else " ".join(name), help_of(entry.parser, action))
    for action in options_of(entry.parser):
        value = "" if action.nargs == 0 else f" {action.metavar or action.dest.upper()}"
        yield from _listed(", ".join(action.option_strings) + value, help_of(entry.parser, action))
    if words in EXAMPLES:
        yield from (
            ".PP",
            "Examples:",
            ".PP",
            ".nf",
            *(f"    {_roff(line)}" for line in EXAMPLES[words]),
            ".fi",
        )


def _listed(name: str, text: str) -> Iterator[str]:
    yield from (".TP", f".B {_roff(name)}", _roff(text))


def _codes() -> list[tuple[type[OslicError], int]]:
    kinds = {k for _, k in inspect.getmembers(errors, inspect.isclass) if issubclass(k, OslicError)}
    return sorted(((kind, kind.exit_code) for kind in kinds), key=lambda pair: (pair[1], pair[0].__name__))


def _roff(text: str) -> str:
    """Text that is printed as it is: no line of it is a request, hyphens can be copied."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").split("\n")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in lines)
