"""Arguments of the commands that take any ONNX graph or engine: backend, inputs, sizes, ranges."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..runtime.backends import BACKENDS, Options
from ..runtime.bundle.engine_files import PRECISIONS
from ..runtime.errors import UsageError
from .numbers import at_least, not_negative, positive, width_by_height
from .trust_argument import add_trust_argument

if TYPE_CHECKING:
    from ..runtime.model.feeds import Feeds
    from ..runtime.model.header import Port
    from ..runtime.model.pictures import Preprocessing

SUBJECT: Final = "GRAPH.onnx|ENGINE|BUNDLE"
Shape = tuple[int, ...]


def shape_argument(text: str) -> tuple[str, Shape]:
    """A type of argument: `NAME=1x3x512x768`, an input and its shape."""
    name, _, sizes = text.rpartition("=")
    shape = _sizes(sizes)
    if not name or not shape:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=1x3x512x768")
    return name, shape


def profile_argument(text: str) -> tuple[str, tuple[Shape, Shape, Shape]]:
    """A type of argument: `NAME=MIN,OPT,MAX`, shapes such as 1x3x512x768; one shape stands for all three."""
    name, _, sizes = text.rpartition("=")
    shapes = [_sizes(part) for part in sizes.split(",")]
    if len(shapes) == 1:
        shapes *= 3
    if not name or len(shapes) != 3 or not all(shapes):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form NAME=MIN,OPT,MAX with shapes such as 1x3x512x768"
        )
    least, best, most = shapes
    if not len(least) == len(best) == len(most):
        raise argparse.ArgumentTypeError(f"{text}: the three shapes have different numbers of dimensions")
    if not all(a <= b <= c for a, b, c in zip(least, best, most, strict=True)):
        raise argparse.ArgumentTypeError(f"{text}: sizes must not fall from MIN over OPT to MAX")
    return name, (least, best, most)


def _sizes(text: str) -> Shape:
    parts = text.lower().split("x")
    if not all(part.isdecimal() and 0 < int(part) < 1 << 31 for part in parts):
        return ()
    return tuple(int(part) for part in parts)


def range_argument(text: str) -> tuple[str, tuple[float, float]]:
    """A type of argument: `[NAME=]LOW,HIGH`; the empty name stands for all inputs."""
    name, _, numbers = text.rpartition("=")
    try:
        low, high = (float(part) for part in numbers.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form [NAME=]LOW,HIGH") from None
    if not low <= high < float("inf") or low == float("-inf"):
        raise argparse.ArgumentTypeError(f"{text}: LOW must not be above HIGH, and both finite")
    return name, (low, high)


def floats_argument(text: str) -> tuple[float, ...]:
    """A type of argument: numbers with commas between them."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a list of numbers, such as 0.485,0.456,0.406"
        ) from None


def add_runner_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Add backend, threads, precision, time limit and trust."""
    names = f"auto, {', '.join(BACKENDS)}"
    if several:
        parser.add_argument(
            "--backend",
            default="auto",
            metavar="A,B",
            help=f"one or more of {names}; engines run on their own",
        )
    else:
        parser.add_argument("--backend", default="auto", metavar="NAME", help=names)
    parser.add_argument("--threads", type=at_least(1), metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="of the engines to take (default: the fastest that there is)",
    )
    parser.add_argument(
        "--timeout", type=positive, metavar="SECONDS", help="that one run may take (default: no limit)"
    )
    add_trust_argument(parser)


def options_of(args: argparse.Namespace) -> Options:
    """The options that the arguments of `add_runner_arguments` ask for."""
    return Options(
        threads=args.threads,
        precision=args.precision,
        timeout=args.timeout,
        trust_engines=args.trust_engines,
    )


def add_input_arguments(parser: argparse.ArgumentParser) -> None:
    """Add saved or random inputs."""
    group = parser.add_argument_group("inputs")
    group.add_argument(
        "--inputs",
        type=Path,
        metavar="NPZ",
        help="arrays by input name (numpy.savez), or one array for a graph of one input; without: random ones",
    )
    group.add_argument(
        "--shapes",
        type=shape_argument,
        action="append",
        default=[],
        metavar="NAME=1x3x512x768",
        help="size of a random input; a first dimension that is not fixed is 1; repeatable",
    )
    group.add_argument(
        "--range",
        type=range_argument,
        action="append",
        default=[],
        metavar="[NAME=]LOW,HIGH",
        help="of random inputs (default: floats 0,1; uint8 and int8 all values; other integers 0,1); repeatable",
    )
    group.add_argument(
        "--seed", type=at_least(0), default=0, metavar="N", help="of random inputs (default: 0)"
    )


def feeds_of(
    args: argparse.Namespace,
    ports: Sequence[Port],
    ranges: Mapping[str, tuple[float, float]],
    shapes: Mapping[str, Shape] | None = None,
) -> Feeds:
    """The arrays that the arguments of `add_input_arguments` ask for.

    Args:
        args: parsed.
        ports: the graph's inputs.
        ranges: of random inputs, where the user gives none.
        shapes: of random inputs, where the user gives none.

    Raises:
        UsageError: arrays that do not fit, a name that no input has, or a size that is needed.
    """
    from ..runtime.model.feeds import check_feeds, random_feeds, read_arrays

    if args.inputs is not None:
        for option in ("shapes", "range"):
            if getattr(args, option):
                raise UsageError(f"--{option} is for random inputs; {args.inputs} has arrays of its own")
        feeds = read_arrays(args.inputs, ports)
        check_feeds(feeds, ports, str(args.inputs))
        return feeds
    given = dict(args.range)
    everywhere = given.pop("", None)
    # What is stated for all inputs does not widen what the type of one can hold: that is an error.
    chosen = {port.name: everywhere for port in ports} if everywhere is not None else dict(ranges)
    return random_feeds(ports, {**(shapes or {}), **dict(args.shapes)}, chosen | given, args.seed)


def add_preprocessing_arguments(parser: argparse.ArgumentParser) -> None:
    """Add how photographs become arrays."""
    from ..runtime.model.pictures import LAYOUTS

    group = parser.add_argument_group("photographs as inputs: (pixel * scale - mean) / std")
    group.add_argument(
        "--layout", choices=LAYOUTS, help="of the input (default: where it has its 1 or 3 channels)"
    )
    group.add_argument(
        "--size", type=width_by_height, metavar="WxH", help="of the input, where its graph does not fix it"
    )
    group.add_argument(
        "--fit", choices=("resize", "crop"), default="resize", help="to that size (default: %(default)s)"
    )
    group.add_argument(
        "--scale",
        type=not_negative,
        metavar="X",
        help="of pixels 0..255 (default: 1 for uint8, 1/255 for floats)",
    )
    group.add_argument("--mean", type=floats_argument, default=(), metavar="R,G,B", help="subtracted")
    group.add_argument("--std", type=floats_argument, default=(), metavar="R,G,B", help="divided by")
    group.add_argument("--bgr", action="store_true", help="blue, green, red")


def preprocessing_of(args: argparse.Namespace) -> Preprocessing:
    """The preprocessing that the arguments of `add_preprocessing_arguments` ask for."""
    from ..runtime.model.pictures import Preprocessing

    if 0.0 in args.std:
        raise UsageError("--std must not hold 0: it divides")
    return Preprocessing(args.layout, args.size, args.fit, args.scale, args.mean, args.std, args.bgr)
