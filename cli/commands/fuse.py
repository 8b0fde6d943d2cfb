"""`oslic fuse`: fuse upsampling into the convolutions of any ONNX graph."""

from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..file_arguments import output_file
from ..numbers import at_least, not_negative

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir

    from ...export.fusion import Report

_OLDEST_OPSET = 13  # as `normal_form.OLDEST_OPSET`, which --help need not load
# Of all places with a choice; `form_selection.Fixed` takes any name, and where a place has no such form its own stays.
_FORMS = (
    "keep",
    "merged",
    "phases",
    "phases-blocked",
    "phases-channels-last",
    "phases-paired",
    "phases-stacked",
    "pointwise",
    "pooled",
    "stacked",
    "strided",
    "transposed",
)


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
    parser.add_argument("graph", type=Path, metavar="IN.onnx", help="any ONNX graph")
    parser.add_argument(
        "-o", "--output", type=output_file("an ONNX graph"), required=True, metavar="OUT.onnx"
    )
    parser.add_argument(
        "--report",
        type=output_file("JSON"),
        metavar="JSON",
        help="write hits, near-misses, choices and costs",
    )
    _add_choice_of_forms(parser)
    _add_sizes(parser)
    _add_treatment(parser)
    _add_check(parser)
    parser.add_argument(
        "--threads",
        type=at_least(1),
        default=1,
        metavar="N",
        help="threads when measuring; with one, processor time counts, which other work on the machine disturbs least "
        "(default: 1)",
    )


def _add_choice_of_forms(parser: argparse.ArgumentParser) -> None:
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
        "--form", choices=_FORMS, help="take this form where a place has it; the cost model chooses elsewhere"
    )


def _add_sizes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--multiple",
        type=at_least(1),
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


def _add_treatment(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--opset",
        type=at_least(1),
        metavar="N",
        help=f"version of ONNX's operators in the result (default: that of IN.onnx, {_OLDEST_OPSET} at the least)",
    )
    parser.add_argument(
        "--freeze-inputs",
        action="store_true",
        help="initializers that are inputs, too, are constants, and no inputs of the result",
    )


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-check",
        action="store_true",
        help="do not run the graphs before and after to compare them",
    )
    parser.add_argument(
        "--custom-ops",
        type=Path,
        action="append",
        default=[],
        metavar="LIBRARY",
        help="shared library with custom operators for ONNX Runtime; its code is run (repeatable)",
    )
    for name, what in (("atol", "absolute"), ("rtol", "relative")):
        parser.add_argument(
            f"--{name}",
            type=not_negative,
            default=1e-4,
            metavar="X",
            help=f"{what} tolerance (default: %(default)g)",
        )


def run(args: argparse.Namespace) -> int:
    from ...export.form_selection import CostModel, Preferred
    from ...export.fusion import check, fuse, fuse_measured, random_inputs
    from ...export.graph_files import read_graph, write_graph
    from ...export.symbolic_shapes.inference import Sizes
    from ...export.verify import Tolerance, require
    from ...runtime.errors import UsageError
    from ...runtime.files import require_regular_file, write_atomically

    if args.measure and args.target != "onnxruntime":
        raise UsageError(
            "--measure runs ONNX Runtime on this machine; --target tensorrt has only the cost model"
        )
    if args.no_check and args.inputs is not None:
        raise UsageError("--inputs are for the comparison that --no-check leaves out")
    for library in args.custom_ops:
        require_regular_file(library, "library")
    libraries = [str(library.resolve()) for library in args.custom_ops]
    model = read_graph(args.graph)
    given = [] if args.inputs is None else [_arrays(args.inputs, model)]

    def chooser(sizes: Sizes) -> CostModel | Preferred:
        model = CostModel(args.target, sizes)
        return model if args.form is None else Preferred(args.form, model)

    shapes = dict(args.shape)
    for inputs in given:
        shapes = {**{name: array.shape for name, array in inputs.items()}, **shapes}
    options = {
        "multiple": args.multiple,
        "shapes": shapes,
        "opset": args.opset,
        "freeze": args.freeze_inputs,
    }
    if args.measure:
        fused, report = fuse_measured(model, args.threads, libraries=libraries, **options)
    else:
        fused, report = fuse(model, chooser, **options)
    tolerance = Tolerance(args.atol, args.rtol)
    if not args.no_check:
        feeds = [random_inputs(fused, report.shapes), *given]
        report = check(model, fused, report, feeds, tolerance, libraries=libraries)
    print_report(report, args.atol, args.rtol)
    if args.report is not None:
        write_atomically(args.report, (json.dumps(report.to_dict(), indent=2) + "\n").encode())
    require(report.differences, f"the fused graph of {args.graph}", tolerance)
    data = write_graph(Path(args.output), fused)
    if data is not None:
        print(
            f"the weights, more than fit into an ONNX file, are in {data}, which belongs beside {args.output}"
        )
    return 0


def _arrays(path: Path, model: ir.Model) -> dict[str, npt.NDArray[Any]]:
    """Arrays of a file of NumPy's, one for each input of a graph."""
    import numpy as np

    from ...runtime.errors import UsageError
    from ...runtime.files import require_regular_file

    none = f"{path} holds no arrays by input name (numpy.savez)"
    require_regular_file(path, "arrays")
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise UsageError(f"{none}: it is a single array")
        with file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise UsageError(f"{none}: {error}") from error
    inputs = [str(value.name) for value in model.graph.inputs if not value.is_initializer()]
    if set(arrays) != set(inputs):
        raise UsageError(
            f"{path} holds arrays named {', '.join(sorted(arrays)) or 'nothing'}; "
            f"the graph's inputs are {', '.join(inputs)}"
        )
    return arrays


def print_report(report: Report, atol: float, rtol: float) -> None:
    """Print what fusion did, for people."""
    for rule in report.rules:
        if not rule.hits and not rule.near_misses:
            continue
        print(f"{rule.rule}: {rule.hits} rewritten   {rule.identity}")
        for miss in rule.near_misses:
            print(f"    not at {miss.node}: {miss.reason}")
    for choice in report.choices:
        print(f"{choice['node']}: {choice['form']}   ({choice['reason']})")
    for note in report.notes:
        print(f"note: {note}")
    before, after = report.before, report.after
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in report.shapes.items())
    print(f"nodes {sum(before.operators.values())} -> {sum(after.operators.values())}")
    print(f"multiply-accumulates {before.macs:,} -> {after.macs:,}   for {shapes}")
    for difference in report.differences:
        print(f"check (atol {atol:g}, rtol {rtol:g}): {difference}{'' if difference.ok else '   MISMATCH'}")
    if report.timing:
        print(report.timing)
