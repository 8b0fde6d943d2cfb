"""`oslic compress`: images into `.oslic` files."""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from ...runtime.bundle.manifest import SEARCH_FILE
from ...runtime.codec import Codec, Encoded
from ...runtime.codec.effort import EFFORTS
from ...runtime.codec.request import Request, require_original
from ...runtime.errors import UsageError
from ...runtime.files import write_atomically
from ...runtime.image.arrays import visible_psnr
from ...runtime.image.conversion import Conversion
from ...runtime.image.files import PICTURE_ENDINGS, read_image
from ...runtime.image.stripping import STRIPS, Strip, strip
from ...runtime.kinds.opening import AnyCodec, AnyEncoded
from ...runtime.memory import MemoryBudget
from ..codec_arguments import STREAM_KIND, STREAM_SUFFIX, add_codec_arguments, milliseconds, open_codecs
from ..coding_arguments import add_coding_arguments, requested
from ..jobs import Job, Naming, add_source_arguments, add_target_arguments, find_sources, jobs_for, plan_jobs
from ..numbers import at_least
from ..reporting import Reporter
from ..strips import compress_strips, exceeds, size_of

_NAMING: Final = Naming(STREAM_KIND, lambda name: name + STREAM_SUFFIX, lambda name: name + STREAM_SUFFIX)

_LAYERS_ALONE: Final = "quality 0, the layers alone: a preview and what is in it, not a copy to keep"


def configure(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser, "pictures: PNG, JPEG, WebP, TIFF, AVIF, ...")
    add_target_arguments(parser, "a file for one picture")
    add_codec_arguments(parser)
    rate, by_class = add_coding_arguments(parser)
    rate.add_argument(
        "--lossless",
        action="store_true",
        help="bit for bit, the colors of pixels whose alpha is 0 included",
    )
    rate.add_argument(
        "--max-error",
        type=int,
        metavar="E",
        help="near-lossless, 1..16: no sample of the decoded picture is off by more than that",
    )
    by_class.add_argument(
        "--class-quality",
        type=_class_quality,
        default=(),
        metavar="NAME=+N,...",
        help="add to the quality of some classes of the label map, or of groups of them: person=+25,sky=-15",
    )
    parser.add_argument(
        "--strip",
        nargs="?",
        const="all",
        type=_strip,
        metavar="WHAT",
        help="leave metadata out: `all` (EXIF, XMP, resolution; what colors mean stays), or `location` alone: GPS, "
        "maker's notes, XMP that names a place (default without WHAT: all)",
    )
    parser.add_argument(
        "--convert",
        action="store_true",
        help="take what is not 8 bits a sample in gray or RGB as 8-bit sRGB: 16 bits, CMYK, Lab, floats; of animations "
        "and files of several pages one",
    )
    parser.add_argument(
        "--page", type=at_least(1), metavar="N", help="with --convert: which page or frame (default: 1)"
    )


def _class_quality(text: str) -> tuple[tuple[str, float], ...]:
    changes: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        if name.strip() in changes:
            raise argparse.ArgumentTypeError(f"{name.strip()!r} is named twice")
        try:
            changes[name.strip()] = float(number)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{part!r} is not of the form NAME=+N: person=+25,sky=-15"
            ) from None
    return tuple(changes.items())


def _strip(text: str) -> Strip:
    for known in STRIPS:
        if text == known:
            return known
    raise argparse.ArgumentTypeError(
        f"{text!r} is not one of {', '.join(STRIPS)}; before the name of a file write --strip=all"
    )


def _row(job: Job, encoded: AnyEncoded, quality_db: float | None, stages: dict[str, float]) -> dict[str, Any]:
    height, width = encoded.image.shape[:2]
    return {
        "input": str(job.source),
        "output": str(job.target),
        "width": width,
        "height": height,
        "layout": encoded.layout.name.lower(),
        "bytes": len(encoded.data),
        "bpp": len(encoded.data) * 8 / (width * height),
        "section_bytes": encoded.section_bytes,
        "overhead_bytes": encoded.overhead_bytes,
        "psnr": quality_db if quality_db is not None and math.isfinite(quality_db) else None,
        **encoded.details(),
        "tiles": [encoded.grid.columns, encoded.grid.rows],
        "stages_ms": milliseconds(stages),
    }


class _Work:
    """Compresses a file to a file, on any thread.

    Args:
        codec: to use.
        args: of the command.
        request: what they ask for.
    """

    def __init__(self, codec: AnyCodec, args: argparse.Namespace, request: Request) -> None:
        self._codec = codec
        self._budget = MemoryBudget(codec.limits.memory - codec.encoding.fixed)
        self._request = request
        self._strip: Strip | None = args.strip
        self._conversion = Conversion(args.page or 1) if args.convert else None
        # It takes a decoder's time: only where somebody sees it.
        self._tells_psnr = args.json or not args.quiet

    def _strip_codec(self, size: tuple[int, int] | None) -> Codec | None:
        """The codec, where it can and must work in strips."""
        request, codec = self._request, self._codec
        whole = request.bpp is not None or request.psnr is not None or self._conversion is not None
        if whole or not isinstance(codec, Codec) or not exceeds(codec, size, codec.encoding):
            return None
        return codec

    def __call__(self, job: Job) -> dict[str, Any]:
        """Do a job; returns what there is to say of it.

        Raises:
            OslicError: it cannot be done.
        """
        if job.is_done:
            return {"input": str(job.source), "output": str(job.target), "skipped": True}
        job.prepare()
        size = size_of(job.source)
        by_strips = self._strip_codec(size)
        if by_strips is not None:
            row = compress_strips(
                by_strips,
                job,
                settings=self._request.settings,
                keep_invisible=self._request.keep_invisible,
                stripped=self._strip,
            )
        else:
            # The codec waits for memory only once the picture has been read.
            use = self._codec.encoding
            with self._budget.reserve(0 if size is None else use.for_picture(*size) - use.fixed):
                row = self._whole(job)
        return row | {"input_bytes": _length(job.source)}

    def _whole(self, job: Job) -> dict[str, Any]:
        """Compress a picture that is in memory as a whole."""
        codec, start = self._codec, time.perf_counter()
        picture = read_image(job.source, codec.limits, use=codec.encoding, conversion=self._conversion)
        seconds = time.perf_counter() - start
        request = replace(self._request, metadata=strip(picture.metadata, self._strip))
        require_original(picture, request)
        encoded = codec.encode(picture.pixels, request)
        stages = {"read": seconds, **encoded.stages}
        # A stream that cannot be decoded is an error before there is a file of it.
        quality_db = visible_psnr(encoded.image, codec.reconstruct(encoded)) if self._tells_psnr else None
        start = time.perf_counter()
        write_atomically(job.target, encoded.data, replace=job.replaces)
        stages["write"] = time.perf_counter() - start
        return _row(job, encoded, quality_db, stages) | {
            "notes": [*picture.notes, *self._unsearched(encoded)]
        }

    def _unsearched(self, encoded: AnyEncoded) -> list[str]:
        """What to say of layers alone at an effort that would search for better ones, where nothing was searched."""
        effort = self._request.settings.effort
        if not isinstance(encoded, Encoded) or encoded.quality or not EFFORTS[effort].search:
            return []
        if SEARCH_FILE not in self._codec.bundle.manifest.files:
            return [
                f"effort {effort} looks for no better layers, as the bundle has no graph for that; lite-preview has"
            ]
        if (
            encoded.plan.settings.search.steps == 0
            or self._request.bpp is not None
            or self._request.psnr is not None
        ):
            return [f"effort {effort} looks for better layers with --quality 0 alone"]
        return []


def _length(source: Path) -> int | None:
    """Bytes of a file; None of what is none."""
    try:
        return source.stat().st_size if source.is_file() else None
    except OSError:
        return None


def run(args: argparse.Namespace) -> int:
    request = requested(
        args, class_quality=dict(args.class_quality), lossless=args.lossless, max_error=args.max_error
    )  # refuses what is out of range before anything is read
    if args.page is not None and not args.convert:
        raise UsageError("--page goes with --convert")
    found = find_sources(args.inputs, PICTURE_ENDINGS, "pictures", recursive=args.recursive)
    plan = plan_jobs(found, args.output, _NAMING, args.existing)
    jobs = jobs_for(args, len(plan))
    with Reporter("compress", args, total=len(plan)) as report:
        report.found(found)
        if not plan:
            return report.finish()
        with open_codecs(args, jobs) as codecs:
            report.work_through(plan, _Work(codecs.first, args, request), jobs, partial(_tell, report))
        return report.finish()


def _tell(report: Reporter, job: Job, row: dict[str, Any]) -> None:
    for note in row.get("notes", ()):
        report.warn(f"{job.source}: {note}")
    if row["input_bytes"] is not None and row["bytes"] > row["input_bytes"]:
        advice = "keep the file as it is"
        if row.get("quality"):
            advice = f"give a lower --quality, or {advice}"
        report.warn(
            f"{job.source}: the stream is larger than its input, {row['bytes']} bytes against "
            f"{row['input_bytes']}: {advice}"
        )
    line = f"{job.source} -> {job.target}: {row['bytes']} bytes, {row['bpp']:.4f} bpp"
    if "psnr" in row:
        line = f"{line}, {float('inf') if row['psnr'] is None else row['psnr']:.2f} dB PSNR"
    if row.get("quality") == 0:
        line = f"{line}; {_LAYERS_ALONE}"
    report.done(row, line)
