"""Which sequences of operators that move and repeat elements are a doubling, against what they compute."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper, numpy_helper
from oslic.export.data_movement import repeated
from oslic.export.symbolic_shapes.inference import Sizes
from oslic.export.verify import run

N, C, H, W = SHAPE = (2, 3, 4, 5)


def graph_of(*steps, shape=SHAPE):
    """Steps: an operator, its attributes, further constant inputs."""
    nodes, constants, value = [], [], "x"
    for i, (operator, attributes, *more) in enumerate(steps):
        names = [f"c{i}.{k}" for k in range(len(more))]
        constants += [numpy_helper.from_array(np.array(c), n) for n, c in zip(names, more, strict=True)]
        inputs = [value] * attributes.pop("copies", 1)
        value = f"v{i}"
        nodes.append(helper.make_node(operator, [*inputs, *names], [value], **attributes))
    graph = helper.make_graph(
        nodes,
        "moves",
        [helper.make_tensor_value_info("x", 1, shape)],
        [helper.make_tensor_value_info(value, 1, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


DOUBLINGS = {
    "tile": [
        ("Unsqueeze", {}, [3, 5]),
        ("Tile", {}, [1, 1, 1, 2, 1, 2]),
        ("Reshape", {}, [N, C, 2 * H, 2 * W]),
    ],
    "expand, with -1 and 0": [
        ("Reshape", {}, [0, 0, H, 1, W, 1]),
        ("Expand", {}, [1, 1, 1, 2, 1, 2]),
        ("Reshape", {}, [0, 0, 2 * H, -1]),
    ],
    "columns before rows, channels last": [
        ("Transpose", {"perm": [0, 2, 3, 1]}),
        ("Unsqueeze", {}, [3]),
        ("Concat", {"axis": 3, "copies": 2}),
        ("Reshape", {}, [N, H, 2 * W, C]),
        ("Unsqueeze", {}, [2]),
        ("Concat", {"axis": -3, "copies": 2}),
        ("Reshape", {}, [N, 2 * H, 2 * W, C]),
        ("Transpose", {"perm": [0, 3, 1, 2]}),
    ],
    "through two dimensions": [
        ("Reshape", {}, [N * C * H, W]),
        ("Unsqueeze", {}, [2]),
        ("Expand", {}, [N * C * H, W, 2]),
        ("Reshape", {}, [N * C * H, 1, 2 * W]),
        ("Expand", {}, [N * C * H, 2, 2 * W]),
        ("Reshape", {}, [N, C, 2 * H, 2 * W]),
    ],
}
REPEATED = {
    "three times": (
        (3, 3),
        [
            ("Unsqueeze", {}, [3, 5]),
            ("Tile", {}, [1, 1, 1, 3, 1, 3]),
            ("Reshape", {}, [N, C, 3 * H, 3 * W]),
        ],
    ),
    "columns alone": (
        (1, 2),
        [
            ("Unsqueeze", {}, [4]),
            ("Tile", {}, [1, 1, 1, 1, 2]),
            ("Reshape", {}, [N, C, H, 2 * W]),
        ],
    ),
}
OTHERS = {
    "rows one after another": [("Tile", {}, [1, 1, 2, 2])],
    "rows twice as a block": [
        ("Unsqueeze", {}, [2, 5]),
        ("Tile", {}, [1, 1, 2, 1, 1, 2]),
        ("Reshape", {}, [N, C, 2 * H, 2 * W]),
    ],
    "channels in place of rows": [
        ("Unsqueeze", {}, [2, 5]),
        ("Tile", {}, [1, 1, 2, 1, 1, 2]),
        ("Reshape", {}, [N, 2 * C, H, 2 * W]),
    ],
    "rows and columns exchanged": [
        ("Unsqueeze", {}, [3, 5]),
        ("Tile", {}, [1, 1, 1, 2, 1, 2]),
        ("Reshape", {}, [N, C, 2 * H, 2 * W]),
        ("Transpose", {"perm": [0, 1, 3, 2]}),
    ],
    "cut across": [
        ("Unsqueeze", {}, [3, 5]),
        ("Tile", {}, [1, 1, 1, 2, 1, 2]),
        ("Reshape", {}, [N, C, 2 * W, 2 * H]),
    ],
}


def ends(model):
    graph = ir.from_proto(model).graph
    sizes = Sizes()
    found = repeated(graph.outputs[0], sizes) or (None, None)
    return *found, graph.inputs[0]


@pytest.mark.parametrize("name", DOUBLINGS)
def test_doublings_are_recognized(name):
    model = graph_of(*DOUBLINGS[name])
    source, factors, x = ends(model)
    assert source is x
    assert factors == (2, 2)
    data = np.arange(N * C * H * W, dtype=np.float32).reshape(SHAPE)
    (y,) = run(model.SerializeToString(), {"x": data}).values()
    assert np.array_equal(y, data.repeat(2, 2).repeat(2, 3))


@pytest.mark.parametrize("name", REPEATED)
def test_other_factors_are_recognized(name):
    factors, steps = REPEATED[name]
    model = graph_of(*steps)
    source, found, x = ends(model)
    assert source is x
    assert found == factors
    data = np.arange(N * C * H * W, dtype=np.float32).reshape(SHAPE)
    (y,) = run(model.SerializeToString(), {"x": data}).values()
    assert np.array_equal(y, data.repeat(factors[0], 2).repeat(factors[1], 3))


@pytest.mark.parametrize("name", OTHERS)
def test_whatever_computes_something_else_is_not(name):
    model = graph_of(*OTHERS[name])
    assert ends(model)[0] is None
    data = np.arange(N * C * H * W, dtype=np.float32).reshape(SHAPE)
    (y,) = run(model.SerializeToString(), {"x": data}).values()
    assert not np.array_equal(y, data.repeat(2, 2).repeat(2, 3))


def test_squares_are_told_apart_by_their_axes():
    """Where sizes are equal numbers, an exchange of rows and columns must not pass."""
    side = 4
    steps = [
        ("Unsqueeze", {}, [3, 5]),
        ("Tile", {}, [1, 1, 1, 2, 1, 2]),
        ("Transpose", {"perm": [0, 1, 4, 5, 2, 3]}),
        ("Reshape", {}, [2, 2, 2 * side, 2 * side]),
    ]
    assert ends(graph_of(*steps, shape=(2, 2, side, side)))[0] is None
    del steps[2]
    source, _, x = ends(graph_of(*steps, shape=(2, 2, side, side)))
    assert source is x


def test_sizes_of_one_have_no_factors():
    steps = [
        ("Reshape", {}, [1, 1, 1, 1, 1, 1]),
        ("Tile", {}, [1, 1, 1, 2, 1, 2]),
        ("Reshape", {}, [1, 1, 2, 2]),
    ]
    source, _, x = ends(graph_of(*steps, shape=(1, 1, 1, 1)))
    assert source is x
