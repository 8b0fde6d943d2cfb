"""`oslic calibrate`: quantize an ONNX graph, or the graphs of a bundle, to int8."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...runtime.bundle.manifest import LAYER_GRAPHS, OSLIC
from ...runtime.errors import UsageError, printable
from ..file_arguments import output_place, require_ending
from ..limit_arguments import add_limit_arguments, limits_of
from ..model_arguments import add_preprocessing_arguments, preprocessing_of
from ..numbers import at_least, not_negative

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...calibration.any_graph import Goal
    from ...calibration.options import Options
    from ...runtime.bundle.folder import Bundle
    from ...runtime.model.source import Model

_METHODS: Final = ("auto", "minmax", "percentile", "entropy", "mse")
_MIN_SQNR: Final = 20.0
_MIN_SQNR_OF_KINDS: Final = 30.0
_BUDGET: Final = 0.01
_BUDGET_DB: Final = 0.1
_BUDGET_LABELS: Final = 0.05


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "oslic" / "calibration"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="GRAPH.onnx|BUNDLE", help="in float32")
    parser.add_argument(
        "--data", "--images", type=Path, required=True, metavar="DIR|FILE.npz",
        help="what ranges are measured on: arrays by input name, samples along their first axis, or a folder of such "
        "files or of photographs; for bundles a folder of photographs",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", type=output_place(), required=True, metavar="GRAPH.onnx|BUNDLE_INT8",
        help="the quantized graph, with NAME.calibration.json and .html beside it, or bundle, with both inside",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace the bundle that is there")
    parser.add_argument("--json", action="store_true", help="print the report as JSON instead of lines")
    _add_method(parser)
    _add_budgets(parser)
    _add_bundle_arguments(parser)
    add_preprocessing_arguments(parser)
    add_limit_arguments(parser)


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--target",
        choices=("cpu", "tensorrt"),
        help="what the result is to run on: uint8 activations for ONNX Runtime and OpenVINO on CPUs, symmetric int8 "
        "ones for TensorRT (default: cpu; of the encoder's graphs beside --integer ones: tensorrt, which runs on both)",
    )
    parser.add_argument(
        "--count", type=int, default=32, metavar="N", help="samples for the ranges (default: %(default)s)"
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
        "--exclude", action="append", default=[], metavar="NAME",
        help="layers to leave in float, by name or pattern (* and ?); repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--exclude-type", action="append", default=[], metavar="OPERATOR",
        help="layers to leave in float, by operator: Conv, ConvTranspose; repeatable",
    )  # fmt: skip
    parser.add_argument(
        "--ignore-time",
        action="store_true",
        help="quantize layers whose int8 kernels are slower on this machine too: it is not like the target",
    )
    parser.add_argument(
        "--threads", type=at_least(1), default=os.cpu_count() or 1, metavar="N", help="threads per run"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        default=_default_cache(),
        metavar="DIR",
        help="of measured ranges (default: %(default)s)",
    )


def _add_budgets(parser: argparse.ArgumentParser) -> None:
    graphs = parser.add_argument_group(
        "what a graph may lose: layers stay in float until the rest is within it"
    )
    graphs.add_argument(
        "--min-sqnr", type=not_negative, metavar="DB",
        help=f"signal-to-quantization-noise ratio of each output (default: {_MIN_SQNR:g}; of the graphs of a codec of "
        f"another kind than `oslic`: {_MIN_SQNR_OF_KINDS:g})",
    )  # fmt: skip
    graphs.add_argument(
        "--metric", metavar="MODULE:FUNCTION",
        help="a score of your own in place of it, the higher the better: a function of two lists, outputs and inputs "
        "by name for each sample",
    )  # fmt: skip
    graphs.add_argument(
        "--budget",
        type=not_negative,
        metavar="X",
        help=f"the most that --metric may fall (default: {_BUDGET:g})",
    )


def _add_bundle_arguments(parser: argparse.ArgumentParser) -> None:
    bundles = parser.add_argument_group("bundles")
    bundles.add_argument(
        "--integer",
        action="store_true",
        help="make the graphs that decode of integers alone, so that every machine gets the same bytes of them, and "
        "prove it (docs/concepts/exactness.md); --graphs are then those beside them",
    )
    bundles.add_argument(
        "--graphs",
        metavar="A,B",
        help=f"which to quantize (default: {','.join(LAYER_GRAPHS)}; of other kinds all that "
        "entropy coding does not depend on)",
    )
    bundles.add_argument(
        "--budget-db", type=float, metavar="DB", help=f"loss of the estimate's PSNR (default: {_BUDGET_DB:g})"
    )
    bundles.add_argument(
        "--budget-labels",
        type=float,
        metavar="SHARE",
        help=f"labels that may change (default: {_BUDGET_LABELS:g})",
    )
    bundles.add_argument(
        "--kodak", type=Path, metavar="DIR", help="also report the BD-rate on these photographs"
    )
    bundles.add_argument(
        "--camvid", type=Path, metavar="DIR", help="also report the mIoU on DIR/test and DIR/testannot"
    )


def run(args: argparse.Namespace) -> int:
    from ...calibration import any_graph  # noqa: F401 - what it needs and is not installed is said first
    from ...runtime.model.source import open_source

    source = open_source(args.source)
    if source.engine is not None:
        raise UsageError(
            f"{args.source} is an engine: calibrate the graph, and build it with --precision int8"
        )
    if source.bundle is not None and source.bundle.manifest.kind != OSLIC:
        _refuse(
            args,
            ("budget_db", "budget_labels", "kodak", "camvid"),
            f"is for bundles of the kind {OSLIC!r}; of others: --min-sqnr",
        )
        if args.integer:
            raise UsageError(
                f"--integer is for bundles of the kind {OSLIC!r}; others: oslic export --integer"
            )
        return _kind_bundle(args, source.bundle)
    if source.bundle is not None:
        _refuse(
            args,
            ("min_sqnr", "metric", "budget"),
            "is for single graphs; of bundles: --budget-db",
        )
        return _bundle(args, source.bundle)
    _refuse(args, ("graphs", "budget_db", "budget_labels", "kodak", "camvid"), "is for bundles")
    if args.integer:
        raise UsageError("--integer is for bundles")
    return _graph(args, source.models[0])


def _refuse(args: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if getattr(args, name) is not None:
            raise UsageError(f"--{name.replace('_', '-')} {why}")


def _options(args: argparse.Namespace, **more: Any) -> Options:
    from ...calibration.observers import Cache
    from ...calibration.options import Options

    return Options(
        count=args.count,
        ranges=None if args.ranges == "auto" else args.ranges,
        weight_bits=args.weight_bits,
        time_decides=not args.ignore_time,
        target=args.target or ("tensorrt" if args.integer else "cpu"),
        exclude=tuple(args.exclude),
        exclude_types=tuple(args.exclude_type),
        threads=args.threads,
        cache=Cache(args.cache),
        limits=limits_of(args),
        **more,
    )


def _goal(args: argparse.Namespace, min_sqnr: float) -> Goal:
    from ...calibration.any_graph import Goal
    from ...calibration.outputs import load_metric

    if args.metric is None:
        if args.budget is not None:
            raise UsageError("--budget is the loss of a --metric; without one give --min-sqnr DB")
        return Goal(10 ** (-(min_sqnr if args.min_sqnr is None else args.min_sqnr) / 10))
    if args.min_sqnr is not None:
        raise UsageError("--min-sqnr and --metric: give one of them")
    return Goal(_BUDGET if args.budget is None else args.budget, load_metric(args.metric), args.metric)


def _graph(args: argparse.Namespace, model: Model) -> int:
    from ...calibration.any_graph import calibrate_model
    from ...calibration.report import html
    from ...runtime.files import check_target, write_atomically
    from ...runtime.ledger import declare_outputs
    from ...runtime.model.samples import read_samples

    output = Path(args.output)
    reports = [output.with_suffix(f".calibration{ending}") for ending in (".json", ".html")]
    require_ending(output, "an ONNX graph")
    declare_outputs(output, *reports)
    check_target(output, *reports)
    options, goal = _options(args), _goal(args, _MIN_SQNR)
    options.check()
    samples = read_samples(args.data, model.inputs, 2 * args.count, preprocessing_of(args), limits_of(args))
    silent = (lambda _: None) if args.json else _say
    data, report = calibrate_model(model, samples, options, goal, progress=silent, tick=_show)
    if args.data.is_dir() and len(model.inputs) == 1 and not samples[0].name.endswith("]"):
        report["settings"]["preprocessing"] = preprocessing_of(args).stated(model.inputs[0])
    text = json.dumps(report, indent=1) + "\n"
    write_atomically(output, data)
    write_atomically(reports[0], text.encode())
    write_atomically(reports[1], html(report).encode())
    if args.json:
        print(text, end="")
        return 0
    _lines(report)
    print(f"wrote {output} for {options.target}; the report is {reports[1]}")
    return 0


def _lines(report: dict[str, Any]) -> None:
    """Print what stayed in float, and why."""
    for graph in report["graphs"].values():
        reasons = {x["name"]: x["reason"] for x in graph["layers"] if x["decision"] == "float32"} | graph[
            "left"
        ]
        for name, reason in reasons.items():
            print(printable(f"  in float: {name}: {reason}"))
        score = graph["score"]
        print(printable(f"{score['measure']}: {score['before']:.3f} -> {score['after']:.3f}"))


def _bundle(args: argparse.Namespace, bundle: Bundle) -> int:
    from ...calibration.calibrate import REPORT_HTML, calibrate_bundle
    from ...runtime.bundle.folder import Bundle

    names = LAYER_GRAPHS if args.graphs is None else tuple(args.graphs.split(","))
    graphs = tuple(name for name in LAYER_GRAPHS if name in names)
    if set(names) - set(LAYER_GRAPHS) or not graphs:
        raise UsageError(f"--graphs {args.graphs}: known are {', '.join(LAYER_GRAPHS)}")
    budget_db = _BUDGET_DB if args.budget_db is None else args.budget_db
    options = _options(
        args,
        images=args.data,
        graphs=graphs,
        integer=args.integer,
        budget_db=budget_db,
        budget_labels=_BUDGET_LABELS if args.budget_labels is None else args.budget_labels,
    )
    report = calibrate_bundle(
        bundle,
        Path(args.output),
        options,
        replace_old=args.force,
        evaluate=_evaluation(args),
        progress=(lambda _: None) if args.json else _say,
        tick=_show,
    )
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    before, after = (report["together"]["estimate_db"][when] for when in ("before", "after"))
    beyond = ", more than the budget" if before - after > budget_db else ""
    print(
        f"all graphs: estimate {before:.3f} -> {after:.3f} dB{beyond}, "
        f"{100 * report['together']['labels_changed']:.2f} % of the labels change"
    )
    if "evaluation" in report:
        from ...bench.experiments.int8 import lines

        print("\n".join(lines(report["evaluation"])))
    exact = ", exact" if Bundle.open(args.output).manifest.exact else ""
    print(f"wrote {args.output} for {options.target}{exact}; the report is {Path(args.output) / REPORT_HTML}")
    return 0


def _kind_bundle(args: argparse.Namespace, bundle: Bundle) -> int:
    from ...calibration.calibrate import REPORT_HTML
    from ...calibration.kind_bundle import calibrate_kind_bundle

    options = _options(args, images=args.data)
    report = calibrate_kind_bundle(
        bundle,
        Path(args.output),
        options,
        _goal(args, _MIN_SQNR_OF_KINDS),
        None if args.graphs is None else args.graphs.split(","),
        replace_old=args.force,
        progress=(lambda _: None) if args.json else _say,
        tick=_show,
    )
    if args.json:
        print(json.dumps(report, indent=1))
        return 0
    _lines(report)
    before, after = (report["together"][when] for when in ("before", "after"))
    print(
        f"all graphs: {before['bpp']:.4f} -> {after['bpp']:.4f} bpp, "
        f"{before['psnr_db']:.3f} -> {after['psnr_db']:.3f} dB"
    )
    print(f"wrote {args.output} for {options.target}; the report is {Path(args.output) / REPORT_HTML}")
    return 0


def _show(line: str) -> None:
    """A line of progress on the terminal, over the one before."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line[:100]}", end="", file=sys.stderr, flush=True)


def _say(line: str) -> None:
    _show("")
    print(printable(line), flush=True)


def _evaluation(args: argparse.Namespace) -> Callable[[Path], dict[str, Any]] | None:
    if args.kodak is None and args.camvid is None:
        return None
    from ...bench.experiments.int8 import evaluate, find_pictures

    pictures = find_pictures(args.kodak, args.camvid)

    return lambda folder: evaluate(
        args.source, folder, pictures, threads=args.threads, limits=limits_of(args)
    )
