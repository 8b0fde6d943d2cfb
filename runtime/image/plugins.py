"""Image formats that Pillow reads with a plug-in of another distribution: found by their first bytes, loaded then."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True)
class Plugin:
    """What reads a format.

    Attributes:
        format: in words.
        package: to be installed.
        module: to be imported.
        register: makes Pillow know it; gets the module.
        claims: whether a file that begins so is of the format.
    """

    format: str
    package: str
    module: str
    register: Callable[[Any], object]
    claims: Callable[[bytes], bool]

    def load(self) -> bool:
        """Make Pillow know the format; says whether the plug-in is there."""
        try:
            self.register(importlib.import_module(self.module))
        except ImportError:
            return False
        return True


_HEIF_BRANDS: Final = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and (head[8:12] in _HEIF_BRANDS)


def _is_jpeg_xl(head: bytes) -> bool:
    return head.startswith((b"\xff\x0a", b"\x00\x00\x00\x0cJXL \x0d\x0a\x87\x0a"))


PLUGINS: Final = (
    Plugin("HEIC", "pillow-heif", "pillow_heif", lambda module: module.register_heif_opener(), _is_heif),
    # It registers itself.
    Plugin("JPEG XL", "pillow-jxl-plugin", "pillow_jxl", lambda _: None, _is_jpeg_xl),
)


def plugin_for(head: bytes) -> Plugin | None:
    """The plug-in that reads a file, by its first bytes; None: no known one."""
    return next((plugin for plugin in PLUGINS if plugin.claims(head)), None)
