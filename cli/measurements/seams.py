"""`oslic bench seams`: what tiles cost, in errors along their borders and in bytes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ...runtime.bundle.finder import open_bundle
from ...runtime.files import write_atomically
from ...runtime.image.files import find_images
from ...runtime.tiling import HALO, TILE_SIDE
from ..file_arguments import output_file
from ..limit_arguments import add_limit_arguments, limits_of


def _setting(text: str) -> tuple[int, int]:
    try:
        side, halo = (int(part) for part in text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not SIDE/HALO in pixels, such as 1024/32") from None
    return side, halo


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", type=Path, metavar="FOLDER", help="photographs of more than 1 megapixel")
    parser.add_argument("-o", "--output", type=output_file("JSON"), required=True, metavar="JSON")
    parser.add_argument("--bundle", metavar="BUNDLE", help="the networks (default: the shipped `lite`)")
    parser.add_argument(
        "--tiles",
        type=_setting,
        nargs="+",
        default=[(TILE_SIDE, HALO)],
        metavar="SIDE/HALO",
        help=f"tiles and halos in pixels (default: {TILE_SIDE}/{HALO})",
    )
    parser.add_argument("--qualities", type=int, nargs="+", default=[0, 20, 60], metavar="Q", help="0 20 60")
    add_limit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ...bench.experiments import seams

    result = seams.run(
        open_bundle(args.bundle),
        find_images(args.images),
        args.tiles,
        args.qualities,
        progress=print,
        limits=limits_of(args),
    )
    write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())
    return 0
