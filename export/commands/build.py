"""`oslic build`: build a bundle's TensorRT engines."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...runtime.commands.arguments import output_file
from ...runtime.engines import PRECISIONS


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE")
    parser.add_argument("--backend", choices=("tensorrt", "tensorrt-rtx"), required=True)
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="fp16",
        help="int8, int8-fp16: of a bundle that `oslic calibrate` made, the rest in float32 or float16",
    )
    parser.add_argument(
        "--shapes",
        action="append",
        default=[],
        metavar="MIN,OPT,MAX",
        help="image sizes of one profile, N x height x width each: 1x64x64,1x512x768,4x1088x1920; repeatable",
    )
    parser.add_argument("--graph", action="append", default=[], help="only this graph; repeatable")
    parser.add_argument("--optimization-level", type=int, default=3, choices=range(6))
    parser.add_argument("--timing-cache", type=output_file("a timing cache", update=True), metavar="FILE")
    parser.add_argument("--version-compatible", action="store_true")
    parser.add_argument("--hardware-compatible", action="store_true")
    parser.add_argument(
        "--stripped", action="store_true", help="without weights, where the product offers it"
    )
    parser.add_argument(
        "--layers", action="store_true", help="also write what became of each layer, as JSON; needs a GPU"
    )


def run(args: argparse.Namespace) -> int:
    from ...runtime.bundle import GRAPH_NAMES, Bundle
    from ...runtime.errors import UsageError
    from ..engines import DEFAULT_PROFILE, Options, Profile, build_engine, show

    unknown = [name for name in args.graph if name not in GRAPH_NAMES]
    if unknown:
        raise UsageError(f"no graph {unknown[0]!r}; a bundle has {', '.join(GRAPH_NAMES)}")
    profiles = [Profile.parse(text) for text in args.shapes] or [DEFAULT_PROFILE]
    options = Options(
        optimization_level=args.optimization_level,
        version_compatible=args.version_compatible,
        hardware_compatible=args.hardware_compatible,
        stripped=args.stripped,
        timing_cache=None if args.timing_cache is None else Path(args.timing_cache),
        layers=args.layers,
    )
    bundle = Bundle.open(args.bundle)
    for name in bundle.manifest.graph_names:
        if args.graph and name not in args.graph:
            continue
        path = build_engine(
            bundle, name, args.backend, args.precision, profiles, options=options, progress=show
        )
        show("")
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB)", flush=True)
    return 0
