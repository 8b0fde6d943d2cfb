"""`oslic bench regress`: two result files, judged against the noise."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from ...bench.regression.comparison import REGRESSIONS, Margins, compare
from ...bench.report.sections.registry import read_result
from ..numbers import not_negative


def configure(parser: argparse.ArgumentParser) -> None:
    defaults = Margins()
    parser.add_argument("before", metavar="BEFORE.json")
    parser.add_argument("after", metavar="AFTER.json")
    parser.add_argument(
        "--clear",
        type=not_negative,
        default=defaults.clear,
        metavar="R",
        help="see Margins (default: %(default)s)",
    )
    parser.add_argument(
        "--same",
        type=not_negative,
        default=defaults.same,
        metavar="R",
        help="see Margins (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")


def run(args: argparse.Namespace) -> int:
    margins = Margins(clear=args.clear, same=args.same)
    rows = compare(read_result(Path(args.before)), read_result(Path(args.after)), margins)
    regressed = any(row.verdict in REGRESSIONS for row in rows)
    if args.json:
        print(json.dumps({"regression": regressed, "rows": [asdict(row) for row in rows]}, indent=1))
        return int(regressed)
    width = max(len(row.figure) for row in rows)
    for row in rows:
        change = ""
        if row.ratio is not None and row.interval is not None:
            change = f"x{row.ratio:.3f} ({row.interval[0]:.3f} to {row.interval[1]:.3f})"
        print(
            f"{row.figure:<{width}} {row.before:9.2f} {row.after:9.2f} {row.unit:<3} {change:<26} {row.verdict}"
        )
    print("regression" if regressed else "no regression")
    return int(regressed)
