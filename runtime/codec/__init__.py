"""The codec: an image to an `.oslic` stream and back.

Names are loaded when they are first used: a thumbnail needs the reader of streams and no networks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .codec import Codec, DriftWarning
    from .decoding import Decoded
    from .encoding import Encoded, Layers
    from .label_map import ClassStatistics, LabelMap, Region, read_labels
    from .settings import DEFAULT_QUALITY, Settings

__all__ = [
    "DEFAULT_QUALITY",
    "ClassStatistics",
    "Codec",
    "Decoded",
    "DriftWarning",
    "Encoded",
    "LabelMap",
    "Layers",
    "Region",
    "Settings",
    "read_labels",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "DEFAULT_QUALITY": "settings",
        "ClassStatistics": "label_map",
        "Codec": "codec",
        "Decoded": "decoding",
        "DriftWarning": "codec",
        "Encoded": "encoding",
        "LabelMap": "label_map",
        "Layers": "encoding",
        "Region": "label_map",
        "Settings": "settings",
        "read_labels": "label_map",
    },
)
