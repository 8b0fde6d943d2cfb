"""`oslic verify`: whether `.oslic` files are whole, decode, and give what the encoder saw."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from ...runtime.bundle.manifest import OSLIC
from ...runtime.codec.container import StreamReader
from ...runtime.codec.stream import check_all, check_stream
from ...runtime.codec.stream_source import read_stream
from ...runtime.errors import OslicError, VerificationError
from ...runtime.threads import in_order
from ..codec_arguments import STREAM_SUFFIX, add_codec_arguments, open_codecs
from ..jobs import Source, add_source_arguments, add_work_arguments, find_sources, jobs_for
from ..limit_arguments import limits_of
from ..reporting import Reporter

if TYPE_CHECKING:
    from ...runtime.kinds.opening import Codecs
    from ...runtime.limits import Limits


def configure(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser, ".oslic files", "FILE")
    add_work_arguments(parser)
    parser.add_argument(
        "--checksums", action="store_true", help="check the checksums alone, without running the networks"
    )
    add_codec_arguments(parser, json_help="print one JSON object per line, one for each file", decodes=True)


def _check(codecs: Codecs | None, limits: Limits, source: Source) -> dict[str, Any]:
    """Check one file; returns what there is to say of it.

    Raises:
        OslicError: what is wrong with it.
    """
    data = read_stream(source.path, limits)
    reader = StreamReader.of_bytes(data, limits)
    if reader.header.kind == OSLIC:
        check_stream(reader)
    row: dict[str, Any] = {
        "bytes": len(data),
        "width": reader.header.width,
        "height": reader.header.height,
        "checksums": check_all(reader),
    }
    if codecs is not None:
        codec = codecs.for_stream(reader.header)
        # A lossless picture does not depend on its estimate, which is to be right all the same.
        decoded = codec.decode(data, with_estimate=True)
        if decoded.drift is not None:
            raise VerificationError(f"the checksums are right, but {decoded.drift}")
    return row | {"decoded": codecs is not None}


def run(args: argparse.Namespace) -> int:
    found = find_sources(args.inputs, (STREAM_SUFFIX,), "streams", recursive=args.recursive)
    jobs = jobs_for(args, len(found.sources))
    with ExitStack() as stack:
        report = stack.enter_context(Reporter("verify", args, lines=True, total=len(found.sources)))
        report.found(found)
        codecs = None if args.checksums else stack.enter_context(open_codecs(args, jobs))
        limits = limits_of(args) if codecs is None else codecs.limits
        for source, outcome in in_order(found.sources, partial(_check, codecs, limits), jobs):
            row: dict[str, Any] = {"input": str(source.path), "ok": True, "exit_code": 0}
            if isinstance(outcome, OslicError):
                report.failed(source.path, outcome, {"ok": False})
            else:
                report.done(row | outcome, f"{source.path}: {_said(outcome)}")
        return report.finish()


def _said(row: dict[str, Any]) -> str:
    decoded = ", decodes, digest ok" if row["decoded"] else ""
    return f"ok, {row['width']}x{row['height']}, {row['checksums']} checksums{decoded}"
