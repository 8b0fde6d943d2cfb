"""Arguments of the commands that work on graphs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .numbers import at_least

if TYPE_CHECKING:
    import argparse
    from pathlib import Path


def add_threads(parser: argparse.ArgumentParser) -> None:
    """Add `--threads`: how many a measurement runs with; by default one for each core."""
    parser.add_argument(
        "--threads",
        type=at_least(1),
        default=os.cpu_count() or 1,
        metavar="N",
        help="threads when measuring (default: all cores)",
    )


def megabytes(folder: Path) -> str:
    """Size of the files in a folder and below, for the user."""
    return f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6:.2f} MB"
