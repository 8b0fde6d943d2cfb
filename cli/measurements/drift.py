"""`oslic bench drift`: estimates of every backend and precision against float32 on the CPU."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ...bench.experiments.drift import run as measure
from ...runtime.bundle.finder import open_bundle
from ...runtime.errors import UsageError
from ...runtime.files import write_atomically
from ...runtime.image.files import find_images
from ..file_arguments import output_file
from ..limit_arguments import add_limit_arguments, limits_of
from ..numbers import at_least


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", metavar="FOLDER", help="photographs")
    parser.add_argument("-o", "--output", type=output_file("JSON"), metavar="JSON", help="write the result")
    parser.add_argument("--bundle", metavar="BUNDLE", help="the reference (default: the shipped bundle)")
    parser.add_argument(
        "--other", action="append", default=[], metavar="NAME=FOLDER", help="a further bundle"
    )
    parser.add_argument("--quality", type=int, default=60, metavar="Q")
    parser.add_argument("--threads", type=at_least(1), metavar="N")
    add_limit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    others = {}
    for text in args.other:
        name, separator, folder = text.partition("=")
        if not separator or not name or not folder:
            raise UsageError(f"--other {text!r} must be NAME=FOLDER")
        others[name] = Path(folder)
    bundle = open_bundle(args.bundle)
    result = measure(
        bundle,
        others,
        find_images(args.images),
        quality=args.quality,
        threads=args.threads,
        limits=limits_of(args),
    )
    for row in result["rows"]:
        between = "equal" if row["psnr_between_db"] is None else f"{row['psnr_between_db']:.1f} dB between"
        print(
            f"{row['candidate']}: largest difference {row['max_difference']}, {row['differing_percent']:.4f} % differ, "
            f"{between}, final PSNR {row['final_psnr_change_db']:+.4f} dB; {row['decoder_says']}"
        )
    if args.output:
        write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())
        print(f"wrote {args.output}")
    return 0
