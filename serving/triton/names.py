"""Names that a model repository and the models in it agree on."""

from __future__ import annotations

from typing import Final

DEFAULT_PREFIX: Final = "oslic"
"""Models are called `oslic_encode`, `oslic_synthesise`, ...; of another bundle on the same server in another way."""
ENCODE: Final = "encode"
DECODE: Final = "decode"
VERSION: Final = "1"
"""Folder of the only version of each model."""

IMAGE: Final = "IMAGE"
STREAM: Final = "STREAM"
INFO: Final = "INFO"

# Parameters in a model's configuration.
PREFIX: Final = "oslic_prefix"
GRAPH: Final = "oslic_graph"
BACKEND: Final = "oslic_backend"
THREADS: Final = "oslic_threads"
TILE: Final = "oslic_tile"
MAX_PIXELS: Final = "oslic_max_pixels"
MAX_MEMORY: Final = "oslic_max_memory"
MARK: Final = PREFIX
"""The parameter that every model of ours has: by it a folder is known that may be replaced."""


def model_name(prefix: str, part: str) -> str:
    """The name of a model: of a graph, or of one of the two that clients call."""
    return f"{prefix}_{part}"
