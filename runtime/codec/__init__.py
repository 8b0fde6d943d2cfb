"""The codec: an image to an `.oslic` stream and back."""

from .codec import DEFAULT_QUALITY, Codec, DriftWarning
from .decoding import Decoded
from .encoding import Encoded, Layers, check_settings
from .stream import decode_labels

__all__ = [
    "DEFAULT_QUALITY",
    "Codec",
    "Decoded",
    "DriftWarning",
    "Encoded",
    "Layers",
    "check_settings",
    "decode_labels",
]
