"""Any ONNX graph or engine: what it takes and gives, the arrays for it, and running it on any backend."""

from .feeds import Feeds, check_feeds, random_feeds, sized
from .header import Header, Port
from .source import EngineFile, Model, Source, open_source, read_model

__all__ = [
    "EngineFile",
    "Feeds",
    "Header",
    "Model",
    "Port",
    "Source",
    "check_feeds",
    "open_source",
    "random_feeds",
    "read_model",
    "sized",
]
