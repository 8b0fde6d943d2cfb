"""The promise about bytes: committed streams decode to what they always did, and FLIF files come out as they did."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import stream_reader
from oslic.runtime.bundle.folder import Bundle, default_bundle
from oslic.runtime.codec import Codec
from oslic.runtime.codec.container import SectionType
from oslic.runtime.codec.effort import DEFAULT_EFFORT, EFFORTS
from oslic.runtime.codec.lossless import encode_plane
from oslic.runtime.codec.stream import is_of, open_stream
from oslic.runtime.flif import decode
from oslic.runtime.limits import Limits

HERE = Path(__file__).resolve().parents[2] / "vectors"
sys.path.insert(0, str(HERE))
import make  # noqa: E402

TABLE = json.loads((HERE / "vectors.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def codecs():
    """By whether it is the shipped bundle's."""
    with (
        Codec.open(Bundle.open(make.BUNDLE), "onnxruntime-cpu", threads=1) as own,
        Codec.open(Bundle.open(default_bundle()), "onnxruntime-cpu", threads=1) as shipped,
    ):
        yield {False: own, True: shipped}


def read(name):
    return (HERE / f"{name}.oslic").read_bytes()


def test_the_table_names_every_stream():
    assert set(TABLE) == {path.stem for path in HERE.glob("*.oslic")}
    assert set(TABLE) <= set(make.CASES)
    assert len(TABLE) >= 30
    if Bundle.open(default_bundle()).manifest.exact:
        assert set(TABLE) == set(make.CASES), "python tests/vectors/make.py --shipped"


@pytest.mark.parametrize("name", list(TABLE))
def test_what_a_stream_decodes_to(codecs, name):
    data, wanted = read(name), TABLE[name]
    codec = codecs[make.CASES[name].shipped]
    assert hashlib.sha256(data).hexdigest() == wanted["sha256"]
    assert is_of(open_stream(data, Limits()).header, codec.bundle), "python tests/vectors/make.py --shipped"
    decoded = codec.decode(data, with_estimate=True)
    assert decoded.parameters.exact
    assert not decoded.drifted
    assert make.sha256(decoded.labels) == wanted["labels"]
    assert make.sha256(decoded.compact) == wanted["compact"]
    assert make.sha256(decoded.estimate) == wanted["estimate"]
    # Another build of the AV1 decoder may convert colors in another way; its digest tells.
    if not decoded.residual_drifted:
        assert make.sha256(decoded.image) == wanted["image"]
    bound = decoded.parameters.max_error
    if bound is not None:
        original = make.picture(make.CASES[name])
        assert np.abs(decoded.image.astype(int) - original).max() <= bound
    assert stream_reader.read(data).walked == len(data)


@pytest.mark.parametrize("name", list(TABLE))
def test_flif_files_come_out_as_they_did(name):
    """The planes that a stream holds, coded again, are the bytes that it holds."""
    data = read(name)
    reader = open_stream(data, Limits())
    effort, kinds = EFFORTS[DEFAULT_EFFORT].lossless, [SectionType.LABELS, SectionType.COMPACT]
    if make.CASES[name].settings.max_error is not None:
        kinds.append(SectionType.RESIDUAL)
    if reader.header.layout.has_alpha:
        kinds.append(SectionType.ALPHA)
    for kind in kinds:
        for tile in range(len(reader.pieces(kind))):
            payload = bytes(reader.payload(kind, tile))
            assert encode_plane(decode(payload), effort) == payload, kind.name


def test_the_networks_of_the_vectors_stay_as_they_are():
    """Their bundle is committed with the streams, and certified."""
    manifest = Bundle.open(make.BUNDLE).manifest
    assert manifest.exact
    assert set(manifest.quantization["certificate"]) == {"synthesise", "refine"}
    for name in manifest.graphs:
        assert Bundle.open(make.BUNDLE).read_graph(name)
