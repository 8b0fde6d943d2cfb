"""`oslic decompress`: `.oslic` files back into images."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, Final

from ..codec import Codec
from ..errors import OslicError, VerificationError
from ..files import check_target, write_atomically
from ..images import check_writable_kind, encode_image, left_out
from ..pipeline import ahead
from ._common import (
    Reporter,
    add_codec_arguments,
    image_name,
    milliseconds,
    open_codec,
    plan_outputs,
    read_stream_file,
)
from .arguments import output_place

_DRIFTED: Final = "the estimate differs from the encoder's; expect differences of a few grey levels"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="IN", help=".oslic files")
    parser.add_argument(
        "-o",
        "--output",
        type=output_place(),
        required=True,
        metavar="OUT",
        help="an image file, or an existing folder",
    )
    parser.add_argument(
        "--strict", action="store_true", help="fail if the estimate is not exactly the encoder's"
    )
    add_codec_arguments(parser)


def _one(codec: Codec, source: Path, target: Path, strict: bool) -> dict[str, Any]:
    """Read, decode and write one file; returns its row."""
    check_target(target)
    start = time.perf_counter()
    data = read_stream_file(source, codec.limits)
    stages = {"read": time.perf_counter() - start}
    decoded = codec.decode(data)
    stages |= decoded.stages
    if strict and not decoded.digest_matches:
        raise VerificationError(f"{source}: {_DRIFTED}; leave --strict out to accept them")
    start = time.perf_counter()
    write_atomically(target, encode_image(decoded.image, decoded.metadata, image_name(target)))
    stages["write"] = time.perf_counter() - start
    height, width = decoded.image.shape[:2]
    return {
        "input": str(source),
        "left_out": list(left_out(decoded.metadata, image_name(target))),
        "output": str(target),
        "width": width,
        "height": height,
        "layout": decoded.header.layout.name.lower(),
        "digest_matches": decoded.digest_matches,
        "digest": decoded.header.digest.hex(),
        "backend": codec.graphs.selection.backend.name,
        "stages_ms": milliseconds(stages),
    }


def run(args: argparse.Namespace) -> int:
    plan = plan_outputs(args.inputs, args.output, ".png", "an image")
    for target in plan.values():
        check_writable_kind(image_name(target))
    report = Reporter("decompress", args)
    with open_codec(args) as codec:
        for (source, target), outcome in ahead(
            plan.items(), lambda pair: _one(codec, *pair, strict=args.strict)
        ):
            if isinstance(outcome, OslicError):
                report.failed(source, outcome)
                continue
            if not outcome["digest_matches"]:
                report.warn(f"{source}: {_DRIFTED}")
            if outcome["left_out"]:
                lost = ", ".join(outcome["left_out"])
                report.warn(f"{source}: {target.suffix} files do not hold {lost}; write .png")
            state = "ok" if outcome["digest_matches"] else "DIFFERS"
            report.done(
                outcome, f"{source} -> {target}: {outcome['width']}x{outcome['height']}, digest {state}"
            )
    return report.finish()
