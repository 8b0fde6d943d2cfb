"""`oslic bench effort`: time against bytes at every effort of the encoder."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Final

from ...bench.experiments.effort import described
from ...bench.experiments.effort import run as measure
from ...runtime.codec.effort import EFFORTS
from ...runtime.codec.settings import TUNES
from ...runtime.errors import UsageError
from ...runtime.files import write_atomically
from ...runtime.image.files import find_images
from ..file_arguments import output_file
from ..limit_arguments import add_limit_arguments, limits_of
from ..numbers import at_least

_QUALITIES: Final = "25,45,65,80"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", metavar="FOLDER", help="photographs")
    parser.add_argument("-o", "--output", type=output_file("JSON"), metavar="JSON", help="write the result")
    parser.add_argument("--bundle", metavar="BUNDLE", help="the networks (default: the shipped bundle)")
    parser.add_argument(
        "--every", type=at_least(1), default=1, metavar="N", help="take every N-th image (default: 1)"
    )
    parser.add_argument(
        "--efforts", default=",".join(map(str, range(len(EFFORTS)))), metavar="A,B", help="default: all"
    )
    parser.add_argument("--qualities", default=_QUALITIES, metavar="A,B", help="default: %(default)s")
    parser.add_argument("--tune", choices=TUNES, default="psnr")
    add_limit_arguments(parser)


def _numbers(text: str, what: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"{what} is {text!r}; it must be whole numbers with commas between") from None


def run(args: argparse.Namespace) -> int:
    efforts, qualities = _numbers(args.efforts, "--efforts"), _numbers(args.qualities, "--qualities")
    if not all(0 <= effort < len(EFFORTS) for effort in efforts):
        raise UsageError(f"--efforts is {args.efforts}; efforts are 0..{len(EFFORTS) - 1}")
    if len(set(qualities)) < 2 or not all(1 <= quality <= 100 for quality in qualities):
        raise UsageError(f"--qualities is {args.qualities}; two or more of 1..100 make a curve")
    result = measure(
        args.bundle,
        find_images(args.images)[:: args.every],
        efforts,
        qualities,
        partial(print, flush=True),
        tune=args.tune,
        limits=limits_of(args),
    )
    print(described(result))
    if args.output:
        write_atomically(Path(args.output), (json.dumps(result, indent=1) + "\n").encode())
        print(f"wrote {args.output}")
    return 0
