"""`oslic bench flif`: bytes and speed of lossless coders on label maps and compact images."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from ...bench.experiments.lossless_layers import box_averages, coders, label_maps, run_benchmark
from ...measure.timing import Settings
from ...runtime.files import write_atomically
from ..file_arguments import output_file
from ..limit_arguments import add_limit_arguments, limits_of
from ..numbers import at_least, positive, several


def configure(parser: argparse.ArgumentParser) -> None:
    data = Path(os.environ.get("OSLIC_SHARED", "../shared")) / "data"
    parser.add_argument(
        "-o", "--output", type=output_file("JSON"), metavar="JSON", help="where the result goes"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        default=data / "camvid" / "testannot",
        metavar="FOLDER",
        help="label maps (default: CamVid's test set in OSLIC_SHARED)",
    )
    parser.add_argument(
        "--photos",
        type=Path,
        default=data / "kodak",
        metavar="FOLDER",
        help="photographs, whose box averages stand for compact images (default: Kodak in OSLIC_SHARED)",
    )
    parser.add_argument(
        "--levels",
        type=several(at_least(2, 256)),
        default="256,32",
        metavar="L,L",
        help="levels of the compact images",
    )
    parser.add_argument(
        "--efforts",
        type=several(at_least(0, 100)),
        default="60",
        metavar="N,N",
        help="efforts of our encoder",
    )
    parser.add_argument("--libflif", metavar="PATH", help="the reference library (default: looked up)")
    parser.add_argument("--every", type=at_least(1), default=1, metavar="N", help="use every Nth picture")
    parser.add_argument(
        "--timed", type=at_least(1), default=4, metavar="N", help="pictures coded in one timed call"
    )
    parser.add_argument("--timeout", type=positive, default=60.0, metavar="S", help="seconds per timing")
    add_limit_arguments(parser)


def _print(result: dict[str, Any]) -> None:
    for name, part in result["sets"].items():
        size = f"{part['pictures']} pictures of {part['shape'][1]}x{part['shape'][0]}"
        print(f"\n{name}: {size}; milliseconds for {part['timed']} of them, ratios to libflif")
        print(
            f"{'coder':<14}{'bytes':>9}{'bpp':>8}{'enc ms':>10}{'dec ms':>10}{'bytes':>8}{'enc x':>8}{'dec x':>8}"
            f"{'enc cpu x':>11}{'dec cpu x':>11}"
        )
        for coder, row in part["coders"].items():
            encode, decode = (row[side]["wall"]["total"]["p50_ms"] for side in ("encode", "decode"))
            ratios = "".join(
                f"{row[key]:>8.3f}" if key in row else f"{'-':>8}"
                for key in ("bytes_of_reference", "encode_speed", "decode_speed")
            )
            ratios += "".join(
                f"{row[key]['p50']:>11.3f}" if key in row else f"{'-':>11}"
                for key in ("encode_cpu_speed", "decode_cpu_speed")
            )
            print(
                f"{coder:<14}{row['mean_bytes']:>9.0f}{row['bpp']:>8.4f}{encode:>10.1f}{decode:>10.1f}{ratios}"
            )


def run(args: argparse.Namespace) -> int:
    limits = limits_of(args)
    sets = {"labels": label_maps(args.labels, limits)[:: args.every]}
    for levels in args.levels:
        sets[f"compact-{levels}"] = box_averages(args.photos, levels, limits)[:: args.every]
    candidates = coders(args.efforts, args.libflif)
    result = run_benchmark(sets, candidates, args.timed, Settings(min_seconds=0.0, timeout=args.timeout))
    _print(result)
    if args.output:
        write_atomically(args.output, json.dumps(result, indent=1).encode())
    return 0
