"""`oslic info`: the header and sections of a stream, and what it shows, without decoding the picture."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...runtime.bundle.finder import find_bundle, open_bundle
from ...runtime.bundle.manifest import OSLIC
from ...runtime.codec.container import StreamReader
from ...runtime.codec.label_map import LabelMap, label_map_of, map_size
from ...runtime.codec.parameters import Parameters
from ...runtime.codec.stream import bundle_for, check_stream, fingerprint_of, read_record
from ...runtime.codec.stream_source import read_stream
from ...runtime.errors import BundleError, LimitError, OslicError, StreamError, UsageError, printable
from ...runtime.files import write_atomically
from ...runtime.kinds.stream import package_of
from ..codec_arguments import STREAM_SUFFIX, largest_shares, table
from ..file_arguments import output_file
from ..jobs import add_source_arguments, find_sources
from ..label_images import encode_labels, label_image_kind
from ..limit_arguments import add_limit_arguments, limits_of
from ..reporting import Reporter

if TYPE_CHECKING:
    from ...runtime.bundle.folder import Bundle
    from ...runtime.limits import Limits


_MOST_POSITIONS: Final = 1 << 21


def configure(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser, ".oslic files")
    parser.add_argument(
        "--labels",
        type=output_file("an image"),
        metavar="FILE",
        help="of one file: decode the label map alone and write it to this one: .png, .tif or .bmp",
    )
    parser.add_argument(
        "--bundle",
        metavar="BUNDLE",
        help="the bundle that names the classes (default: the one that the stream names)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print a JSON document instead of a table, of several files one object a line",
    )
    add_limit_arguments(parser)


def _facts(reader: StreamReader, bundle: Bundle | None, own: dict[str, Any]) -> dict[str, Any]:
    """What there is to say of a stream of any kind, with what its own kind has to say in the middle."""
    info, header, grid = reader.info, reader.header, reader.header.grid
    pixels = header.width * header.height
    payloads = sum(section.length - section.index for section in info.sections)
    return {
        "version": ".".join(map(str, info.version)),
        "width": header.width,
        "height": header.height,
        "layout": header.layout.name.lower(),
        "kind": header.kind,
        "fingerprint_prefix": (fingerprint_of(header) if header.kind == OSLIC else header.identity).hex(),
        "bundle": None if bundle is None else bundle.manifest.name,
        "tiles": [grid.columns, grid.rows],
        "tile_size": [grid.tile_width, grid.tile_height],
        "halo": grid.halo,
        **own,
        "bytes": info.total_bytes,
        "bpp": info.total_bytes * 8 / pixels,
        "overhead_bytes": info.total_bytes - payloads,
        "sections": [
            {
                "type": s.type,
                "name": s.name,
                "offset": s.offset,
                "bytes": s.length - s.index,
                "index_bytes": s.index,
                "bpp": s.length * 8 / pixels,
            }
            for s in info.sections
        ],
    }


def _facts_of_oslic(reader: StreamReader, labels: LabelMap | None) -> dict[str, Any]:
    parameters = Parameters.from_bytes(reader.header.parameters)
    records = [read_record(reader, tile, parameters) for tile in range(reader.header.grid.count)]
    return {
        "quality": parameters.quality,
        "tuned_for": "the eye" if parameters.visual else "PSNR",
        "exact": parameters.exact,
        "largest_error": parameters.max_error,
        "refined": parameters.refined,
        "label_scale": parameters.label_scale,
        "tiles_without_layers": sum(record.plain for record in records),
        "residual_modes": _counted(record.mode.name.lower() for record in records),
        "residual_weights": _counted(f"{record.weight}/8" for record in records),
        "residual_scales": _counted(str(record.scale) for record in records),
        "classes": None if labels is None else labels.shares(),
        "groups": None if labels is None else labels.group_shares(),
    }


def _is_quick(reader: StreamReader) -> bool:
    """Whether the label map is decoded in no time: all that our encoder makes are."""
    parameters = Parameters.from_bytes(reader.header.parameters)
    width, height = map_size(reader.header, parameters.label_scale)
    return width * height <= _MOST_POSITIONS


def _counted(values: Any) -> dict[str, int]:
    counts: dict[str, int] = {}
    for value in values:
        counts[value] = counts.get(value, 0) + 1
    return counts


def _table(facts: dict[str, Any]) -> str:
    """The facts for people."""
    shown = {name: value for name, value in facts.items() if name not in {"input", "sections", "groups"}}
    shown["bpp"] = f"{facts['bpp']:.4f}"
    shown["bundle"] = facts["bundle"] or "none of the known ones"
    for name, separator in (("tiles", " x "), ("tile_size", " x ")):
        shown[name] = separator.join(map(str, facts[name]))
    if facts["kind"] == OSLIC:
        _show_oslic(shown, facts)
    rows = table((name.replace("_", " "), str(value)) for name, value in shown.items())
    return f"{rows}\n{table(_section(section) for section in facts['sections'])}"


def _section(section: dict[str, Any]) -> tuple[str, str]:
    index = f" and {section['index_bytes']} of their index" if section["index_bytes"] else ""
    return f"section {section['name']}", f"{section['bytes']} bytes{index}, {section['bpp']:.4f} bpp"


def _show_oslic(shown: dict[str, Any], facts: dict[str, Any]) -> None:
    """What the kind `oslic` has to say, for people."""
    shown["exact"] = "the same estimate on every machine" if facts["exact"] else "no"
    bounds = {None: "not bounded", 0: "0, lossless"}
    shown["largest_error"] = bounds.get(facts["largest_error"], facts["largest_error"])
    if facts["classes"] is None:
        del shown["classes"]
    else:
        shown["classes"] = printable(largest_shares(facts["classes"]))
    for name in ("residual_modes", "residual_weights", "residual_scales"):
        shown[name] = ", ".join(f"{value}: {count}" for value, count in facts[name].items())


def _one(args: argparse.Namespace, limits: Limits, source: Path) -> tuple[dict[str, Any], str | None]:
    """Read a file; returns what there is to say of it, and what the user should know.

    Raises:
        OslicError: it cannot be read.
    """
    reader = StreamReader.of_bytes(read_stream(source, limits), limits)
    if reader.header.kind != OSLIC:
        return _one_of_another(args, reader), None
    check_stream(reader)
    bundle: Bundle | None
    try:
        bundle = bundle_for(reader.header, args.bundle)
    except BundleError:
        if args.labels is not None or args.bundle is not None:
            raise
        bundle = None
    labels: LabelMap | None = None
    warning = None
    try:
        if bundle is not None and (args.labels is not None or _is_quick(reader)):
            labels = label_map_of(reader, bundle)
    except (StreamError, LimitError) as error:
        if args.labels is not None:
            raise
        warning = str(error)
    if args.labels is not None and labels is not None:
        write_atomically(args.labels, encode_labels(labels, label_image_kind(args.labels)))
    return _facts(reader, bundle, _facts_of_oslic(reader, labels)), warning


def _one_of_another(args: argparse.Namespace, reader: StreamReader) -> dict[str, Any]:
    """What there is to say of a stream whose kind need not even be installed."""
    header = reader.header
    if args.labels is not None:
        raise UsageError(f"the stream is of the kind {header.kind!r}, which has no label map")
    package = package_of(header)
    bundle: Bundle | None = None
    with contextlib.suppress(BundleError):
        bundle = open_bundle(args.bundle) if args.bundle is not None else find_bundle(header.identity)
    return _facts(reader, bundle, {"package": package or None})


def run(args: argparse.Namespace) -> int:
    limits = limits_of(args)
    found = find_sources(args.inputs, (STREAM_SUFFIX,), "streams", recursive=args.recursive)
    many = found.folders or len(found.sources) > 1
    if args.labels is not None and many:
        raise UsageError("--labels goes with one file; `oslic labels` writes the label maps of many")
    with Reporter("info", args, lines=True) as report:
        report.found(found)
        for source in found.sources:
            try:
                facts, warning = _one(args, limits, source.path)
            except OslicError as error:
                report.failed(source.path, error)
                continue
            if warning is not None:
                report.warn(warning)
            if args.json and not many:
                print(json.dumps({"input": str(source.path)} | facts, indent=2))
            elif args.json:
                report.done({"input": str(source.path)} | facts, "")
            else:
                if many:
                    print(f"{printable(str(source.path))}:")
                print(_table(facts))
        return report.finish()
