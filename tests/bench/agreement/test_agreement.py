"""`oslic compare`: differences between sides, and the layer where they begin."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import importlib.util
import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from host_product import HostDriver, product
from onnx import numpy_helper
from oslic.bench.agreement import engine_tensors
from oslic.bench.agreement.bisect import Bisection, Tensor, bisect, element_types, tensors, with_outputs
from oslic.bench.agreement.outputs import _Tally, make_side, make_sides
from oslic.bench.report.sections.registry import read_result, sections
from oslic.cli.main import main
from oslic.export.engines import Options as BuildOptions
from oslic.export.engines import build_plan, load_product
from oslic.export.half_bundle import write_half
from oslic.export.verify import Tolerance
from oslic.runtime.backends import Options, select
from oslic.runtime.bundle.folder import write_bundle
from oslic.runtime.model import open_source
from PIL import Image

CPU = "onnxruntime-cpu"


@pytest.fixture(scope="module")
def bundle(float_lite):
    return float_lite


@pytest.fixture(scope="module")
def images(tmp_path_factory, photo):
    folder = tmp_path_factory.mktemp("images")
    Image.fromarray(photo[:90, :120]).save(folder / "a.png")
    return folder


@pytest.fixture(scope="module")
def disturb(bundle, tmp_path_factory):
    """Another form of the bundle in which one convolution of a graph has been changed; returns it and the node."""

    def make(graph, place, change):
        model = onnx.load_model_from_string(bundle.read_graph(graph))
        initializers = {value.name: value for value in model.graph.initializer}
        nodes = [n for n in model.graph.node if n.op_type == "Conv" and n.input[1] in initializers]
        node = nodes[place]
        weight = initializers[node.input[1]]
        changed = change(numpy_helper.to_array(weight).copy())
        weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
        files = {info.file: bundle.read_graph(name) for name, info in bundle.manifest.graphs.items()}
        data = model.SerializeToString()
        info = dataclasses.replace(bundle.manifest.graphs[graph], sha256=hashlib.sha256(data).hexdigest())
        files[info.file] = data
        manifest = dataclasses.replace(bundle.manifest, graphs={**bundle.manifest.graphs, graph: info})
        folder = tmp_path_factory.mktemp("other") / "bundle"
        write_bundle(folder, manifest, files, replace=False)
        return folder, node

    return make


def compare(bundle, images, *words, output=None):
    more = [] if output is None else ["-o", str(output)]
    return main(["compare", str(bundle.path), "--images", str(images), "--threads", "1", *words, *more])


def test_a_backend_agrees_with_itself_without_optimization(bundle, images, tmp_path, capsys):
    output = tmp_path / "c.json"
    assert compare(bundle, images, "--backends", f"{CPU},{CPU}@unoptimized", output=output) == 0
    result = json.loads(output.read_text())
    assert result["ok"]
    assert [row["output"] for row in result["outputs"]] == ["labels", "compact", "estimate", "refined"]
    assert all(row["differing"] < 2e-3 for row in result["outputs"])
    assert result["inputs"] == ["a.png"]
    text = capsys.readouterr().out
    assert text.count("% differ") == 5
    (section,) = sections([read_result(output)])
    assert [row[0] for row in section.tables[0].rows] == [
        "labels",
        "compact",
        "estimate",
        "refined",
        "end to end",
    ]
    assert {row[-1] for row in section.tables[0].rows} == {"within"}


def test_half_precision_is_compared_with_single(bundle, images, tmp_path):
    output = tmp_path / "c.json"
    words = ("--backends", f"{CPU},{CPU}@fp16", "--bisect", "--graph", "synthesise", "--layer-atol", "1e-6")
    assert compare(bundle, images, *words, "--layer-rtol", "1e-6", output=output) == 0
    result = json.loads(output.read_text())
    assert [side["precision"] for side in result["sides"]] == ["fp32", "fp16"]
    (finding,) = result["bisection"]["graphs"]
    # With so tight a tolerance the first tensor of the half-precision part is beyond it, by half a unit of float16.
    assert 1e-6 < finding["difference"]["maximum"] < 1e-2


@pytest.mark.parametrize("place", [0, 10, -1])
def test_bisection_names_the_layer_whose_weight_was_disturbed(
    bundle, images, disturb, tmp_path, capsys, place
):
    def change(weight):
        weight[0, 0] += 1.0
        return weight

    other, node = disturb("synthesise", place, change)
    output = tmp_path / "c.json"
    words = (
        "--backends",
        f"{CPU},{CPU}",
        "--other",
        str(other),
        "--bisect",
        "--graph",
        "synthesise",
        "--atol",
        "0",
    )
    assert compare(bundle, images, *words, "--crop", "64", output=output) in {0, 9}
    (finding,) = json.loads(output.read_text())["bisection"]["graphs"]
    assert finding["tensor"]["node"] == node.name
    assert finding["tensor"]["name"] == node.output[0]
    assert finding["runs"] <= 12
    assert node.name in capsys.readouterr().out


def test_engines_are_bisected_by_building_them_with_further_outputs(bundle, disturb, monkeypatch, photo):
    """On a stand-in for CUDA and TensorRT: see `host_product`."""

    def change(weight):
        return weight * 2

    folder, node = disturb("analyse", 10, change)
    driver = HostDriver()
    monkeypatch.setattr(engine_tensors, "load_product", lambda name: product(driver))
    monkeypatch.setattr(engine_tensors.engines, "build_plan", lambda trt, data, shapes, options: data)
    monkeypatch.setattr(engine_tensors.cuda, "open_driver", lambda: driver)
    one = make_side(CPU, open_source(bundle.path), 1)
    other = make_side("tensorrt@fp32", open_source(folder))
    # A part of the photograph where no value lies so near half a level that float16 rounds it to the other one.
    feeds = {"image": photo[None, 128:192, 192:288], "labels": np.zeros((1, 16, 24), np.uint8)}
    found = bisect(one, other, "analyse", feeds, Tolerance(1e-4, 1e-4))
    assert found.tensor.node == node.name
    gc.collect()
    assert not driver.device.live
    half = make_side("tensorrt@fp16", open_source(bundle.path))
    found = bisect(one, half, "analyse", feeds, Tolerance(3e-2, 3e-2))
    assert found.tensor is None  # float16 as it should be
    assert found.tensors > 50


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_product_builds_engines_with_further_outputs(bundle, precision):
    side = make_side(f"tensorrt-rtx@{precision}", open_source(bundle.path))
    model = onnx.load_model_from_string(side.graph("analyse"))
    graph = ir.from_proto(model).graph
    floats = [t.name for t in tensors(graph, graph) if t.operator in {"Conv", "Relu", "Concat"}][:6]
    shapes = {"image": ((1, 64, 96, 3),) * 3, "labels": ((1, 16, 24),) * 3}
    data = with_outputs(model, floats, element_types(model))
    assert build_plan(load_product("tensorrt-rtx"), data, [shapes], BuildOptions(optimization_level=0))


def test_nan_is_named_and_an_error_of_its_own(bundle, images, disturb, tmp_path, capsys):
    def change(weight):
        weight[0, 0] = np.nan
        return weight

    other, node = disturb("analyse", 3, change)
    output = tmp_path / "c.json"
    words = ("--backends", f"{CPU},{CPU}", "--other", str(other), "--bisect", "--graph", "analyse")
    assert compare(bundle, images, *words, output=output) == 9
    captured = capsys.readouterr()
    assert "BEYOND compact" in captured.out
    assert "NaN or infinite" in captured.out
    assert "beyond the tolerance: compact" in captured.err
    (finding,) = json.loads(output.read_text())["bisection"]["graphs"]
    assert (finding["tensor"]["node"], finding["difference"]["nans"] > 0) == (node.name, True)


def test_a_difference_beyond_the_tolerance_has_its_exit_code_and_a_hint(bundle, images, disturb, capsys):
    def change(weight):
        weight[:] *= 3
        return weight

    other, _ = disturb("analyse", -1, change)
    words = ("--backends", f"{CPU},{CPU}", "--other", str(other))
    code = compare(bundle, images, *words, "--atol", "compact:0")
    error = capsys.readouterr().err
    assert code == 9
    assert "beyond the tolerance: compact; --bisect names the layer where it begins" in error
    assert compare(bundle, images, *words, "--atol", "compact:255") == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--backends", CPU], 2, "takes two names"),
        (["--backends", f"{CPU},fpga"], 2, "unknown backend 'fpga'"),
        (["--backends", f"{CPU},{CPU}@fp8"], 2, "unknown variant 'fp8'"),
        (["--backends", f"{CPU},{CPU}@int8"], 2, "runs graphs as they are, in fp32"),
        (["--backends", f"{CPU},tensorrt@unoptimized"], 2, "optimized when they are built"),
        (["--backends", f"{CPU},onnxruntime-tensorrt"], 6, "onnxruntime-tensorrt cannot be used"),
        (["--backends", f"{CPU},{CPU}", "--atol", "x:1"], 2, "no output 'x'"),
        (["--backends", f"{CPU},{CPU}", "--rtol", "much"], 2, "'much' is not a number"),
        (["--backends", f"{CPU},{CPU}", "--rtol", "nan"], 2, "nan is not a finite number"),
        (["--backends", f"{CPU},{CPU}", "-o", "/no/such/folder/x.json"], 2, "does not exist"),
    ],
)
def test_what_cannot_be_compared_is_said(bundle, images, capsys, words, code, message):
    assert compare(bundle, images, *words) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_other_checkpoints_are_refused(bundle, images, tmp_path, capsys):
    files = {info.file: bundle.read_graph(name) for name, info in bundle.manifest.graphs.items()}
    write_bundle(
        tmp_path / "b", dataclasses.replace(bundle.manifest, fingerprint="0" * 64), files, replace=False
    )
    assert compare(bundle, images, "--backends", f"{CPU},{CPU}", "--other", str(tmp_path / "b")) == 2
    assert "different checkpoints" in capsys.readouterr().err


def test_a_bundle_quantized_from_the_other_is_the_same_checkpoint(bundle, tmp_path):
    files = {info.file: bundle.read_graph(name) for name, info in bundle.manifest.graphs.items()}
    manifest = dataclasses.replace(
        bundle.manifest,
        fingerprint="1" * 64,
        quantization={"float_fingerprint": bundle.manifest.fingerprint},
    )
    write_bundle(tmp_path / "b", manifest, files, replace=False)
    one, other = make_sides([CPU, CPU], open_source(bundle.path), open_source(tmp_path / "b"), 1)
    assert other.source.bundle.manifest.fingerprint != one.source.bundle.manifest.fingerprint


def test_half_bundles_keep_their_fingerprint_and_run(bundle, tmp_path):
    half = write_half(bundle, "fp16", tmp_path / "half")
    assert half.manifest.fingerprint == bundle.manifest.fingerprint
    assert {graph.precision for graph in half.manifest.graphs.values()} == {"float16"}
    y = select(CPU, half, Options(precision="fp16")).backend.load("segment")(
        np.zeros((1, 32, 32, 3), np.uint8)
    )
    assert y.shape == (1, 8, 8)
    sizes = [sum(len(b.read_graph(name)) for name in b.manifest.graphs) for b in (half, bundle)]
    assert sizes[0] < 0.6 * sizes[1]


def test_tallies_count_exactly():
    tally = _Tally("synthesise", "estimate", Tolerance(atol=1, rtol=0, share=0.3))
    reference = np.zeros((10, 10), np.uint8)
    y = reference.copy()
    y[0], y[1, :5] = 1, 3
    tally.add(y, reference)
    found = tally.result()
    assert (found.maximum, found.mean, found.differing, found.exceeding, found.ok) == (
        3,
        0.25,
        0.15,
        0.05,
        True,
    )
    assert found.percentiles == {"50": 0, "90": 1, "99": 3, "99.9": 3}
    assert found.psnr == pytest.approx(10 * np.log10(255**2 / 0.55))
    tally.add(np.zeros((1, 1), np.uint8), reference)
    assert not tally.result().ok  # another shape


# -- the search itself ------------------------------------------------------------------------------------------------


def chain(count, bad):
    """A chain of tensors t0 .. t(count-1), of which `bad` are off by one."""
    order = [Tensor(f"t{i}", f"n{i}", "Add", (f"t{i - 1}",) if i else ()) for i in range(count)]

    def values(names, off):
        return {name: np.array([float(off and int(name[1:]) in bad)]) for name in names}

    return order, lambda names: values(names, False), lambda names: values(names, True)


@pytest.mark.parametrize("width", [1, 3, 12])
@pytest.mark.parametrize("first", [0, 1, 57, 98, 99])
def test_the_first_of_a_chain_is_found(width, first):
    order, reference, other = chain(100, set(range(first, 100)))
    search = Bisection(order, reference, other, Tolerance(0.5, 0), width)
    found = search.search("g")
    assert found.tensor.name == f"t{first}"
    assert found.visible
    assert search.runs <= {1: 10, 3: 7, 12: 5}[width]


def test_a_difference_that_vanishes_at_the_end_is_still_found():
    order, reference, other = chain(100, set(range(40, 99)))
    found = Bisection(order, reference, other, Tolerance(0.5, 0)).search("g")
    assert (found.tensor.name, found.visible) == ("t40", False)


def test_a_difference_that_begins_and_vanishes_between_two_looks_is_found():
    order, reference, other = chain(200, {71})
    search = Bisection(order, reference, other, Tolerance(0.5, 0))
    assert search.search("g").tensor.name == "t71"
    assert search.runs < 10


def test_a_bad_source_on_another_branch_is_followed():
    order, reference, other = chain(30, {5, 20, 21, 29})
    order[20] = Tensor("t20", "n20", "Add", ("t19", "t5"))
    found = Bisection(order, reference, other, Tolerance(0.5, 0), 3).search("g")
    assert found.tensor.name == "t5"


def test_decisions_that_tip_here_and_there_are_not_where_runs_part():
    order = [
        Tensor("t0", "n0", "Conv", ()),
        Tensor("t1", "n1", "Round", ("t0",)),
        Tensor("t2", "n2", "Conv", ("t1",)),
    ]

    def values(tipped):
        y = np.zeros(100)
        y[:tipped] = 1.0
        return lambda names: {name: y if name == "t1" else np.zeros(100) for name in names}

    assert Bisection(order, values(0), values(4), Tolerance(0.5, 0)).search("g").tensor is None
    assert Bisection(order, values(0), values(9), Tolerance(0.5, 0)).search("g").tensor.name == "t1"


def test_a_finding_says_that_what_it_is_computed_from_tipped():
    order = [Tensor("t0", "n0", "Equal", ()), Tensor("t1", "n1", "Where", ("t0",))]
    off = {"t0": np.arange(100) < 2, "t1": 7.0 * (np.arange(100) < 2)}
    reference = {name: np.zeros_like(y) for name, y in off.items()}
    sides = [lambda names, side=side: {name: side[name] for name in names} for side in (reference, off)]
    found = Bisection(order, *sides, Tolerance(0.5, 0)).search("g")
    assert (found.tensor.name, found.tipped) == ("t1", {"t0": 0.02})
    assert "t0 tipped in 2.0000 % of its elements" in str(found)
    assert Bisection(order, *sides, Tolerance(0.5, 0, share=0.02)).search("g").tensor is None


def test_nothing_bad_names_nothing():
    order, reference, other = chain(20, set())
    found = Bisection(order, reference, other, Tolerance(0.5, 0)).search("g")
    assert found.tensor is None
    assert "all of 20 tensors" in str(found)


def test_tensors_are_data_in_order_with_their_sources(bundle):
    graph = ir.from_proto(onnx.load_model_from_string(bundle.read_graph("synthesise"))).graph
    found = tensors(graph, graph)
    names = [tensor.name for tensor in found]
    assert names[-1] == "estimate"
    assert "Shape" not in {tensor.operator for tensor in found}
    places = {name: i for i, name in enumerate(names)}
    assert all(places[source] < places[tensor.name] for tensor in found for source in tensor.inputs)
