"""`oslic bench throughput`: a folder with several pictures in work at a time, against one after another."""

from __future__ import annotations

import argparse
import functools
import json

from ...runtime.codec import DEFAULT_QUALITY
from ...runtime.codec.effort import DEFAULT_EFFORT, MAX_EFFORT
from ...runtime.files import write_atomically
from ...runtime.image.files import find_images
from ...runtime.threads import default_jobs, most_workers
from ..file_arguments import output_file
from ..numbers import at_least, not_negative, several


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="of photographs")
    parser.add_argument("-o", "--output", type=output_file("JSON"), metavar="JSON", help="write the result")
    parser.add_argument(
        "--jobs",
        type=several(at_least(2)),
        metavar="N,N",
        help="in work at a time (default: one for each core, and what `oslic compress` takes)",
    )
    parser.add_argument(
        "--rounds", type=at_least(1), default=5, metavar="N", help="that count (default: %(default)s)"
    )
    parser.add_argument("--count", type=at_least(1), metavar="N", help="take the first N photographs alone")
    parser.add_argument(
        "--commands",
        action="store_true",
        help="also measure calls of `oslic compress`, one a file against one for all",
    )
    parser.add_argument(
        "--quality", type=not_negative, default=DEFAULT_QUALITY, metavar="Q", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--effort",
        type=at_least(0, MAX_EFFORT),
        default=DEFAULT_EFFORT,
        metavar="E",
        help="(default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    from ...bench.experiments.throughput import run as measure

    images = find_images(args.folder)[: args.count]
    result = measure(
        images,
        jobs=args.jobs or sorted({most_workers(), default_jobs()}),
        quality=args.quality,
        effort=args.effort,
        rounds=args.rounds,
        commands=args.commands,
        progress=functools.partial(print, flush=True),
    )
    for name, ratio in result["ratios"].items():
        print(
            f"{name}: {ratio['median']:.2f}x as fast ({ratio['least']:.2f} to {ratio['most']:.2f} by round)"
        )
    if args.output:
        write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())
        print(f"wrote {args.output}")
    return 0
