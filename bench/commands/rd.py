"""`oslic bench rd`: rate-distortion of the codec and its peers on a folder of images."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ...runtime.codec.effort import DEFAULT_EFFORT
from ...runtime.commands.arguments import output_file
from ...runtime.commands.limits import add_limit_arguments, limits_of
from ...runtime.commands.numbers import at_least
from ...runtime.errors import UsageError
from ...runtime.images import find_images
from ..coders import PEERS, VARIANTS, ours
from ..curves import read_anchors
from ..experiments.rate_bands import described
from ..rd import METRICS, Job, check_sizes, measure, write_result
from .peers import add_peers, chosen_peers

_DEFAULT_METRICS = "psnr,psnr_ycbcr,ms_ssim"


def _default_images() -> str:
    return str(Path(os.environ.get("OSLIC_SHARED", "../shared")) / "data" / "kodak")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="?", default=None, metavar="FOLDER", help="default: Kodak in OSLIC_SHARED"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=output_file("JSON"),
        required=True,
        metavar="JSON",
        help="result; FILE.partial keeps what is done",
    )
    parser.add_argument(
        "--bundle", metavar="FOLDER", help="the networks (default: the shipped `lite` bundle)"
    )
    parser.add_argument("--backend", default="auto", metavar="NAME")
    parser.add_argument(
        "--effort",
        type=int,
        default=DEFAULT_EFFORT,
        metavar="E",
        help="of our encoder (default: %(default)s)",
    )
    parser.add_argument(
        "--variants",
        default="",
        metavar="A,B",
        help=f"measure our codec at these settings, too: {', '.join(VARIANTS)}",
    )
    add_peers(parser, PEERS, "avif-s6,jpeg,jpeg2000,webp,jxl")
    parser.add_argument(
        "--anchors", metavar="DIR", help="published curves, JSON files in CompressAI's schema"
    )
    parser.add_argument(
        "--metrics",
        default=_DEFAULT_METRICS,
        metavar="A,B",
        help=f"of {', '.join(METRICS)}; psnr is always there",
    )
    parser.add_argument(
        "--jobs", type=at_least(1), default=os.cpu_count() or 1, metavar="N", help="processes"
    )
    add_limit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    peers = chosen_peers(args.peers, args.command, PEERS)
    wanted = tuple(dict.fromkeys(["psnr", *(m for m in args.metrics.split(",") if m)]))
    wrong = [name for name in wanted if name not in METRICS]
    if wrong:
        raise UsageError(f"unknown metric {wrong[0]!r}; known: {', '.join(METRICS)}")
    output = Path(args.output)
    images = find_images(args.images or _default_images())
    limits = limits_of(args)
    check_sizes(images, wanted, limits)
    anchors = read_anchors(Path(args.anchors)) if args.anchors else []
    # Each process has one core: the networks of several images run side by side.
    variants = [name for name in args.variants.split(",") if name]
    wrong = [name for name in variants if name not in VARIANTS]
    if wrong:
        raise UsageError(f"unknown variant {wrong[0]!r}; known: {', '.join(VARIANTS)}")
    own, *others = (
        ours(args.bundle, args.backend, threads=1, effort=args.effort, variant=name)
        for name in ("", *variants)
    )
    coders = [own, *others, *peers]
    jobs = [Job(image, coder, wanted, limits) for image in images for coder in coders]
    partial = output.with_name(output.name + ".partial")
    points = measure(jobs, partial, processes=args.jobs)
    setups = {coder.name: {"qualities": coder.qualities, **coder.options} for coder in coders}
    for coder in (own, *others):
        del setups[coder.name]["bundle"]  # a path of this machine; the fingerprint names the weights
    settings = {"images": [image.name for image in images], "coders": setups, "metrics": wanted}
    bands = write_result(output, points, [coder.name for coder in (own, *others)], settings, anchors)
    partial.unlink()
    print(described(bands))
    print(f"wrote {output}")
    return 0
