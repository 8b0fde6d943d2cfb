"""`oslic verify`: whether `.oslic` files are whole, decode, and give what the encoder saw."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..codec.decoding import drift_message
from ..codec.stream import check_all, open_stream
from ..errors import OslicError, VerificationError, printable
from ..pipeline import ahead
from ._common import add_codec_arguments, open_codec, read_stream_file
from .limits import limits_of

if TYPE_CHECKING:
    from ..codec import Codec
    from ..limits import Limits


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="FILE", help=".oslic files")
    parser.add_argument(
        "--checksums", action="store_true", help="check the checksums alone, without running the networks"
    )
    parser.add_argument("--quiet", action="store_true", help="say nothing of files that are good")
    add_codec_arguments(parser, json_help="print one JSON object per line, one for each file")


def _check(path: Path, codec: Codec | None, limits: Limits) -> dict[str, Any]:
    """Check one file; returns what there is to say of it.

    Raises:
        OslicError: what is wrong with it.
    """
    data = read_stream_file(path, limits)
    reader = open_stream(data, limits)
    row: dict[str, Any] = {
        "bytes": len(data),
        "width": reader.header.width,
        "height": reader.header.height,
        "checksums": check_all(reader),
    }
    if codec is not None:
        decoded = codec.decode(data)
        if not decoded.digest_matches:
            raise VerificationError(
                f"the checksums are right, but {drift_message(estimate=bool(decoded.drifted))}"
            )
    return row | {"decoded": codec is not None}


def run(args: argparse.Namespace) -> int:
    exit_code = 0
    with ExitStack() as stack:
        codec = None if args.checksums else stack.enter_context(open_codec(args))
        limits = limits_of(args) if codec is None else codec.limits
        for path, outcome in ahead(map(Path, args.inputs), lambda path: _check(path, codec, limits)):
            failed = isinstance(outcome, OslicError)
            row: dict[str, Any] = {"input": str(path), "ok": not failed, "exit_code": 0}
            if isinstance(outcome, OslicError):
                if args.debug:
                    raise outcome
                exit_code = exit_code or outcome.exit_code
                message = " ".join(str(outcome).split("\n"))
                row |= {"exit_code": outcome.exit_code, "error": message}
                named = message if str(path) in message else f"{path}: {message}"
                print(f"oslic verify: error: {printable(named)}", file=sys.stderr)
            else:
                row |= outcome
            if args.json and not (args.quiet and not failed):
                print(json.dumps(row), flush=True)
            elif not (args.json or args.quiet or failed):
                print(_line(path, row), flush=True)
    return exit_code


def _line(path: Path, row: dict[str, Any]) -> str:
    decoded = ", decodes, digest ok" if row["decoded"] else ""
    return (
        f"{printable(str(path))}: ok, {row['width']}x{row['height']}, {row['checksums']} checksums{decoded}"
    )
