"""`oslic export`: a checkpoint, or anybody's networks, to a bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...runtime.commands.limits import add_limit_arguments, limits_of
from ._common import add_threads, megabytes


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="CHECKPOINT|MODULE:FACTORY",
        help="a checkpoint's folder or file, or a Python function that makes the networks",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="safetensors for MODULE:FACTORY")
    parser.add_argument(
        "--form",
        choices=("naive", "fused", "auto"),
        default="fused",
        help="octave convolutions as written, fused by the cost model, or fused by measurement on this machine",
    )
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="photographs for the check against PyTorch"
    )
    add_threads(parser)
    parser.add_argument("--force", action="store_true", help="replace a bundle that is already there")
    add_limit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ...runtime.errors import UsageError
    from ...runtime.images import find_images
    from ..bundle_checks import samples
    from ..bundling import export_bundle
    from ..sources import from_checkpoint, from_factory

    if ":" in args.source and not Path(args.source).exists():
        source = from_factory(args.source, args.weights)
    elif args.weights is not None:
        raise UsageError("--weights belongs to MODULE:FACTORY; a checkpoint has its own")
    else:
        source = from_checkpoint(Path(args.source))
    images = samples() if args.images is None else find_images(args.images)
    text = export_bundle(
        source,
        args.output,
        args.form,
        images,
        threads=args.threads,
        replace=args.force,
        limits=limits_of(args),
        progress=lambda line: print(line, flush=True),
    )
    total = sum(info.macs_per_pixel for name, info in text.graphs.items() if name != "refine") * 512 * 768
    print(f"{args.output}: {text.name}, {megabytes(args.output)}, fingerprint {text.fingerprint[:16]}")
    print(f"768x512: {total / 1e9:.3f} GMAC to encode, ", end="")
    print(f"{text.graphs['synthesise'].macs_per_pixel * 512 * 768 / 1e9:.3f} to decode")
    return 0
