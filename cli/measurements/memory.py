"""`oslic bench memory`: peaks of memory beside their predictions."""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path

from ...bench.experiments.memory import run as measure
from ...runtime.bundle.finder import open_bundle
from ...runtime.files import write_atomically
from ..file_arguments import output_file
from ..numbers import at_least, positive


def _sizes(text: str) -> tuple[float, ...]:
    return tuple(positive(part) for part in text.split(","))


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help="a photograph; it is scaled to every size")
    parser.add_argument("-o", "--output", type=output_file("JSON"), metavar="JSON", help="write the result")
    parser.add_argument("--bundle", metavar="BUNDLE", help="the networks (default: the shipped bundle)")
    parser.add_argument(
        "--sizes", type=_sizes, default=(2.0, 6.0, 12.0), metavar="A,B", help="megapixels (default: 2,6,12)"
    )
    parser.add_argument(
        "--runs",
        type=at_least(1),
        default=3,
        metavar="N",
        help="of each command, of which the most counts (default: 3)",
    )
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="CPU threads of the networks")


def run(args: argparse.Namespace) -> int:
    bundle = open_bundle(args.bundle)
    result = measure(
        bundle,
        args.image,
        args.sizes,
        threads=args.threads,
        runs=args.runs,
        progress=functools.partial(print, flush=True),
    )
    if args.output:
        write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())
        print(f"wrote {args.output}")
    return 0
