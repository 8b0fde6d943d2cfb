"""Bundles cast to float16: `oslic cast`, what it keeps, what it checks, what it refuses."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import onnx
import pytest
import small_bundle
from onnx import numpy_helper
from oslic.export.halves import half_graphs, write_half
from oslic.runtime.backends import Options, select
from oslic.runtime.bundle import LAYER_GRAPHS, Bundle, write_bundle
from oslic.runtime.cli import main
from oslic.runtime.codec import Codec
from oslic.runtime.errors import UsageError, VerificationError


@pytest.fixture(scope="module")
def cast(float_lite, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cast") / "lite16"
    assert main(["cast", str(float_lite.path), "-o", str(folder)]) == 0
    return Bundle.open(folder)


def test_a_cast_bundle_is_half_as_large_and_reads_the_same_streams(float_lite, cast, photo):
    plain = float_lite
    assert cast.manifest.fingerprint == plain.manifest.fingerprint
    assert {cast.manifest.graphs[name].precision for name in LAYER_GRAPHS} == {"float16"}
    sizes = [sum(bundle.graph_path(name).stat().st_size for name in LAYER_GRAPHS) for bundle in (cast, plain)]
    assert sizes[0] < 0.55 * sizes[1]
    image = photo[:96, :128]
    with Codec.open(plain) as one, Codec.open(cast) as other:
        data = one.compress(image, quality=60)
        found, wanted = other.decompress(data), one.decompress(data)
    assert np.abs(found.astype(int) - wanted).max() <= 4
    assert np.abs(found.astype(int) - wanted).mean() < 0.05
    assert select("onnxruntime-cpu", cast, Options(precision="fp16")).backend.name == "onnxruntime-cpu"


def test_the_check_says_how_far_each_output_is_off(tmp_path, capsys):
    bundle = small_bundle.write(tmp_path / "small")
    assert main(["cast", str(bundle.path), "-o", str(tmp_path / "half")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines[:-1]] == ["labels", "compact", "estimate"] * 2
    assert all("% beyond tolerance" in line for line in lines[:-1])
    assert str(tmp_path / "half") in lines[-1]


def test_values_beyond_float16_are_found_before_anything_is_written(tmp_path, capsys):
    """Each weight has its range, but not what they compute."""
    bundle = small_bundle.write(tmp_path / "small")
    model = onnx.load_model_from_string(bundle.read_graph("synthesise"))
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    weight = next(t for t in model.graph.initializer if t.name == first.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(3e4), weight.name))
    data = model.SerializeToString()
    infos = dict(bundle.manifest.graphs)
    infos["synthesise"] = dataclasses.replace(infos["synthesise"], sha256=hashlib.sha256(data).hexdigest())
    files = {infos[name].file: bundle.read_graph(name) for name in LAYER_GRAPHS} | {
        infos["synthesise"].file: data
    }
    write_bundle(tmp_path / "large", dataclasses.replace(bundle.manifest, graphs=infos), files, replace=False)
    words = ["cast", str(tmp_path / "large"), "-o", str(tmp_path / "half")]
    assert main(words) == VerificationError.exit_code
    assert "the graph synthesise does not match its reference" in capsys.readouterr().err
    assert not (tmp_path / "half").exists()


def test_what_is_no_float32_bundle_is_refused(float_lite, cast, tmp_path, capsys):
    assert main(["cast", str(cast.path), "-o", str(tmp_path / "again")]) == UsageError.exit_code
    assert "segment is float16; only float32 graphs can be cast" in capsys.readouterr().err
    assert main(["cast", str(float_lite.path), "-o", str(cast.path)]) == UsageError.exit_code
    assert "--force replaces it" in capsys.readouterr().err
    same = ["cast", str(cast.path), "-o", str(cast.path), "--force"]
    assert main(same) == UsageError.exit_code
    assert "name another folder" in capsys.readouterr().err
    manifest = dataclasses.replace(
        cast.manifest,
        graphs={n: dataclasses.replace(g, precision="int8") for n, g in cast.manifest.graphs.items()},
    )
    quantised = Bundle(cast.path, manifest)
    with pytest.raises(UsageError, match="segment is int8"):
        half_graphs(quantised, "fp16")
    with pytest.raises(UsageError, match="exists"):
        write_half(float_lite, "fp16", cast.path)
