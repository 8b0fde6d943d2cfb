"""`oslic bench fusion`: naive, fused, convolve_first and plain forms of the same networks."""

from __future__ import annotations

import argparse
import os

from ...bench.experiments.fusion import bench, to_text
from ...measure.timing import Settings
from ...runtime.files import write_atomically
from ..file_arguments import output_file
from ..numbers import at_least, positive


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=output_file("JSON"), metavar="JSON", help="write the result")
    parser.add_argument(
        "--network", action="append", default=[], metavar="NAME", help="default: lite; repeatable"
    )
    parser.add_argument("--graph", action="append", default=[], choices=("analyse", "synthesise"))
    parser.add_argument("--height", type=at_least(1), default=512)
    parser.add_argument("--width", type=at_least(1), default=768)
    parser.add_argument("--threads", type=at_least(1), default=os.cpu_count() or 1)
    parser.add_argument(
        "--timeout", type=positive, default=Settings().timeout, metavar="SECONDS", help="per graph"
    )


def run(args: argparse.Namespace) -> int:
    result = bench(
        args.network or ["lite"],
        args.graph or ["analyse", "synthesise"],
        (args.height, args.width),
        args.threads,
        settings=Settings(timeout=args.timeout),
    )
    if args.output:
        write_atomically(args.output, to_text(result).encode())
        print(f"wrote {args.output}")
    return 0
