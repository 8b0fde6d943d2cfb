"""`oslic cast`: a float32 graph or bundle to float16 or bfloat16, or with its weights stored so."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..export_arguments import add_threads, megabytes
from ..file_arguments import output_place, require_ending
from ..limit_arguments import add_limit_arguments, limits_of
from ..model_arguments import add_input_arguments, feeds_of
from ..numbers import not_negative

if TYPE_CHECKING:
    from ...export.verify import Difference
    from ...runtime.model.source import Model, Source

_TOLERANCE: Final = 1e-2


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, metavar="GRAPH.onnx|BUNDLE", help="in float32")
    parser.add_argument("-o", "--output", type=output_place(), required=True, metavar="GRAPH.onnx|BUNDLE")
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--precision",
        choices=("fp16", "bf16"),
        default="fp16",
        help="what it is to compute in, for backends that run graphs as they are (default: %(default)s)",
    )
    form.add_argument(
        "--weights-only",
        action="store_true",
        help="compute in float32 as before, and store its weights as float16: half the file",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="photographs for the check of a bundle's graphs"
    )
    parser.add_argument(
        "--no-check", action="store_true", help="do not run the result beside the float32 graph"
    )
    for name, what in (("atol", "absolute"), ("rtol", "relative")):
        parser.add_argument(
            f"--{name}",
            type=not_negative,
            default=_TOLERANCE,
            metavar="X",
            help=f"{what} tolerance of a graph's outputs (default: %(default)g)",
        )
    add_threads(parser)
    parser.add_argument("--force", action="store_true", help="replace a bundle that is already there")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")
    add_input_arguments(parser)
    add_limit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ...runtime.errors import UsageError, printable
    from ...runtime.model.source import open_source

    source = open_source(args.source)
    if source.engine is not None:
        raise UsageError(
            f"{args.source} is an engine: cast the graph that it is built from, or build in another precision"
        )
    if source.bundle is not None:
        found = _cast_bundle(args, source)
        line = f"{args.output}: {megabytes(Path(args.output))}, fingerprint {source.bundle.manifest.fingerprint[:16]}"
    else:
        found = _cast_graph(args, source.models[0])
        line = f"{args.output}: {Path(args.output).stat().st_size / 1e6:.2f} MB"
    if args.json:
        rows = [difference.to_dict() for difference in found]
        print(
            json.dumps(
                {
                    "output": str(args.output),
                    "precision": None if args.weights_only else args.precision,
                    "differences": rows,
                },
                indent=2,
            )
        )
        return 0
    for difference in found:
        print(printable(f"against float32: {difference}"), flush=True)
    print(line)
    return 0


def _cast_graph(args: argparse.Namespace, model: Model) -> list[Difference]:
    from ...export.half_bundle import cast_model, check_cast
    from ...export.half_weights import with_half_weights
    from ...export.verify import Tolerance
    from ...runtime.files import check_target, write_atomically
    from ...runtime.ledger import declare_outputs

    require_ending(args.output, "an ONNX graph")
    declare_outputs(args.output)
    check_target(args.output)
    # Sizes that are needed for the check are asked for before the work.
    feeds = {} if args.no_check else feeds_of(args, model.inputs, model.ranges, model.shapes)
    data = with_half_weights(model.data) if args.weights_only else cast_model(model, args.precision)
    found: list[Difference] = []
    if not args.no_check:
        found = check_cast(model, data, feeds, Tolerance(args.atol, args.rtol), args.threads)
    write_atomically(args.output, data)
    return found


def _cast_bundle(args: argparse.Namespace, source: Source) -> list[Difference]:
    from ...export.bundle_checks import samples
    from ...export.half_bundle import check_half, half_graphs, write_half
    from ...export.half_weights import graphs_with_half_weights
    from ...runtime.bundle.folder import require_another, require_free
    from ...runtime.image.files import find_images

    bundle, output = source.bundle, Path(args.output)
    assert bundle is not None
    require_free(output, replace=args.force)
    require_another(output, bundle.path, "cast", "float16")
    kind = None if args.weights_only else args.precision
    graphs = graphs_with_half_weights(bundle) if kind is None else half_graphs(bundle, kind)
    found: list[Any] = []
    if not args.no_check:
        images = samples() if args.images is None else find_images(args.images)
        found = check_half(bundle, graphs, images, args.threads, limits_of(args))
    write_half(bundle, kind, output, graphs=graphs, replace=args.force)
    return found
