"""The codec: an image to an `.oslic` stream and back."""

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
