"""`oslic bench latency` on any graphs."""

from __future__ import annotations

import importlib.util
import json

import pytest
from foreign_networks import oslic
from oslic.bench.report.sections.registry import read_result, sections

QUICK = "--timeout 2 --iterations 4 --duration 0 --max-error 9 --threads 1"


def test_graphs_are_interleaved_and_their_layers_told(here, capsys):
    command = (
        f"bench latency unet.onnx two_headed.onnx --shapes input=1x3x32x48 --range kind=0,9 {QUICK} --profile"
    )
    assert oslic(f"{command} -o l.json") == 0
    text = capsys.readouterr().out
    assert "unet: " in text
    result = json.loads((here / "l.json").read_text())
    assert list(result["timings"]) == ["unet", "two_headed"]
    counts = {timing["wall"]["total"]["n"] for timing in result["timings"].values()}
    assert len(counts) == 1  # interleaved
    assert counts.pop() >= 4
    assert set(result["ratios"]) == {"two_headed"}
    assert result["candidates"]["unet"]["inputs"] == {"input": {"dtype": "float32", "shape": [1, 3, 32, 48]}}
    layers = result["layers"]["unet"]["times"]
    assert sum("Conv" in layer["operator"] for layer in layers) == 8
    assert [x["milliseconds"] for x in layers] == sorted((x["milliseconds"] for x in layers), reverse=True)
    (section,) = sections([read_result(here / "l.json")])
    assert [row[0] for row in section.tables[0].rows] == ["unet", "two_headed"]


def test_backends_and_precisions_stand_side_by_side(here, capsys):
    names = ["onnxruntime-cpu", "onnxruntime-cpu@fp16"]
    if importlib.util.find_spec("openvino") is not None:
        names.append("openvino")
    command = f"bench latency unet.onnx --backend {','.join(names)} --shapes input=1x3x16x16 {QUICK} --json"
    assert oslic(command) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["timings"]) == [f"unet@{name}" for name in names]
    assert [facts["precision"] for facts in result["candidates"].values()] == ["fp32", "fp16", "fp32"][
        : len(names)
    ]


def test_a_bundle_is_its_graphs(capsys):
    assert oslic(f"bench latency lite --graph segment --graph analyse {QUICK} --json") == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result["timings"]) == ["lite/segment", "lite/analyse"]
    shapes = {n: x["shape"] for n, x in result["candidates"]["lite/analyse"]["inputs"].items()}
    assert shapes["image"] == [1, 512, 768, 3]


def test_bounds_are_exit_codes(here, capsys):
    size = "--shapes input=1x3x32x48"
    assert oslic(f"bench latency unet.onnx {size} {QUICK} --max-median 0.000001") == 9
    assert "unet takes" in capsys.readouterr().err
    assert oslic(f"bench latency unet.onnx unet.onnx {size} {QUICK} --max-ratio 0.0001") == 9
    assert "unet#2 takes" in capsys.readouterr().err
    assert oslic(f"bench latency unet.onnx unet.onnx {size} {QUICK} --max-ratio 10000 --max-median 1e6") == 0


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("unet.onnx", 2, "--shapes input=1x3x256x256"),
        ("unet.onnx --shapes x=1x3x8x8", 2, "--shapes: no input 'x'"),
        ("unet.onnx photo.png --shapes input=1x3x8x8", 2, "apart from graphs and engines"),
        ("unet.onnx --backend fpga --shapes input=1x3x8x8", 2, "unknown backend 'fpga'"),
        ("unet.onnx --backend onnxruntime-cuda --shapes input=1x3x8x8", 6, "onnxruntime-cuda cannot be used"),
        ("lite --graph other", 2, "no graph 'other'"),
    ],
)
def test_what_cannot_be_measured_is_one_line(here, capsys, command, code, message):
    assert oslic(f"bench latency {command} {QUICK}") == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
