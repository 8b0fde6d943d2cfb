"""The bundles that come with the package: they open by name, decode exactly, and stay small."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import pytest
from oslic.runtime import Codec, read_labels
from oslic.runtime.bundle.finder import open_bundle, told_as
from oslic.runtime.bundle.folder import Bundle, default_bundle
from oslic.runtime.errors import BundleError
from PIL import Image

SHIPPED = sorted(path.name for path in default_bundle().parent.iterdir() if path.is_dir())


def test_these_are_shipped():
    assert SHIPPED == [
        "lite",
        "lite-preview",
        "lite-preview-large",
        "lite-preview-sharp",
        "lite-preview-small",
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_bundle_opens_by_name_and_shows_the_cat(name, samples):
    with Image.open(samples / "chelsea.png") as opened:
        image = np.asarray(opened.convert("RGB"))
    with Codec.open(name) as codec:
        assert codec.bundle.manifest.name == name
        assert codec.bundle.manifest.exact
        data = codec.compress(image, quality=0)
        decoded = codec.decompress(data)
    assert len(data) * 8 / image[..., 0].size < 0.2
    flat = np.square(image - image.mean((0, 1))).mean()
    assert np.square(image.astype(float) - decoded).mean() < 0.2 * flat
    shares = read_labels(data).shares()
    assert max(shares, key=lambda label: shares[label]) == "animal"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_bundle_takes_at_most_12_megabytes(name):
    folder = default_bundle().parent / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12e6


@pytest.mark.parametrize(
    "name", [name for name in SHIPPED if (default_bundle().parent / name / "search.onnx").exists()]
)
def test_searches_repeat_themselves(name, photo):
    """Sums by scattering depend on how ONNX Runtime's threads meet."""
    graph = onnx.load(default_bundle().parent / name / "search.onnx").graph
    assert not [node.name for node in graph.node if node.op_type.startswith("Scatter")]
    with Codec.open(name, threads=2) as codec:
        streams = {codec.compress(photo[:256, :256], 0, effort=5) for _ in range(3)}
    assert len(streams) == 1


def test_a_graph_that_a_bundle_shares_with_the_default_one_is_taken_from_there(tmp_path):
    """And one that it does not share is missing, whatever its file is called."""
    shared = shutil.copytree(default_bundle(), tmp_path / "copy")
    (shared / "segment.onnx").unlink()
    bundle = Bundle.open(shared)
    assert bundle.read_graph("segment") == (default_bundle() / "segment.onnx").read_bytes()
    described = json.loads((shared / "manifest.json").read_text())
    described["graphs"]["segment"]["sha256"] = "ab" * 32
    (shared / "manifest.json").write_text(json.dumps(described))
    with pytest.raises(BundleError, match="segment"):
        Bundle.open(shared).read_graph("segment")


def test_results_name_shipped_bundles_and_not_their_place(tmp_path):
    assert told_as(open_bundle("lite-preview").path) == "lite-preview"
    assert told_as(tmp_path / "lite") == str(tmp_path / "lite")
