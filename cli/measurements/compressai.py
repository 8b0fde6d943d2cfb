"""`oslic bench compressai`: bundles of CompressAI's networks beside CompressAI itself."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from ...bench.experiments.against_compressai import described
from ...bench.experiments.against_compressai import run as compare
from ...export.compressai import ARCHITECTURES
from ...measure.timing import Settings
from ...runtime.files import write_atomically
from ...runtime.image.files import find_images
from ..file_arguments import output_file
from ..limit_arguments import add_limit_arguments, limits_of
from ..numbers import at_least, positive


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", metavar="FOLDER", help="photographs whose sides are multiples of 64")
    parser.add_argument(
        "--python",
        required=True,
        metavar="FILE",
        help="of an environment with CompressAI, which `make test-compressai` makes: .venv-compressai/bin/python",
    )
    parser.add_argument("--architecture", choices=ARCHITECTURES, default="bmshj2018-hyperprior")
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="CHECKPOINT",
        help="of `oslic train transform`, of the architecture (default: random weights of quality 3's channels)",
    )
    parser.add_argument(
        "--every", type=at_least(1), default=1, metavar="N", help="take every N-th image (default: 1)"
    )
    parser.add_argument(
        "--seconds", type=positive, default=60.0, metavar="S", help="for the timing (default: 60)"
    )
    parser.add_argument("-o", "--output", type=output_file("JSON"), metavar="JSON", help="write the result")
    add_limit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    result = compare(
        args.python,
        args.architecture,
        args.checkpoint,
        find_images(args.images)[:: args.every],
        partial(print, flush=True),
        settings=Settings(timeout=args.seconds),
        limits=limits_of(args),
    )
    print(described(result))
    if args.output:
        write_atomically(Path(args.output), (json.dumps(result, indent=1) + "\n").encode())
        print(f"wrote {args.output}")
    return 0
