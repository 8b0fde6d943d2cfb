"""The codec: an image to an `.oslic` stream and back."""

from .codec import Codec, DriftWarning
from .decoding import Decoded
from .encoding import Encoded, Layers
from .settings import DEFAULT_QUALITY, Settings
from .stream import decode_labels

__all__ = [
    "DEFAULT_QUALITY",
    "Codec",
    "Decoded",
    "DriftWarning",
    "Encoded",
    "Layers",
    "Settings",
    "decode_labels",
]
