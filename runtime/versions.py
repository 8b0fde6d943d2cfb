"""Versions of installed packages: for what is written down beside results, and for what needs a later one."""

from __future__ import annotations

import importlib.metadata


def installed(*names: str) -> dict[str, str]:
    """Versions by name of those of the packages that are installed.

    Args:
        names: of distributions; `onnxruntime` stands for all of its, such as onnxruntime-gpu, which hold one module.
    """
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "onnxruntime":
                continue
            try:
                import onnxruntime
            except ImportError:
                continue
            found[name] = str(onnxruntime.__version__)
    return found
