"""`oslic calibrate`: quantise a bundle to int8 on photographs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...runtime.bundle import LAYER_GRAPHS
from ...runtime.commands.limits import add_limit_arguments, limits_of

if TYPE_CHECKING:
    from collections.abc import Callable

_METHODS = ("auto", "minmax", "percentile", "entropy", "mse")


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "oslic" / "calibration"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="of float32 graphs")
    parser.add_argument(
        "--images", type=Path, required=True, metavar="DIR", help="photographs to measure ranges on"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="BUNDLE_INT8",
        help="the quantised bundle, with calibration.json and calibration.html inside",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace the bundle that is there")
    parser.add_argument(
        "--count", type=int, default=32, metavar="N", help="photographs for the ranges (default: %(default)s)"
    )
    parser.add_argument(
        "--graphs", default=",".join(LAYER_GRAPHS), metavar="A,B", help="which to quantise (default: all)"
    )
    parser.add_argument(
        "--ranges", choices=_METHODS, default="auto", help="auto: what comes nearest to the float graph"
    )
    parser.add_argument(
        "--weight-bits",
        type=int,
        choices=(7, 8),
        default=7,
        help="of the integers; with 7 the fast kernels of x86 without VNNI are exact too (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--budget-db",
        type=float,
        default=0.1,
        metavar="DB",
        help="loss of the estimate's PSNR (default: %(default)s)",
    )
    parser.add_argument(
        "--budget-labels",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="labels that may change (default: %(default)s)",
    )
    parser.add_argument(
        "--ignore-time",
        action="store_true",
        help="quantise layers whose int8 kernels are slower on this machine too: it is not like the target",
    )
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="threads per run"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=_default_cache(),
        metavar="DIR",
        help="of measured ranges (default: %(default)s)",
    )
    parser.add_argument(
        "--kodak", type=Path, metavar="DIR", help="also report the BD-rate on these photographs"
    )
    parser.add_argument(
        "--camvid", type=Path, metavar="DIR", help="also report the mIoU on DIR/test and DIR/testannot"
    )
    add_limit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ...runtime.bundle import Bundle
    from ...runtime.errors import UsageError
    from ..calibrate import REPORT_HTML, calibrate_bundle
    from ..options import Options
    from ..statistics import Cache

    graphs = tuple(name for name in LAYER_GRAPHS if name in args.graphs.split(","))
    unknown = sorted(set(args.graphs.split(",")) - set(LAYER_GRAPHS))
    if unknown or not graphs:
        raise UsageError(f"--graphs {args.graphs}: known are {', '.join(LAYER_GRAPHS)}")
    options = Options(
        images=args.images,
        count=args.count,
        graphs=graphs,
        ranges=None if args.ranges == "auto" else args.ranges,
        weight_bits=args.weight_bits,
        budget_db=args.budget_db,
        budget_labels=args.budget_labels,
        time_decides=not args.ignore_time,
        threads=args.threads,
        cache=Cache(args.cache),
        limits=limits_of(args),
    )
    report = calibrate_bundle(
        Bundle.open(args.bundle),
        args.output,
        options,
        replace_old=args.force,
        evaluate=_evaluation(args),
        progress=_say,
        tick=_show,
    )
    before, after = (report["together"]["estimate_db"][when] for when in ("before", "after"))
    beyond = ", more than the budget" if before - after > args.budget_db else ""
    print(
        f"all graphs: estimate {before:.3f} -> {after:.3f} dB{beyond}, "
        f"{100 * report['together']['labels_changed']:.2f} % of the labels change"
    )
    if "evaluation" in report:
        from ...bench.int8 import lines

        print("\n".join(lines(report["evaluation"])))
    print(f"wrote {args.output}; the report is {args.output / REPORT_HTML}")
    return 0


def _show(line: str) -> None:
    """A line of progress on the terminal, over the one before."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line[:100]}", end="", file=sys.stderr, flush=True)


def _say(line: str) -> None:
    _show("")
    print(line, flush=True)


def _evaluation(args: argparse.Namespace) -> Callable[[Path], dict[str, Any]] | None:
    if args.kodak is None and args.camvid is None:
        return None
    from ...bench.int8 import evaluate, find_pictures

    pictures = find_pictures(args.kodak, args.camvid)

    return lambda folder: evaluate(
        args.bundle, folder, pictures, threads=args.threads, limits=limits_of(args)
    )
