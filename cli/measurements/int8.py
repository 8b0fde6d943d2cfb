"""`oslic bench int8`: a float bundle against the int8 bundle made from it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ...bench.experiments.int8 import (
    FORMAT,
    VERSION,
    describe,
    evaluate,
    find_pictures,
    fingerprints,
    latency,
    lines,
)
from ...measure.timing import Settings
from ...runtime.errors import UsageError
from ...runtime.files import write_atomically
from ..file_arguments import output_file
from ..limit_arguments import add_limit_arguments, limits_of
from ..numbers import at_least, positive, width_by_height


def configure(parser: argparse.ArgumentParser) -> None:
    defaults = Settings()
    parser.add_argument("before", type=Path, metavar="BUNDLE", help="of float32 graphs")
    parser.add_argument("after", type=Path, metavar="BUNDLE_INT8", help="made from it by `oslic calibrate`")
    parser.add_argument("-o", "--output", type=output_file("JSON"), required=True, metavar="JSON")
    parser.add_argument(
        "--image", type=Path, metavar="FILE", help="measure the latency on it; without: no latency"
    )
    parser.add_argument(
        "--size",
        type=width_by_height,
        default="768x512",
        metavar="WxH",
        help="cut from the image (default: %(default)s)",
    )
    parser.add_argument(
        "--threads", type=at_least(1), metavar="N", help="of the networks (default: all cores)"
    )
    parser.add_argument(
        "--timeout", type=positive, default=120.0, metavar="SECONDS", help="of the latency measurement"
    )
    parser.add_argument("--min-samples", type=at_least(1), default=20, metavar="N")
    parser.add_argument(
        "--max-error", type=positive, default=defaults.max_error, metavar="E", help="of the medians"
    )
    parser.add_argument(
        "--kodak", type=Path, metavar="DIR", help="photographs for the BD-rate; without: none"
    )
    parser.add_argument(
        "--camvid", type=Path, metavar="DIR", help="with test/ and testannot/ for the mIoU; without: none"
    )
    parser.add_argument(
        "--every", type=at_least(1), default=1, metavar="N", help="only each n-th photograph and frame"
    )
    parser.add_argument("--jobs", type=at_least(1), default=1, metavar="N", help="photographs at a time")
    add_limit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    if not (args.image or args.kodak or args.camvid):
        raise UsageError("nothing to measure: give --image, --kodak or --camvid")
    limits = limits_of(args)
    pictures = find_pictures(args.kodak, args.camvid, every=args.every)
    result = {
        "format": FORMAT,
        "version": VERSION,
        "environment": describe(),
        "bundles": fingerprints(args.before, args.after),
    }
    if args.image is not None:
        rule = Settings(min_samples=args.min_samples, max_error=args.max_error, timeout=args.timeout)
        result["latency"] = latency(
            args.before,
            args.after,
            args.image,
            size=args.size,
            threads=args.threads,
            rule=rule,
            limits=limits,
        )
    result |= evaluate(
        args.before, args.after, pictures, threads=args.threads, processes=args.jobs, limits=limits
    )
    print("\n".join(lines(result)))
    write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())
    print(f"wrote {args.output}")
    return 0
