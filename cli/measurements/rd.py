"""`oslic bench rd`: rate-distortion of the codec and its peers on a folder of images."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...bench.coders.registry import OURS, PEERS, VARIANTS, ours
from ...bench.experiments import low_rates
from ...bench.experiments.rate_bands import described
from ...bench.experiments.rate_distortion import METRICS, Job, check_sizes, measure, write_result
from ...measure.rate_curves import read_anchors
from ...runtime.bundle.finder import open_bundle
from ...runtime.bundle.manifest import SEARCH_FILE
from ...runtime.codec.effort import DEFAULT_EFFORT, MAX_EFFORT
from ...runtime.codec.search import DEFAULT_RATE_WEIGHT
from ...runtime.codec.settings import Settings
from ...runtime.errors import UsageError
from ...runtime.image.files import find_images
from ..file_arguments import output_file
from ..limit_arguments import add_limit_arguments, limits_of
from ..numbers import at_least, positive, several
from ..peer_arguments import add_peers, chosen_peers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...bench.coders.registry import CoderSpec
    from ...measure.rate_curves import Point

_DEFAULT_METRICS = "psnr,psnr_ycbcr,ms_ssim"
_VARIANT = "psnr-always"
_PEERS = "avif-s6,jpeg,jpeg2000,webp,jxl"


def _default_images() -> str:
    return str(Path(os.environ.get("OSLIC_SHARED", "../shared")) / "data" / "kodak")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images", nargs="?", default=None, metavar="FOLDER", help="default: Kodak in OSLIC_SHARED"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=output_file("JSON"),
        required=True,
        metavar="JSON",
        help="result; FILE.partial keeps what is done",
    )
    parser.add_argument(
        "--low",
        action="store_true",
        help="the layers alone (quality 0) against image coders at a few kilobytes: how many bytes those need to look "
        "as good",
    )
    parser.add_argument(
        "--bundle",
        action="append",
        default=[],
        metavar="FOLDER",
        help="the networks (default: the shipped `lite` bundle); with --low, may be given several times",
    )
    parser.add_argument("--backend", default="auto", metavar="NAME")
    parser.add_argument(
        "--effort",
        type=int,
        default=DEFAULT_EFFORT,
        metavar="E",
        help="of our encoder (default: %(default)s)",
    )
    parser.add_argument(
        "--efforts",
        type=several(at_least(0, MAX_EFFORT)),
        default=(),
        metavar="E,E",
        help="with --low: several of them beside each other",
    )
    parser.add_argument(
        "--rate-weights",
        type=several(positive),
        default=(DEFAULT_RATE_WEIGHT,),
        metavar="W,W",
        help=f"with --low: of layers at efforts that search for better ones (default: {DEFAULT_RATE_WEIGHT:g})",
    )
    parser.add_argument(
        "--variants",
        default="",
        metavar="A,B",
        help=f"settings of our codec (default: {_VARIANT}); the first is what is reported: {', '.join(VARIANTS)}",
    )
    add_peers(parser, {**PEERS, **low_rates.LOW_PEERS}, "")
    parser.add_argument(
        "--anchors", metavar="DIR", help="published curves, JSON files in CompressAI's schema"
    )
    parser.add_argument(
        "--metrics",
        metavar="A,B",
        help=f"of {', '.join(METRICS)}, vgg16 (default: {_DEFAULT_METRICS}; with --low "
        f"{','.join(low_rates.SHOWN_METRICS)})",
    )
    parser.add_argument(
        "--vgg16",
        metavar="FILE",
        help="weights of VGG16 for the metric vgg16, see `oslic train codec --help`",
    )
    parser.add_argument(
        "--jobs", type=at_least(1), default=os.cpu_count() or 1, metavar="N", help="processes"
    )
    add_limit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    return _run_low(args) if args.low else _run_curves(args)


def _run_curves(args: argparse.Namespace) -> int:
    peers = chosen_peers(args, PEERS, _PEERS)
    wanted = _metrics(args.metrics or _DEFAULT_METRICS, ("psnr",), args.vgg16)
    first, *others = [name for name in args.variants.split(",") if name] or [_VARIANT]
    wrong = [name for name in (first, *others) if name not in VARIANTS]
    if wrong:
        raise UsageError(f"unknown variant {wrong[0]!r}; known: {', '.join(VARIANTS)}")
    anchors = read_anchors(Path(args.anchors)) if args.anchors else []
    if len(args.bundle) > 1:
        raise UsageError("several bundles are measured beside each other with --low only: give one")
    bundle = args.bundle[0] if args.bundle else None
    # Each process has one core: the networks of several images run side by side.
    own = [
        ours(bundle, args.backend, threads=1, effort=args.effort, variant=variant, name=name)
        for variant, name in ((first, OURS), *((other, "") for other in others))
    ]
    points, settings = _measured(args, own, peers, wanted)
    output = Path(args.output)
    bands = write_result(output, points, [coder.name for coder in own], settings, anchors)
    _partial(output).unlink()
    print(described(bands))
    print(f"wrote {output}")
    return 0


def _run_low(args: argparse.Namespace) -> int:
    if args.variants or args.anchors:
        raise UsageError(
            "--low measures the layers alone, which have no --variants, and no --anchors reach there"
        )
    peers = chosen_peers(args, {**PEERS, **low_rates.LOW_PEERS}, ",".join(low_rates.LOW_PEERS))
    chosen = args.metrics or ",".join(m for m in low_rates.SHOWN_METRICS if m != "vgg16" or args.vgg16)
    wanted = _metrics(chosen, (), args.vgg16)
    own = [
        ours(
            name,
            args.backend,
            threads=1,
            effort=effort,
            rate_weight=weight,
            name=_low_name(name, effort, weight),
            qualities=(0,),
        )
        for name, effort, weight in _low_setups(args)
    ]
    points, settings = _measured(args, own, peers, wanted)
    output = Path(args.output)
    scores, rows = low_rates.write_result(output, points, [coder.name for coder in own], settings)
    _partial(output).unlink()
    print(low_rates.described(scores, rows))
    print(f"wrote {output}")
    return 0


def _low_setups(args: argparse.Namespace) -> list[tuple[str | None, int, float]]:
    """Bundle, effort and rate weight of each of our coders: weights only where the effort searches with a graph."""
    setups: list[tuple[str | None, int, float]] = []
    for name in args.bundle or [None]:
        files = open_bundle(name).manifest.files
        for effort in args.efforts or (args.effort,):
            searches = SEARCH_FILE in files and Settings(0, effort).search.steps
            weights = args.rate_weights if searches else (DEFAULT_RATE_WEIGHT,)
            setups += [(name, effort, weight) for weight in weights]
    return list(dict.fromkeys(setups))


def _low_name(bundle: str | None, effort: int, weight: float) -> str:
    name = f"{OURS}-{Path(bundle).name}" if bundle else OURS
    if effort != DEFAULT_EFFORT:
        name += f"-effort-{effort}"
    return name if weight == DEFAULT_RATE_WEIGHT else f"{name}-weight-{weight:g}"


def _metrics(names: str, always: tuple[str, ...], vgg16: str | None) -> tuple[str, ...]:
    wanted = tuple(dict.fromkeys([*always, *(name for name in names.split(",") if name)]))
    known = [*METRICS, "vgg16"]
    wrong = [name for name in wanted if name not in known]
    if wrong:
        raise UsageError(f"unknown metric {wrong[0]!r}; known: {', '.join(known)}")
    if "vgg16" in wanted and vgg16 is None:
        raise UsageError("the metric vgg16 needs weights: give their file with --vgg16")
    return wanted


def _partial(output: Path) -> Path:
    return output.with_name(output.name + ".partial")


def _measured(
    args: argparse.Namespace, own: Sequence[CoderSpec], peers: Sequence[CoderSpec], wanted: tuple[str, ...]
) -> tuple[list[Point], dict[str, Any]]:
    """The points of all coders on all images, and what the result file says of how they came about."""
    images = find_images(args.images or _default_images())
    limits = limits_of(args)
    check_sizes(images, wanted, limits)
    coders = [*own, *peers]
    jobs = [Job(image, coder, wanted, limits, args.vgg16) for image in images for coder in coders]
    points = measure(jobs, _partial(Path(args.output)), processes=args.jobs)
    setups = {coder.name: {"qualities": coder.qualities, **coder.options} for coder in coders}
    for coder in own:
        del setups[coder.name]["bundle"]  # a path of this machine; the fingerprint names the weights
    return points, {"images": [image.name for image in images], "coders": setups, "metrics": wanted}
