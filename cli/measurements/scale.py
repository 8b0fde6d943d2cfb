"""`oslic bench scale`: pictures from 1 megapixel on, their time, memory and overhead."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ...runtime.bundle.finder import open_bundle
from ...runtime.errors import UsageError
from ...runtime.files import write_atomically
from ..file_arguments import output_file
from ..numbers import at_least


def _sizes(text: str) -> list[float]:
    try:
        sizes = [float(part) for part in text.split(",") if part]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of megapixels such as 1,4,24") from None
    if any(not 0.01 <= size <= 10_000 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} holds a size outside of 0.01 to 10000 megapixels")
    return sizes


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, help="a photograph, which fills the pictures")
    parser.add_argument("-o", "--output", type=output_file("JSON"), required=True, metavar="JSON")
    parser.add_argument("--bundle", metavar="BUNDLE", help="the networks (default: the shipped `lite`)")
    parser.add_argument(
        "--megapixels",
        type=_sizes,
        default=[1.0, 4.0, 24.0, 64.0],
        metavar="A,B",
        help="sizes at the default settings (default: 1,4,24,64)",
    )
    parser.add_argument(
        "--strips", type=_sizes, default=[200.0], metavar="A,B", help="sizes in strips (default: 200)"
    )
    parser.add_argument(
        "--memory", default="1G", metavar="SIZE", help="--max-memory of those in strips (default: 1G)"
    )
    parser.add_argument(
        "--positions", type=at_least(1), default=20, metavar="N", help="of regions of 512x512 (default: 20)"
    )


def run(args: argparse.Namespace) -> int:
    from ...bench.experiments import scale

    if not args.megapixels and not args.strips:
        raise UsageError("nothing to measure: give --megapixels or --strips")
    result = scale.run(
        open_bundle(args.bundle),
        args.image,
        args.megapixels,
        args.strips,
        memory=args.memory,
        positions=args.positions,
        progress=print,
    )
    write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())
    return 0
