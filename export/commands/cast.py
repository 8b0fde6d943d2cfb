"""`oslic cast`: a float32 bundle to a float16 one, for backends that run graphs as they are."""

from __future__ import annotations

import argparse
from pathlib import Path

from ._common import add_threads


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="of float32 graphs")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="BUNDLE_FP16")
    parser.add_argument(
        "--images", type=Path, metavar="DIR", help="photographs for the check against the float32 graphs"
    )
    add_threads(parser)
    parser.add_argument("--force", action="store_true", help="replace a bundle that is already there")


def run(args: argparse.Namespace) -> int:
    from ...runtime.bundle import Bundle, require_free
    from ...runtime.errors import UsageError
    from ...runtime.images import find_images
    from ..bundling import samples
    from ..halves import check_half, half_graphs, write_half

    require_free(args.output, replace=args.force)
    if args.output.exists() and args.output.samefile(args.bundle):
        raise UsageError(f"{args.output} is the bundle to cast; name another folder")
    bundle = Bundle.open(args.bundle)
    images = samples() if args.images is None else find_images(args.images)
    graphs = half_graphs(bundle, "fp16")
    for difference in check_half(bundle, graphs, images, args.threads or 1):
        print(f"against float32: {difference}", flush=True)
    write_half(bundle, "fp16", args.output, graphs=graphs, replace=args.force)
    size = sum(p.stat().st_size for p in args.output.rglob("*") if p.is_file())
    print(f"{args.output}: {size / 1e6:.2f} MB, fingerprint {bundle.manifest.fingerprint[:16]}")
    return 0
