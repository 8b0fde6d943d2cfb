"""`oslic cast`: a float32 bundle to a float16 one, for backends that run graphs as they are."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...runtime.commands.limits import add_limit_arguments, limits_of
from ._common import add_threads, megabytes


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="of float32 graphs")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE_FP16")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="photographs for the check against the float32 graphs"
    )
    add_threads(parser)
    parser.add_argument("--force", action="store_true", help="replace a bundle that is already there")
    add_limit_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from ...runtime.bundle import Bundle, require_another, require_free
    from ...runtime.images import find_images
    from ..bundling import samples
    from ..halves import check_half, half_graphs, write_half

    require_free(args.output, replace=args.force)
    require_another(args.output, args.bundle, "cast", "float16")
    bundle = Bundle.open(args.bundle)
    images = samples() if args.images is None else find_images(args.images)
    graphs = half_graphs(bundle, "fp16")
    for difference in check_half(bundle, graphs, images, args.threads, limits_of(args)):
        print(f"against float32: {difference}", flush=True)
    write_half(bundle, "fp16", args.output, graphs=graphs, replace=args.force)
    print(f"{args.output}: {megabytes(args.output)}, fingerprint {bundle.manifest.fingerprint[:16]}")
    return 0
