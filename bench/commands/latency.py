"""`oslic bench latency`: milliseconds per stage and end to end, beside peers."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...runtime.commands.arguments import output_file
from ...runtime.commands.limits import add_limit_arguments, limits_of
from ...runtime.commands.numbers import at_least, positive, width_by_height
from ..coders import TIMED_PEERS
from ..latency import Setup, table, write
from ..latency import run as measure_all
from ..timing import Settings
from .peers import add_peers, chosen_peers


def configure(parser: argparse.ArgumentParser) -> None:
    defaults = Settings()
    parser.add_argument("image", metavar="IMAGE", help="a photograph")
    parser.add_argument(
        "-o", "--output", type=output_file("JSON"), metavar="JSON", help="write the result, with all samples"
    )
    parser.add_argument(
        "--size",
        type=width_by_height,
        metavar="WxH",
        help="repeat and crop the image to this size, e.g. 768x512",
    )
    parser.add_argument(
        "--bundle",
        action="append",
        metavar="[NAME=]FOLDER",
        help="may be repeated; default: the shipped bundle",
    )
    parser.add_argument("--backend", default="auto", metavar="NAME")
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="CPU threads of the networks")
    parser.add_argument(
        "--speed", type=int, default=6, metavar="S", help="of the residual coder (default: 6)"
    )
    parser.add_argument(
        "--quality",
        type=int,
        default=60,
        metavar="Q",
        help="of the residual (default: 60); peers are measured at their setting nearest in PSNR",
    )
    add_peers(parser, TIMED_PEERS, "avif-s6,avif-s9")
    parser.add_argument("--timeout", type=positive, default=defaults.timeout, metavar="SECONDS")
    parser.add_argument("--min-samples", type=at_least(1), default=defaults.min_samples, metavar="N")
    parser.add_argument(
        "--max-error", type=positive, default=defaults.max_error, metavar="E", help="of the median"
    )
    parser.add_argument(
        "--throughput", type=at_least(0), default=0, metavar="N", help="also run N images as a pipeline"
    )
    add_limit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    specs = chosen_peers(args.peers, args.command, TIMED_PEERS)
    setups = []
    for index, text in enumerate(args.bundle or [""]):
        name, separator, folder = text.rpartition("=")
        label = name if separator else "oslic" if index == 0 else f"oslic-{index + 1}"
        setups.append(Setup(label, folder or None, args.backend, args.threads, args.speed, args.quality))
    rule = Settings(min_samples=args.min_samples, max_error=args.max_error, timeout=args.timeout)
    result = measure_all(
        setups,
        Path(args.image),
        size=args.size,
        peers=specs,
        rule=rule,
        images=args.throughput,
        limits=limits_of(args),
    )
    print(table(result))
    for name, made in result["coded"].items():
        print(f"{name}: {made['bytes']} bytes, {made['psnr']:.2f} dB at quality {made['quality']:g}")
    for name, value in result["ratios"].items():
        print(f"{name} takes {value:.2f} of the time of {setups[0].name}, in this run")
    for name, flow in result["throughput"].items():
        print(
            f"{name}: {flow['sequential_per_second']:.2f} images/s one by one, "
            f"{flow['pipelined_per_second']:.2f} pipelined"
        )
    if args.output:
        write(Path(args.output), result)
        print(f"wrote {args.output}")
    return 0
