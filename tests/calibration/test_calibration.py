"""Calibration: exact forms, ranges, scales, equalization, placement, and the kernels that ONNX Runtime runs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import small_bundle
from onnx import TensorProto, helper, numpy_helper
from oslic.calibration.equalization import equalize
from oslic.calibration.evaluator import Damage
from oslic.calibration.graph import Graph
from oslic.calibration.int8_rewrites import (
    depthwise,
    interleave_channels_last,
    lower_transposed,
    pooling_kernel,
)
from oslic.calibration.observers import Cache, Histogram, Statistics, collect
from oslic.calibration.ort_profile import not_int8, profile
from oslic.calibration.ort_session import Session
from oslic.calibration.qdq_insertion import Recipe, corrected_bias, quantize
from oslic.calibration.qdq_placement import Layer, Placement
from oslic.calibration.qparams import AnyScale, activation_scale, quantize_weight
from oslic.calibration.ranges import METHODS, Ranges, clipped_share, threshold
from oslic.calibration.sensitivity import Trial, decide, rank
from oslic.export.form_selection import Fixed
from oslic.export.fusion import fuse
from oslic.export.precision import require_buildable
from oslic.runtime.backends.onnxruntime.cpu import open_session
from oslic.runtime.bundle.manifest import LAYER_GRAPHS
from oslic.runtime.bundle.uint8_form import SIGNED_ZERO_POINT, UNSIGNED_ZERO_POINT, uint8_activations
from oslic.runtime.errors import BundleError, DataError, UsageError

FLOAT = TensorProto.FLOAT


def float_graph(nodes, constants, shapes, output="y"):
    """A graph of float values."""
    inputs = [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in shapes.items()]
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(
        nodes, "g", inputs, [helper.make_tensor_value_info(output, FLOAT, None)], tensors
    )
    return Graph(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def run(graph, feeds):
    return open_session(graph.model.SerializeToString(), 1).run(None, feeds)[0]


def compact_feeds(count=3, side=12):
    random = np.random.default_rng(5)
    return [
        {
            "compact": random.integers(0, 32, (1, side, side, 3), dtype=np.uint8),
            "labels": np.zeros((1, 2 * side, 2 * side), np.uint8),
        }
        for _ in range(count)
    ]


# -- exact forms ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "pads"),
    [
        (2, [0, 0, 0, 0]),
        (3, [0, 0, 1, 1]),
        (3, [1, 0, 0, 1]),
        (4, [1, 1, 1, 1]),
        (5, [1, 2, 2, 1]),
        (6, [2, 2, 2, 2]),
    ],
)
def test_phases_equal_the_transposed_convolution(kernel, pads):
    random = np.random.default_rng(kernel)
    weight = random.standard_normal((3, 5, kernel, kernel)).astype(np.float32)
    node = helper.make_node(
        "ConvTranspose",
        ["x", "w", "b"],
        ["y"],
        name="up",
        kernel_shape=[kernel] * 2,
        strides=[2, 2],
        pads=pads,
    )
    graph = float_graph([node], {"w": weight, "b": np.arange(5, dtype=np.float32)}, {"x": ["N", 3, "H", "W"]})
    lowered = graph.copy()
    assert lower_transposed(lowered) == {}
    kinds = [n.op_type for n in lowered.nodes]
    assert kinds.count("Conv") == 4
    assert "ConvTranspose" not in kinds
    for shape in ((1, 3, 4, 5), (2, 3, 7, 2)):
        x = random.standard_normal(shape).astype(np.float32)
        np.testing.assert_allclose(run(lowered, {"x": x}), run(graph, {"x": x}), atol=1e-5)


@pytest.mark.parametrize(("kernel", "pads"), [(3, [0, 0, 0, 0]), (5, [1, 1, 1, 1])])
def test_the_average_behind_a_transposed_convolution_goes_into_its_phases(kernel, pads):
    random = np.random.default_rng(kernel)
    weight = random.standard_normal((3, 5, kernel, kernel)).astype(np.float32)
    up = helper.make_node(
        "ConvTranspose",
        ["x", "w", "b"],
        ["u"],
        name="up",
        kernel_shape=[kernel] * 2,
        strides=[2, 2],
        pads=pads,
    )
    pool = helper.make_node("AveragePool", ["u"], ["p"], name="pool", kernel_shape=[2, 2], strides=[1, 1])
    relu = helper.make_node("Relu", ["p"], ["y"], name="relu")
    constants = {"w": weight, "b": np.arange(5, dtype=np.float32)}
    graph = float_graph([up, pool, relu], constants, {"x": ["N", 3, "H", "W"]})
    lowered = graph.copy()
    assert lower_transposed(lowered) == {}
    assert not {"ConvTranspose", "AveragePool"} & {node.op_type for node in lowered.nodes}
    x = random.standard_normal((2, 3, 6, 5)).astype(np.float32)
    np.testing.assert_allclose(run(lowered, {"x": x}), run(graph, {"x": x}), atol=1e-5)
    assert lower_transposed(graph.copy(), set()) == {}


@pytest.mark.parametrize("form", ["phases"])
def test_the_interleaving_of_the_exporter_is_written_channels_last(form):
    exported, _ = fuse(
        ir.from_proto(upsampled_convolution()), lambda _: Fixed(form), shapes={"x": (1, 3, 6, 8)}
    )
    graph = Graph(ir.to_proto(exported))
    other = graph.copy()
    assert interleave_channels_last(other, set()) == 0
    assert interleave_channels_last(other) == 1
    kinds = [node.op_type for node in other.nodes]
    assert kinds.count("Conv") == 4
    assert kinds.count("Transpose") == 5
    assert "DepthToSpace" not in kinds
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 6)).astype(np.float32)
    np.testing.assert_allclose(run(other, {"x": x}), run(graph, {"x": x}), atol=1e-5)


def upsampled_convolution():
    scales = np.array([1, 1, 2, 2], np.float32)
    weight = np.random.default_rng(1).standard_normal((4, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node(
            "Resize", ["x", "", "s"], ["u"], mode="nearest", coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        helper.make_node("Conv", ["u", "w"], ["y"], name="conv", pads=[1] * 4),
    ]  # fmt: skip
    return float_graph(nodes, {"s": scales, "w": weight}, {"x": ["N", 3, "H", "W"]}).model


def test_a_relu_behind_a_transposed_convolution_moves_to_its_phases():
    graph = Graph(small_bundle.synthesise())
    lowered = graph.copy()
    lower_transposed(lowered)
    assert [sum(n.op_type == "Relu" for n in g.nodes) for g in (graph, lowered)] == [4, 7]
    feeds = compact_feeds(1)[0]
    assert np.mean(run(graph, feeds) != run(lowered, feeds)) < 2e-3


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, "does not double"),
        ({"kernel_shape": [3, 3], "strides": [1, 1], "pads": [1, 1, 1, 1]}, "strides"),
        (
            {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]},
            "output is padded",
        ),
    ],
)
def test_transposed_convolutions_of_another_kind_stay_and_say_why(more, reason):
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], name="up", **more)
    graph = float_graph([node], {"w": np.ones((2, 2, 3, 3), np.float32)}, {"x": [1, 2, 4, 4]})
    assert reason in lower_transposed(graph)["up"]
    assert [n.op_type for n in graph.nodes] == ["ConvTranspose"]


def test_average_pooling_equals_its_depthwise_convolution():
    node = helper.make_node("AveragePool", ["x"], ["y"], name="pool", kernel_shape=[2, 4], strides=[2, 2])
    graph = float_graph([node], {}, {"x": [1, 3, 8, 8]})
    other = graph.copy()
    other.replace_nodes([depthwise(other, other.nodes[0], pooling_kernel(node, 3))])
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    np.testing.assert_allclose(run(other, {"x": x}), run(graph, {"x": x}), atol=1e-6)
    padded = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[2, 2], pads=[0, 0, 1, 1])
    assert pooling_kernel(padded, 3) is None


# -- statistics and ranges ------------------------------------------------------------------------------------------


def test_a_histogram_grows_and_keeps_every_count():
    histogram = Histogram()
    for top in (0.0, 1.0, 0.1, 7.3):
        histogram.add(np.linspace(-top / 2, top, 100, dtype=np.float32))
    assert histogram.counts.sum() == 400
    assert histogram.top >= 7.3
    assert (histogram.low, histogram.high) == pytest.approx((-3.65, 7.3))
    both = Histogram.union([histogram, Histogram()])
    assert both.counts.sum() == 400
    with pytest.raises(DataError, match="not finite"):
        histogram.add(np.array([1, np.inf], np.float32))


def gaussian_with_outlier():
    histogram = Histogram()
    values = np.random.default_rng(1).standard_normal(200_000).astype(np.float32)
    values[0] = 40
    histogram.add(values)
    return histogram, values


def true_error(values, limit):
    stored = np.clip(np.rint(values / (limit / 127)), -127, 127) * (limit / 127)
    return float(np.mean((values - stored) ** 2))


def test_every_method_gives_what_it_promises():
    histogram, values = gaussian_with_outlier()
    found = {method: threshold(histogram, method) for method in METHODS}
    assert found["minmax"] == pytest.approx(40)
    assert found["percentile"] == pytest.approx(np.percentile(np.abs(values), 99.99), rel=0.02)
    limits = np.linspace(1, 40, 200)
    best = min(true_error(values, limit) for limit in limits)
    assert true_error(values, found["mse"]) <= 1.05 * best
    assert true_error(values, found["mse"]) < 0.6 * true_error(values, 40)
    assert 2 < found["entropy"] <= 40
    assert clipped_share(histogram, found["percentile"]) == pytest.approx(1e-4, rel=0.5)
    assert clipped_share(histogram, 40) == 0


def test_a_range_of_zeros_is_zero():
    histogram = Histogram()
    histogram.add(np.zeros(10, np.float32))
    assert [threshold(histogram, method) for method in METHODS] == [0] * len(METHODS)
    assert activation_scale(AnyScale(), 0) == pytest.approx(1 / 127)


def test_statistics_come_from_the_cache_only_for_the_same_graph_and_data(tmp_path):
    relu = helper.make_node("Relu", ["x"], ["h"], name="r")
    node = helper.make_node("Conv", ["h", "w"], ["y"], name="c", pads=[1] * 4)
    graph = float_graph([relu, node], {"w": np.ones((2, 3, 3, 3), np.float32)}, {"x": ["N", 3, "H", "W"]})
    cache = Cache(tmp_path / "cache")
    feeds = [{"x": np.random.default_rng(i).random((1, 3, 6 + i, 6), np.float32)} for i in range(2)]

    def ask(graph, feeds):
        return cache.statistics(graph, ["h", "y"], feeds, threads=1, where="g")

    first, hit = ask(graph, feeds)
    assert not hit
    again, hit = ask(graph, feeds)
    assert hit
    np.testing.assert_array_equal(again.histograms["y"].counts, first.histograms["y"].counts)
    np.testing.assert_array_equal(again.means["h"], first.means["h"])
    np.testing.assert_allclose(
        first.means["h"], np.mean([f["x"].mean(axis=(0, 2, 3)) for f in feeds], axis=0), rtol=1e-5
    )
    assert set(first.means) == {"h"}
    assert again.histograms["y"].top == first.histograms["y"].top
    assert not ask(graph, feeds[:1])[1]
    graph.set_constant("w", np.full((2, 3, 3, 3), 2, np.float32))
    assert not ask(graph, feeds)[1]
    whole = next((tmp_path / "cache").iterdir()).read_bytes()
    for damaged in (b"", b"damaged", whole[: len(whole) // 2], whole[:60] + b"\xff" * 30 + whole[90:]):
        for file in (tmp_path / "cache").iterdir():
            file.write_bytes(damaged)
        assert not ask(graph, feeds)[1]
    assert ask(graph, feeds)[1]


def test_values_that_are_not_finite_are_named():
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="c")
    graph = float_graph([node], {"w": np.full((1, 1, 1, 1), 1e38, np.float32)}, {"x": [1, 1, 2, 2]})
    with pytest.raises(DataError, match="g: the value y took values that are not finite"):
        collect(graph, ["y"], [{"x": np.full((1, 1, 2, 2), 1e10, np.float32)}], 1, "g")


# -- scales and biases ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [127, 63])
def test_weights_are_rounded_to_the_nearest_integer_of_their_channel(limit):
    weight = np.random.default_rng(0).standard_normal((5, 3, 3, 3)).astype(np.float32)
    weight[2] = 0
    weight[3] *= 1000
    made = quantize_weight(AnyScale(), weight, limit, "w")
    assert made.values.dtype == np.int8
    assert np.abs(made.values.astype(int)).max() == limit
    error = np.abs(made.dequantized() - weight)
    assert np.all(error <= made.scales[:, None, None, None] * 0.5001)
    assert not made.values[2].any()
    with pytest.raises(DataError, match="not finite"):
        quantize_weight(AnyScale(), np.full((1, 1, 1, 1), np.nan, np.float32), limit, "w")


def test_bias_correction_restores_the_mean():
    random = np.random.default_rng(0)
    x = random.random((1, 6, 40, 40), np.float32) + 2
    weight = random.standard_normal((4, 6, 3, 3)).astype(np.float32)
    rounded = quantize_weight(AnyScale(), weight, 7, "w").dequantized()
    bias = random.standard_normal(4).astype(np.float32)

    def mean(w, b):
        node = helper.make_node("Conv", ["x", "w", "b"], ["y"])
        return run(float_graph([node], {"w": w, "b": b}, {"x": list(x.shape)}), {"x": x}).mean(axis=(0, 2, 3))

    before = np.abs(mean(rounded, bias) - mean(weight, bias))
    after = np.abs(
        mean(rounded, corrected_bias(weight, rounded, bias, x.mean(axis=(0, 2, 3)))) - mean(weight, bias)
    )
    assert after.max() < 0.02 * before.max()


# -- equalization ---------------------------------------------------------------------------------------------------


def test_equalization_balances_weights_and_changes_no_output():
    graph = Graph(small_bundle.synthesise())
    names = [node.input[1] for node in graph.nodes if node.op_type in {"Conv", "ConvTranspose"}]
    skewed = graph.constant(names[0]).copy()
    factors = np.geomspace(0.05, 20, 8).astype(np.float32)
    graph.set_constant(names[0], skewed * factors[:, None, None, None])
    feeds = compact_feeds(1)[0]
    other, regions = equalize(graph, feeds, 1, "graph")
    assert regions >= 1
    difference = np.abs(run(graph, feeds).astype(int) - run(other, feeds))
    assert difference.max() <= 1
    assert np.mean(difference > 0) < 2e-3
    spread = [np.ptp(np.log(np.abs(g.constant(names[0])).max(axis=(1, 2, 3)))) for g in (graph, other)]
    assert spread[1] < 0.7 * spread[0]


def test_what_others_see_is_not_equalized():
    conv = helper.make_node("Conv", ["x", "w"], ["h"], name="a")
    tanh = helper.make_node("Tanh", ["h"], ["t"])
    last = helper.make_node("Conv", ["t", "v"], ["y"], name="b")
    weights = {
        "w": np.random.default_rng(0).random((4, 3, 1, 1), np.float32),
        "v": np.ones((2, 4, 1, 1), np.float32),
    }
    graph = float_graph([conv, tanh, last], weights, {"x": [1, 3, 4, 4]})
    x = {"x": np.ones((1, 3, 4, 4), np.float32)}
    assert equalize(graph, x, 1, "graph")[1] == 0


# -- placement and kernels ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared():
    """The small `synthesise`, lowered, with its statistics."""
    graph = Graph(small_bundle.synthesise())
    lower_transposed(graph)
    placement = Placement(graph, "synthesise")
    statistics = collect(graph, placement.plan(placement.layers).values, compact_feeds(), 1, "synthesise")
    return placement, statistics


def recipe_of(statistics: Statistics, limit=127):
    return Recipe(Ranges(statistics, "minmax"), AnyScale(), limit, correct_biases=False)


@pytest.mark.parametrize("limit", [127, 63])
def test_every_convolution_runs_in_int8(prepared, limit):
    placement, statistics = prepared
    made = quantize(placement, placement.plan(placement.layers), recipe_of(statistics, limit))
    data = made.graph.model.SerializeToString()
    kernels = profile(data, compact_feeds(1)[0], where="graph", threads=1, runs=1, weight_limit=limit)
    operators = [kernel.operator for kernel in kernels]
    assert not_int8(kernels, frozenset(made.weights)) == []
    # 5 convolutions, 2 transposed ones as 4 phases, 1 pooling.
    assert operators.count("QLinearConv") == len(made.weights) == 14
    assert not {"Conv", "FusedConv", "ConvTranspose", "Relu", "AveragePool"} & set(operators)
    # Into int8 once, out of it for the sum with the base: nothing in between.
    assert operators.count("QuantizeLinear") == 1
    assert operators.count("DequantizeLinear") == 1


def test_the_optimized_model_says_the_same(prepared, tmp_path):
    import onnxruntime

    placement, statistics = prepared
    made = quantize(placement, placement.plan(placement.layers), recipe_of(statistics))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    data = uint8_activations(made.graph.model.SerializeToString(), "g")
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert operators.count("QLinearConv") == 14
    assert "Conv" not in operators


def test_the_graph_is_what_tensorrt_takes(prepared):
    placement, statistics = prepared
    made = quantize(placement, placement.plan(placement.layers), recipe_of(statistics))
    onnx.checker.check_model(made.graph.model, full_check=True)
    require_buildable(ir.from_proto(made.graph.model), "int8")
    for node in made.graph.nodes:
        if node.op_type == "QuantizeLinear":
            assert node.input[2] in {SIGNED_ZERO_POINT, UNSIGNED_ZERO_POINT}
        if node.op_type == "Conv" and len(node.input) > 2:
            assert made.graph.constant(node.input[2]).dtype == np.float32
    assert {made.graph.constant(name).dtype for name in (SIGNED_ZERO_POINT, UNSIGNED_ZERO_POINT)} == {
        np.dtype(np.int8)
    }


def test_int8_numbers_are_near_those_of_float(prepared):
    placement, statistics = prepared
    made = quantize(placement, placement.plan(placement.layers), recipe_of(statistics))
    for feeds in compact_feeds(2):
        session = open_session(made.graph.model.SerializeToString(), 1, weight_limit=127)
        difference = session.run(None, feeds)[0].astype(int) - run(placement.graph, feeds)
        assert 0 < np.abs(difference).mean() < 1.0


def test_values_of_one_scale_and_those_that_are_never_negative(prepared):
    placement, _ = prepared
    plan = placement.plan(placement.layers)
    signed = {value: group.signed for group in plan.groups for value in group.values}
    relus = [node.output[0] for node in placement.graph.nodes if node.op_type == "Relu"]
    assert not any(signed[value] for value in relus)
    assert any(signed.values())
    # The phases of a transposed convolution, all that interleaves them, and what is concatenated with the result.
    widest = max(plan.groups, key=lambda group: len(group.values))
    assert set(widest.sources) == {
        *(f"ConvTranspose5.{phase}.relu" for phase in ("00", "01", "10", "11")),
        relus[-1],
    }
    assert len(plan.pools) == 1


def test_a_maximum_and_what_it_is_compared_with_are_quantized_alike():
    graph = Graph(small_bundle.segment())
    placement = Placement(graph, "segment")
    pool = next(node for node in graph.nodes if node.op_type == "MaxPool")
    reader = next(node for node in graph.nodes if node.op_type == "Conv" and node.input[0] == pool.output[0])
    plan = placement.plan([Layer(reader.name, (reader.name,))])
    assert {pool.input[0], pool.output[0]} <= set(plan.values)
    together = next(group for group in plan.groups if pool.output[0] in group.values)
    assert pool.input[0] in together.values


def test_a_layer_left_out_stays_float(prepared):
    placement, statistics = prepared
    left_out = placement.layers[2]
    rest = [layer for layer in placement.layers if layer is not left_out]
    made = quantize(placement, placement.plan(rest), recipe_of(statistics))
    assert not set(left_out.convolutions) & set(made.weights)
    kernels = profile(
        made.graph.model.SerializeToString(),
        compact_feeds(1)[0],
        where="graph",
        threads=1,
        runs=1,
        weight_limit=127,
    )
    assert not_int8(kernels, frozenset(made.weights)) == []


def test_graphs_without_convolutions_and_quantized_ones_are_refused(prepared):
    node = helper.make_node("Relu", ["x"], ["y"])
    with pytest.raises(BundleError, match="nothing to quantize"):
        Placement(float_graph([node], {}, {"x": [1, 1, 2, 2]}), "g")
    placement, statistics = prepared
    made = quantize(placement, placement.plan(placement.layers), recipe_of(statistics))
    with pytest.raises(BundleError, match="already quantized"):
        made.graph.require_float("g")
    with pytest.raises(BundleError, match="not an ONNX graph"):
        Graph.parse(b"\xff\xff\xff", "g")


def test_ranges_that_are_all_zero_are_an_error(prepared):
    placement, statistics = prepared
    blank = Statistics({name: Histogram() for name in statistics.histograms}, statistics.means)
    with pytest.raises(DataError, match="all values are zero"):
        quantize(placement, placement.plan(placement.layers), recipe_of(blank))


# -- the uint8 form and saturation ----------------------------------------------------------------------------------


def saturating(limit):
    """A convolution whose products are as large as they come, and its output by integer arithmetic."""
    random = np.random.default_rng(0)
    x = random.choice(np.array([-128, 127], np.int8), (1, 32, 8, 8))
    values = np.full((16, 32, 3, 3), limit, np.int8)
    values[random.random(values.shape) < 0.3] = -limit
    zero = np.array(0, np.int8)
    step, out_step = np.float32(1 / 128), np.float32(1024)
    constants = {
        "w": values, "w_scale": np.ones(16, np.float32), "w_zero": np.zeros(16, np.int8),
        SIGNED_ZERO_POINT: zero, "s": step, "t": out_step,
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", SIGNED_ZERO_POINT], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", SIGNED_ZERO_POINT], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["dw"], axis=0),
        helper.make_node("Conv", ["d", "dw"], ["c"], name="conv", pads=[1] * 4, kernel_shape=[3, 3]),
        helper.make_node("QuantizeLinear", ["c", "t", SIGNED_ZERO_POINT], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "t", SIGNED_ZERO_POINT], ["y"]),
    ]
    graph = float_graph(nodes, constants, {"x": [1, 32, 8, 8]})
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    exact = np.einsum("nchwij,ocij->nohw", windows, values.astype(np.int64)) / 128
    return graph, {"x": x.astype(np.float32) * step}, np.clip(np.rint(exact / 1024), -128, 127) * 1024


@pytest.mark.parametrize("limit", [127, 64, 63])
def test_the_runtime_computes_int8_without_saturation(limit):
    graph, feeds, expected = saturating(limit)
    data = graph.model.SerializeToString()
    session = open_session(data, 1, weight_limit=limit)
    np.testing.assert_array_equal(session.run(None, feeds)[0], expected)
    kernels = profile(data, feeds, where="graph", threads=1, runs=1, weight_limit=limit)
    assert [k.operator for k in kernels].count("QLinearConv") == 1


def test_the_uint8_form_changes_two_scalars(prepared):
    placement, statistics = prepared
    made = quantize(placement, placement.plan(placement.layers), recipe_of(statistics))
    data = made.graph.model.SerializeToString()
    other = onnx.load_model_from_string(uint8_activations(data, "g"))
    onnx.checker.check_model(other)
    changed = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor, old in zip(other.graph.initializer, made.graph.model.graph.initializer, strict=True)
        if tensor != old
    }
    assert {name: (values.dtype, int(values)) for name, values in changed.items()} == {
        SIGNED_ZERO_POINT: (np.dtype(np.uint8), 128),
        UNSIGNED_ZERO_POINT: (np.dtype(np.uint8), 0),
    }
    with pytest.raises(BundleError, match="calibrate the bundle again"):
        uint8_activations(placement.graph.model.SerializeToString(), "g")


# -- sensitivity ----------------------------------------------------------------------------------------------------

DAMAGES = {"a": 0.001, "b": 0.2, "c": 0.03, "d": 0.0, "e": 0.0}


def trials():
    made = [Trial(Layer(name, (name,)), damage, 2e-3, 1e-3) for name, damage in DAMAGES.items()]
    made[4] = dataclasses.replace(made[4], int8_seconds=5e-3)
    return made


def added(layers):
    total = sum(DAMAGES[layer.name] for layer in layers)
    return Damage(total, 30 - total, 40)


@pytest.mark.parametrize(
    ("budget", "int8"), [(1.0, "abcd"), (0.231, "abcd"), (0.1, "acd"), (0.01, "ad"), (0.0005, "d"), (0, "d")]
)
def test_the_worst_layers_are_left_out_until_the_budget_holds(budget, int8):
    decision = decide(trials(), budget, added)
    assert "".join(layer.name for layer in decision.int8) == int8
    assert decision.damage.value <= budget
    assert set(decision.reasons) == set("abcde") - set(int8)
    assert "5.000 ms, float 2.000 ms" in decision.reasons["e"]


def test_a_trifle_that_does_damage_is_left_in_float():
    made = [*trials()[:4], Trial(Layer("e", ("e",)), 0.01, 1e-5, 1e-6)]
    assert "e" in {layer.name for layer in decide(made, 1.0, lambda _: Damage(0.0, 30, 40)).int8}
    decision = decide(made, 0.1, lambda _: Damage(0.0, 30, 40))
    assert "a trifle to compute" in decision.reasons["e"]
    assert set(decision.reasons) == {"e"}


def test_the_rank_counts_damage_for_time_won():
    slow = Trial(Layer("slow", ("slow",)), 0.1, 11e-3, 1e-3)
    quick = Trial(Layer("quick", ("quick",)), 0.05, 2e-3, 1e-3)
    assert [trial.layer.name for trial in rank([slow, quick])] == ["quick", "slow"]


def test_the_room_needs_no_torch():
    modules = "oslic.calibration.calibrate, oslic.cli.commands.calibrate, oslic.bench.experiments.int8"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- what goes wrong inside, and at the ends --------------------------------------------------------------------------


def test_onnx_runtimes_failures_name_the_graph():
    node = helper.make_node("Relu", ["x"], ["y"])
    data = float_graph([node], {}, {"x": [1, 2, 4, 4]}).model.SerializeToString()
    session = Session(data, 1, where="graphs/some.onnx")
    with pytest.raises(UsageError, match=r"graphs/some\.onnx.*x float32 \(1, 3, 4, 4\)"):
        session.run({"x": np.zeros((1, 3, 4, 4), np.float32)})
    with pytest.raises(BundleError, match=r"graphs/some\.onnx"):
        Session(b"no model", 1, where="graphs/some.onnx")


def test_a_histogram_counts_the_smallest_floats_like_any_others():
    x = np.linspace(0, 1, 1001, dtype=np.float32)
    usual, tiny = Histogram(), Histogram()
    usual.add(x)
    tiny.add(x * np.float32(2.0**-120))
    np.testing.assert_array_equal(tiny.counts, usual.counts)


def test_what_is_measured_covers_every_choice_of_layers(float_lite):
    """Transposed convolutions that stay in float are not lowered: their graph has no value of its own."""
    rng = np.random.default_rng(1)
    for name in LAYER_GRAPHS:
        graph = Graph.parse(float_lite.read_graph(name), name)
        lowered = graph.copy()
        lower_transposed(lowered)
        interleave_channels_last(lowered)
        placement = Placement(lowered, name)
        measured = set(placement.plan(placement.layers).values)
        transposed = {node.name for node in graph.nodes if node.op_type == "ConvTranspose"}
        for share in (0.1, 0.5, 0.9):
            chosen = [layer for layer in placement.layers if rng.random() < share]
            convolutions = {c for layer in chosen for c in layer.convolutions}
            partly = graph.copy()
            lower_transposed(partly, transposed & {c.rpartition(".")[0] for c in convolutions})
            interleave_channels_last(partly, convolutions)
            assert set(Placement(partly, name).plan(chosen).values) <= measured
