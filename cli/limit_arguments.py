"""Arguments of the commands of every room that open pictures or streams: what is refused before it costs anything."""

from __future__ import annotations

import argparse
import re
from typing import Final

from ..runtime.limits import Limits
from .numbers import at_least

_UNITS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def byte_size(text: str) -> int:
    """A type of argument: bytes, such as 500M or 1.5G, in powers of 1024."""
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,9})?)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    size = int(float(found[1]) * _UNITS[found[2].upper()]) if found else 0
    if size < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size in bytes, such as 500M or 2G")
    return size


def add_limit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--max-pixels` and `--max-memory`."""
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max-pixels",
        type=at_least(1),
        default=Limits.pixels,
        metavar="N",
        help=f"refuse larger images (default: {Limits.pixels})",
    )
    group.add_argument(
        "--max-memory",
        type=byte_size,
        metavar="BYTES",
        help="refuse what would need more memory, such as 500M or 2G (default: half of what is free)",
    )


def limits_of(args: argparse.Namespace) -> Limits:
    """The limits that the arguments of `add_limit_arguments` ask for."""
    if args.max_memory is None:
        return Limits(pixels=args.max_pixels)
    return Limits(pixels=args.max_pixels, memory=args.max_memory)
