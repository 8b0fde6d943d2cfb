"""`oslic build`: TensorRT engines of any ONNX graph, or of all graphs of a bundle."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ...runtime.bundle.engine_files import PRECISIONS
from ..file_arguments import Word, output_file
from ..model_arguments import profile_argument

if TYPE_CHECKING:
    from ...export.engines import Profile
    from ...runtime.bundle.engine_files import Shapes


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="GRAPH.onnx|BUNDLE")
    parser.add_argument("--backend", choices=("tensorrt", "tensorrt-rtx"), required=True)
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp16",
        help="int8, int8-fp16: of graphs that `oslic calibrate --target tensorrt` made, the rest in float32 or float16 "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--shapes",
        type=Word,
        action="append",
        default=[],
        metavar="NAME=MIN,OPT,MAX",
        help="shapes of an input, such as input=1x3x64x64,1x3x512x768,4x3x1088x1920, one stands for all three; "
        "repeatable, the same input again begins another profile. Of bundles also image sizes without a name, N x "
        "height x width each: 1x64x64,1x512x768,4x1088x1920",
    )
    parser.add_argument(
        "-o", "--output", type=Word, metavar="DIR", help="where to (default: engines/ beside the graph)"
    )
    parser.add_argument(
        "--graph", action="append", default=[], help="of a bundle: only this graph; repeatable"
    )
    parser.add_argument(
        "--optimization-level", type=int, default=3, choices=range(6), help="higher takes longer (default: 3)"
    )
    parser.add_argument(
        "--timing-cache",
        type=output_file("a timing cache", update=True),
        metavar="FILE",
        help="of the kernels' times, read and written: another build of such layers is faster (tensorrt)",
    )
    parser.add_argument("--version-compatible", action="store_true", help="to load in later versions, too")
    parser.add_argument("--hardware-compatible", action="store_true", help="to run on later GPUs, too")
    parser.add_argument(
        "--stripped", action="store_true", help="without weights, where the product offers it"
    )
    parser.add_argument(
        "--layers", action="store_true", help="also write what became of each layer, as JSON; needs a GPU"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")


def _shapes(texts: list[str]) -> tuple[list[tuple[str, Shapes]], list[Profile]]:
    """`--shapes` by input, and as image sizes."""
    from ...export.engines import Profile
    from ...runtime.errors import UsageError

    named: list[tuple[str, Shapes]] = []
    sizes: list[Profile] = []
    for text in map(str, texts):
        if "=" not in text:
            sizes.append(Profile.parse(text))
            continue
        try:
            named.append(profile_argument(text))
        except argparse.ArgumentTypeError as error:
            raise UsageError(f"--shapes {error}") from None
    if named and sizes:
        raise UsageError("--shapes: either image sizes or shapes by input, not both")
    return named, sizes


def run(args: argparse.Namespace) -> int:
    from ...export.engines import Options, build_engine, profiles_of, show
    from ...runtime.bundle.engine_files import FOLDER
    from ...runtime.errors import UsageError
    from ...runtime.model.source import open_source

    source = open_source(args.source)
    if source.engine is not None:
        raise UsageError(f"{args.source} is an engine already; name the graph that it is built from")
    named, sizes = _shapes(args.shapes)
    options = Options(
        optimization_level=args.optimization_level,
        version_compatible=args.version_compatible,
        hardware_compatible=args.hardware_compatible,
        stripped=args.stripped,
        timing_cache=None if args.timing_cache is None else Path(args.timing_cache),
        layers=args.layers,
    )
    models = source.chosen(args.graph)
    # What is wrong with the shapes of any graph is said before the first is built.
    profiles = [profiles_of(model, named=named, sizes=sizes, bundle=source.bundle) for model in models]
    built = []
    for model, shapes in zip(models, profiles, strict=True):
        folder = model.path.parent / FOLDER if args.output is None else Path(args.output)
        path, info = build_engine(
            model, args.backend, args.precision, shapes, folder, options=options, progress=show
        )
        show("")
        built.append({"path": str(path), "bytes": path.stat().st_size, **asdict(info)})
        if not args.json:
            megabytes = path.stat().st_size / 1e6
            print(f"{path} ({megabytes:.2f} MB, {info.precision}, {info.build_seconds:g} s)", flush=True)
    if args.json:
        print(json.dumps({"engines": built}, indent=2))
    return 0
