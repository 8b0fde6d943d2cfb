"""Backends: what runs the graphs of a bundle.

A backend is found by name in `BACKENDS`, a table of module names, so that nothing is imported that is not used.
`select` opens the one that is asked for, or with `auto` the first of the table that is usable for the bundle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .base import Availability, Backend, Options, Runner
    from .selection import PassedOverWarning, Selection, backend_class, first_usable, probe, probe_all, select
    from .table import BACKENDS

__all__ = [
    "BACKENDS",
    "Availability",
    "Backend",
    "Options",
    "PassedOverWarning",
    "Runner",
    "Selection",
    "backend_class",
    "first_usable",
    "probe",
    "probe_all",
    "select",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "BACKENDS": "table",
        "Availability": "base",
        "Backend": "base",
        "Options": "base",
        "PassedOverWarning": "selection",
        "Runner": "base",
        "Selection": "selection",
        "backend_class": "selection",
        "first_usable": "selection",
        "probe": "selection",
        "probe_all": "selection",
        "select": "selection",
    },
)
