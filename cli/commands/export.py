"""`oslic export`: a checkpoint, or anybody's networks, of whatever kind of codec, to a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..export_arguments import add_threads, megabytes
from ..limit_arguments import add_limit_arguments, limits_of
from ..numbers import at_least

if TYPE_CHECKING:
    from ...export.kind_source import KindSource
    from ...export.sources import Source

_TRANSFORM_MULTIPLE: Final = 64


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="CHECKPOINT|MODULE:FACTORY|compressai:NAME",
        help="a checkpoint's folder or file, a Python function that makes the networks, or one of CompressAI's "
        "architectures with its weights: compressai:bmshj2018-hyperprior --state weights.pth",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="safetensors for MODULE:FACTORY")
    parser.add_argument("--state", type=Path, metavar="FILE", help="weights of compressai:NAME, a state dict")
    parser.add_argument(
        "--quality",
        type=at_least(1),
        metavar="Q",
        help="of compressai:NAME, 1..8 (default: channels as the weights have them)",
    )
    parser.add_argument(
        "--integer",
        action="store_true",
        help="of transform codecs: a hyper-synthesis of integers, so that every machine decodes what any other coded; "
        "its ranges are measured on the images",
    )
    parser.add_argument(
        "--form",
        choices=("naive", "fused", "auto"),
        default="fused",
        help="octave convolutions as written, fused by the cost model, or fused by measurement on this machine",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="photographs for the check against PyTorch"
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="of checkpoints: add the gradients with which the encoder looks for better layers at higher efforts",
    )
    add_threads(parser)
    parser.add_argument("--force", action="store_true", help="replace a bundle that is already there")
    add_limit_arguments(parser)


def _source(args: argparse.Namespace, images: list[Path]) -> Source | KindSource:
    """What is exported.

    Args:
        args: of the command.
        images: photographs.

    Raises:
        UsageError: arguments that do not go together.
        OslicError: it cannot be read.
    """
    from ...export import compressai, transform
    from ...export.bundle_checks import read_crops
    from ...export.sources import from_checkpoint, from_factory
    from ...networks.checkpoint import read_contents
    from ...networks.transform.checkpoint import is_transform
    from ...runtime.errors import UsageError

    calibration = read_crops(images, _TRANSFORM_MULTIPLE, limits_of(args)) if args.integer else None
    if args.source.startswith(compressai.PREFIX):
        if args.state is None:
            raise UsageError(f"{args.source} needs its weights: --state FILE")
        return compressai.from_compressai(args.source, args.state, args.quality, calibration)
    if args.state is not None or args.quality is not None:
        raise UsageError("--state and --quality belong to compressai:NAME")
    if args.integer and ":" in args.source and not Path(args.source).exists():
        raise UsageError("--integer is for checkpoints of transform codecs and for compressai:NAME")
    if ":" in args.source and not Path(args.source).exists():
        return from_factory(args.source, args.weights)
    if args.weights is not None:
        raise UsageError("--weights belongs to MODULE:FACTORY; a checkpoint has its own")
    path = Path(args.source)
    if is_transform(read_contents(path).config):
        return transform.from_checkpoint(path, calibration)
    if args.integer:
        raise UsageError(
            f"{path} is made exact by `oslic calibrate --integer`; --integer here is for transform codecs"
        )
    return from_checkpoint(path)


def run(args: argparse.Namespace) -> int:
    from ...export.bundle_checks import samples
    from ...export.export_bundle import export_bundle
    from ...export.kind_bundle import export_kind
    from ...export.kind_source import KindSource
    from ...runtime.errors import UsageError
    from ...runtime.image.files import find_images

    images = samples() if args.images is None else find_images(args.images)
    source = _source(args, images)
    if isinstance(source, KindSource):
        if args.search:
            raise UsageError(f"--search is for networks of the kind oslic, not of the kind {source.kind}")
        made = export_kind(
            source,
            args.output,
            images,
            replace=args.force,
            limits=limits_of(args),
            progress=lambda line: print(line, flush=True),
        )
        print(
            f"{args.output}: {made.name} of the kind {made.kind}, {megabytes(args.output)}, fingerprint "
            f"{made.fingerprint[:16]}"
        )
        return 0
    text = export_bundle(
        source,
        args.output,
        args.form,
        images,
        threads=args.threads,
        replace=args.force,
        limits=limits_of(args),
        search=args.search,
        progress=lambda line: print(line, flush=True),
    )
    total = sum(info.macs_per_pixel for name, info in text.graphs.items() if name != "refine") * 512 * 768
    print(f"{args.output}: {text.name}, {megabytes(args.output)}, fingerprint {text.fingerprint[:16]}")
    print(f"768x512: {total / 1e9:.3f} GMAC to encode, ", end="")
    print(f"{text.graphs['synthesise'].macs_per_pixel * 512 * 768 / 1e9:.3f} to decode")
    return 0
