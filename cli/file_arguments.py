"""Types of arguments that name files, for the commands of every room, and the parsing that enters them.

Every argument of a command that names an existing file counts as an input, unless its type says that the command
writes it: then no command can write over what it reads, and one whose author forgot the type replaces nothing.

    parser.add_argument("-o", "--output", type=output_file("JSON"))
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from ..runtime.errors import UsageError
from ..runtime.files import check_target, descriptor
from ..runtime.ledger import current

_STDIN_NAME: Final = "/dev/stdin"
_STDOUT_NAME: Final = "/dev/stdout"
_STDOUT: Final = 1
_THROUGH: Final = "-"
"""What stands for standard input among inputs, and for standard output among outputs."""

_ENDINGS: Final[dict[str, frozenset[str]]] = {
    "JSON": frozenset({".json"}),
    "HTML": frozenset({".html", ".htm"}),
    "Markdown": frozenset({".md"}),
    "an image": frozenset(
        {
            ".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm", ".gif", ".avif", ".jxl", ".jp2",
            ".heic", ".svg",
        }
    ),
    "an OSLIC stream": frozenset({".oslic"}),
    "a FLIF image": frozenset({".flif"}),
    "an ONNX graph": frozenset({".onnx"}),
    "a timing cache": frozenset({".cache", ".bin"}),
    "an engine": frozenset({".engine", ".plan"}),
    "arrays": frozenset({".npy", ".npz"}),
    "weights": frozenset({".safetensors", ".pt", ".pth", ".h5", ".ckpt"}),
    "a manual page": frozenset({".1"}),
    "code": frozenset({".py", ".toml", ".yaml", ".yml", ".cpp", ".hpp", ".sh"}),
}  # fmt: skip
"""Kinds of files, and the endings of names that promise them."""


class Output(str):
    """Name of a file that the command writes, or of the folder into which it does: no input.

    Attributes:
        is_file: it is the file itself; else the command finds out, and enters what it will write (`plan_outputs`).
        kind: what the file will hold, a key of this module's table; None if the command finds that out, too.
        update: the command reads the file, too.
    """

    __slots__ = ("is_file", "kind", "update")

    is_file: bool
    kind: str | None
    update: bool


class Word(str):
    """An argument that names no file, whatever it looks like."""

    __slots__ = ()


def input_file(text: str) -> str:
    """A type of argument: a file or a folder that the command reads; `-` is standard input."""
    return _STDIN_NAME if text == _THROUGH else text


def standard_output() -> Output:
    """Standard output as an output; from now on what the command prints goes to standard error."""
    ledger = current()
    if ledger is not None:
        ledger.ending.enter_context(contextlib.redirect_stdout(sys.stderr))
    return output_place()(_THROUGH)


def output_file(kind: str, *, update: bool = False) -> Callable[[str], Output]:
    """Return a type of argument: a file that the command writes.

    Args:
        kind: what it will hold, a key of this module's table; a name that promises another kind is refused.
        update: the file is read first, and written again.
    """
    return _type(kind, is_file=True, update=update)


def output_place() -> Callable[[str], Output]:
    """Return a type of argument: a file that the command writes, or a folder into which it does."""
    return _type(None, is_file=False, update=False)


def _type(kind: str | None, *, is_file: bool, update: bool) -> Callable[[str], Output]:
    def named(text: str) -> Output:
        if text == _THROUGH:
            text = _STDOUT_NAME
        if not text:
            raise UsageError("the name of an output is empty: is a variable of the shell unset?")
        if is_file and text.endswith("/"):
            raise UsageError(f"cannot write {text}: it names a folder, give the name of a file")
        output = Output(text)
        output.is_file, output.kind, output.update = is_file, kind, update
        return output

    return named


def require_ending(name: str | Path, kind: str) -> None:
    """Refuse a name whose ending promises another kind of file; unknown endings promise nothing.

    Raises:
        UsageError: naming both kinds.
    """
    ending = Path(name).suffix.lower()
    promised = next((other for other, endings in _ENDINGS.items() if ending in endings), kind)
    if promised != kind:
        known = ", ".join(sorted(_ENDINGS[kind]))
        raise UsageError(
            f"cannot write {name}: {kind} does not go into a file whose name says {promised} ({known})"
        )


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Parse a command's arguments, and enter those that name files into the call's ledger.

    If an output goes to standard output, what the command prints goes to standard error.

    Raises:
        UsageError: an output is an input or another output, its name promises another kind, or it cannot be written.
    """
    parsed = parser.parse_args([str(word) for word in words])  # what was a `Word` may name a file here
    ledger = current()
    values = list(_strings(vars(parsed).values()))
    outputs = [value for value in values if isinstance(value, Output)]
    if ledger is not None:
        for value in values:
            if not isinstance(value, Output):
                for name in (str(value), str(value).partition("=")[2]):
                    if name:
                        ledger.note_input(name)
        for output in outputs:
            if output.is_file:
                ledger.declare_output(output, update=output.update)
        if any(descriptor(output) == _STDOUT for output in outputs):
            ledger.ending.enter_context(contextlib.redirect_stdout(sys.stderr))
    for output in outputs:
        if output.is_file:
            check_target(output)
        if output.kind is not None:
            require_ending(output, output.kind)
    return parsed


def _strings(values: Any) -> Iterator[str | Path]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _strings(value)
        elif isinstance(value, str | Path) and not isinstance(value, Word):
            yield value
