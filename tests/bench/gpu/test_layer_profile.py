"""Where the time of an engine goes: what a product tells, put together, and two engines held against each other."""

from __future__ import annotations

import json

import pytest
from oslic.bench.gpu.layer_profile import LayerTime, by_convolution, read_layers

CONVOLUTIONS = ("conv", "conv_1", "block/conv", "up")


def told(*layers):
    return json.dumps({"Layers": list(layers)})


def test_metadata_says_which_convolutions_a_layer_computes():
    metadata = "[ONNX Layer: conv]\x1e[ONNX Layer: relu]\x1e[ONNX Layer: conv_1]"
    layers = read_layers(
        told({"Name": "myelin_0", "Metadata": metadata}, {"Name": "reformat", "Metadata": ""}),
        {"myelin_0": 2.0, "reformat": 0.5},
        CONVOLUTIONS,
    )
    assert layers == [
        LayerTime("myelin_0", 2.0, frozenset({"conv", "conv_1"})),
        LayerTime("reformat", 0.5, frozenset()),
    ]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("conv + relu", {"conv"}),
        ("conv_1 + relu", {"conv_1"}),
        ("{ForeignNode[block/conv...up]}", {"block/conv", "up"}),
        ("Reformatting CopyNode for Input Tensor 0 to pool", set()),
        ("upsampling", set()),
    ],
)
def test_without_metadata_a_layers_name_does(name, found):
    (layer,) = read_layers(told(name), {name: 1.0}, CONVOLUTIONS)
    assert layer.convolutions == found


def test_layers_that_the_inspector_does_not_know_are_kept():
    assert read_layers("{}", {"other": 1.0}, CONVOLUTIONS) == [LayerTime("other", 1.0, frozenset())]


def layer(milliseconds, *convolutions):
    return LayerTime("/".join(convolutions) or "reformat", milliseconds, frozenset(convolutions))


def test_convolutions_of_one_layer_are_taken_together_and_the_slower_come_first():
    before = [layer(4.0, "a"), layer(1.0, "b"), layer(1.5, "up"), layer(0.25)]
    after = [layer(1.0, "a"), layer(0.5, "up.00", "up.01"), layer(0.5, "up.10"), layer(0.5, "up.11", "b")]
    after += [layer(0.5), layer(0.5)]
    assert by_convolution(before, after) == [
        {"convolutions": [], "before_ms": 0.25, "after_ms": 1.0},
        {"convolutions": ["b", "up"], "before_ms": 2.5, "after_ms": 1.5},
        {"convolutions": ["a"], "before_ms": 4.0, "after_ms": 1.0},
    ]


def test_phases_that_the_float_graph_has_too_keep_their_names():
    before = [layer(1.0, "up.00"), layer(1.0, "up.01")]
    after = [layer(0.5, "up.00"), layer(2.0, "up.01")]
    assert by_convolution(before, after) == [
        {"convolutions": ["up.01"], "before_ms": 1.0, "after_ms": 2.0},
        {"convolutions": [], "before_ms": 0, "after_ms": 0},
        {"convolutions": ["up.00"], "before_ms": 1.0, "after_ms": 0.5},
    ]
