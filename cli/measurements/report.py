"""`oslic bench report`: result files into one HTML page and Markdown tables."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ...bench.coders.registry import PEERS, Coder
from ...bench.experiments.quality_table import quality_table
from ...bench.experiments.rate_distortion import FORMAT as RD_FORMAT
from ...bench.report.layer_images import as_rgb
from ...bench.report.page import Comparison, headlines, html, markdown, pictures
from ...bench.report.sections.registry import read_result, sections
from ...measure.metrics import psnr
from ...runtime.codec import Codec
from ...runtime.codec.rate_control import highest_within
from ...runtime.errors import UsageError
from ...runtime.files import read_regular_file, write_atomically
from ...runtime.image.files import read_image
from ..file_arguments import output_file
from ..limit_arguments import add_limit_arguments, limits_of

if TYPE_CHECKING:
    from ...runtime.image.arrays import Pixels

_HEADLINES = ("<!-- headlines: made by `oslic bench report`, do not edit -->", "<!-- end of headlines -->")
_FIGURES = ("<!-- figures: made by `oslic bench report`, do not edit -->", "<!-- end of figures -->")
_QUALITIES = ("<!-- qualities: made by `oslic bench report`, do not edit -->", "<!-- end of qualities -->")
_README_BYTES = 1 << 24
_VISUAL_BPP = 0.35
_VISUAL_PEERS = {"AVIF": "avif-s6", "JPEG": "jpeg"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", nargs="+", metavar="JSON", help="results of oslic bench")
    parser.add_argument(
        "-o", "--output", type=output_file("HTML"), metavar="HTML", help="one self-contained page"
    )
    parser.add_argument(
        "--markdown", type=output_file("Markdown"), metavar="FILE", help="write the tables to this file"
    )
    parser.add_argument(
        "--readme",
        type=output_file("Markdown", update=True),
        metavar="FILE",
        help="replace headlines, tables and the scale of qualities between the marks in this file",
    )
    parser.add_argument(
        "--pictures", metavar="DIR", help="write the charts to this folder, and link them from the Markdown"
    )
    parser.add_argument(
        "--visual", nargs="*", default=[], metavar="IMAGE", help="photographs to compare by slider"
    )
    parser.add_argument("--bundle", metavar="BUNDLE", help="for --visual (default: the shipped bundle)")
    parser.add_argument("--title", default="OSLIC: measured figures")
    add_limit_arguments(parser)


def _at_size(image: Pixels, coder: Coder, size: int) -> tuple[Pixels, int]:
    """Code with the highest quality that takes at most `size` bytes (the lowest, if none does)."""
    low, high, best = 0, 101, b""
    while high - low > 1 or not best:
        quality = (low + high) // 2
        data = coder.encode(image, quality).data
        if len(data) <= size or not best:
            best = data
        low, high = (quality, high) if len(data) <= size else (low, quality)
    return coder.decode(best), len(best)


def _comparisons(path: str, codec: Codec) -> list[Comparison]:
    image = as_rgb(read_image(path, codec.limits).pixels)
    layers = codec.layers(image)
    floor = len(codec.finish(layers, quality=0).data) * 8 / (image.shape[0] * image.shape[1])
    encoded = highest_within(codec, layers, max(_VISUAL_BPP, floor * 2))
    ours = codec.reconstruct(encoded)

    def caption(name: str, pixels: Pixels, size: int) -> str:
        return f"{name} ({size} bytes, {psnr(image, pixels):.2f} dB)"

    found = []
    for kind, peer in _VISUAL_PEERS.items():
        other, size = _at_size(image, PEERS[peer].open(), len(encoded.data))
        left, right = caption("OSLIC", ours, len(encoded.data)), caption(kind, other, size)
        found.append(Comparison(Path(path).name, (left, ours), (right, other)))
    return found


def _replaced(text: str, marks: tuple[str, str], content: str, file: str) -> str:
    """With other content between the marks, if they are there."""
    if marks[0] not in text:
        return text
    if text.count(marks[0]) != 1 or text.count(marks[1]) != 1:
        raise UsageError(f"{file} must hold the lines {marks[0]!r} and {marks[1]!r} once each")
    before, rest = text.split(marks[0])
    after = rest.split(marks[1])[1]
    return f"{before}{marks[0]}\n\n{content}\n{marks[1]}{after}"


def run(args: argparse.Namespace) -> int:
    if not (args.output or args.markdown or args.readme or args.pictures):
        raise UsageError("nothing to write: give -o, --markdown, --readme or --pictures")
    results = [read_result(Path(path)) for path in args.results]
    parts = sections(results)
    if args.output:
        comparisons: list[Comparison] = []
        if args.visual:
            with Codec.open(args.bundle, limits=limits_of(args)) as codec:
                comparisons = [c for path in args.visual for c in _comparisons(path, codec)]
        write_atomically(args.output, html(parts, comparisons, args.title).encode())
        print(f"wrote {args.output}")
    if args.pictures:
        folder = Path(args.pictures)
        folder.mkdir(parents=True, exist_ok=True)
        charts = pictures(parts)
        for name, svg in charts.items():
            write_atomically(folder / name, svg.encode())
        print(f"wrote {len(charts)} charts into {folder}")

    def tables_for(file: str) -> str:
        """With links as they are written in a file."""
        return markdown(parts, args.pictures and os.path.relpath(args.pictures, Path(file).parent))

    if args.markdown:
        write_atomically(args.markdown, tables_for(args.markdown).encode())
        print(f"wrote {args.markdown}")
    if args.readme:
        text = read_regular_file(args.readme, "file", _README_BYTES).decode()
        if not any(text.count(mark) == 1 for mark, _ in (_HEADLINES, _FIGURES, _QUALITIES)):
            raise UsageError(
                f"{args.readme} must hold the line {_HEADLINES[0]!r}, {_FIGURES[0]!r} or {_QUALITIES[0]!r} once"
            )
        text = _replaced(text, _HEADLINES, headlines(parts), args.readme)
        text = _replaced(text, _FIGURES, tables_for(args.readme), args.readme)
        rates = next((result for result in results if result["format"] == RD_FORMAT), None)
        if rates is not None:
            text = _replaced(text, _QUALITIES, quality_table(rates), args.readme)
        write_atomically(args.readme, text.encode())
        print(f"wrote the figures into {args.readme}")
    return 0
