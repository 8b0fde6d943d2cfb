"""`oslic labels`: what pictures show, from their label maps alone; nothing is decoded but those."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...runtime.codec.coco import CocoWriter
from ...runtime.codec.label_map import ClassStatistics, LabelMap, read_labels
from ...runtime.codec.stream_source import read_stream
from ...runtime.errors import OslicError, UsageError
from ...runtime.files import atomic_file, write_atomically
from ...runtime.ledger import declare_outputs
from ...runtime.threads import in_order
from ..codec_arguments import STREAM_SUFFIX, largest_shares
from ..file_arguments import Word, output_file, output_place
from ..jobs import (
    Existing,
    Found,
    Job,
    Naming,
    Source,
    add_existing_arguments,
    add_source_arguments,
    add_work_arguments,
    find_sources,
    jobs_for,
    plan_jobs,
    policy_for,
)
from ..label_images import encode_labels, encode_mask, label_image_kind, safe_names
from ..limit_arguments import add_limit_arguments, limits_of
from ..reporting import Reporter

if TYPE_CHECKING:
    from ...runtime.limits import Limits

_SUFFIX: Final = ".labels.png"
_NAMING: Final = Naming("an image", lambda name: Path(name).stem + _SUFFIX, lambda name: name + _SUFFIX)


def configure(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser, ".oslic files", "FILE")
    parser.add_argument(
        "-o",
        "--output",
        type=output_place(),
        metavar="OUT",
        help="an existing folder, or for the label map of one file an image file (default: beside each input)",
    )
    add_existing_arguments(parser, skip=False)
    add_work_arguments(parser)
    parser.add_argument(
        "--png",
        action="store_true",
        help=f"write NAME{_SUFFIX}: classes as values, with their colors as the palette; done by default, if nothing "
        "else is asked for",
    )
    parser.add_argument(
        "--masks",
        action="store_true",
        help="write NAME.mask.CLASS.png for each class that occurs: 1 bit a pixel, white where it is",
    )
    parser.add_argument(
        "--mask",
        type=Word,
        action="append",
        default=[],
        metavar="CLASS",
        help="write the mask of this class, or group of classes; may be repeated",
    )
    parser.add_argument(
        "--coco",
        type=output_file("JSON"),
        metavar="FILE",
        help="write the label maps of all inputs in the layout of COCO: run lengths, areas, boxes",
    )
    parser.add_argument(
        "--compress-counts",
        action="store_true",
        help="in --coco, write run lengths as the text that pycocotools calls compressed: many times shorter",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object per line, one for each file: share, bounding box and number of 4-connected regions "
        "of each class and group",
    )
    parser.add_argument(
        "--partial", action="store_true", help="take truncated files that have their label map"
    )
    parser.add_argument(
        "--bundle",
        metavar="BUNDLE",
        help="the bundle that names the classes (default: the one that the stream names)",
    )
    add_limit_arguments(parser)


@dataclass(frozen=True)
class _Wanted:
    """What to make of each stream."""

    png: bool
    masks: bool
    mask: tuple[str, ...]
    statistics: bool
    partial: bool
    bundle: str | None
    replace: bool

    @property
    def files(self) -> bool:
        """Whether there are files for each stream."""
        return self.png or self.masks or bool(self.mask)


def _wanted(args: argparse.Namespace) -> _Wanted:
    others = args.masks or args.mask or args.coco is not None or args.json
    if args.compress_counts and args.coco is None:
        raise UsageError("--compress-counts goes with --coco FILE")
    return _Wanted(
        args.png or not others,
        args.masks,
        tuple(map(str, args.mask)),
        args.json,
        args.partial,
        args.bundle,
        policy_for(args.existing, args.output) == "replace",
    )


def _plan(args: argparse.Namespace, wanted: _Wanted, found: Found) -> list[tuple[Path, Job | None]]:
    """Pair every input with its label map's file, after which its other files are named; None: it has no files.

    Raises:
        UsageError: as `plan_jobs`; there is no place for the files.
    """
    if not wanted.files:
        if args.output is not None:
            raise UsageError("-o says where files go, and none are asked for: add --png or --masks")
        return [(source.path, None) for source in found.sources]
    if args.output is None:
        for source in found.sources:
            if _has_no_folder(source):
                raise UsageError(f"{source.path} has no folder for what is written: name one with -o")
    plan: list[tuple[Path, Job | None]] = []
    # Masks are named after the label map's file, which need not be written itself.
    existing: Existing = "replace" if wanted.replace or not wanted.png else "refuse"
    for job in plan_jobs(found, args.output, _NAMING, existing):
        if not job.target.name.endswith(_SUFFIX) and (wanted.masks or wanted.mask):
            raise UsageError(
                f"masks are several files: -o must name an existing folder, and {job.target} is none"
            )
        if wanted.png:
            label_image_kind(job.target)
        plan.append((job.source, job))
    return plan


def _has_no_folder(source: Source) -> bool:
    return source.is_standard_input or source.path.is_fifo() or source.path.is_char_device()


def _one(wanted: _Wanted, limits: Limits, files: tuple[Path, Job | None]) -> tuple[dict[str, Any], LabelMap]:
    """Read the label map of a file, and write its files; returns what there is to say, and the map."""
    source, job = files
    target = None if job is None else job.target
    if job is not None:
        job.prepare()
    labels = read_labels(read_stream(source, limits), wanted.bundle, limits, partial=wanted.partial)
    made = {} if target is None else _files(wanted, labels, target)
    row: dict[str, Any] = {"input": str(source), "width": labels.width, "height": labels.height}
    if wanted.statistics:
        row |= {
            "label_scale": labels.scale,
            "classes": {name: _facts(found) for name, found in labels.class_statistics().items()},
            "groups": {
                name: {"classes": list(labels.groups[name]), **_facts(found)}
                for name, found in labels.group_statistics().items()
            },
        }
    declare_outputs(*(path for path in made if path != target))
    for path, content in made.items():
        write_atomically(path, content, replace=wanted.replace)
    return row | {"outputs": [str(path) for path in made]}, labels


def _facts(found: ClassStatistics) -> dict[str, Any]:
    return {
        "share": found.share,
        "pixels": found.pixels,
        "bbox": None if found.box is None else list(found.box),
        "regions": found.regions,
    }


def _files(wanted: _Wanted, labels: LabelMap, target: Path) -> dict[Path, bytes]:
    """What is written of a stream: the label map's file, and masks beside it."""
    files = {}
    if wanted.png:
        files[target] = encode_labels(labels, label_image_kind(target))
    present = [name for name, count in labels.pixels().items() if count and wanted.masks]
    names = safe_names((*labels.names, *labels.groups))
    stem = target.name.removesuffix(_SUFFIX)
    for name in dict.fromkeys((*present, *wanted.mask)):
        content = encode_mask(labels, name)
        files[target.with_name(f"{stem}.mask.{names[name]}.png")] = content
    return files


def run(args: argparse.Namespace) -> int:
    wanted, limits = _wanted(args), limits_of(args)
    found = find_sources(args.inputs, (STREAM_SUFFIX,), "streams", recursive=args.recursive)
    plan = _plan(args, wanted, found)
    with ExitStack() as stack:
        report = stack.enter_context(Reporter("labels", args, lines=True, total=len(plan)))
        report.found(found)
        coco: CocoWriter | None = None
        jobs = jobs_for(args, len(plan))
        for (source, _), outcome in in_order(plan, partial(_one, wanted, limits), jobs):
            if isinstance(outcome, OslicError):
                report.failed(source, outcome)
                continue
            row, labels = outcome
            if args.coco is not None:
                # Not before there is something to write.
                coco = coco or CocoWriter(
                    stack.enter_context(atomic_file(args.coco)), compress=args.compress_counts
                )
                coco.add(str(source), labels)
            report.done(row, _line(row, labels))
        if coco is not None:
            coco.finish()
        return report.finish()


def _line(row: dict[str, Any], labels: LabelMap) -> str:
    outputs = row["outputs"]
    more = f" and {len(outputs) - 1} more" if len(outputs) > 1 else ""
    made = f" -> {outputs[0]}{more}" if outputs else ""
    return f"{row['input']}{made}: {row['width']}x{row['height']}, {largest_shares(labels.shares())}"
