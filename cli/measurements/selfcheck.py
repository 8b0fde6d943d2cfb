"""`oslic bench selfcheck`: does the harness tell a change from noise on this machine?"""

from __future__ import annotations

import argparse
from pathlib import Path

from ...bench.regression.selfcheck import run as check
from ...bench.regression.selfcheck import to_text
from ...measure.timing import Settings
from ...runtime.files import write_atomically
from ..file_arguments import output_file
from ..limit_arguments import add_limit_arguments, limits_of
from ..numbers import at_least, positive


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", type=Path, metavar="IMAGE", help="a photograph")
    parser.add_argument("-o", "--output", type=output_file("JSON"), metavar="JSON", help="write the result")
    parser.add_argument("--bundle", type=Path, metavar="BUNDLE", help="default: the shipped bundle")
    parser.add_argument(
        "--runs", type=at_least(1), default=20, metavar="N", help="comparisons of each kind (default: 20)"
    )
    parser.add_argument(
        "--slowdown", type=positive, default=1.1, metavar="F", help="of one stage (default: 1.1)"
    )
    parser.add_argument(
        "--timeout", type=positive, default=Settings().timeout, metavar="SECONDS", help="per measurement"
    )
    add_limit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    result = check(
        args.bundle,
        args.image,
        args.runs,
        args.slowdown,
        Settings(timeout=args.timeout),
        limits=limits_of(args),
    )
    print(f"equal builds called SAME: {result['equal_called_same']} of {args.runs}")
    print(f"a stage x{args.slowdown:g} called SLOWER: {result['slowed_called_slower']} of {args.runs}")
    if args.output:
        write_atomically(args.output, to_text(result).encode())
        print(f"wrote {args.output}")
    return 0
