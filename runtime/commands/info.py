"""`oslic info`: the header and sections of a stream, and what it shows, without decoding the picture."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, Final

from ..codec.container import SectionType, StreamReader
from ..codec.label_map import LabelMap, label_map_of, map_size
from ..codec.parameters import Parameters, TileRecord
from ..codec.stream import bundle_for, check_stream, fingerprint_of
from ..errors import BundleError, LimitError, StreamError, printable
from ..files import write_atomically
from ._common import largest_shares, read_stream_file, table
from .arguments import output_file
from .label_images import encode_labels, label_image_kind
from .limits import add_limit_arguments, limits_of

if TYPE_CHECKING:
    from ..bundle import Bundle


_MOST_POSITIONS: Final = 1 << 21


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="an .oslic file")
    parser.add_argument(
        "--labels",
        type=output_file("an image"),
        metavar="FILE",
        help="decode the label map alone and write it to this file: .png, .tif or .bmp",
    )
    parser.add_argument(
        "--bundle",
        metavar="BUNDLE",
        help="the bundle that names the classes (default: the one that the stream names)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    add_limit_arguments(parser)


def _facts(reader: StreamReader, bundle: Bundle | None, labels: LabelMap | None) -> dict[str, Any]:
    info, header, grid = reader.info, reader.header, reader.header.grid
    parameters = Parameters.from_bytes(header.parameters)
    pixels = header.width * header.height
    records = [TileRecord.from_bytes(piece.record) for piece in reader.pieces(SectionType.RESIDUAL)]
    payloads = sum(section.length - section.index for section in info.sections)
    return {
        "version": ".".join(map(str, info.version)),
        "width": header.width,
        "height": header.height,
        "layout": header.layout.name.lower(),
        "kind": header.kind,
        "fingerprint_prefix": fingerprint_of(header).hex(),
        "bundle": None if bundle is None else bundle.manifest.name,
        "quality": parameters.quality,
        "tuned_for": "the eye" if parameters.visual else "PSNR",
        "exact": parameters.exact,
        "refined": parameters.refined,
        "label_scale": parameters.label_scale,
        "tiles": [grid.columns, grid.rows],
        "tile_size": [grid.tile_width, grid.tile_height],
        "halo": grid.halo,
        "tiles_without_layers": sum(record.plain for record in records),
        "residual_modes": _counted(record.mode.name.lower() for record in records),
        "residual_weights": _counted(f"{record.weight}/8" for record in records),
        "residual_scales": _counted(str(record.scale) for record in records),
        "classes": None if labels is None else labels.shares(),
        "groups": None if labels is None else labels.group_shares(),
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


def _print(facts: dict[str, Any]) -> None:
    sections = facts.pop("sections")
    facts["bpp"] = f"{facts['bpp']:.4f}"
    facts["bundle"] = facts["bundle"] or "none of the known ones"
    del facts["groups"]
    if facts["classes"] is None:
        del facts["classes"]
    else:
        facts["classes"] = printable(largest_shares(facts["classes"]))
    for name, separator in (("tiles", " x "), ("tile_size", " x ")):
        facts[name] = separator.join(map(str, facts[name]))
    for name in ("residual_modes", "residual_weights", "residual_scales"):
        facts[name] = ", ".join(f"{value}: {count}" for value, count in facts[name].items())
    print(table((name.replace("_", " "), str(value)) for name, value in facts.items()))
    print(table((f"section {s['name']}", f"{s['bytes']} bytes, {s['bpp']:.4f} bpp") for s in sections))


def run(args: argparse.Namespace) -> int:
    limits = limits_of(args)
    reader = StreamReader.of_bytes(read_stream_file(args.input, limits), limits)
    check_stream(reader)
    bundle: Bundle | None
    try:
        bundle = bundle_for(reader.header, args.bundle)
    except BundleError:
        if args.labels is not None or args.bundle is not None:
            raise
        bundle = None
    labels: LabelMap | None = None
    try:
        if bundle is not None and (args.labels is not None or _is_quick(reader)):
            labels = label_map_of(reader, bundle)
    except (StreamError, LimitError) as error:
        if args.labels is not None:
            raise
        print(f"oslic info: warning: {printable(str(error))}", file=sys.stderr)
    if args.labels is not None and labels is not None:
        write_atomically(args.labels, encode_labels(labels, label_image_kind(args.labels)))
    facts = _facts(reader, bundle, labels)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts)
    return 0
