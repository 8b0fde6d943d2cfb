"""Half-precision forms of whole bundles, for backends that run graphs as they are."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Final

import onnx_ir as ir

from ..runtime.backends.sessions import PRECISION_NAMES
from ..runtime.bundle import Bundle, write_bundle
from .graphs import serialise
from .precision import Half, to_half

_STATED: Final = {short: stated for stated, short in PRECISION_NAMES.items()}


def write_half(bundle: Bundle, kind: Half, folder: Path) -> Bundle:
    """Write a bundle whose graphs are cast to half precision, see `precision.to_half`.

    The fingerprint stays: both forms compute the same in real arithmetic, and read each other's streams.

    Args:
        bundle: in float32.
        kind: `fp16` or `bf16`.
        folder: where to; must not exist.

    Returns:
        The bundle written.

    Raises:
        UsageError: the folder exists, or a graph cannot be cast.
    """
    graphs = {name: half_graph(bundle.read_graph(name), kind) for name in bundle.manifest.graphs}
    infos = {
        name: dataclasses.replace(
            bundle.manifest.graphs[name], sha256=hashlib.sha256(data).hexdigest(), precision=_STATED[kind]
        )
        for name, data in graphs.items()
    }
    files = {infos[name].file: data for name, data in graphs.items()}
    write_bundle(folder, dataclasses.replace(bundle.manifest, graphs=infos), files, replace=False)
    return Bundle.open(folder)


def half_graph(data: bytes, kind: Half) -> bytes:
    """A serialised float32 graph, cast to half precision and serialised again."""
    import onnx

    model = to_half(ir.from_proto(onnx.load_model_from_string(data)), kind)
    return serialise(model)
