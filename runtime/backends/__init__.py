"""Backends: what runs the graphs of a bundle.

A backend is found by name in `BACKENDS`, a table of module names, so that nothing is imported that is not used.
`select` opens the one that is asked for, or with `auto` the first of the table that is usable for the bundle.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Final

from ..bundle import Bundle
from ..errors import BackendError
from .protocol import Availability, Backend, Runner

__all__ = ["BACKENDS", "Availability", "Backend", "Runner", "Selection", "probe_all", "select"]

BACKENDS: Final[dict[str, str]] = {
    # Name -> module and class; `auto` tries them in this order.
    "onnxruntime-cpu": "onnxruntime_cpu:OnnxRuntimeCpu",
}


@dataclass(frozen=True)
class Selection:
    """An opened backend and why it was taken.

    Attributes:
        backend: ready to load graphs.
        reason: one line for the user.
        passed_over: the backends that come first in `auto`'s order and could not be used, each with its reason.
    """

    backend: Backend
    reason: str
    passed_over: dict[str, str]


def _class(name: str) -> type[Backend]:
    module, _, attribute = BACKENDS[name].partition(":")
    kind: type[Backend] = getattr(importlib.import_module(f".{module}", __name__), attribute)
    return kind


def probe_all(bundle: Bundle | None = None) -> dict[str, Availability]:
    """Say of every backend whether it is usable here, and with `bundle` if given."""
    return {name: _class(name).probe(bundle) for name in BACKENDS}


def select(name: str, bundle: Bundle, threads: int | None = None) -> Selection:
    """Open the backend `name` for `bundle`, or with "auto" the first usable one.

    Args:
        name: a key of `BACKENDS`, or "auto".
        bundle: whose graphs are to be run.
        threads: CPU threads that the backend may use; None leaves it the choice.

    Raises:
        BackendError: unknown name, or not usable; the message says why.
    """
    if name != "auto" and name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; known: auto, {', '.join(BACKENDS)}")
    passed_over: dict[str, str] = {}
    for candidate in BACKENDS if name == "auto" else [name]:
        kind = _class(candidate)
        found = kind.probe(bundle)
        if found.usable:
            chosen = "chosen by name" if name != "auto" else "the first usable in auto's order"
            return Selection(kind(bundle, threads), f"{candidate} {found.version}: {chosen}", passed_over)
        passed_over[candidate] = found.reason
    reasons = "; ".join(f"{candidate}: {reason}" for candidate, reason in passed_over.items())
    raise BackendError(f"no usable backend: {reasons}")
