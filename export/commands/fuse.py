"""`oslic fuse`: fuse the octave convolutions of any ONNX graph."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..fusion import Report


def shape_argument(text: str) -> tuple[str, tuple[int, ...]]:
    """`image=1x512x768x3` as a name and a shape."""
    name, _, sizes = text.rpartition("=")
    try:
        shape = tuple(int(size) for size in sizes.lower().split("x"))
    except ValueError:
        shape = ()
    if not name or not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=1x3x512x768")
    return name, shape


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("graph", type=Path, metavar="IN.onnx", help="any ONNX graph with float32 weights")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.onnx")
    parser.add_argument(
        "--report", type=Path, metavar="JSON", help="write hits, near-misses, choices and costs"
    )
    parser.add_argument(
        "--target",
        choices=("onnxruntime", "tensorrt"),
        default="onnxruntime",
        help="for which forms are chosen (default: onnxruntime, on the CPU)",
    )
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument(
        "--measure",
        action="store_true",
        help="choose by measurement on this machine instead of the cost model (onnxruntime only)",
    )
    choice.add_argument(
        "--form", metavar="NAME", help="take this form wherever it exists, for instance phases"
    )
    parser.add_argument(
        "--multiple",
        type=int,
        default=1,
        metavar="M",
        help="declare that all dynamic sizes but the batch are multiples of M; even sizes are needed by most rules",
    )
    parser.add_argument(
        "--shape",
        type=shape_argument,
        action="append",
        default=[],
        metavar="NAME=1x3x512x768",
        help="an input's shape for counting, measuring and checking",
    )
    parser.add_argument(
        "--inputs", type=Path, metavar="NPZ", help="arrays by input name, checked besides random ones"
    )
    parser.add_argument("--atol", type=float, default=1e-4, help="absolute tolerance (default: %(default)g)")
    parser.add_argument("--rtol", type=float, default=1e-4, help="relative tolerance (default: %(default)g)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads when measuring")


def run(args: argparse.Namespace) -> int:
    import onnx_ir as ir

    from ...runtime.errors import UsageError
    from ...runtime.files import read_file, write_atomically
    from ..forms import CostModel, Fixed
    from ..fusion import check, fuse, fuse_measured, random_inputs
    from ..sizes import Sizes
    from ..verify import Tolerance, require

    if args.measure and args.target != "onnxruntime":
        raise UsageError(
            "--measure runs ONNX Runtime on this machine; --target tensorrt has only the cost model"
        )
    if args.multiple < 1:
        raise UsageError(f"--multiple is {args.multiple}; it must be at least 1")
    read_file(args.graph, "graph")  # for its error
    try:
        model = ir.load(args.graph)  # not from the bytes: weights may lie beside it
    except Exception as error:  # protobuf's and onnx-ir's exceptions have no common base but this
        raise UsageError(f"{args.graph} is not an ONNX graph: {error}") from error

    def chooser(sizes: Sizes) -> CostModel | Fixed:
        if args.form is not None:
            return Fixed(args.form, "merged", "stacked")
        return CostModel(args.target, sizes)

    shapes = dict(args.shape)
    if args.measure:
        fused, report = fuse_measured(model, args.threads, multiple=args.multiple, shapes=shapes)
    else:
        fused, report = fuse(model, chooser, multiple=args.multiple, shapes=shapes)
    tolerance = Tolerance(args.atol, args.rtol)
    feeds = [random_inputs(model, report.shapes)]
    if args.inputs is not None:
        feeds.append(_arrays(args.inputs))
    report = check(model, fused, report, feeds, tolerance)
    print_report(report, args.atol, args.rtol)
    if args.report is not None:
        write_atomically(args.report, (json.dumps(report.to_dict(), indent=2) + "\n").encode())
    require(report.differences, f"the fused graph of {args.graph}", tolerance)
    write_atomically(args.output, ir.to_proto(fused).SerializeToString())
    return 0


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    import numpy as np

    from ...runtime.errors import UsageError

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} holds no arrays by input name (numpy.savez): {error}") from error


def print_report(report: Report, atol: float, rtol: float) -> None:
    """Print what fusion did, for people."""
    for rule in report.rules:
        print(f"{rule.rule}: {rule.hits} rewritten   {rule.identity}")
        for miss in rule.near_misses:
            print(f"    not at {miss.node}: {miss.reason}")
    for choice in report.choices:
        print(f"{choice['node']}: {choice['form']}   ({choice['reason']})")
    before, after = report.before, report.after
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in report.shapes.items())
    print(f"nodes {sum(before.operators.values())} -> {sum(after.operators.values())}")
    print(f"multiply-accumulates {before.macs:,} -> {after.macs:,}   for {shapes}")
    for difference in report.differences:
        print(f"check (atol {atol:g}, rtol {rtol:g}): {difference}{'' if difference.ok else '   MISMATCH'}")
    if report.timing:
        print(report.timing)
