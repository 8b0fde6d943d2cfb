"""Finding backends that are usable, and opening one."""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass

from ..bundle.folder import Bundle
from ..errors import BackendError
from .base import Availability, Backend, Options
from .table import BACKENDS


class PassedOverWarning(UserWarning):
    """`auto` took a slower backend than this machine or this bundle is meant for; the message says why."""


@dataclass(frozen=True)
class Selection:
    """An opened backend and why it was taken.

    Attributes:
        backend: ready to load graphs.
        reason: one line for the user.
        passed_over: the backends that come first in `auto`'s order and were not taken, each with its reason.
    """

    backend: Backend
    reason: str
    passed_over: dict[str, str]


def backend_class(name: str) -> type[Backend]:
    """The class of a backend.

    Raises:
        BackendError: no backend has this name.
    """
    if name == "auto":
        raise BackendError(
            f"auto is no backend of its own, it takes the first that is usable: name one of {', '.join(BACKENDS)}"
        )
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; known: auto, {', '.join(BACKENDS)}")
    entry = BACKENDS[name]
    kind: type[Backend] = getattr(importlib.import_module(f".{entry.module}", __package__), entry.kind)
    return kind


def probe(name: str, bundle: Bundle | None = None, options: Options | None = None) -> Availability:
    """Find out whether a backend is usable here.

    Args:
        name: of the backend, as `oslic backends` lists it.
        bundle: to be run on it; None: any.
        options: of the backend; None: the defaults.

    Raises:
        BackendError: there is no backend of that name.
    """
    return backend_class(name).probe(bundle, options or Options())


def probe_all(bundle: Bundle | None = None, options: Options | None = None) -> dict[str, Availability]:
    """Find out which backends are usable here, by name; arguments as for `probe`."""
    return {name: probe(name, bundle, options) for name in BACKENDS}


def first_usable(found: dict[str, Availability]) -> str | None:
    """What `auto` takes of what `probe_all` found; None where nothing is usable."""
    return next((name for name, a in found.items() if a.usable and not BACKENDS[name].by_name), None)


def select(name: str, bundle: Bundle, options: Options | None = None) -> Selection:
    """Open the backend `name` for `bundle`, or with "auto" the first usable one.

    Args:
        name: a key of `BACKENDS`, or "auto".
        bundle: whose graphs are to be run.
        options: how; None for the defaults.

    Raises:
        BackendError: unknown name, or not usable; the message says why.

    Warns:
        PassedOverWarning: "auto" passed over a backend that this machine or this bundle is meant for.
    """
    options = options or Options()
    if name != "auto":
        kind = backend_class(name)
        found = kind.probe(bundle, options)
        if not found.usable:
            raise BackendError(f"{name} cannot be used: {found.reason}")
        return Selection(kind(bundle, options), f"{name} {found.version}: chosen by name; {found.reason}", {})
    passed_over: dict[str, str] = {}
    for candidate, entry in BACKENDS.items():
        if entry.by_name:
            passed_over[candidate] = entry.by_name
            continue
        kind = backend_class(candidate)
        found = kind.probe(bundle, options)
        if found.usable:
            return Selection(
                kind(bundle, options),
                f"{candidate} {found.version}: the best here; {found.reason}",
                passed_over,
            )
        passed_over[candidate] = found.reason
        if found.expected:
            message = f"{candidate} is passed over: {found.reason}"
            warnings.warn(message, PassedOverWarning, stacklevel=2)
    reasons = "; ".join(f"{candidate}: {reason}" for candidate, reason in passed_over.items())
    raise BackendError(f"no usable backend: {reasons}")
