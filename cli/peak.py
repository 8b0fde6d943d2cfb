"""Run an `oslic` command, and print the most memory that its process held, in bytes, on the last line."""

from __future__ import annotations

import sys

from ..runtime.memory import resident_memory
from .main import main

if __name__ == "__main__":
    code = main(sys.argv[1:])
    held = resident_memory()
    print("-" if held is None else held[1])
    sys.exit(code)
