"""`oslic bench focus`: quality by class at equal bytes, beside AVIF with offsets by block."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from ...bench.experiments.focus import read_marked
from ...bench.experiments.focus import run as measure
from ...runtime.codec.settings import TUNES
from ...runtime.files import write_atomically
from ..file_arguments import output_file
from ..limit_arguments import add_limit_arguments, limits_of
from ..numbers import at_least, several


def _shares(text: str) -> tuple[float, float]:
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW,HIGH, two numbers from 0 to 1") from None
    return low, high


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="FOLDER", help="images/ and, by the same names, labels/*.png"
    )
    parser.add_argument(
        "--values",
        type=several(at_least(0, 255)),
        required=True,
        metavar="A,B",
        help="of the label maps, what people marked: 7,8,254",
    )
    parser.add_argument("-o", "--output", type=output_file("JSON"), metavar="JSON", help="write the result")
    parser.add_argument("--bundle", metavar="BUNDLE", help="the networks (default: the shipped bundle)")
    parser.add_argument(
        "--focus",
        default="person",
        metavar="NAME[:STEP]",
        help="as of `oslic compress` (default: %(default)s)",
    )
    parser.add_argument(
        "--shares",
        type=_shares,
        default="0.1,0.3",
        metavar="LOW,HIGH",
        help="take photographs whose marked part has this share of the area (default: %(default)s)",
    )
    parser.add_argument(
        "--count",
        type=at_least(1),
        default=20,
        metavar="N",
        help="at most so many, evenly chosen (default: 20)",
    )
    parser.add_argument(
        "--qualities",
        type=several(at_least(1, 100)),
        default="30,60",
        metavar="A,B",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--tune", choices=TUNES, default="psnr", help="of our residual (default: %(default)s)"
    )
    add_limit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    limits = limits_of(args)
    found = read_marked(args.folders, args.values, args.shares, limits)
    chosen = [
        found[i * len(found) // min(args.count, len(found))] for i in range(min(args.count, len(found)))
    ]
    result = measure(
        args.bundle,
        chosen,
        args.focus,
        args.qualities,
        partial(print, flush=True),
        tune=args.tune,
        limits=limits,
    )
    for mean in result["means"]:
        print(
            f"quality {mean['quality']}, {mean['images']} photographs: inside {mean['inside']:+.2f} dB (least "
            f"{mean['least_inside']:+.2f}), outside {mean['outside']:+.2f}; AVIF with offsets by block inside "
            f"{mean['avif_inside']:+.2f}, outside {mean['avif_outside']:+.2f}"
        )
    if args.output:
        write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())
        print(f"wrote {args.output}")
    return 0
