"""`oslic decompress`: `.oslic` files back into images."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from ..codec import Codec
from ..codec.container import HEADER_BYTES, StreamReader, read_info
from ..codec.decoding import drift_message
from ..codec.label_map import label_map_of
from ..codec.preview import read_compact, thumbnail
from ..codec.stream import bundle_for, check_stream
from ..errors import OslicError, UsageError, VerificationError
from ..files import check_target, write_atomically
from ..images import check_writable_kind, encode_image, left_out
from ..limits import Limits
from ..metadata import Metadata
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
from .label_images import encode_labels, label_image_kind
from .limits import limits_of
from .strips import decompress_strips, exceeds

if TYPE_CHECKING:
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

_LAYERS: Final = ("image", "estimate", "compact", "labels")
_SCALES: Final = {"1": 1, "1/2": 2, "1/4": 4, "1/8": 8}


def _region(text: str) -> tuple[int, int, int, int]:
    try:
        left, top, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LEFT,TOP,WIDTH,HEIGHT in pixels") from None
    return left, top, width, height


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
        "--strict",
        action="store_true",
        help="fail if the estimate or the residual is not exactly the encoder's",
    )
    parser.add_argument(
        "--region",
        type=_region,
        metavar="X,Y,W,H",
        help="only this part: left, top, width and height in pixels",
    )
    parser.add_argument(
        "--layer",
        choices=_LAYERS,
        default="image",
        help="what to write: the image, the estimate without the residual, the compact image as it is stored, or the "
        "label map; the last two need no networks (default: image)",
    )
    parser.add_argument(
        "--scale",
        choices=_SCALES,
        default="1",
        help="of what is written; 1/8 needs no networks and is a thumbnail (default: 1)",
    )
    parser.add_argument(
        "--partial",
        action="store_true",
        help="decode what is there of a truncated file, and say what is missing",
    )
    add_codec_arguments(parser)


@dataclass(frozen=True)
class _Wanted:
    """What to write of each stream."""

    region: tuple[int, int, int, int] | None
    layer: str
    scale: int
    partial: bool
    strict: bool

    def __post_init__(self) -> None:
        if self.region is not None and not self.needs_networks:
            raise UsageError("--region goes with the image or the estimate, at scales of 1/4 and more")
        if self.scale > 1 and self.layer in {"compact", "labels"}:
            raise UsageError(
                f"--scale goes with the image or the estimate: the layer {self.layer} has its own size"
            )

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole picture."""
        return self.region is None and self.layer == "image" and self.scale == 1 and not self.partial

    @property
    def needs_networks(self) -> bool:
        """Whether the estimate is needed."""
        return self.layer in {"image", "estimate"} and self.scale < _SCALES["1/8"]


def _with_networks(codec: Codec, wanted: _Wanted, data: bytes, target: Path) -> dict[str, Any]:
    """Decode a stream and write the image or the estimate; returns what there is to say."""
    layer: Any = wanted.layer
    decoded = codec.decode(data, region=wanted.region, layer=layer, partial=wanted.partial)
    if not decoded.digest_matches and (wanted.strict or decoded.parameters.exact):
        raise VerificationError(
            f"{drift_message(estimate=bool(decoded.drifted))}; leave --strict out to accept that"
        )
    pixels = decoded.image
    if wanted.scale > 1:
        pixels = np.asarray(Image.fromarray(pixels).reduce(wanted.scale))
    start = time.perf_counter()
    write_atomically(target, encode_image(pixels, decoded.metadata, image_name(target)))
    return {
        "width": pixels.shape[1],
        "height": pixels.shape[0],
        "layout": decoded.header.layout.name.lower(),
        "digest_matches": decoded.digest_matches,
        "drift": None if decoded.digest_matches else drift_message(estimate=bool(decoded.drifted)),
        "refinement": decoded.refinement_note,
        "left_out": list(left_out(decoded.metadata, image_name(target))),
        "missing": {name: len(tiles) for name, tiles in decoded.missing.items()},
        "tiles": decoded.header.grid.count,
        "backend": codec.graphs.selection.backend.name,
        "stages_ms": decoded.stages | {"write": time.perf_counter() - start},
    }


def _without_networks(
    bundle: str | None, limits: Limits, wanted: _Wanted, data: bytes, target: Path
) -> dict[str, Any]:
    """Write a layer that needs no networks; returns what there is to say."""
    start = time.perf_counter()
    reader = StreamReader.of_bytes(data, limits, partial=wanted.partial)
    check_stream(reader)
    manifest_of = bundle_for(reader.header, bundle)
    if wanted.layer == "labels":
        labels = label_map_of(reader, manifest_of)
        content = encode_labels(labels, label_image_kind(target))
        size = labels.width, labels.height
    else:
        if wanted.layer == "compact":
            levels = read_compact(reader, manifest_of)
            pixels = np.rint(levels * (255.0 / (manifest_of.manifest.levels - 1))).astype(np.uint8)
        else:
            pixels = thumbnail(reader, manifest_of)
        content = encode_image(pixels, Metadata(), image_name(target))
        size = pixels.shape[1], pixels.shape[0]
    decoded = time.perf_counter()
    write_atomically(target, content)
    return {
        "width": size[0],
        "height": size[1],
        "layout": reader.header.layout.name.lower(),
        "stages_ms": {wanted.layer: decoded - start, "write": time.perf_counter() - decoded},
    }


def _in_strips(codec: Codec, wanted: _Wanted, source: Path, target: Path) -> dict[str, Any] | None:
    """Decode a stream whose picture does not fit into memory; None if it does, or if a part is wanted."""
    if not wanted.is_whole or not source.is_file():
        return None
    with contextlib.suppress(OSError), source.open("rb") as file:
        header = read_info(file.read(HEADER_BYTES), codec.limits).header
        if exceeds(codec, (header.width, header.height), codec.decoding):
            return decompress_strips(codec, source, target, strict=wanted.strict)
    return None


def _one(
    work: Callable[[bytes, Path], dict[str, Any]],
    in_strips: Callable[[Path, Path], dict[str, Any] | None] | None,
    limits: Limits,
    files: tuple[Path, Path],
) -> dict[str, Any]:
    """Read, decode and write one file; returns its row."""
    source, target = files
    check_target(target)
    if in_strips is not None and (row := in_strips(source, target)) is not None:
        row["stages_ms"] = milliseconds(row["stages_ms"])
        return {"input": str(source), "output": str(target), **row}
    start = time.perf_counter()
    data = read_stream_file(source, limits)
    read = time.perf_counter() - start
    row = work(data, target)
    row["stages_ms"] = milliseconds({"read": read, **row["stages_ms"]})
    return {"input": str(source), "output": str(target), **row}


def run(args: argparse.Namespace) -> int:
    wanted = _Wanted(args.region, args.layer, _SCALES[args.scale], args.partial, args.strict)
    plan = plan_outputs(args.inputs, args.output, ".png", "an image")
    for target in plan.values():
        if wanted.layer == "labels":
            label_image_kind(target)
        else:
            check_writable_kind(image_name(target))
    report = Reporter("decompress", args)
    with ExitStack() as stack:
        if wanted.needs_networks:
            codec = stack.enter_context(open_codec(args))
            limits, work = codec.limits, partial(_with_networks, codec, wanted)
            in_strips = partial(_in_strips, codec, wanted)
        else:
            limits, in_strips = limits_of(args), None
            work = partial(_without_networks, args.bundle, limits, wanted)
        for (source, target), outcome in ahead(plan.items(), partial(_one, work, in_strips, limits)):
            if isinstance(outcome, OslicError):
                report.failed(source, outcome)
                continue
            report.done(outcome, f"{source} -> {target}: {_line(outcome)}")
            for name in ("drift", "refinement"):
                if outcome.get(name):
                    report.warn(f"{source}: {outcome[name]}")
            if outcome.get("left_out"):
                lost = ", ".join(outcome["left_out"])
                report.warn(f"{source}: {target.suffix} files do not hold {lost}; write .png")
            for name, count in outcome.get("missing", {}).items():
                report.warn(f"{source} is truncated: {count} of {outcome['tiles']} tiles lack their {name}")
    return report.finish()


def _line(row: dict[str, Any]) -> str:
    digest = ""
    if "digest_matches" in row:
        digest = ", digest ok" if row["digest_matches"] else ", digest DIFFERS"
    return f"{row['width']}x{row['height']}{digest}"
