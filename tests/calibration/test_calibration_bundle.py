"""Calibration of whole bundles: the command, the bundle that it writes, what it refuses, the bench beside it."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from functools import partial

import numpy as np
import onnx
import pytest
import small_bundle
from conftest import SAMPLES
from host_product import HostDriver, install, product
from onnx import TensorProto, helper
from oslic.bench.experiments.drift import run as drift
from oslic.bench.experiments.int8 import FORMAT, evaluate, find_pictures, fingerprints, labels, latency, lines
from oslic.bench.gpu import worker as gpu_section
from oslic.bench.gpu.runner import QUICK, Plan, line, slower_in_int8
from oslic.bench.gpu.runner import sections as plan_sections
from oslic.bench.report.sections.registry import sections
from oslic.calibration.calibrate import calibrate_bundle
from oslic.calibration.options import Options
from oslic.cli.commands.inspect import describe
from oslic.cli.main import main
from oslic.measure.timing import Settings
from oslic.runtime.bundle.folder import Bundle
from oslic.runtime.bundle.manifest import LAYER_GRAPHS
from oslic.runtime.bundle.uint8_form import weight_limit
from oslic.runtime.codec import Codec
from oslic.runtime.errors import BackendError, BundleError, DataError
from oslic.runtime.model.source import bundle_shapes
from PIL import Image


@pytest.fixture(scope="module")
def float_bundle(tmp_path_factory):
    return small_bundle.write(tmp_path_factory.mktemp("float") / "small")


def calibrate(bundle, folder, *more):
    """A bundle in int8, by the command, and its report."""
    words = [
        "--images",
        SAMPLES,
        "-o",
        folder / "small8",
        "--threads",
        1,
        "--cache",
        folder / "cache",
        "--budget-db",
        1,
    ]
    command = ["calibrate", bundle.path, *words, "--budget-labels", 1, "--ignore-time", *more]
    assert main([str(word) for word in command]) == 0
    return Bundle.open(folder / "small8"), json.loads((folder / "small8" / "calibration.json").read_text())


@pytest.fixture(scope="module")
def calibrated(float_bundle, tmp_path_factory):
    """The small bundle in int8 for CPUs."""
    return calibrate(float_bundle, tmp_path_factory.mktemp("int8"))


@pytest.fixture(scope="module")
def for_tensorrt(float_bundle, tmp_path_factory):
    """The small bundle in int8 for TensorRT."""
    return calibrate(
        float_bundle, tmp_path_factory.mktemp("int8"), "--target", "tensorrt", "--ranges", "minmax"
    )


def test_the_bundle_is_a_bundle_like_any_other(calibrated, float_bundle, photo, capsys):
    bundle, _ = calibrated
    assert bundle.manifest.fingerprint != float_bundle.manifest.fingerprint
    assert bundle.manifest.quantization["float_fingerprint"] == float_bundle.manifest.fingerprint
    assert {bundle.manifest.graphs[name].precision for name in LAYER_GRAPHS} == {"int8"}
    assert [weight_limit(bundle.manifest, name) for name in LAYER_GRAPHS] == [63] * 3
    assert all(graph["intact"] for graph in describe(bundle)["graphs"].values())
    assert main(["inspect", str(bundle.path)]) == 0
    assert "int8" in capsys.readouterr().out
    with Codec.open(bundle, threads=1) as codec:
        data = codec.compress(photo, 40)
        assert codec.decode(data).digest_matches
    with Codec.open(float_bundle, threads=1) as codec, pytest.raises(BundleError):
        codec.decompress(data)


def test_the_drift_report_takes_it(calibrated, float_bundle, samples):
    bundle, _ = calibrated
    result = drift(float_bundle, {"int8": bundle.path}, [samples / "chelsea.png"], quality=40, threads=1)
    row = next(row for row in result["rows"] if row["candidate"].startswith("int8"))
    assert row["psnr_between_db"] > 35
    assert row["decoder_says"] == "another checkpoint: refused"


def test_the_report_says_what_was_done(calibrated):
    bundle, report = calibrated
    assert set(report["graphs"]) == set(LAYER_GRAPHS)
    for graph in report["graphs"].values():
        done = graph["int8_convolutions"]
        assert done["meant"] == done["run"] > 0
        assert {layer["decision"] for layer in graph["layers"]} <= {"int8", "float32"}
        assert sorted(layer["rank"] for layer in graph["layers"]) == list(range(1, len(graph["layers"]) + 1))
        assert all(value["sqnr_db"] is None or value["sqnr_db"] > 15 for value in graph["values"])
        assert {value["scale"] > 0 for value in graph["values"]} == {True}
        assert {variant["ranges"] for variant in graph["variants"]} == {
            "minmax",
            "percentile",
            "entropy",
            "mse",
        }
        assert graph["latency"]["speedup"] > 0
    together = report["together"]
    assert together["estimate_db"]["before"] - together["estimate_db"]["after"] < 1
    page = (bundle.path / "calibration.html").read_text()
    assert page.count("<svg") >= 9
    assert not re.search(r"(src|href)\s*=\s*['\"]?http", page)
    for name in ("segment", "analyse", "synthesise", report["graphs"]["synthesise"]["layers"][0]["name"]):
        assert name in page


def test_a_bundle_is_not_calibrated_onto_itself_or_a_file(float_bundle, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in float_bundle.path.iterdir()}
    words = ["calibrate", str(float_bundle.path), "--images", str(SAMPLES), "--force", "-o"]
    assert main([*words, str(float_bundle.path)]) != 0
    assert "is the bundle to calibrate" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in float_bundle.path.iterdir()} == before
    (tmp_path / "file").write_text("kept")
    assert main([*words, str(tmp_path / "file")]) != 0
    assert "is not a folder" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "kept"


def test_ranges_of_a_second_run_come_from_the_cache(calibrated, float_bundle, tmp_path):
    bundle, first = calibrated
    cache = bundle.path.parent / "cache"
    arguments = [
        "--images",
        str(SAMPLES),
        "-o",
        str(tmp_path / "again"),
        "--threads",
        "1",
        "--cache",
        str(cache),
    ]
    options = ["--graphs", "analyse", "--ranges", "mse", "--weight-bits", "8", "--ignore-time"]
    assert main(["calibrate", str(float_bundle.path), *arguments, *options, "--budget-db", "1"]) == 0
    again = Bundle.open(tmp_path / "again")
    report = json.loads((tmp_path / "again" / "calibration.json").read_text())
    assert report["graphs"]["analyse"]["statistics_from_cache"]
    assert not first["graphs"]["analyse"]["statistics_from_cache"]
    assert report["graphs"]["analyse"]["recipe"]["ranges"] == "mse"
    assert weight_limit(again.manifest, "analyse") == 127
    # The other graphs are the float bundle's own.
    assert weight_limit(again.manifest, "segment") is None
    assert again.read_graph("segment") == float_bundle.read_graph("segment")
    assert again.manifest.fingerprint not in {bundle.manifest.fingerprint, float_bundle.manifest.fingerprint}


def options(images=SAMPLES, **more):
    return Options(images=images, threads=1, ranges="minmax", time_decides=False, **more)


def test_a_budget_of_nothing_leaves_layers_in_float(float_bundle, tmp_path):
    with pytest.raises(DataError, match="no layer is left in int8 within the budget"):
        calibrate_bundle(
            float_bundle, tmp_path / "out", options(graphs=("segment",), budget_labels=0.0), replace_old=False,
            progress=lambda _: None,
        )  # fmt: skip
    assert list(tmp_path.iterdir()) == []


def refused(capsys, *arguments):
    code = main(["calibrate", *map(str, arguments)])
    return code, capsys.readouterr().err


def test_what_cannot_be_calibrated_is_said_and_nothing_is_written(calibrated, float_bundle, tmp_path, capsys):
    out = tmp_path / "out"
    images = tmp_path / "images"
    images.mkdir()

    def attempt(bundle=float_bundle.path, folder=images, *more):
        return refused(capsys, bundle, "--images", folder, "-o", out, "--cache", tmp_path / "cache", *more)

    code, message = attempt()
    assert code == 10
    assert "holds no images" in message
    code, message = attempt(float_bundle.path, SAMPLES, "--kodak", tmp_path / "nowhere")
    assert code == 10
    assert "nowhere" in message
    code, message = attempt(float_bundle.path, tmp_path / "nowhere")
    assert code == 10
    assert "does not exist" in message
    (images / "a.png").write_bytes(b"no image")
    assert attempt()[0] == 3
    Image.fromarray(np.zeros((64, 64), np.uint8)).save(images / "a.png")
    code, message = attempt()
    assert code == 10
    assert "a.png is gray" in message
    Image.fromarray(np.zeros((64, 20, 3), np.uint8)).save(images / "a.png")
    code, message = attempt()
    assert code == 10
    assert "must be at least 32" in message
    code, message = attempt(calibrated[0].path, SAMPLES)
    assert code == 5
    assert "already quantized" in message
    for more in (["--graphs", "nothing"], ["--count", "0"], ["--budget-db", "-1"], ["--budget-labels", "2"]):
        code, message = attempt(float_bundle.path, SAMPLES, *more)
        assert code == 2
        assert more[0] in message
    out.mkdir()
    (out / "mine.txt").write_text("x")
    code, message = attempt(float_bundle.path, SAMPLES, "--force")
    assert code == 2
    assert "is not a bundle; it is not replaced" in message
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out"]


def test_a_graph_without_convolutions_is_passed_on(tmp_path):
    w = small_bundle.Writer(0)
    pooled = w.op("AveragePool", w.pixels("image", 1 / 255), kernel_shape=[8, 8], strides=[8, 8])
    w.to_pixels(pooled, 31, "compact")
    model = w.model(
        {"image": small_bundle.IMAGE, "labels": small_bundle.LABELS}, "compact", small_bundle.COMPACT
    )
    bundle = small_bundle.write(tmp_path / "plain", {"analyse": model})
    told = []
    with pytest.raises(DataError, match="no layer is left in int8"):
        calibrate_bundle(
            bundle, tmp_path / "out", options(graphs=("analyse",)), replace_old=False, progress=told.append
        )
    assert "analyse.onnx has no two-dimensional convolution" in told[-1]
    assert "it is passed on as it came" in told[-1]
    assert not (tmp_path / "out").exists()


def test_a_graph_that_overflows_is_refused(tmp_path):
    model = small_bundle.synthesise()
    for tensor in model.graph.initializer:
        if list(tensor.dims) == [8, 3, 3, 3]:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.full((8, 3, 3, 3), 3e38, np.float32), tensor.name)
            )
    bundle = small_bundle.write(tmp_path / "large", {"synthesise": model})
    with pytest.raises(DataError, match=r"synthesise\.onnx: the value .* not finite"):
        calibrate_bundle(
            bundle,
            tmp_path / "out",
            options(graphs=("synthesise",)),
            replace_old=False,
            progress=lambda _: None,
        )
    assert not (tmp_path / "out").exists()


def test_a_bundle_that_lies_about_its_precision_is_refused(float_bundle, tmp_path):
    folder = tmp_path / "liar"
    shutil.copytree(float_bundle.path, folder)
    text = (folder / "manifest.json").read_text().replace('"precision": "float32"', '"precision": "int8"')
    (folder / "manifest.json").write_text(text)
    with (
        Codec.open(folder) as codec,
        pytest.raises((BackendError, BundleError), match="calibrate the bundle again"),
    ):
        codec.graphs.load("segment")


def test_a_graph_with_integer_kernels_is_refused(tmp_path):
    model = small_bundle.analyse()
    node = helper.make_node("DynamicQuantizeLinear", ["v2"], ["dq", "ds", "dz"], name="quantized")
    model.graph.node.append(node)
    bundle = small_bundle.write(tmp_path / "mixed", {"analyse": model})
    with pytest.raises(BundleError, match="already quantized"):
        calibrate_bundle(
            bundle, tmp_path / "out", options(graphs=("analyse",)), replace_old=False, progress=lambda _: None
        )
    assert model.graph.initializer[0].data_type == TensorProto.FLOAT


# -- bench int8 -----------------------------------------------------------------------------------------------------


def test_the_bench_measures_both_bundles_in_one_run(calibrated, float_bundle, samples):
    rule = Settings(warmup=1, min_samples=2, min_seconds=0.0, max_error=10, timeout=20)
    bundle, _ = calibrated
    result = latency(
        float_bundle.path, bundle.path, samples / "coffee.png", size=(128, 96), threads=1, rule=rule
    )
    assert set(result["speedup"]) == {"segment", "analyse", "synthesise", "compress", "decompress"}
    assert all(value > 0 for value in result["speedup"].values())
    assert result["stage_speedup"]["decompress"]["synthesise"] > 0
    assert {len(t["wall"]["total"]["samples_ms"]) for t in result["timings"].values()} == {
        len(result["timings"]["reference"]["wall"]["total"]["samples_ms"])
    }
    assert fingerprints(float_bundle.path, bundle.path)["int8"] == bundle.manifest.fingerprint
    with pytest.raises(DataError, match="it is not quantized"):
        fingerprints(bundle.path, float_bundle.path)
    body = {"format": FORMAT, "environment": {"vnni": False}, "latency": result}
    body["miou"] = {"before": 0.5, "after": 0.49}
    (section,) = sections([body])
    assert "synthesise" in section.tables[0].markdown()
    assert "-0.0100" in section.tables[1].markdown()
    said = "\n".join(lines({"latency": result, "environment": {"vnni": False}}))
    assert "no VNNI" in said


def test_labels_are_scored_against_those_on_disk(calibrated, float_bundle, samples, tmp_path):
    frame = Image.open(samples / "coffee.png").convert("RGB").crop((0, 0, 130, 70))
    for name in ("test", "testannot"):
        (tmp_path / name).mkdir()
    frame.save(tmp_path / "test" / "f.png")
    with Codec.open(float_bundle, threads=1) as codec:
        truth = codec.graphs.segment(np.array(frame)).repeat(4, 0).repeat(4, 1)[:70, :130]
    Image.fromarray(truth).save(tmp_path / "testannot" / "f.png")
    frames = find_pictures(None, tmp_path).frames
    found = labels(float_bundle.path, calibrated[0].path, frames, threads=1)
    assert found["before"] == 1
    assert 0 < found["after"] <= 1
    assert 0.5 < found["labels_equal"] <= 1
    (tmp_path / "testannot" / "f.png").unlink()
    with pytest.raises(DataError, match="has no label map"):
        find_pictures(None, tmp_path)
    with pytest.raises(DataError, match="nowhere"):
        find_pictures(tmp_path / "nowhere", None)


@pytest.mark.slow
def test_rates_are_measured_before_and_after(calibrated, float_bundle, samples, tmp_path):
    Image.open(samples / "chelsea.png").crop((0, 0, 192, 128)).save(tmp_path / "c.png")
    found = evaluate(float_bundle.path, calibrated[0].path, find_pictures(tmp_path, None), threads=1)["rd"]
    assert abs(found["bd_rate_percent"]) < 10
    assert found["images"] == ["c.png"]
    assert len(found["points"]) == 22


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
@pytest.mark.parametrize("precision", ["int8", "int8-fp16"])
def test_tensorrt_rtx_builds_the_graphs_without_warnings(for_tensorrt, precision):
    from oslic.export.engines import DEFAULT_PROFILE, build_plan, load_product, prepare
    from oslic.export.engines import Options as BuildOptions

    bundle, _ = for_tensorrt
    trt = load_product("tensorrt-rtx")
    for name in LAYER_GRAPHS:
        info = bundle.manifest
        shapes = DEFAULT_PROFILE.shapes(
            info.graphs[name].inputs, info.multiple, partial(bundle_shapes, info.label_scale)
        )
        assert build_plan(trt, prepare(bundle.read_graph(name), precision), [shapes], BuildOptions())


def int8_section(bundles, graph, folder):
    before, after = (str(bundle.path) for bundle in bundles)
    plan = Plan(**QUICK, graphs=(graph,), int8=(before, after))
    section = next(s for s in plan_sections(plan) if s.name == f"int8 {graph} 96x64 tensorrt")
    return {**section.spec, "work": str(folder), "limit": 60}


@pytest.mark.parametrize("graph", LAYER_GRAPHS)
def test_int8_is_held_against_fp16_on_an_engine(for_tensorrt, float_bundle, graph, tmp_path, monkeypatch):
    """On a stand-in for TensorRT: see `host_product`."""
    driver = HostDriver()
    install(monkeypatch, driver, product(driver))
    results = []
    gpu_section.int8(int8_section((float_bundle, for_tensorrt[0]), graph, tmp_path), results.append)
    found = results[-1]
    assert not found["left_out"]
    forms = {f"{p}{graphs}" for p in ("fp16", "int8-fp16", "int8") for graphs in ("", " + graphs")}
    assert set(found["timings"]) == forms
    assert set(found["speedup"]) == {"fp16/int8", "fp16/int8 + graphs"}
    rows = found["layers"]["by_convolution"]
    names = [name for row in rows for name in row["convolutions"]]
    float_graph = onnx.load_model_from_string(float_bundle.read_graph(graph)).graph
    convolutions = {n.name for n in float_graph.node if n.op_type in {"Conv", "ConvTranspose"}}
    assert len(names) == len(set(names))
    assert convolutions <= set(names)
    # The stand-in's layers take 1/8, 2/8, ... ms, the last one a conversion.
    int8_graph = onnx.load_model_from_string(for_tensorrt[0].read_graph(graph)).graph
    for when, here in (("before_ms", float_graph), ("after_ms", int8_graph)):
        count = 1 + sum(n.op_type in {"Conv", "ConvTranspose"} for n in here.node)
        assert sum(row[when] for row in rows) == pytest.approx(count * (count + 1) / 16)
    slower = slower_in_int8(found["layers"])
    assert len(slower) == min(5, sum(row["after_ms"] > row["before_ms"] for row in rows))
    part = {"status": "done", "seconds": 1.0, "result": json.loads(json.dumps(found))}
    assert all(text in line("int8", part) for text in slower)
    result = {"format": "oslic-bench-gpu", "gpu": "a stand-in", "environment": {}, "sections": {"int8": part}}
    tables = {table.title: table for table in sections([result])[0].tables}
    assert len(tables["INT8 against FP16"].rows) == 2
    assert ("What holds INT8 back" in tables) == bool(slower)


def test_times_stand_where_a_product_tells_nothing_of_its_layers(
    for_tensorrt, float_bundle, tmp_path, monkeypatch
):
    driver = HostDriver()
    module = product(driver)
    del module.IProfiler
    install(monkeypatch, driver, module)
    results = []
    spec = int8_section((float_bundle, for_tensorrt[0]), "segment", tmp_path)
    gpu_section.int8(spec, results.append)
    assert len(results[-1]["timings"]) == 6
    assert "layers" not in results[-1]
    assert "IProfiler" in results[-1]["left_out"]["layers"]


def test_int8_sections_need_a_gpu_and_bundles_that_belong_together(
    calibrated, float_bundle, tmp_path, capsys
):
    output = tmp_path / "g.json"
    words = ["bench", "gpu", "-o", str(output), "--device", "cpu", "--quick", "--only", "int8 "]
    pair = [str(float_bundle.path), str(calibrated[0].path)]
    assert main([*words, "--int8", *pair]) == 0
    assert json.loads(output.read_text())["sections"]["int8 synthesise 96x64 tensorrt"] == {
        "status": "skipped",
        "reason": "tensorrt runs on GPUs only",
    }
    capsys.readouterr()
    assert main([*words, "--int8", *pair[::-1]]) == DataError.exit_code
    assert "was not calibrated from" in capsys.readouterr().err
