"""`oslic bench lossless`: lossless and near-lossless files beside FLIF, PNG, WebP, JPEG XL and JPEG-LS."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from ...runtime.codec.effort import DEFAULT_EFFORT
from ...runtime.files import write_atomically
from ..file_arguments import output_file
from ..limit_arguments import add_limit_arguments, limits_of
from ..numbers import at_least, several


def configure(parser: argparse.ArgumentParser) -> None:
    data = Path(os.environ.get("OSLIC_SHARED", "../shared")) / "data"
    parser.add_argument("bundle", nargs="?", help="default: the shipped one")
    parser.add_argument(
        "-o", "--output", type=output_file("JSON"), metavar="JSON", help="where the result goes"
    )
    parser.add_argument(
        "--photos",
        type=Path,
        default=data / "kodak",
        metavar="FOLDER",
        help="pictures (default: Kodak in OSLIC_SHARED)",
    )
    parser.add_argument(
        "--bounds",
        type=several(at_least(1, 16)),
        default="1,2,4",
        metavar="E,E",
        help="largest errors of near-lossless files (default: 1,2,4)",
    )
    parser.add_argument("--effort", type=at_least(0, 9), default=DEFAULT_EFFORT, metavar="E", help="of ours")
    parser.add_argument("--every", type=at_least(1), default=1, metavar="N", help="use every Nth picture")
    add_limit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ...bench.experiments import lossless
    from ...runtime.codec import Codec
    from ...runtime.image.files import find_images

    with Codec.open(args.bundle, "onnxruntime-cpu", threads=1, limits=limits_of(args)) as codec:
        result = lossless.run(codec, find_images(args.photos)[:: args.every], args.bounds, args.effort)
    print("\n".join(_lines(result)))
    if args.output:
        write_atomically(args.output, json.dumps(result, indent=1).encode())
    return 0


def _lines(result: dict[str, Any]) -> list[str]:
    lines = [f"lossless, {result['pictures']} pictures"]
    lines += _table(result["lossless"])
    lines.append(
        f"{result['above_flif_percent']:+.2f} % above FLIF of the picture alone, mean of the pictures' own"
    )
    lines.append("parts: " + ", ".join(f"{name} {bpp:.4f} bpp" for name, bpp in result["parts_bpp"].items()))
    for bound, rows in result["near_lossless"].items():
        lines.append(f"largest error {bound}")
        lines += _table(rows)
    return lines


def _table(rows: dict[str, Any]) -> list[str]:
    lines = [f"  {'coder':<20}{'bpp':>8}{'PSNR dB':>9}{'encode CPU s':>14}{'decode CPU s':>14}"]
    for name, row in rows.items():
        quality = "-" if row["psnr"] is None else f"{row['psnr']:.2f}"
        lines.append(
            f"  {name:<20}{row['bpp']:>8.4f}{quality:>9}{row['encode_cpu_s']:>14.1f}{row['decode_cpu_s']:>14.1f}"
        )
    return lines
