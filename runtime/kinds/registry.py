"""The kinds of codecs that are installed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

from ..bundle.manifest import OSLIC, is_kind_name
from ..codec.container import SharedSection
from ..dependencies import NAMESPACE
from ..errors import BundleError, DependencyError, OslicError, one_line
from .contract import LearnedCodec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from importlib.metadata import EntryPoint

    from ..bundle.folder import Bundle

GROUP: Final = "oslic.codecs"
"""Group of the entry points that other packages register; the name of each is that of its kind."""
_OURS: Final = {"transform": "transform.codec:TransformCodec"}
"""Kinds in the box beside `oslic`, by their place below this package."""


def installed_kinds() -> list[str]:
    """Names of all kinds that are installed, ours first."""
    others = {entry.name for entry in _registered()} - {OSLIC, *_OURS}
    return [OSLIC, *_OURS, *sorted(others)]


def find_kind(name: str, package: str = "") -> type[LearnedCodec]:
    """The class of a kind other than `oslic`.

    Args:
        name: of the kind.
        package: distribution that brings it, as a manifest or a stream says; "": nobody says.

    Raises:
        BundleError: it is not installed, or is not what `LearnedCodec` asks for; the message says what to install.
        DependencyError: it is installed, and lacks another package.
    """
    if name in _OURS:
        module, _, attribute = _OURS[name].partition(":")
        found: object = getattr(importlib.import_module(f".{module}", __package__), attribute)
        return _checked(found, name, NAMESPACE)
    for entry in _registered():
        if entry.name == name:
            return _checked(_loaded(entry), name, entry.value)
    remedy = (
        f"which the package {package} brings: pip install {package}"
        if package
        else f"which no installed package brings (entry points of the group {GROUP})"
    )
    raise BundleError(
        f"a codec of the kind {name!r} is needed, {remedy}; installed: {', '.join(installed_kinds())}"
    )


def kind_of(bundle: Bundle) -> LearnedCodec:
    """The codec of a bundle, opened.

    Raises:
        BundleError: its kind is not installed, or the bundle is not what it needs.
        DependencyError: the kind lacks a package.
    """
    manifest = bundle.manifest
    found = find_kind(manifest.kind, manifest.package)
    missing = [name for name in found.graphs if name not in manifest.graphs]
    if missing:
        raise BundleError(
            f"the bundle {bundle.path} of the kind {manifest.kind!r} has no graph {', '.join(missing)}: export it again"
        )
    try:
        return found(bundle)
    except OslicError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
        raise BundleError(
            f"the kind {manifest.kind!r} cannot open the bundle {bundle.path}: {one_line(error, 200)}"
        ) from error


def entropy_graphs(bundle: Bundle) -> tuple[str, ...]:
    """The graphs of a bundle whose outputs decide how symbols are coded: they are changed by nobody.

    Raises:
        BundleError, DependencyError: as `kind_of`.
    """
    return () if bundle.manifest.kind == OSLIC else kind_of(bundle).entropy_graphs


def _loaded(entry: EntryPoint) -> object:
    try:
        return entry.load()
    except ImportError as error:
        raise DependencyError(
            f"the codec {entry.name!r} ({entry.value}) does not load: {one_line(error)}"
        ) from error
    except AttributeError as error:
        raise BundleError(
            f"the codec {entry.name!r} is not where {entry.value} says: {one_line(error)}"
        ) from error


def _registered() -> Iterable[EntryPoint]:
    """The entry points of other packages."""
    # It takes a tenth of a command's start: not before it is needed.
    from importlib.metadata import entry_points

    return entry_points(group=GROUP)


def _checked(found: object, name: str, where: str) -> type[LearnedCodec]:
    """A class that keeps the contract.

    Raises:
        BundleError: naming what it does not keep.
    """
    if not (isinstance(found, type) and issubclass(found, LearnedCodec)):
        raise BundleError(f"the codec {name!r} of {where} is no class that derives from LearnedCodec")
    numbers = list(found.sections.values())
    demands = {
        f"its kind is {found.kind!r}": found.kind == name and is_kind_name(name),
        f"its decoding_graphs are {found.decoding_graphs}": set(found.decoding_graphs) <= set(found.graphs),
        f"its sections are {dict(found.sections)}": bool(numbers)
        and len(set(numbers)) == len(numbers)
        and all(0 < number < min(SharedSection) for number in numbers),
    }
    for what, good in demands.items():
        if not good:
            raise BundleError(
                f"the codec {name!r} of {where} does not keep the contract (docs/guides/codecs.md): {what}"
            )
    return found
