"""`oslic backends`: each backend, its version, and why it is or is not usable."""

from __future__ import annotations

import argparse
import json

from ...runtime.backends import BACKENDS, Options, first_usable, probe_all
from ...runtime.bundle.engine_files import PRECISIONS
from ...runtime.bundle.finder import open_bundle
from ...runtime.errors import printable
from ..trust_argument import add_trust_argument


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bundle", metavar="BUNDLE", help="say it for this bundle (default: the shipped one)"
    )
    parser.add_argument("--precision", choices=PRECISIONS, help="say it for engines of this precision")
    add_trust_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of a table")


def run(args: argparse.Namespace) -> int:
    bundle = open_bundle(args.bundle)
    found = probe_all(bundle, Options(precision=args.precision, trust_engines=args.trust_engines))
    auto = first_usable(found)
    if args.json:
        rows = {
            name: {
                "usable": a.usable,
                "version": a.version,
                "reason": a.reason,
                "by_name_only": BACKENDS[name].by_name or None,
                "expected": a.expected,
            }
            for name, a in found.items()
        }
        print(json.dumps({"backends": rows, "auto": auto}, indent=2))
        return 0
    width = max(map(len, found))
    for name, available in found.items():
        mark = "yes" if available.usable else "no"
        chosen = " (auto takes this one)" if name == auto else ""
        reason = printable(available.reason)
        print(f"{name:<{width}}  {mark:<4} {available.version or '-':<12} {reason}{chosen}")
    return 0
