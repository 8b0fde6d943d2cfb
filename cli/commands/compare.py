"""`oslic compare`: two graphs, backends or precisions, output by output, and down to the tensor where they part."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...runtime.errors import UsageError, VerificationError, printable
from ...runtime.files import write_atomically
from ..file_arguments import output_file
from ..limit_arguments import add_limit_arguments, limits_of
from ..model_arguments import (
    SUBJECT,
    add_input_arguments,
    add_preprocessing_arguments,
    feeds_of,
    preprocessing_of,
)
from ..numbers import at_least, not_negative
from ..trust_argument import add_trust_argument

if TYPE_CHECKING:
    from ...bench.agreement.outputs import Side
    from ...export.verify import Tolerance
    from ...runtime.bundle.folder import Bundle
    from ...runtime.model.feeds import Feeds
    from ...runtime.model.samples import Sample
    from ...runtime.model.source import Model

_MOST_PICTURES: Final = 8


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="GRAPH.onnx|BUNDLE", help="the reference")
    parser.add_argument(
        "second",
        nargs="?",
        metavar=SUBJECT,
        help="what is compared with it: another form of the same network",
    )
    parser.add_argument("--other", dest="second_named", metavar="PLACE", help="the same, by name")
    parser.add_argument(
        "--backends",
        metavar="A,B",
        help="what runs the reference and what the other: auto or names from `oslic backends`, each with @fp16, @bf16, "
        "@fp32 ... (ONNX Runtime then runs the graphs cast to it) or @unoptimized, if wanted (default: auto,auto)",
    )
    parser.add_argument(
        "--images",
        metavar="DIR",
        help="photographs (default for bundles: those of the repository, if it is there)",
    )
    parser.add_argument("--crop", type=at_least(1), metavar="N", help="of a bundle's images, to N x N pixels")
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
        help="name the first tensor of each graph that leaves its tolerance (on the first set of inputs)",
    )
    parser.add_argument(
        "--graph",
        action="append",
        default=[],
        metavar="NAME",
        help="of a bundle: bisect only this; repeatable",
    )
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
    add_trust_argument(parser)
    parser.add_argument("-o", "--output", type=output_file("JSON"), metavar="JSON", help="write the result")
    parser.add_argument("--json", action="store_true", help="print the result as JSON instead of lines")
    add_input_arguments(parser)
    add_preprocessing_arguments(parser)
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


def _require_pictures(args: argparse.Namespace) -> list[Path]:
    """The photographs that a bundle is compared on."""
    from ...export.bundle_checks import samples
    from ...runtime.image.files import find_images

    for option in ("inputs", "shapes", "range"):
        if getattr(args, option):
            raise UsageError(
                f"--{option} is for single graphs; those of a bundle see photographs (--images DIR)"
            )
    images = find_images(args.images) if args.images else samples()
    if not images:
        raise UsageError("no images to compare on: name a folder of photographs (--images DIR)")
    return images


def _recorded(args: argparse.Namespace, bundle: Bundle) -> dict[str, list[Sample]]:
    """What each graph of a bundle of another kind is given while photographs are coded."""
    from ...bench.agreement.outputs import read_padded
    from ...runtime.kinds.recording import record

    multiple, limits = bundle.manifest.multiple, limits_of(args)
    pictures = (
        (path.name, read_padded(path, multiple, args.crop, limits)[0]) for path in _require_pictures(args)
    )
    return record(bundle, pictures, args.threads)


def _inputs(args: argparse.Namespace, one: Side) -> Iterator[tuple[str, Feeds]]:
    """Names and arrays of what both sides run on."""
    from ...bench.agreement.outputs import pictures_for
    from ...runtime.model.pictures import read_pictures

    if one.source.bundle is not None:
        yield from pictures_for(one.source.bundle, _require_pictures(args), args.crop, limits_of(args))
        return
    (model,) = one.models
    if args.images is None:
        name = "random" if args.inputs is None else str(args.inputs)
        yield name, feeds_of(args, model.inputs, model.ranges, model.shapes)
        return
    if len(model.inputs) != 1:
        raise UsageError(
            f"{model.path} takes {len(model.inputs)} inputs, photographs feed one: give arrays (--inputs)"
        )
    found = read_pictures(
        Path(args.images), model.inputs[0], preprocessing_of(args), _MOST_PICTURES, limits_of(args)
    )
    for i, array in enumerate(found):
        yield f"image {i}", {model.inputs[0].name: array}


def _layers(args: argparse.Namespace, *, mixed: bool) -> Tolerance:
    from ...export.verify import Tolerance

    default = 3e-2 if mixed else 1e-4
    return Tolerance(
        default if args.layer_atol is None else args.layer_atol,
        default if args.layer_rtol is None else args.layer_rtol,
        share=args.layer_share,
    )


def _bisection(
    args: argparse.Namespace, one: Side, two: Side, first: Iterable[tuple[Model, Feeds]]
) -> dict[str, Any]:
    """Look for the tensor where each graph parts, on one set of its inputs."""
    from ...bench.agreement.bisect import bisect

    tolerance = _layers(args, mixed=one.precision != two.precision)
    chosen = {model.name for model in one.source.chosen(args.graph)}
    findings = []
    for model, feeds in first:
        if model.name in chosen:
            found = bisect(one, two, model.name, feeds, tolerance)
            findings.append(found.to_dict())
            if not args.json:
                print(printable(str(found)), flush=True)
    return {"atol": tolerance.atol, "rtol": tolerance.rtol, "share": tolerance.share, "graphs": findings}


def _chained(one: Side, first: Feeds) -> Iterator[tuple[Model, Feeds]]:
    """Each graph with what the graphs before it make of the first set of inputs."""
    values = dict(first)
    for model in one.models:
        feeds = {port.name: values[port.name] for port in model.inputs}
        yield model, feeds
        with contextlib.closing(one.load(model.name)) as loaded:
            values |= loaded.run(feeds)


def run(args: argparse.Namespace) -> int:
    from ...bench.agreement.outputs import make_sides, run_apart, table, tolerances
    from ...bench.agreement.outputs import run as compare_all
    from ...runtime.bundle.manifest import OSLIC
    from ...runtime.model.source import open_source

    if args.second is not None and args.second_named is not None:
        raise UsageError("what is compared with the reference is named twice: leave --other out")
    second = args.second if args.second is not None else args.second_named
    if second is None and args.backends is None:
        raise UsageError("compare with what? Name another graph, or two backends (--backends A,B)")
    source = open_source(args.source)
    other = None if second is None else open_source(second)
    names = (args.backends or "auto,auto").split(",")
    one, two = make_sides(names, source, other, args.threads, trust=args.trust_engines)
    outputs = {port.name for model in one.models for port in model.outputs}
    allowed = tolerances(one, two, _bounds(args, outputs))
    first: Iterable[tuple[Model, Feeds]]
    if source.bundle is None or source.bundle.manifest.kind == OSLIC:
        inputs = list(_inputs(args, one))
        result = compare_all(one, two, inputs, allowed)
        first = _chained(one, inputs[0][1])
    else:
        samples = _recorded(args, source.bundle)
        result = run_apart(one, two, samples, allowed)
        first = ((model, samples[model.name][0].feeds) for model in one.models if model.name in samples)
    if not args.json:
        count = len(result["inputs"])
        print(f"{two.label} ({two.precision}) against {one.label} ({one.precision}), {count} sets of inputs")
        print(table(result))
    if args.bisect:
        result["bisection"] = _bisection(args, one, two, first)
    if args.output:
        write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())
    if args.json:
        print(json.dumps(result, indent=1))
    elif args.output:
        print(f"wrote {args.output}")
    if not result["ok"]:
        beyond = ", ".join(row["output"] for row in result["outputs"] if not row["ok"])
        hint = "" if args.bisect else "; --bisect names the layer where it begins"
        raise VerificationError(f"{two.label} against {one.label}: beyond the tolerance: {beyond}{hint}")
    return 0
