"""Bundles cast to float16: `oslic cast`, what it keeps, what it checks, what it refuses."""

from __future__ import annotations

import dataclasses
import hashlib

import numpy as np
import onnx
import pytest
import small_bundle
from onnx import numpy_helper
from oslic.cli.main import main
from oslic.export.half_bundle import half_graphs, write_half
from oslic.export.half_weights import graphs_with_half_weights, with_half_weights
from oslic.export.verify import run
from oslic.runtime.backends import Options, select
from oslic.runtime.bundle.folder import Bundle, default_bundle, write_bundle
from oslic.runtime.bundle.manifest import LAYER_GRAPHS
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
    quantized = Bundle(cast.path, manifest)
    with pytest.raises(UsageError, match="segment is int8"):
        half_graphs(quantized, "fp16")
    with pytest.raises(UsageError, match="exists"):
        write_half(float_lite, "fp16", cast.path)


# -- weights alone ---------------------------------------------------------------------------------------------------


def test_weights_stored_as_float16_halve_a_bundle_and_change_next_to_nothing(
    float_lite, tmp_path, photo, capsys
):
    folder = tmp_path / "small"
    assert main(["cast", str(float_lite.path), "--weights-only", "-o", str(folder)]) == 0
    # Of the label map, pixels that stood between two classes.
    lines = [line for line in capsys.readouterr().out.splitlines() if " labels " in line]
    assert len(lines) == 2
    assert all(float(line.split("% beyond")[0].split()[-1]) < 1.0 for line in lines)
    small = Bundle.open(folder)
    assert small.manifest.fingerprint == float_lite.manifest.fingerprint
    assert {graph.precision for graph in small.manifest.graphs.values()} == {"float32"}
    sizes = [sum(b.graph_path(n).stat().st_size for n in LAYER_GRAPHS) for b in (small, float_lite)]
    assert sizes[0] < 0.55 * sizes[1]
    image = photo[:96, :128]
    with Codec.open(float_lite) as one, Codec.open(small) as other:
        data = other.compress(image, quality=60)
        found, wanted = other.decompress(data).astype(int), one.decompress(data).astype(int)
    assert np.abs(found - wanted).max() <= 2
    assert np.abs(found - wanted).mean() < 0.02


def test_graphs_of_integers_stay_as_they_are():
    shipped = Bundle.open(default_bundle())
    kept = {name for name, info in shipped.manifest.graphs.items() if info.precision == "int8"}
    assert kept >= {"synthesise", "refine"}
    # Its other graphs have such weights already, which says so.
    with pytest.raises(UsageError, match="no float32 weights of 256 elements"):
        graphs_with_half_weights(shipped)


def test_a_graph_with_half_weights_is_its_float_twin_with_rounded_weights(tmp_path):
    bundle = small_bundle.write(tmp_path / "small")
    data = bundle.read_graph("synthesise")
    half = with_half_weights(data)
    assert len(half) < 0.62 * len(data)
    twin = onnx.load_model_from_string(data)
    for tensor in twin.graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if weight.dtype == np.float32 and weight.size >= 256:
            tensor.CopyFrom(
                numpy_helper.from_array(weight.astype(np.float16).astype(np.float32), tensor.name)
            )
    sizes = {"labels": (1, 8, 8), "compact": (1, 8, 8, 3)}
    ports = {i.name: i for i in twin.graph.input}
    rng = np.random.default_rng(5)
    scale = bundle.manifest.label_scale
    feeds = {
        "labels": rng.integers(0, 3, (1, 64 // scale, 64 // scale)).astype(np.uint8),
        "compact": rng.integers(0, 8, sizes["compact"]).astype(np.uint8),
    }
    feeds = {name: value for name, value in feeds.items() if name in ports}
    found, wanted = run(half, feeds), run(twin.SerializeToString(), feeds)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_weights_beyond_float16_or_too_few_are_refused():
    def graph(value, count):
        weight = numpy_helper.from_array(np.full((1, count, 1, 1), value, np.float32), "w")
        node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
        x, y = (
            onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, c, 4, 4])
            for n, c in (("x", count), ("y", 1))
        )
        return onnx.helper.make_model(
            onnx.helper.make_graph([node], "g", [x], [y], [weight])
        ).SerializeToString()

    with pytest.raises(UsageError, match="the weight w of the graph g is beyond the range of float16"):
        with_half_weights(graph(7e4, 300))
    with pytest.raises(UsageError, match="no float32 weights of 256 elements"):
        with_half_weights(graph(1.0, 200))
