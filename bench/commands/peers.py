"""What the commands that measure peers have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...runtime.errors import UsageError
from ..coders import CoderSpec, command

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence


def add_peers(parser: argparse.ArgumentParser, known: Mapping[str, CoderSpec], default: str) -> None:
    """Add `--peers` and `--command`.

    Args:
        parser: of the command.
        known: the peers by name.
        default: names that are measured without the option.
    """
    parser.add_argument("--peers", default=default, metavar="A,B", help=f"of {', '.join(known)}; or none")
    parser.add_argument(
        "--command",
        action="append",
        default=[],
        metavar="SPEC",
        help="another peer: 'NAME:Q1,Q2:enc {quality} {input} {output}:dec {input} {output}'",
    )


def chosen_peers(names: str, commands: Sequence[str], known: Mapping[str, CoderSpec]) -> list[CoderSpec]:
    """The coders that `--peers` and `--command` name.

    Raises:
        UsageError: a name is not known, or a command is not spelt as it must be.
    """
    peers = [name for name in names.split(",") if name not in ("", "none")]
    unknown = [name for name in peers if name not in known]
    if unknown:
        raise UsageError(f"unknown peer {unknown[0]!r}; known: {', '.join(known)}")
    return [*(known[name] for name in peers), *map(command, commands)]
