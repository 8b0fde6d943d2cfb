"""Every command with its parser, for what is made of them: completion scripts, the man page."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from ..runtime.errors import DependencyError
from . import main as cli
from .examples import subparsers


class _Nesting(Protocol):
    """A command's module whose own commands are no subparsers of argparse."""

    def parsers(self) -> Mapping[str, argparse.ArgumentParser]:
        """Their parsers, by name."""


@dataclass(frozen=True)
class Entry:
    """A command.

    Attributes:
        words: that call it, behind `oslic`.
        summary: one line.
        parser: None where a package that it needs is not installed.
    """

    words: tuple[str, ...]
    summary: str
    parser: argparse.ArgumentParser | None


def entries() -> Iterator[Entry]:
    """All commands, each before its own commands."""
    for name, command in cli.COMMANDS.items():
        try:
            module, parser = cli.make_parser(name)
        except DependencyError:
            yield Entry((name,), command.summary, None)
            continue
        yield Entry((name,), command.summary, parser)
        nested = cast("_Nesting", module).parsers() if hasattr(module, "parsers") else subparsers(parser)
        for inner, own in nested.items():
            yield Entry((name, inner), (own.description or _help_of(parser, inner)).strip().rstrip("."), own)


def _help_of(parser: argparse.ArgumentParser, name: str) -> str:
    """The line that a command's help has for one of its own commands."""
    listed = [line for a in parser._actions for line in getattr(a, "_choices_actions", ())]  # noqa: SLF001
    return next((line.help for line in listed if line.dest == name and line.help), "")


def options_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The options of a command, without its arguments."""
    return [a for a in parser._actions if a.option_strings and a.help != argparse.SUPPRESS]  # noqa: SLF001


def arguments_of(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The arguments of a command that have no name."""
    return [a for a in parser._actions if not a.option_strings]  # noqa: SLF001


def help_of(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    """What an option does, in one line."""
    text = parser._get_formatter()._expand_help(action) if action.help else ""  # noqa: SLF001
    return " ".join(text.split())


def takes_value(action: argparse.Action) -> bool:
    """Whether a word follows the option."""
    return action.nargs != 0


def choices_of(action: argparse.Action) -> list[str]:
    """The words that may follow the option, if they are known."""
    return [] if action.choices is None else [str(choice) for choice in action.choices]
