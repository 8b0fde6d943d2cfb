"""`oslic compare`: two backends, precisions or forms of one checkpoint, output by output and layer by layer."""

from __future__ import annotations

import argparse
import json

from ...runtime.bundle import GRAPH_NAMES, Bundle, GraphName
from ...runtime.commands.arguments import output_file
from ...runtime.commands.limits import add_limit_arguments, limits_of
from ...runtime.commands.numbers import at_least, not_negative
from ...runtime.errors import UsageError, VerificationError
from ...runtime.files import write_atomically
from ...runtime.images import find_images


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument(
        "--backends",
        required=True,
        metavar="A,B",
        help="the reference and what is compared with it: names from `oslic backends`, each with @fp16, @bf16, @fp32 "
        "... (an ONNX Runtime backend then runs the graphs cast to it) or @unoptimised, if wanted",
    )
    parser.add_argument("--other", metavar="FOLDER", help="what B runs: another form of the same checkpoint")
    parser.add_argument(
        "--images", metavar="DIR", help="photographs (default: those of the repository, if it is there)"
    )
    parser.add_argument("--size", type=at_least(1), metavar="N", help="crop images to N x N pixels")
    for name, what in (
        ("atol", "largest difference, absolute part"),
        ("rtol", "relative part"),
        ("share", "share of the elements that may be beyond it"),
    ):
        parser.add_argument(
            f"--{name}", action="append", default=[], metavar="[OUTPUT:]X", help=f"{what}; repeatable"
        )
    parser.add_argument(
        "--bisect",
        action="store_true",
        help="name the first tensor of each graph that leaves its tolerance (on the first image)",
    )
    parser.add_argument("--graph", action="append", default=[], choices=GRAPH_NAMES, help="bisect only this")
    parser.add_argument(
        "--layer-atol", type=not_negative, metavar="X", help="of a layer's tensors (see --bisect)"
    )
    parser.add_argument("--layer-rtol", type=not_negative, metavar="X")
    parser.add_argument(
        "--layer-share",
        type=not_negative,
        default=0.0,
        metavar="X",
        help="share of a layer's elements that may exceed it",
    )
    parser.add_argument("--threads", type=at_least(1), metavar="N")
    parser.add_argument("-o", "--output", type=output_file("JSON"), metavar="JSON", help="write the result")
    add_limit_arguments(parser)


def _bounds(args: argparse.Namespace, outputs: set[str]) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for name in ("atol", "rtol", "share"):
        for text in getattr(args, name):
            output, separator, number = text.rpartition(":")
            if separator and output not in outputs:
                raise UsageError(
                    f"--{name} {text}: no output {output!r}; there are {', '.join(sorted(outputs))}"
                )
            try:
                value = not_negative(number)
            except argparse.ArgumentTypeError as error:
                raise UsageError(f"--{name} {text}: {error}") from None
            found.setdefault(output, {})[name] = value
    return found


def run(args: argparse.Namespace) -> int:
    from ...export.bundling import samples
    from ...export.verify import Tolerance
    from ..agreement import open_sides, read_padded, table, tolerances
    from ..agreement import run as compare_all
    from ..bisection import as_feeds, bisect

    bundle = Bundle.open(args.bundle)
    other = Bundle.open(args.other) if args.other else None
    images = find_images(args.images) if args.images else samples()
    if not images:
        raise UsageError("no images to compare on: name a folder of photographs (--images DIR)")
    outputs = {graph.output for graph in bundle.manifest.graphs.values()}
    with open_sides(args.backends.split(","), bundle, other, args.threads) as (one, two):
        allowed = tolerances(one, two, _bounds(args, outputs))
        result = compare_all(one, two, images, allowed, args.size, limits=limits_of(args))
        print(f"{two.label} ({two.precision}) against {one.label} ({one.precision}), {len(images)} images")
        print(table(result))
        if args.bisect:
            mixed = one.precision != two.precision
            default = 3e-2 if mixed else 1e-4
            layers = Tolerance(
                default if args.layer_atol is None else args.layer_atol,
                default if args.layer_rtol is None else args.layer_rtol,
                share=args.layer_share,
            )
            x = read_padded(images[0], bundle.manifest.multiple, args.size or 256, limits_of(args))
            with one.graphs() as graphs:
                labels = graphs.run("segment", x)
                compact = graphs.run("analyse", x, labels)
            arrays = {"segment": (x,), "analyse": (x, labels), "synthesise": (compact, labels)}
            chosen: list[GraphName] = [name for name in GRAPH_NAMES if not args.graph or name in args.graph]
            findings = []
            for graph in chosen:
                found = bisect(one, two, graph, as_feeds(one, graph, arrays[graph]), layers)
                findings.append(found.to_dict())
                print(found, flush=True)
            result["bisection"] = {
                "atol": layers.atol,
                "rtol": layers.rtol,
                "share": layers.share,
                "graphs": findings,
            }
    if args.output:
        write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())
        print(f"wrote {args.output}")
    if not result["ok"]:
        beyond = ", ".join(row["output"] for row in result["outputs"] if not row["ok"])
        hint = "" if args.bisect else "; --bisect names the layer where it begins"
        raise VerificationError(f"{args.backends}: beyond the tolerance: {beyond}{hint}")
    return 0
