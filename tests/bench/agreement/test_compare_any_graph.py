"""`oslic compare` on graphs that are nobody's bundle."""

from __future__ import annotations

import importlib.util
import json

import foreign_networks
import numpy as np
import onnx
import pytest
from foreign_networks import oslic
from onnx import numpy_helper
from oslic.bench.agreement.outputs import _Tally
from oslic.export.verify import Tolerance


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with networks, and one in which a convolution was disturbed; it is the current one."""
    model = foreign_networks.unet()
    foreign_networks.save(model, tmp_path / "unet.onnx")
    node = next(n for n in model.graph.node if n.name == "mix2")
    weight = next(t for t in model.graph.initializer if t.name == node.input[1])
    values = numpy_helper.to_array(weight).copy()
    values[0, 0] += 0.5
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    foreign_networks.save(model, tmp_path / "disturbed.onnx")
    foreign_networks.save(foreign_networks.two_headed(), tmp_path / "two_headed.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


SIZE = "--shapes input=1x3x32x48 --threads 1"


def test_a_graph_agrees_with_itself_on_another_backend_and_in_half_precision(here, capsys):
    assert (
        oslic(f"compare unet.onnx --backends onnxruntime-cpu,onnxruntime-cpu@unoptimized {SIZE} -o c.json")
        == 0
    )
    (row,) = json.loads((here / "c.json").read_text())["outputs"]
    assert row["graph"] == "unet"
    assert row["output"] == "mask"
    assert row["maximum"] < 1e-5
    capsys.readouterr()
    assert oslic(f"compare unet.onnx --backends auto,onnxruntime-cpu@fp16 {SIZE} --json") == 0
    result = json.loads(capsys.readouterr().out)
    assert [side["precision"] for side in result["sides"]] == ["fp32", "fp16"]
    assert 1e-6 < result["outputs"][0]["maximum"] < 1e-2
    assert result["outputs"][0]["sqnr"] > 40
    assert result["end_to_end"] is None


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")
def test_products_are_compared_down_to_the_tensor(here, capsys):
    assert oslic("compare two_headed.onnx --backends onnxruntime-cpu,openvino --range kind=0,9 --bisect") == 0
    text = capsys.readouterr().out
    assert "features" in text
    assert "mean" in text
    assert "tensors are within the tolerance" in text
    assert oslic(f"compare unet.onnx disturbed.onnx --backends onnxruntime-cpu,openvino {SIZE} --bisect") == 9
    assert "first beyond the tolerance is v" in capsys.readouterr().out


def test_bisection_names_the_layer_that_was_disturbed(here, capsys):
    assert oslic(f"compare unet.onnx disturbed.onnx {SIZE} --bisect -o c.json") == 9
    captured = capsys.readouterr()
    (finding,) = json.loads((here / "c.json").read_text())["bisection"]["graphs"]
    assert finding["tensor"]["node"] == "mix2"
    assert "the output of Conv mix2" in captured.out
    assert "disturbed" not in captured.err.splitlines()[0] or captured.err.count("\n") == 1
    assert oslic(f"compare unet.onnx disturbed.onnx {SIZE} --atol mask:1") == 0


def test_photographs_and_saved_arrays_are_inputs_too(here, samples, capsys):
    assert oslic(f"compare unet.onnx unet.onnx --images {samples} --size 48x32 --threads 1") == 0
    assert "4 sets of inputs" in capsys.readouterr().out
    np.savez("in.npz", input=np.zeros((1, 3, 8, 8), np.float32))
    assert oslic("compare unet.onnx unet.onnx --inputs in.npz") == 0


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("unet.onnx", 2, "compare with what? Name another graph, or two backends"),
        ("unet.onnx unet.onnx --other unet.onnx", 2, "named twice"),
        (
            f"unet.onnx two_headed.onnx {SIZE}",
            2,
            "unet.onnx has the inputs input, two_headed.onnx image, kind",
        ),
        ("unet.onnx lite", 2, "a bundle is compared with a bundle"),
        ("unet.onnx unet.onnx", 2, "--shapes input=1x3x256x256"),
        ("unet.onnx unet.onnx --shapes x=1x3x8x8", 2, "no input 'x'"),
        (f"unet.onnx --backends auto,onnxruntime-cuda {SIZE}", 6, "onnxruntime-cuda cannot be used"),
        (f"unet.onnx unet.onnx {SIZE} --atol z:1", 2, "no output 'z'; there are mask"),
        (f"lite lite {SIZE}", 2, "--shapes is for single graphs"),
    ],
)
def test_what_cannot_be_compared_is_one_line(here, capsys, command, code, message):
    assert oslic(f"compare {command}") == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_tallies_of_floats():
    tally = _Tally("g", "y", Tolerance(atol=0.15, rtol=0, share=0.2))
    reference = np.ones((4, 5), np.float32)
    y = reference.copy()
    y[0, :4] += 0.1
    y[1, 0] = np.nan
    tally.add(y, reference)
    found = tally.result()
    assert not found.ok  # NaN has a verdict of its own
    assert found.maximum == pytest.approx(0.1, rel=1e-5)
    assert found.differing == 5 / 20
    assert found.exceeding == 1 / 20
    assert found.sqnr == pytest.approx(10 * np.log10(19 / 0.04), rel=1e-4)
    assert found.psnr is None


def test_a_reference_must_be_a_graph(here, capsys):
    onnx.save(onnx.load("unet.onnx"), "x.engine")
    (here / "x.json").write_text("{}")
    assert oslic(f"compare unet.onnx x.engine {SIZE}") == 6
    assert "x.json cannot be read as an engine's sidecar" in capsys.readouterr().err
