"""`oslic bench gpu`: all that needs a GPU, in one command."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ...bench.experiments.int8 import fingerprints
from ...bench.gpu.runner import QUICK, Plan, unfinished, work_folder
from ...bench.gpu.runner import run as run_plan
from ...runtime.errors import UsageError, VerificationError
from ..file_arguments import output_file
from ..numbers import positive


def configure(parser: argparse.ArgumentParser) -> None:
    plan = Plan()
    parser.add_argument(
        "-o",
        "--output",
        type=output_file("JSON", update=True),
        required=True,
        metavar="FILE.json",
        help="the result; a later run goes on from it",
    )
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="cpu: try the command out without a GPU"
    )
    parser.add_argument("--quick", action="store_true", help="tiny networks and sizes, few samples")
    parser.add_argument(
        "--budget",
        type=positive,
        default=plan.budget,
        metavar="SECONDS",
        help="for everything (default: 600)",
    )
    parser.add_argument(
        "--limit", type=positive, default=plan.limit, metavar="SECONDS", help="for one section (default: 120)"
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="WORD",
        help="only sections whose names hold this, such as 'fp16 tensorrt'; repeatable",
    )
    parser.add_argument("--network", action="append", default=[], metavar="NAME", help="default: base, full")
    parser.add_argument(
        "--int8",
        nargs=2,
        type=Path,
        metavar=("BUNDLE", "BUNDLE_INT8"),
        help="also INT8 against FP16: a bundle, and what `oslic calibrate --ignore-time` made of it",
    )
    parser.add_argument("--keep", action="store_true", help="keep graphs and engines in FILE.json.work")


def run(args: argparse.Namespace) -> int:
    output = Path(args.output)
    if args.budget <= 0 or args.limit <= 0:
        raise UsageError("--budget and --limit must be above 0")
    settings = dict(QUICK) if args.quick else {}
    if args.network:
        settings["networks"] = tuple(args.network)
    if args.int8 is not None:
        fingerprints(*args.int8)
        settings["int8"] = tuple(str(folder.resolve()) for folder in args.int8)
    plan = Plan(device=args.device, budget=args.budget, limit=args.limit, **settings)
    result = run_plan(plan, output, only=args.only)
    statuses = [part["status"] for part in result["sections"].values()]
    counted = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    print(f"wrote {output}: {counted}")
    if not args.keep and not unfinished(result):
        shutil.rmtree(work_folder(output), ignore_errors=True)
    beyond = [
        name for name, part in result["sections"].items() if not (part.get("result") or {}).get("ok", True)
    ]
    if beyond:
        raise VerificationError(
            f"outputs are beyond their tolerance in {', '.join(beyond)}: `oslic compare --bisect` names the layer"
        )
    broken = [name for name, part in result["sections"].items() if part["status"] in {"failed", "timeout"}]
    if broken:
        raise VerificationError(f"did not run to its end: {', '.join(broken)}; {output} has the reasons")
    return 0
