"""Arguments of the commands that open a codec, and what these commands share."""

from __future__ import annotations

import argparse
import contextlib
import sys
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..runtime.backends import BACKENDS
from ..runtime.bundle.engine_files import PRECISIONS
from ..runtime.errors import printable
from ..runtime.files import descriptor
from ..runtime.memory import return_freed_arrays
from ..runtime.threads import most_workers
from .limit_arguments import add_limit_arguments, limits_of
from .trust_argument import add_trust_argument

if TYPE_CHECKING:
    from ..runtime.kinds.opening import Codecs

STREAM_SUFFIX: Final = ".oslic"
STREAM_KIND: Final = "an OSLIC stream"
_LEAST_SHARE: Final = 0.01


def add_codec_arguments(
    parser: argparse.ArgumentParser,
    json_help: str = "print one JSON document instead of lines",
    *,
    decodes: bool = False,
) -> None:
    """Add what every command needs that opens a codec.

    Args:
        parser: of the command.
        json_help: what `--json` does.
        decodes: whether streams name the networks.
    """
    default = "those that the stream names" if decodes else "the shipped `lite`"
    parser.add_argument(
        "--bundle",
        metavar="BUNDLE",
        help=f"the networks: a shipped bundle's name, or a folder (default: {default})",
    )
    parser.add_argument("--backend", default="auto", metavar="NAME", help=f"auto, {', '.join(BACKENDS)}")
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="CPU threads of the networks (default: all cores, which the files in work share)",
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


def open_codecs(args: argparse.Namespace, jobs: int = 1) -> Codecs:
    """Open the codec that the arguments of `add_codec_arguments` ask for, of whatever kind.

    Args:
        args: of the command.
        jobs: files that are in work at a time; unless the user says how many threads networks have, they share the
            cores.
    """
    # Here, as commands that need no networks start faster without them.
    from ..runtime.backends import Options, PassedOverWarning
    from ..runtime.kinds.opening import Codecs

    return_freed_arrays()
    threads = args.threads or (max(1, most_workers() // jobs) if jobs > 1 else None)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PassedOverWarning)
        options = Options(timeout=args.timeout, trust_engines=args.trust_engines)
        codecs = Codecs(
            args.bundle,
            args.backend,
            threads=threads,
            limits=limits_of(args),
            precision=args.precision,
            options=options,
        )
    for warning in caught:
        if issubclass(warning.category, PassedOverWarning):
            print(f"oslic: warning: {printable(str(warning.message))}", file=sys.stderr)
    return codecs


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
