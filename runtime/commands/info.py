"""`oslic info`: the header and sections of a stream, without decoding it."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from ..bundle import Bundle, ClassInfo, default_bundle
from ..codec import decode_labels
from ..errors import UsageError
from ..files import write_atomically
from ..stream import StreamInfo, read_info
from ._common import image_name, read_stream_file, table
from .arguments import output_file
from .limits import add_limit_arguments, limits_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


_PALETTE_KINDS: Final = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="an .oslic file")
    parser.add_argument(
        "--labels",
        type=output_file("an image"),
        metavar="FILE",
        help="decode the label map alone and write it to this file: .png, .tif or .bmp",
    )
    parser.add_argument(
        "--bundle", metavar="FOLDER", help="the bundle that names the classes (default: `lite`)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")
    add_limit_arguments(parser)


def _facts(info: StreamInfo) -> dict[str, Any]:
    header = info.header
    pixels = header.width * header.height
    return {
        "version": ".".join(map(str, info.version)),
        "width": header.width,
        "height": header.height,
        "layout": header.layout.name.lower(),
        "fingerprint_prefix": header.fingerprint.hex(),
        "residual_codec": header.residual_codec.name.lower(),
        "residual_scale": header.residual_scale,
        "residual_weight": header.residual_weight,
        "tiles": list(header.tiles),
        "digest": header.digest.hex(),
        "bytes": info.total_bytes,
        "bpp": info.total_bytes * 8 / pixels,
        "overhead_bytes": info.overhead_bytes,
        "sections": [
            {
                "type": s.type,
                "name": s.name,
                "offset": s.offset,
                "bytes": s.length,
                "bpp": s.length * 8 / pixels,
            }
            for s in info.sections
        ],
    }


def _print(facts: dict[str, Any]) -> None:
    sections = facts.pop("sections")
    facts["bpp"] = f"{facts['bpp']:.4f}"
    print(table((name.replace("_", " "), str(value)) for name, value in facts.items()))
    print(table((f"section {s['name']}", f"{s['bytes']} bytes, {s['bpp']:.4f} bpp") for s in sections))


def run(args: argparse.Namespace) -> int:
    limits = limits_of(args)
    data = read_stream_file(args.input, limits)
    info = read_info(data, limits)
    if args.labels is not None:
        kind = _palette_kind(args.labels)
        bundle = Bundle.open(args.bundle or default_bundle())
        labels = decode_labels(data, bundle, limits)
        classes, scale = bundle.manifest.classes, bundle.manifest.label_scale
        full = labels.repeat(scale, axis=0).repeat(scale, axis=1)[: info.header.height, : info.header.width]
        write_atomically(args.labels, _palette_image(full, classes, kind))
    facts = _facts(info)
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        _print(facts)
    return 0


def _palette_kind(name: str) -> str:
    """Pillow's name of the format in which a label map is written.

    Raises:
        UsageError: a format that loses values, or has no palette.
    """
    kind = _PALETTE_KINDS.get(image_name(Path(name)).suffix.lower())
    if kind is None:
        raise UsageError(
            f"cannot write {name}: label maps are written with a palette and without loss, in files that end in "
            f"{', '.join(_PALETTE_KINDS)}"
        )
    return kind


def _palette_image(labels: npt.NDArray[np.uint8], classes: tuple[ClassInfo, ...], kind: str) -> bytes:
    """An image file with a palette: its values are the classes, its colours theirs."""
    picture = Image.fromarray(labels)
    picture.putpalette([value for entry in classes for value in entry.color])
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()
