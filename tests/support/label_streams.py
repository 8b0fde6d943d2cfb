"""Streams whose label map is given, and the bundle that names its classes; all else in them is made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import small_bundle
from oslic.runtime.bundle.folder import Bundle
from oslic.runtime.codec.container import Header, Payload, SectionType
from oslic.runtime.codec.lossless import encode_plane
from oslic.runtime.codec.parameters import Parameters, ResidualMode, TileRecord
from oslic.runtime.codec.stream import identity_of
from oslic.runtime.image.arrays import Layout
from oslic.runtime.tiling import single
from stream_tools import put_together

NAMES = ("sky", "skin", "clothes", "thing")
COLORS = ((10, 20, 30), (40, 50, 60), (70, 80, 90), (250, 240, 230))
GROUPS = {"person": ["skin", "clothes"]}


def named_bundle(
    folder: Path, names: tuple[str, ...] = NAMES, fingerprint: str = "cd" * 32, groups: Any = None
) -> Bundle:
    """A bundle with these classes; its networks are those of `small_bundle`."""
    path = small_bundle.write(folder).path / "manifest.json"
    body = json.loads(path.read_text(encoding="utf-8"))
    body["classes"] = [{"name": name, "color": color} for name, color in zip(names, COLORS, strict=True)]
    body["groups"] = GROUPS if groups is None else groups
    body["fingerprint"] = fingerprint
    path.write_text(json.dumps(body), encoding="utf-8")
    return Bundle.open(folder)


def label_stream(bundle: Bundle, labels: np.ndarray, scale: int, width: int, height: int) -> bytes:
    """A stream of a picture of this size with this label map; its picture cannot be decoded."""
    record = TileRecord(ResidualMode.AV1, 1, 5, b"esti", b"resi").to_bytes()
    header = Header(
        Layout.RGB, "oslic", identity_of(bundle), single(width, height), Parameters(60, scale).to_bytes()
    )
    parts = {
        SectionType.LABELS: [Payload(encode_plane(np.ascontiguousarray(labels)))],
        SectionType.COMPACT: [Payload(b"compact" * 9)],
        SectionType.RESIDUAL: [Payload(b"residual" * 99, record)],
    }
    return put_together(header, parts)
