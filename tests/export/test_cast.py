"""`oslic cast` on any graph; bundles: test_export_halves."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from foreign_networks import oslic
from oslic.runtime.model import random_feeds, read_model
from oslic.runtime.model.running import load


@pytest.mark.parametrize("name", ["unet", "two_headed"])
def test_a_cast_graph_keeps_its_ports_and_its_numbers(here, capsys, name):
    more = "--shapes input=1x3x32x48" if name == "unet" else "--range kind=0,9"
    assert oslic(f"cast {name}.onnx -o half.onnx {more} --threads 1 --json") == 0
    told = json.loads(capsys.readouterr().out)
    before, after = read_model(here / f"{name}.onnx"), read_model(here / "half.onnx")
    assert (after.inputs, after.outputs, after.precision) == (before.inputs, before.outputs, "fp16")
    feeds = random_feeds(before.inputs, {"input": (1, 3, 32, 48)} if name == "unet" else {}, seed=5)
    reference, found = (load(model, "onnxruntime-cpu").run(feeds) for model in (before, after))
    for key, y in reference.items():
        assert 1e-7 < np.abs(found[key] - y).max() < 1e-2
    assert {row["name"] for row in told["differences"]} == set(reference)


def test_bfloat16_is_written_without_a_check(here):
    assert oslic("cast unet.onnx -o half.onnx --precision bf16 --no-check") == 0
    kinds = {t.data_type for t in onnx.load("half.onnx").graph.initializer}
    assert onnx.TensorProto.BFLOAT16 in kinds


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("cast unet.onnx -o half.onnx", 2, "--shapes input=1x3x256x256"),
        ("cast unet.onnx -o unet.onnx --no-check", 2, "would be written over the input"),
        ("cast unet.onnx -o half.png --no-check", 2, "an ONNX graph does not go into a file"),
        ("cast arithmetic.onnx -o half.onnx", 2, "has nothing that gains from fp16"),
        (
            "cast two_headed.onnx -o half.onnx --range kind=0,9 --atol 0 --rtol 0",
            9,
            "does not match its reference",
        ),
    ],
)
def test_what_cannot_be_cast_is_one_line_and_leaves_nothing(here, capsys, command, code, message):
    before = {path.name for path in here.iterdir()}
    assert oslic(command) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {path.name for path in here.iterdir()} == before


def test_a_graph_that_is_cast_already_is_refused(here, capsys):
    assert oslic("cast two_headed.onnx -o half.onnx --no-check") == 0
    assert oslic("cast half.onnx -o again.onnx --no-check") == 2
    assert "half.onnx is in fp16; only float32 graphs can be cast" in capsys.readouterr().err
