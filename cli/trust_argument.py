"""The argument of the commands of every room that load engines."""

from __future__ import annotations

import argparse


def add_trust_argument(parser: argparse.ArgumentParser) -> None:
    """Add the switch that lets engines run which this user did not build on this machine."""
    parser.add_argument(
        "--trust-engines",
        action="store_true",
        help="also load engines that were not built by you on this machine; loading an engine can run code",
    )
