"""`oslic bench`: a table of measurements, each loaded only when it is called."""

from __future__ import annotations

import argparse
import contextlib
import importlib
from typing import Any, Final

from ...runtime.dependencies import naming_missing
from ...runtime.errors import DependencyError
from ..examples import add_examples
from ..file_arguments import Word, parse

_PLACE: Final = f"{__package__.rpartition('.')[0]}.measurements"
_MEASUREMENTS: Final[dict[str, tuple[str, str]]] = {
    # Name -> module in the folder `measurements`, one line of help.
    "latency": ("latency", "milliseconds of any graphs and engines, or of codecs per stage, beside peers"),
    "throughput": ("throughput", "a folder with several pictures in work, against one after another"),
    "rd": ("rd", "rate-distortion on a folder of images, beside peers"),
    "fusion": ("fusion", "naive, fused and plain forms of the same networks"),
    "zoo": ("zoo", "what fusion finds in thirty networks, and what it is worth"),
    "flif": ("flif", "bytes and speed of the lossless layers, beside peers"),
    "lossless": (
        "lossless",
        "lossless and near-lossless pictures, beside FLIF, PNG, WebP, JPEG XL and JPEG-LS",
    ),
    "drift": ("drift", "estimates of every backend against float32 on the CPU"),
    "memory": ("memory", "peaks of memory beside what is predicted"),
    "compressai": ("compressai", "bundles of CompressAI's networks beside CompressAI itself"),
    "effort": ("effort", "what each effort of the encoder costs in time and saves in bytes"),
    "focus": ("focus", "quality by class at equal bytes, beside AVIF with offsets by block"),
    "scale": ("scale", "pictures from 1 to 200 megapixels: time, memory, overhead, regions"),
    "seams": ("seams", "what tiles cost: errors along their borders, bytes"),
    "gpu": ("gpu", "everything that needs a GPU, in one command"),
    "int8": ("int8", "a float bundle against the int8 bundle made from it"),
    "report": ("report", "result files into one HTML page and Markdown tables"),
    "selfcheck": ("selfcheck", "does the harness tell a change from noise on this machine?"),
    "regress": ("regress", "two result files, judged against the noise"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    width = max(map(len, _MEASUREMENTS))
    rows = "\n".join(f"  {name:<{width}}  {summary}" for name, (_, summary) in _MEASUREMENTS.items())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"measurements:\n{rows}\n\n`oslic bench NAME --help` explains one of them."
    parser.add_argument("name", choices=list(_MEASUREMENTS), metavar="NAME")
    # The measurement's own parser knows which of them name files.
    parser.add_argument(
        "rest", nargs=argparse.REMAINDER, type=Word, metavar="...", help="arguments of the measurement"
    )


def parsers() -> dict[str, argparse.ArgumentParser]:
    """The parsers of all measurements, by name; those whose packages are not installed are left out."""
    found = {}
    for name in _MEASUREMENTS:
        with contextlib.suppress(DependencyError):
            found[name] = _load(name)[1]
    return found


def _load(name: str) -> tuple[Any, argparse.ArgumentParser]:
    """The module of a measurement, and the parser of its arguments.

    Raises:
        DependencyError: a package that it needs is not installed.
    """
    module, summary = _MEASUREMENTS[name]
    with naming_missing(f"oslic bench {name}", _extra(name)):
        command = importlib.import_module(f"{_PLACE}.{module}")
        parser = argparse.ArgumentParser(prog=f"oslic bench {name}", description=summary)
        command.configure(parser)
    add_examples(parser, f"bench {name}")
    return command, parser


def _extra(name: str) -> str:
    return "onnx" if name == "latency" else "bench,export"


def run(args: argparse.Namespace) -> int:
    command, parser = _load(args.name)
    with naming_missing(f"oslic bench {args.name}", _extra(args.name)):
        return int(command.run(parse(parser, args.rest)))
