"""The lean runtime: compress and decompress images with a bundle, without torch.

    >>> from oslic.runtime import Codec
    >>> codec = Codec.open()                      # the shipped bundle, the best backend present
    >>> data = codec.compress("photo.jpg", quality=60)  # a path, a Pillow image, or uint8 (H, W, 3) in RGB -> bytes
    >>> image = codec.decompress(data)            # or a path; uint8 (H, W, 3), RGB
    >>> read_labels(data).shares()                # what the picture shows, without decoding it
    >>> for data in compress_many(codec, paths, quality=60): ...  # several at a time, in their order

Names are loaded when they are first used, so that `import oslic.runtime` costs next to nothing and
`oslic.runtime.flif` needs nothing but numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .bundle import Bundle, default_bundle
    from .codec import Codec, LabelMap, read_labels
    from .errors import OslicError
    from .kinds.opening import open_codec
    from .metadata import Metadata
    from .pipeline import compress_many, decompress_many

__all__ = [
    "Bundle",
    "Codec",
    "LabelMap",
    "Metadata",
    "OslicError",
    "compress_many",
    "decompress_many",
    "default_bundle",
    "open_codec",
    "read_labels",
]

_HOMES = {
    "Bundle": "bundle",
    "Codec": "codec",
    "LabelMap": "codec",
    "Metadata": "metadata",
    "OslicError": "errors",
    "compress_many": "pipeline",
    "decompress_many": "pipeline",
    "default_bundle": "bundle",
    "open_codec": "kinds.opening",
    "read_labels": "codec",
}


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
