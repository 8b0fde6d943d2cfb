"""`oslic compress`: images into `.oslic` files."""

from __future__ import annotations

import argparse
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..codec import DEFAULT_QUALITY, Codec, Encoded, Layers, psnr
from ..errors import OslicError
from ..files import write_atomically
from ..images import Metadata, read_image
from ..residual import DEFAULT_SPEED, MAX_SPEED
from ._common import STREAM_SUFFIX, Reporter, add_codec_arguments, milliseconds, open_codec, plan_outputs


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="IN", help="images: PNG, JPEG, WebP, TIFF, ...")
    parser.add_argument("-o", "--output", required=True, metavar="OUT", help="a file, or an existing folder")
    add_codec_arguments(parser)
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "--quality", type=int, metavar="Q", help=f"0..100; 0 stores no residual (default: {DEFAULT_QUALITY})"
    )
    rate.add_argument(
        "--bpp", type=float, metavar="B", help="at most this many bits per pixel, headers included"
    )
    rate.add_argument("--psnr", type=float, metavar="P", help="at least this PSNR in dB, over all channels")
    parser.add_argument(
        "--speed",
        type=int,
        default=DEFAULT_SPEED,
        metavar="S",
        help=f"0..{MAX_SPEED} of the residual coder: larger is faster and costs bits (default: {DEFAULT_SPEED})",
    )


def _finish(
    codec: Codec, layers: Layers, metadata: Metadata, args: argparse.Namespace, target: Path
) -> tuple[Encoded, float]:
    if args.bpp is not None or args.psnr is not None:
        encoded = codec.search(
            layers, bits_per_pixel=args.bpp, min_psnr=args.psnr, speed=args.speed, metadata=metadata
        )
    else:
        quality = DEFAULT_QUALITY if args.quality is None else args.quality
        encoded = codec.finish(layers, quality=quality, speed=args.speed, metadata=metadata)
    start = time.perf_counter()
    write_atomically(target, encoded.data)
    encoded.stages["write"] = time.perf_counter() - start
    return encoded, psnr(layers.image, codec.reconstruct(layers, encoded))


def _row(source: Path, target: Path, layers: Layers, encoded: Encoded, quality_db: float) -> dict[str, Any]:
    height, width = layers.image.shape[:2]
    return {
        "input": str(source),
        "output": str(target),
        "width": width,
        "height": height,
        "layout": layers.layout.name.lower(),
        "bytes": len(encoded.data),
        "bpp": len(encoded.data) * 8 / (width * height),
        "section_bytes": encoded.section_bytes,
        "overhead_bytes": encoded.overhead_bytes,
        "quality": encoded.quality,
        "psnr": quality_db if quality_db != float("inf") else None,
        "psnr_estimate": psnr(layers.color, layers.estimate),
        "digest": layers.digest.hex(),
        "stages_ms": milliseconds(encoded.stages),
    }


def run(args: argparse.Namespace) -> int:
    plan = plan_outputs(args.inputs, args.output, STREAM_SUFFIX)
    report = Reporter("compress", args.json)
    with open_codec(args) as codec, ThreadPoolExecutor(1) as pool:
        # While the networks work on one image, the residual of the one before is coded.
        pending: tuple[Path, Path, Layers, Future[tuple[Encoded, float]]] | None = None

        def settle() -> None:
            if pending is None:
                return
            source, target, layers, future = pending
            try:
                encoded, quality_db = future.result()
            except OslicError as error:
                report.failed(source, _named(error, source))
                return
            row = _row(source, target, layers, encoded, quality_db)
            report.done(
                row,
                f"{source} -> {target}: {row['bytes']} bytes, {row['bpp']:.4f} bpp, {quality_db:.2f} dB PSNR",
            )

        for source, target in plan.items():
            start = time.perf_counter()
            try:
                picture = read_image(source, codec.limits)
                read_seconds = time.perf_counter() - start
                layers = codec.layers(picture.pixels)
            except OslicError as error:
                settle()
                pending = None
                report.failed(source, _named(error, source))
                continue
            layers.stages.seconds = {"read": read_seconds, **layers.stages.seconds}
            following = (
                source,
                target,
                layers,
                pool.submit(_finish, codec, layers, picture.metadata, args, target),
            )
            settle()
            pending = following
        settle()
    return report.finish()


def _named(error: OslicError, source: Path) -> OslicError:
    """Make sure that the message names the file."""
    if str(source) not in str(error):
        error.args = (f"{source}: {error}",)
    return error
