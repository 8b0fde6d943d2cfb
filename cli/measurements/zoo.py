"""`oslic bench zoo`: what fusion finds in some thirty networks, and what it is worth."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ...runtime.files import write_atomically
from ..file_arguments import output_file
from ..numbers import at_least, positive


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=output_file("JSON"), metavar="JSON", help="write the result")
    parser.add_argument(
        "--table",
        type=output_file("Markdown", update=True),
        metavar="MD",
        help="a page into which the table is put, between <!-- zoo --> and <!-- end of zoo -->",
    )
    parser.add_argument(
        "--network",
        action="append",
        default=[],
        metavar="NAME",
        help="a part of a network's name (repeatable; default: all)",
    )
    parser.add_argument(
        "--repeats", type=at_least(1), default=3, metavar="N", help="measurements of each (default: 3)"
    )
    parser.add_argument(
        "--timeout", type=positive, default=10.0, metavar="SECONDS", help="of each measurement (default: 10)"
    )


def run(args: argparse.Namespace) -> int:
    from ...bench.experiments import zoo
    from ...measure.timing import Settings

    settings = Settings(min_samples=15, min_seconds=0.4, max_error=0.015, timeout=args.timeout)
    result = zoo.run(args.network, args.repeats, settings, print)
    if args.output is not None:
        write_atomically(args.output, (json.dumps(result, indent=1) + "\n").encode())
    if args.table is not None:
        page = Path(args.table).read_text(encoding="utf-8")
        write_atomically(args.table, zoo.insert(page, result).encode())
    mean = result["summary"]["geometric_mean"]
    print(
        f"geometric mean {0 if mean is None else mean:.3f}; slower: {result['summary']['slower'] or 'none'}"
    )
    return 0
