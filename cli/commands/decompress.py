"""`oslic decompress`: `.oslic` files back into images."""

from __future__ import annotations

import argparse
import contextlib
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from ...runtime.codec.container import HEADER_BYTES, StreamReader, read_info, section_name
from ...runtime.codec.metadata_sections import METADATA_TYPES, missing_metadata, read_metadata
from ...runtime.codec.preview import read_compact, thumbnail_of
from ...runtime.codec.stream import bundle_for, check_stream
from ...runtime.codec.stream_source import read_stream
from ...runtime.errors import UsageError, VerificationError
from ...runtime.files import write_atomically
from ...runtime.image.metadata import Metadata
from ...runtime.image.writing import FORMATS, Writer, lossless_writer_for, writer_for
from ..codec_arguments import STREAM_SUFFIX, add_codec_arguments, image_name, milliseconds, open_codecs
from ..jobs import Job, Naming, add_source_arguments, add_target_arguments, find_sources, jobs_for, plan_jobs
from ..label_images import encode_labels, label_image_kind
from ..limit_arguments import limits_of
from ..numbers import at_least
from ..reporting import Reporter

if TYPE_CHECKING:
    import numpy.typing as npt

    from ...runtime.kinds.opening import AnyCodec, Codecs

_LAYERS: Final = ("image", "estimate", "compact", "labels")
_SCALES: Final = {"1": 1, "1/2": 2, "1/4": 4, "1/8": 8}
_DIGESTS: Final = {True: ", digest ok", False: ", digest DIFFERS", None: ", digest not checked"}


def _region(text: str) -> tuple[int, int, int, int]:
    try:
        left, top, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LEFT,TOP,WIDTH,HEIGHT in pixels") from None
    return left, top, width, height


def configure(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser, ".oslic files")
    add_target_arguments(parser, "an image file for one stream")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="of what is written (default: what the ending of OUT says, else png); jpeg and avif lose a little, webp "
        "does with --quality",
    )
    parser.add_argument(
        "--quality",
        type=at_least(1, 100),
        metavar="Q",
        help="of jpeg (default: 95), avif (default: 90) and webp (default: without loss), 1..100",
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
    add_codec_arguments(parser, decodes=True)


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


@dataclass(frozen=True)
class _Format:
    """In which format files are written.

    Attributes:
        chosen: a key of `FORMATS`; None: the ending of the name says it.
        quality: of lossy formats; None: the usual one.
        layer: whose samples a format must not change, unless it is a picture.
    """

    chosen: str | None
    quality: int | None
    layer: str

    @property
    def ending(self) -> str:
        """Of the names that we give."""
        return FORMATS[self.chosen or "png"].endings[0]

    def naming(self) -> Naming:
        """How files are called that nobody has named: `photo.png.oslic` becomes `photo.png` again."""
        endings = FORMATS[self.chosen or "png"].endings

        def short(name: str) -> str:
            stem = name[: -len(STREAM_SUFFIX)] if name.lower().endswith(STREAM_SUFFIX) else name
            return stem if stem.lower().endswith(endings) and stem != name else stem + self.ending

        return Naming("an image", short, lambda name: name + self.ending)

    def name(self, target: Path) -> Path:
        """A name whose ending says the format: that of the target, if it is a file's."""
        if self.chosen is not None and image_name(target) != target:
            return target.with_suffix(self.ending)
        return image_name(target)

    def writer(self, target: Path) -> Writer:
        """What writes a target.

        Raises:
            UsageError: there is no such format, or it would change samples that are no picture.
        """
        writer = writer_for(self.name(target), self.chosen, self.quality)
        if self.layer != "compact":
            return writer
        if self.quality is not None:
            raise UsageError("the layer compact has no --quality: it is written without loss")
        return lossless_writer_for(self.name(target))

    def check(self, target: Path) -> None:
        """Raise UsageError unless the target can be written."""
        if self.layer != "labels":
            self.writer(target)
            return
        if self.chosen is not None or self.quality is not None:
            raise UsageError(
                "label maps have no --format and no --quality: the ending of OUT says .png, .tif or .bmp"
            )
        label_image_kind(target)


class _Work:
    """Decompresses a file to a file, on any thread.

    Args:
        codecs: to use; None: no network is needed.
        args: of the command.
        wanted: what to write.
        form: in which format.
    """

    def __init__(
        self, codecs: Codecs | None, args: argparse.Namespace, wanted: _Wanted, form: _Format
    ) -> None:
        self._codecs = codecs
        self._limits = limits_of(args)
        self._bundle: str | None = args.bundle
        self._wanted = wanted
        self._format = form

    def __call__(self, job: Job) -> dict[str, Any]:
        """Do a job; returns what there is to say of it.

        Raises:
            OslicError: it cannot be done.
        """
        files = {"input": str(job.source), "output": str(job.target)}
        if job.is_done:
            return files | {"skipped": True}
        job.prepare()
        row = self._in_strips(job)
        if row is None:
            start = time.perf_counter()
            data = read_stream(job.source, self._limits)
            read = time.perf_counter() - start
            row = (
                self._without_networks(data, job)
                if self._codecs is None
                else self._decoded(
                    self._codecs.for_stream(read_info(bytes(data[:HEADER_BYTES]), self._limits).header),
                    data,
                    job,
                )
            )
            row["stages_ms"] = {"read": read, **row["stages_ms"]}
        row["stages_ms"] = milliseconds(row["stages_ms"])
        return files | row

    def _decoded(self, codec: AnyCodec, data: bytes | bytearray | memoryview, job: Job) -> dict[str, Any]:
        """Decode a stream and write the image or the estimate."""
        wanted, layer = self._wanted, self._wanted.layer
        assert layer in {"image", "estimate"}
        decoded = codec.decode(
            data,
            region=wanted.region,
            layer="estimate" if layer == "estimate" else "image",
            partial=wanted.partial,
        )
        if decoded.drift is not None:
            if decoded.is_wrong:
                raise VerificationError(decoded.drift)
            if wanted.strict:
                raise VerificationError(f"{decoded.drift}; leave --strict out to accept that")
        if wanted.strict and decoded.digest_matches is None:
            raise VerificationError(
                "what the file lacks cannot be compared with the encoder's; leave --strict out to accept that"
            )
        pixels = decoded.image
        if wanted.scale > 1:
            pixels = np.asarray(Image.fromarray(pixels).reduce(wanted.scale))
        writer = self._format.writer(job.target)
        metadata = decoded.metadata if wanted.is_whole else _sized(decoded.metadata, pixels)
        start = time.perf_counter()
        content = writer.encode(pixels, metadata, job.target)
        write_atomically(job.target, content, replace=job.replaces)
        return {
            "width": pixels.shape[1],
            "height": pixels.shape[0],
            "layout": decoded.header.layout.name.lower(),
            "bytes": len(content),
            "digest_matches": decoded.digest_matches,
            "drift": decoded.drift,
            "refinement": decoded.refinement_note,
            "left_out": list(writer.left_out(decoded.metadata)),
            "missing": {name: len(tiles) for name, tiles in decoded.missing.items()},
            "tiles": decoded.header.grid.count,
            "backend": codec.backend,
            "stages_ms": decoded.stages | {"write": time.perf_counter() - start},
        }

    def _without_networks(self, data: bytes | bytearray | memoryview, job: Job) -> dict[str, Any]:
        """Write a layer that needs no networks."""
        wanted, start = self._wanted, time.perf_counter()
        reader = StreamReader.of_bytes(data, self._limits, partial=wanted.partial)
        check_stream(reader)
        bundle = bundle_for(reader.header, self._bundle)
        missing: dict[str, int] = {}
        left_out: tuple[str, ...] = ()
        notes = []
        if wanted.layer == "labels":
            from ...runtime.codec.label_map import label_map_of  # here, as thumbnails start faster without it

            labels = label_map_of(reader, bundle)
            content = encode_labels(labels, label_image_kind(job.target))
            size = labels.width, labels.height
        else:
            levels, lacking = read_compact(reader, bundle)
            missing = {"compact": len(lacking)} if lacking else {}
            writer, metadata = self._format.writer(job.target), Metadata()
            if wanted.layer == "compact":
                pixels = np.rint(levels * (255.0 / (bundle.manifest.levels - 1))).astype(np.uint8)
            else:
                pixels = thumbnail_of(levels, bundle.manifest, gray=reader.header.layout.is_gray)
                metadata = _sized(read_metadata(reader), pixels)
                left_out = writer.left_out(metadata)
                missing |= dict.fromkeys(missing_metadata(reader), 1)
                if reader.header.layout.has_alpha:
                    notes.append("at scale 1/8 its alpha is left out")
            content = writer.encode(pixels, metadata, job.target)
            size = pixels.shape[1], pixels.shape[0]
        decoded = time.perf_counter()
        write_atomically(job.target, content, replace=job.replaces)
        return {
            "width": size[0],
            "height": size[1],
            "layout": reader.header.layout.name.lower(),
            "bytes": len(content),
            "left_out": list(left_out),
            "notes": notes,
            "missing": missing,
            "tiles": reader.header.grid.count,
            "stages_ms": {wanted.layer: decoded - start, "write": time.perf_counter() - decoded},
        }

    def _in_strips(self, job: Job) -> dict[str, Any] | None:
        """Decode a stream whose picture does not fit into memory; None if it does, or if a part is wanted."""
        source = job.source
        if self._codecs is None or not self._wanted.is_whole or not source.is_file():
            return None
        from ...runtime.codec import Codec  # here, as thumbnails start faster without it
        from ..strips import decompress_strips, exceeds

        with contextlib.suppress(OSError), source.open("rb") as file:
            header = read_info(file.read(HEADER_BYTES), self._limits).header
            codec = self._codecs.for_stream(header)
            if isinstance(codec, Codec) and exceeds(codec, (header.width, header.height), codec.decoding):
                return decompress_strips(
                    codec, job, self._format.name(job.target), strict=self._wanted.strict
                )
        return None


def _sized(metadata: Metadata, pixels: npt.NDArray[np.uint8]) -> Metadata:
    """Metadata for a part or a smaller form of their picture."""
    if not metadata.exif:
        return metadata
    from ...runtime.image.exif import of_size

    return replace(metadata, exif=of_size(metadata.exif, (pixels.shape[1], pixels.shape[0])))


def run(args: argparse.Namespace) -> int:
    wanted = _Wanted(args.region, args.layer, _SCALES[args.scale], args.partial, args.strict)
    form = _Format(args.format, args.quality, args.layer)
    found = find_sources(args.inputs, (STREAM_SUFFIX,), "streams", recursive=args.recursive)
    plan = plan_jobs(found, args.output, form.naming(), args.existing)
    for job in plan:
        form.check(job.target)
    jobs = jobs_for(args, len(plan))
    with ExitStack() as stack:
        report = stack.enter_context(Reporter("decompress", args, total=len(plan)))
        report.found(found)
        codecs = stack.enter_context(open_codecs(args, jobs)) if plan and wanted.needs_networks else None
        report.work_through(plan, _Work(codecs, args, wanted, form), jobs, partial(_tell, report))
        return report.finish()


def _tell(report: Reporter, job: Job, row: dict[str, Any]) -> None:
    digest = ""
    if "digest_matches" in row:
        digest = _DIGESTS[row["digest_matches"]]
    report.done(row, f"{job.source} -> {job.target}: {row['width']}x{row['height']}{digest}")
    for name in ("drift", "refinement"):
        if row.get(name):
            report.warn(f"{job.source}: {row[name]}")
    for note in row.get("notes", ()):
        report.warn(f"{job.source}: {note}")
    if row.get("left_out"):
        report.warn(
            f"{job.source}: {job.target.suffix} files do not hold {', '.join(row['left_out'])}; write .png"
        )
    metadata = {section_name(kind) for kind in METADATA_TYPES}
    for name, count in row.get("missing", {}).items():
        lack = (
            f"its {name} is cut off"
            if name in metadata
            else f"{count} of {row['tiles']} tiles lack their {name}"
        )
        report.warn(f"{job.source} is truncated: {lack}")
