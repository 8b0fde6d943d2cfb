"""Sizes as exact expressions."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from oslic.export.symbolic_shapes.expression import Size
from oslic.export.symbolic_shapes.inference import Sizes

H, W = Size.of("H"), Size.of("W")


def test_sizes_add_multiply_and_divide_exactly():
    assert (H * 4 + 3) * 2 == H * 8 + 6
    assert (H * 8 + 6) // 2 == H * 4 + 3
    assert (H * 4 + 3) // 4 == H
    assert H // 2 != H // 3
    assert H // 2 == H // 2
    assert (H * W * 12).divided(W * 4) == H * 3
    assert (H * W * 12).divided(W * 5) is None
    assert (H * 6 + 4).divisible(2)
    assert not (H * 6 + 3).divisible(2)
    assert (H * W + 2).evaluate({"H": 3, "W": 5}) == 17
    assert Size.of(0) == H - H
    assert str(H * 2 + 1) == "1 + 2*H"


def graph_of(nodes, constants=(), shape=("N", 3, "H", "W")):
    outputs = [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)]
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])).graph


def test_questions_about_sizes_are_answered_where_all_sizes_agree():
    import numpy as np

    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Equal", ["s", "minus"], ["same"]),
        helper.make_node("Where", ["same", "ones", "s"], ["chosen"]),
    ]
    constants = [("minus", np.array([-1, 3, -1, -1])), ("ones", np.array([1, 1, 1, 1]))]
    graph = graph_of(nodes, constants)
    assert Sizes().data(graph.outputs[0]) == (Size.of("N"), Size.of(1), H, W)
    # Whether H is 3 depends on H.
    graph = graph_of(nodes, [("minus", np.array([-1, 3, 3, -1])), *constants[1:]])
    assert Sizes().data(graph.outputs[0]) is None


@pytest.mark.parametrize("multiple", [1, 2, 3, 8])
def test_halves_of_odd_multiples_stay_unknown(multiple):
    pool = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], strides=[2, 2])
    graph = graph_of([pool])
    shape = Sizes(multiple=multiple).shape(graph.outputs[0])
    exact = multiple % 2 == 0
    assert (shape[2] * 2 == H * multiple) is exact


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height", [16, 18])
def test_windows_agree_with_pytorch(kernel, stride, height):
    import numpy as np
    import torch

    weight = np.zeros((5, 3, kernel, kernel), np.float32)
    pads = [kernel // 2] * 4
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[stride] * 2, pads=pads)
    found = Sizes({"x": (2, 3, height, 12)}).concrete(graph_of([node], [("w", weight)]).outputs[0])
    y = torch.nn.functional.conv2d(
        torch.zeros(2, 3, height, 12), torch.from_numpy(weight), None, stride, kernel // 2
    )
    assert found == tuple(y.shape)
    symbolic = Sizes(multiple=2).shape(graph_of([node], [("w", weight)]).outputs[0])
    assert symbolic[2].evaluate({"H": height // 2}) == y.shape[2]


def test_shape_arithmetic_before_a_resize_is_followed():
    import numpy as np

    nodes = [
        helper.make_node("AveragePool", ["x"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "two"], ["h"], axis=0),
        helper.make_node("Gather", ["s", "three"], ["w"], axis=0),
        helper.make_node("Unsqueeze", ["h", "zero"], ["h1"]),
        helper.make_node("Unsqueeze", ["w", "zero"], ["w1"]),
        helper.make_node("Shape", ["p"], ["ps"], end=2),
        helper.make_node("Concat", ["ps", "h1", "w1"], ["sizes"], axis=0),
        helper.make_node("Resize", ["p", "", "", "sizes"], ["y"], mode="nearest"),
    ]
    constants = [
        ("two", np.array(2)),
        ("three", np.array(3)),
        ("zero", np.array([0])),
    ]
    graph = graph_of(nodes, constants)
    sizes = Sizes(multiple=4)
    assert sizes.shape(graph.outputs[0]) == (Size.of("N"), Size.of(3), H * 4, W * 4)


def test_declared_dimensions_with_factors_are_read():
    graph = graph_of([helper.make_node("Relu", ["x"], ["y"])], shape=("N", 3, "4*h", "8*w"))
    assert Sizes().shape(graph.outputs[0])[2:] == (Size.of("h") * 4, Size.of("w") * 8)
    # 4*h is a multiple of 16 if h is one of 4.
    assert Sizes(multiple=16).shape(graph.outputs[0])[2] == Size.of("h") * 16
