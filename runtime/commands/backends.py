"""`oslic backends`: each backend, its version, and why it is or is not usable."""

from __future__ import annotations

import argparse
import json

from ..backends import probe_all
from ..bundle import Bundle, default_bundle


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle", metavar="FOLDER", help="say it for this bundle (default: the shipped one)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")


def run(args: argparse.Namespace) -> int:
    bundle = Bundle.open(args.bundle or default_bundle())
    found = probe_all(bundle)
    if args.json:
        rows = {
            name: {"usable": a.usable, "version": a.version, "reason": a.reason} for name, a in found.items()
        }
        print(json.dumps({"backends": rows}, indent=2))
        return 0
    auto = next((name for name, a in found.items() if a.usable), None)
    for name, available in found.items():
        mark = "yes" if available.usable else "no"
        chosen = " (auto takes this one)" if name == auto else ""
        print(f"{name:<22} {mark:<4} {available.version or '-':<10} {available.reason}{chosen}")
    return 0
