"""What the commands that measure peers have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..bench.coders.registry import CoderSpec, bundle_peer, command
from ..runtime.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping


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
    parser.add_argument(
        "--peer-bundle",
        action="append",
        default=[],
        metavar="FOLDER",
        help="another peer: a bundle of whatever kind of codec, at its own rate; repeatable",
    )


def chosen_peers(
    args: argparse.Namespace, known: Mapping[str, CoderSpec], default: str = ""
) -> list[CoderSpec]:
    """The coders that the arguments of `add_peers` name.

    Args:
        args: of the command.
        known: the peers by name.
        default: in place of `--peers` where that is empty.

    Raises:
        UsageError: a name is not known, or a command is not spelled as it must be.
    """
    peers = [name for name in (args.peers or default).split(",") if name not in ("", "none")]
    unknown = [name for name in peers if name not in known]
    if unknown:
        raise UsageError(f"unknown peer {unknown[0]!r}; known: {', '.join(known)}")
    return [
        *(known[name] for name in peers),
        *map(command, args.command),
        *map(bundle_peer, args.peer_bundle),
    ]
