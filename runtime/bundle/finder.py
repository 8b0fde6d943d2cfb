"""Finding bundles: the shipped ones by name, and those that a stream names by fingerprint.

`OSLIC_BUNDLES` lists folders, separated as in PATH: bundles, or folders of bundles.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ..errors import BundleError
from .folder import Bundle, default_bundle
from .manifest import MANIFEST_NAME

VARIABLE: Final = "OSLIC_BUNDLES"
_SHIPPED: Final = default_bundle().parent


def shipped_names() -> list[str]:
    """Names of the bundles that are shipped with the package."""
    return sorted(folder.name for folder in _bundles_in(_SHIPPED))


def told_as(path: Path) -> str:
    """How results name a graph or a bundle: a shipped bundle by its name, without its place on this machine."""
    return path.name if path.parent == _SHIPPED else str(path)


def open_bundle(name: str | Path | None) -> Bundle:
    """Open a bundle.

    Args:
        name: a folder, the name of a shipped bundle, or None for the default one. A folder of that name stands above
            a shipped bundle.

    Raises:
        BundleError: there is none, or it is damaged.
    """
    if name is None:
        return Bundle.open(default_bundle())
    if not Path(name).is_dir():
        if str(name) in shipped_names():
            return Bundle.open(_SHIPPED / str(name))
        if os.sep not in str(name):
            raise BundleError(
                f"no bundle {name}: neither a folder nor one of the shipped ones ({', '.join(shipped_names())}); "
                "`oslic export CHECKPOINT -o FOLDER` makes one"
            )
    return Bundle.open(name)


def known_bundles() -> Iterator[Bundle]:
    """The shipped bundles, then those that OSLIC_BUNDLES names; folders that hold none are passed over.

    Raises:
        BundleError: a bundle is damaged.
    """
    places = [_SHIPPED, *(Path(p) for p in os.environ.get(VARIABLE, "").split(os.pathsep) if p)]
    for place in places:
        if (place / MANIFEST_NAME).is_file():
            yield Bundle.open(place)
        else:
            for folder in _bundles_in(place):
                yield Bundle.open(folder)


def find_bundle(fingerprint: bytes) -> Bundle:
    """The bundle whose fingerprint begins with these bytes.

    Args:
        fingerprint: what a stream says of its networks.

    Raises:
        BundleError: none of the known ones; the message says how to get it.
    """
    for bundle in known_bundles():
        if bytes.fromhex(bundle.manifest.fingerprint).startswith(fingerprint):
            return bundle
    raise BundleError(
        f"the stream was made with the networks {fingerprint.hex()}, which no known bundle holds "
        f"(shipped: {', '.join(shipped_names())}): name it with --bundle, or its folder in {VARIABLE}; an older oslic "
        "may have shipped it"
    )


def _bundles_in(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if (entry / MANIFEST_NAME).is_file())
    except OSError:
        return []
