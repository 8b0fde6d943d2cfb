"""`oslic run` and `oslic inspect` on any graph."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json

import numpy as np
import onnxruntime
import pytest
from foreign_networks import oslic
from host_product import DataType, Engine, HostDriver, product
from oslic.runtime.backends.cuda import bindings as cuda
from oslic.runtime.backends.cuda import driver as cuda_driver
from oslic.runtime.backends.cuda.driver import Gpu
from oslic.runtime.backends.tensorrt import backend as tensorrt
from oslic.runtime.backends.tensorrt.bindings import Log
from oslic.runtime.backends.tensorrt.runner import TensorRtRunner
from oslic.runtime.bundle import engine_trust
from oslic.runtime.bundle.engine_files import EngineInfo
from oslic.runtime.errors import BackendError
from oslic.runtime.model.running import load
from oslic.runtime.model.source import read_model


def by_onnxruntime(path, feeds):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def test_outputs_are_those_of_onnxruntime(here, capsys):
    assert oslic("run two_headed.onnx --range kind=0,9 --save-inputs in.npz -o out.npz --seed 3 --json") == 0
    told = json.loads(capsys.readouterr().out)
    with np.load("in.npz") as file:
        feeds = dict(file)
    wanted = by_onnxruntime("two_headed.onnx", feeds)
    with np.load("out.npz") as file:
        assert set(file) == set(wanted)
        for name, y in wanted.items():
            np.testing.assert_allclose(file[name], y, rtol=1e-5, atol=1e-6)
            assert told["outputs"][name]["mean"] == pytest.approx(float(y.mean()), abs=1e-6)
    assert told["backend"] == "onnxruntime-cpu"
    assert oslic("run two_headed.onnx --inputs in.npz -o again.npz") == 0
    with np.load("again.npz") as again, np.load("out.npz") as first:
        assert all(np.array_equal(again[name], first[name]) for name in first)


def test_a_graph_of_a_bundle_runs_like_any_other(capsys):
    assert oslic("run lite --graph segment --shapes image=1x64x96x3") == 0
    assert "labels uint8 1x16x24" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("run unet.onnx", 2, "such as --shapes input=1x3x256x256 (or arrays: --inputs FILE.npz)"),
        ("run unet.onnx --shapes x=1x3x8x8", 2, "no input 'x'; the graph takes input float32 Nx3xHxW"),
        ("run unet.onnx --inputs missing.npz", 2, "cannot read the arrays missing.npz"),
        ("run unet.onnx --inputs unet.onnx", 2, "holds no arrays by input name"),
        ("run unet.onnx --inputs unet.onnx --seed 1 --shapes input=1x3x8x8", 2, "has arrays of its own"),
        ("run missing.onnx", 2, "cannot read the graph missing.onnx"),
        ("run lite", 2, "holds the graphs segment, analyse, synthesise, refine"),
        ("run unet.onnx --shapes input=1x3x8x8 -o unet.onnx", 2, "would be written over the input"),
        ("run unet.onnx --shapes input=1x3x8x8 --backend fpga", 6, "unknown backend 'fpga'"),
        ("run unet.onnx --shapes input=1x3x8x8 --precision fp16", 6, "runs graphs as they are"),
        (
            "run unet.onnx --shapes input=1x3x9x9",
            2,
            "ONNX Runtime failed in the unet graph on inputs (1, 3, 9, 9)",
        ),
    ],
)
def test_bad_input_is_one_line_with_its_exit_code(here, capsys, command, code, message):
    assert oslic(command) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_inspect_shows_graphs_and_bundles(here, capsys):
    assert oslic("inspect unet.onnx") == 0
    text = capsys.readouterr().out
    assert "input float32 Nx3xHxW" in text
    assert "7 Conv" in text
    assert oslic("inspect two_headed.onnx --json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["inputs"][1] == {"name": "kind", "dtype": "int64", "shape": ["N"]}
    assert oslic("inspect lite --json") == 0
    assert set(json.loads(capsys.readouterr().out)["graphs"]) == {
        "segment",
        "analyse",
        "synthesise",
        "refine",
    }


def test_layer_times_name_the_nodes_of_the_optimized_graph(here):
    loaded = load(read_model(here / "unet.onnx"), "onnxruntime-cpu")
    feeds = {"input": np.zeros((1, 3, 64, 64), np.float32)}
    found = loaded.runner.layer_times(feeds, 3)
    assert sum("Conv" in layer.operator for layer in found) == 8
    assert all(layer.milliseconds >= 0 for layer in found)


def engine_info(shapes):
    return EngineInfo(
        file="e.engine", sha256="a" * 64, graph="two_headed", graph_sha256="b" * 64, backend="tensorrt",
        version="11.4.0", precision="fp32", gpu="9.0", profiles=(shapes,),
    )  # fmt: skip


def test_engines_take_any_types_and_any_number_of_outputs(here):
    """On a stand-in for CUDA and TensorRT: see `host_product`."""
    driver = HostDriver()
    trt = product(driver)
    shapes = {"image": ((1, 3, 16, 16),) * 3, "kind": ((1,), (1,), (4,))}
    with driver.current():
        engine = Engine((here / "two_headed.onnx").read_bytes(), [shapes], driver)
        context = engine.create_execution_context()
    runner = TensorRtRunner(
        trt, engine, context, driver, info=engine_info(shapes), names=(("image", "kind"), ("features", "mean")),
        rebuild="build it again", capture=True, log=Log(), pixels=False,
    )  # fmt: skip
    assert [str(port) for port in runner.inputs] == ["image float32 1x3x16x16", "kind int64 1..4"]
    random = np.random.default_rng(0)
    for _ in range(3):  # plain, recorded, replayed
        feeds = {"image": random.random((1, 3, 16, 16), np.float32), "kind": np.array([7])}
        found = runner.run(feeds)
        for name, y in by_onnxruntime("two_headed.onnx", feeds).items():
            np.testing.assert_allclose(found[name], y, atol=1e-5)
    assert list(runner.run(feeds, ["mean"])) == ["mean"]
    assert "replay" in driver.log
    times = runner.layer_times(feeds, 2)
    assert [layer.milliseconds for layer in times] == [0.125, 0.25]
    with pytest.raises(BackendError, match="an input is float64; the graphs take float32"):
        runner.run({"image": feeds["image"].astype(float), "kind": feeds["kind"]})
    with pytest.raises(BackendError, match="takes the input kind, which is not given"):
        runner.run({"image": feeds["image"]})
    runner.close()
    assert not driver.device.live


def test_types_that_numpy_lacks_are_named(here):
    driver = HostDriver()
    shapes = {"image": ((1, 3, 16, 16),) * 3, "kind": ((1,), (1,), (4,))}
    with driver.current():
        engine = Engine((here / "two_headed.onnx").read_bytes(), [shapes], driver, dtype=DataType.BF16)
        context = engine.create_execution_context()
    with pytest.raises(BackendError, match="which NumPy does not have: build it in fp16 or fp32"):
        TensorRtRunner(
            product(driver), engine, context, driver, info=engine_info(shapes),
            names=(("image", "kind"), ("features", "mean")), rebuild="", capture=True, log=Log(), pixels=False,
        )  # fmt: skip


@pytest.fixture
def engine(here, monkeypatch):
    """An engine of `two_headed` with its sidecar, on a stand-in for CUDA and TensorRT whose plans are ONNX models."""
    driver = HostDriver()
    monkeypatch.setattr(tensorrt, "load_product", lambda name: product(driver))
    monkeypatch.setattr(cuda_driver, "gpus", lambda: ([Gpu("a stand-in", "9.0")], ""))
    monkeypatch.setattr(cuda, "open_driver", lambda: driver)
    plan = (here / "two_headed.onnx").read_bytes()
    shapes = {"image": ((1, 3, 16, 16),) * 3, "kind": ((1,), (1,), (4,))}
    info = dataclasses.replace(
        engine_info(shapes),
        file="two_headed.tensorrt.fp32.engine",
        sha256=hashlib.sha256(plan).hexdigest(),
        graph_sha256=hashlib.sha256(plan).hexdigest(),
    )
    folder = here / "engines"
    folder.mkdir()
    (folder / info.file).write_bytes(plan)
    (folder / "two_headed.tensorrt.fp32.json").write_text(info.to_json())
    return folder / info.file, info, driver


def test_engines_run_by_name_and_from_beside_their_graph_if_they_were_built_here(engine, capsys):
    path, info, driver = engine
    assert oslic(f"run {path} --range kind=0,9 --seed 3") == 6
    assert "was not built by this user on this machine" in capsys.readouterr().err
    assert oslic(f"run {path} --range kind=0,9 --seed 3 --trust-engines -o a.npz --save-inputs in.npz") == 0
    engine_trust.record(info)
    assert oslic("run two_headed.onnx --backend tensorrt --inputs in.npz -o b.npz") == 0
    with np.load("in.npz") as inputs, np.load("a.npz") as one, np.load("b.npz") as two:
        for name, y in by_onnxruntime("two_headed.onnx", dict(inputs)).items():
            np.testing.assert_allclose(one[name], y, atol=1e-5)
            np.testing.assert_allclose(two[name], y, atol=1e-5)
    gc.collect()
    assert not driver.device.live
    capsys.readouterr()
    for words, code, message in (
        ("--shapes image=1x3x32x32", 2, "does not fit the input image float32 1x3x16x16"),
        ("--shapes kind=8 --trust-engines", 2, "does not fit the input kind int64 1..4"),
        ("--backend openvino", 2, "is an engine of tensorrt; openvino cannot run it"),
    ):
        assert oslic(f"run {path} {words}") == code
        assert message in capsys.readouterr().err


def test_an_engine_is_compared_and_measured_beside_its_graph(engine, capsys):
    path, info, _ = engine
    engine_trust.record(info)
    inputs = "--range kind=0,9 --shapes kind=1 --threads 1"
    assert oslic(f"compare two_headed.onnx {path} {inputs} --json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [side["backend"] for side in result["sides"]] == ["onnxruntime-cpu", "tensorrt"]
    assert {row["output"] for row in result["outputs"]} == {"features", "mean"}
    assert oslic(f"compare two_headed.onnx {path} {inputs} --bisect") == 2
    assert "is an engine without its graph" in capsys.readouterr().err
    quick = "--timeout 5 --iterations 4 --duration 0 --max-error 9 --json"
    assert oslic(f"bench latency two_headed.onnx {path} {inputs} {quick}") == 0
    timings = json.loads(capsys.readouterr().out)["timings"]
    assert list(timings) == ["two_headed", "two_headed.tensorrt.fp32"]
    # Of engines the device's own time stands beside the call's.
    assert timings["two_headed.tensorrt.fp32"]["wall"]["device"]["p50_ms"] == 1.25


def test_stale_and_altered_engines_are_refused(engine, capsys):
    path, info, _ = engine
    engine_trust.record(info)
    sidecar = path.with_suffix(".json")
    sidecar.write_text(dataclasses.replace(info, version="10.0.0").to_json())
    assert oslic(f"run {path}") == 6
    assert "built with tensorrt 10.0.0, here is 11.4.0" in capsys.readouterr().err
    sidecar.write_text(info.to_json())
    path.write_bytes(path.read_bytes() + b"x")
    assert oslic(f"run {path}") == 6
    assert "was altered" in capsys.readouterr().err
