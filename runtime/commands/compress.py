"""`oslic compress`: images into `.oslic` files."""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

from ..codec import DEFAULT_QUALITY, Codec, Encoded, Layers, Settings
from ..codec.class_gains import focused
from ..codec.effort import DEFAULT_EFFORT, MAX_EFFORT
from ..codec.settings import LAYER_MODES, TUNES, Tune
from ..errors import OslicError
from ..files import check_target, write_atomically
from ..images import Picture, read_image
from ..pipeline import overlap
from ..pixels import psnr, visible_psnr
from ..search import highest_within, lowest_reaching
from ._common import (
    STREAM_KIND,
    STREAM_SUFFIX,
    Reporter,
    add_codec_arguments,
    milliseconds,
    open_codec,
    plan_outputs,
)
from .arguments import output_place
from .numbers import positive
from .strips import compress_strips, exceeds, size_of


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="IN", help="images: PNG, JPEG, WebP, TIFF, ...")
    parser.add_argument(
        "-o",
        "--output",
        type=output_place(),
        required=True,
        metavar="OUT",
        help="a file, or an existing folder",
    )
    add_codec_arguments(parser)
    rate = parser.add_mutually_exclusive_group()
    rate.add_argument(
        "--quality", type=int, metavar="Q", help=f"0..100; 0 stores no residual (default: {DEFAULT_QUALITY})"
    )
    rate.add_argument(
        "--bpp", type=positive, metavar="B", help="at most this many bits per pixel, headers included"
    )
    rate.add_argument(
        "--psnr",
        type=positive,
        metavar="P",
        help="at least this PSNR in dB, of the colors that are to be seen",
    )
    parser.add_argument(
        "--keep-invisible", action="store_true", help="keep the colors of pixels whose alpha is 0"
    )
    parser.add_argument(
        "--effort",
        type=int,
        default=DEFAULT_EFFORT,
        metavar="E",
        help=f"0..{MAX_EFFORT}: larger takes longer and saves bytes (default: {DEFAULT_EFFORT})",
    )

    parser.add_argument(
        "--layers",
        choices=LAYER_MODES,
        default=Settings.layers,
        help="which tiles have an estimate of their own beside the label map: all (of photographs), those that get "
        f"smaller by it, or none (default: {Settings.layers})",
    )
    parser.add_argument(
        "--tune",
        choices=TUNES,
        default=Settings.tune,
        help=f"what the residual coder aims at: the eye, or PSNR (default: {Settings.tune}; --psnr takes psnr)",
    )
    by_class = parser.add_mutually_exclusive_group()
    by_class.add_argument(
        "--class-quality",
        type=_class_quality,
        default=(),
        metavar="NAME=+N,...",
        help="add to the quality of some classes of the label map, or of groups of them: person=+25,sky=-15",
    )
    by_class.add_argument(
        "--focus",
        metavar="NAME[:mild]",
        help="have a class or a group look better than the rest, at about the same size of the file: person",
    )
    parser.add_argument(
        "--no-refine",
        dest="refine",
        action="store_false",
        help="have the decoder leave the refinement network out",
    )


def _class_quality(text: str) -> tuple[tuple[str, float], ...]:
    changes: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        try:
            changes[name.strip()] = float(number)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{part!r} is not of the form NAME=+N: person=+25,sky=-15"
            ) from None
    return tuple(changes.items())


def _settings(args: argparse.Namespace) -> Settings:
    quality: float = DEFAULT_QUALITY if args.quality is None else args.quality
    changes: tuple[tuple[str, float], ...] = args.class_quality
    if args.focus is not None:
        quality, changes = focused(quality, args.focus)
    tune: Tune = "psnr" if args.psnr is not None else args.tune
    return Settings(quality, args.effort, args.layers, tune, args.refine, changes)


def _finite(decibels: float) -> float | None:
    """JSON has no infinity, the PSNR of what is equal."""
    return decibels if math.isfinite(decibels) else None


def _row(source: Path, target: Path, encoded: Encoded, quality_db: float) -> dict[str, Any]:
    layers = encoded.layers
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
        "psnr": _finite(quality_db),
        "psnr_estimate": _finite(psnr(layers.color, layers.estimate)),
        "coarseness": layers.coarseness,
        "plain_tiles": len(layers.plain),
        "refined": encoded.refined,
        "tiles": [layers.grid.columns, layers.grid.rows],
        "stages_ms": milliseconds(encoded.stages),
    }


class _Work:
    """The two halves of compressing a file: networks and lossless layers, then residual and writing."""

    def __init__(self, codec: Codec, args: argparse.Namespace) -> None:
        self._codec = codec
        self._args = args
        self._settings = _settings(args)

    def _takes_strips(self, source: Path) -> bool:
        args, codec = self._args, self._codec
        return args.bpp is None and args.psnr is None and exceeds(codec, size_of(source), codec.encoding)

    def layers(self, files: tuple[Path, Path]) -> tuple[Layers, Picture] | None:
        """Read and run the networks; None for a picture that does not fit into memory: `finish` does it in strips."""
        check_target(files[1])
        if self._takes_strips(files[0]):
            return None
        start = time.perf_counter()
        picture = read_image(files[0], self._codec.limits, use=self._codec.encoding)
        seconds = time.perf_counter() - start
        layers = self._codec.layers(picture.pixels, self._settings, keep_invisible=self._args.keep_invisible)
        layers.stages.seconds = {"read": seconds, **layers.stages.seconds}
        return layers, picture

    def finish(self, files: tuple[Path, Path], half: tuple[Layers, Picture] | None) -> dict[str, Any]:
        """Code the residual, write the stream, say what came of it."""
        args = self._args
        if half is None:
            return compress_strips(
                self._codec,
                *files,
                settings=self._settings,
                keep_invisible=args.keep_invisible,
            )
        layers, picture = half
        metadata = picture.metadata
        if args.bpp is not None:
            encoded = highest_within(self._codec, layers, args.bpp, metadata=metadata)
        elif args.psnr is not None:
            encoded = lowest_reaching(self._codec, layers, args.psnr, metadata=metadata)
        else:
            encoded = self._codec.finish(layers, metadata=metadata)
        start = time.perf_counter()
        write_atomically(files[1], encoded.data)
        encoded.stages["write"] = time.perf_counter() - start
        quality_db = visible_psnr(layers.image, self._codec.reconstruct(encoded))
        return _row(*files, encoded, quality_db) | {"notes": list(picture.notes)}


def run(args: argparse.Namespace) -> int:
    _settings(args)  # refuses what is out of range before anything is read
    plan = plan_outputs(args.inputs, args.output, STREAM_SUFFIX, STREAM_KIND)
    report = Reporter("compress", args)
    with open_codec(args) as codec:
        work = _Work(codec, args)
        for (source, target), outcome in overlap(plan.items(), work.layers, work.finish):
            if isinstance(outcome, OslicError):
                report.failed(source, outcome)
                continue
            for note in outcome.get("notes", ()):
                report.warn(f"{source}: {note}")
            line = f"{source} -> {target}: {outcome['bytes']} bytes, {outcome['bpp']:.4f} bpp"
            if "psnr" in outcome:
                quality_db = float("inf") if outcome["psnr"] is None else outcome["psnr"]
                line = f"{line}, {quality_db:.2f} dB PSNR"
            report.done(outcome, line)
    return report.finish()
