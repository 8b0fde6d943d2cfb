"""`oslic build` on graphs that are nobody's bundle: real builds, shapes by input, what is refused."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import onnx
import pytest
from foreign_networks import oslic
from onnx import helper
from oslic.export.engines import prepare, profiles_of
from oslic.export.half_weights import with_half_weights
from oslic.runtime.backends.cuda import driver as cuda_driver
from oslic.runtime.bundle import engine_trust
from oslic.runtime.bundle.engine_files import EngineInfo, choose_engine_of, rebuild_model_command
from oslic.runtime.errors import BackendError, UsageError
from oslic.runtime.model import read_model

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed"
)
SHAPES = "--shapes input=1x3x32x32,1x3x64x96,2x3x128x128"


@needs_rtx
def test_an_engine_of_a_unet_in_float16_lies_beside_its_sidecar(here, capsys):
    command = f"build unet.onnx --backend tensorrt-rtx --precision fp16 {SHAPES} --optimization-level 0"
    assert oslic(f"{command} -o built --json") == 0
    (told,) = json.loads(capsys.readouterr().out)["engines"]
    info = EngineInfo.read(here / "built" / "unet.tensorrt-rtx.fp16.json")
    assert told["path"] == "built/unet.tensorrt-rtx.fp16.engine"
    assert info.profiles == ({"input": ((1, 3, 32, 32), (1, 3, 64, 96), (2, 3, 128, 128))},)
    assert info.graph_sha256 == read_model(here / "unet.onnx").file_sha256
    assert engine_trust.built_here(info)
    assert oslic("inspect built/unet.tensorrt-rtx.fp16.engine") == 0
    assert "input 1x3x32x32, 1x3x64x96, 2x3x128x128" in capsys.readouterr().out
    # Without a GPU that is what is said; it is not the engine that is refused.
    code = oslic("run built/unet.tensorrt-rtx.fp16.engine --shapes input=1x3x32x32")
    assert code == (0 if cuda_driver.gpus()[0] else 12)
    assert "was not built by this user" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        oslic("build built/unet.tensorrt-rtx.fp16.engine")


@needs_rtx
def test_engines_beside_a_graph_are_found_and_stale_ones_refused(here):
    assert (
        oslic(f"build unet.onnx --backend tensorrt-rtx --precision fp32 {SHAPES} --optimization-level 0") == 0
    )
    model = read_model(here / "unet.onnx")
    version = EngineInfo.read(here / "engines" / "unet.tensorrt-rtx.fp32.json").version
    asked = {"version": version, "gpu": None, "precision": None}
    path, info = choose_engine_of(model.path, "unet", model.file_sha256, "tensorrt-rtx", **asked)
    assert path == here / "engines" / "unet.tensorrt-rtx.fp32.engine"
    words = rebuild_model_command(model.path, info)
    assert words.endswith(f"--precision fp32 {SHAPES} --optimization-level 0")
    with pytest.raises(BackendError, match="built from another graph"):
        choose_engine_of(model.path, "unet", "0" * 64, "tensorrt-rtx", **asked)
    with pytest.raises(BackendError, match="is fp32, not fp16"):
        choose_engine_of(
            model.path, "unet", model.file_sha256, "tensorrt-rtx", **asked | {"precision": "fp16"}
        )
    with pytest.raises(BackendError, match="there is no tensorrt engine"):
        choose_engine_of(model.path, "unet", model.file_sha256, "tensorrt", **asked)


def test_profiles_follow_names_and_symbols(here):
    model = read_model(here / "two_headed.onnx")
    named = [("kind", ((1,), (2,), (4,)))]
    # The batch has the same symbol in both inputs.
    assert profiles_of(model, named=named) == [
        {"image": ((1, 3, 16, 16), (2, 3, 16, 16), (4, 3, 16, 16)), "kind": ((1,), (2,), (4,))}
    ]
    assert profiles_of(model) == [{"image": ((1, 3, 16, 16),) * 3, "kind": ((1,),) * 3}]
    twice = profiles_of(model, named=[*named, ("kind", ((8,),) * 3)])
    assert [profile["kind"][2] for profile in twice] == [(4,), (8,)]
    with pytest.raises(UsageError, match="the input input float32 Nx3xHxW has no fixed size"):
        profiles_of(read_model(here / "unet.onnx"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "such as --shapes input=1x3x64x64,1x3x256x256,4x3x512x512"),
        ("--shapes x=1x3x32x32", "--shapes: no input 'x'; the graph takes input float32 Nx3xHxW"),
        ("--shapes input=1x4x32x32", "does not fit the input input float32 Nx3xHxW"),
        ("--shapes input=1x3x32x32,1x3x16x16,1x3x32x32", "sizes must not fall from MIN over OPT to MAX"),
        ("--shapes input=1x3xaxb", "is not of the form NAME=MIN,OPT,MAX"),
        ("--shapes 1x32x32,1x32x32,1x32x32", "image sizes are for bundles"),
        ("--shapes input=1x3x32x32 --shapes 1x32x32,1x32x32,1x32x32", "not both"),
        ("--shapes input=1x3x32x32 --graph other", "no graph 'other'"),
        pytest.param(
            "--shapes input=1x3x32x32 --precision int8",
            "unet.onnx: INT8 needs a graph with Q/DQ nodes",
            marks=needs_rtx,
        ),
    ],
)
def test_what_cannot_be_built_is_one_line(here, capsys, words, message):
    assert oslic(f"build unet.onnx --backend tensorrt-rtx {words}") == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("kind", ["fp16", "bf16"])
def test_an_engine_is_called_what_the_graph_computes_in(here, kind):
    data = read_model(here / "unet.onnx").data
    half = prepare(data, kind)
    for precision in sorted({"fp32", "tf32", "fp16", "bf16"} - {kind}):
        with pytest.raises(
            UsageError, match=f"computes in {kind} already.*--precision {kind}, .* --precision {precision}"
        ):
            prepare(half, precision)
    prepare(half, kind)
    # Weights that are stored in half precision alone are read in float32.
    stored = with_half_weights(data)
    assert prepare(stored, "fp32") == stored


@needs_rtx
def test_an_old_operator_set_is_named_with_what_raises_it(here, capsys):
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["s", "s"], ["scales"]),
            helper.make_node("Upsample", ["x", "scales"], ["y"], mode="nearest"),
        ],
        "old",
        [helper.make_tensor_value_info(name, 1, dims) for name, dims in (("x", [1, 8, 4, 4]), ("s", None))],
        [helper.make_tensor_value_info("y", 1, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 9)], ir_version=4)
    onnx.save(model, here / "old.onnx")
    words = "--backend tensorrt-rtx --precision fp32 --shapes x=1x8x4x4 --shapes s=4"
    assert oslic(f"build old.onnx {words}") == 6
    error = capsys.readouterr().err
    assert "its operator set is 9" in error
    assert "oslic fuse IN.onnx -o OUT.onnx" in error
    assert error.count("\n") == 1


def test_the_toolkit_for_graphs_needs_no_torch():
    modules = (
        "bench.agreement.outputs", "bench.agreement.bisect", "bench.experiments.graph_latency", "cli.commands.build",
        "export.engines",
        "export.half_bundle", "export.fusion", "calibration.calibrate", "runtime.model.running",
    )  # fmt: skip
    code = "import importlib, sys\n" + "\n".join(f"importlib.import_module('oslic.{m}')" for m in modules)
    code += "\nassert 'torch' not in sys.modules, [m for m in sys.modules if m.startswith('oslic')]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
