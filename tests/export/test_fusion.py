"""Fusion of whole graphs: public module styles, both exporters, reports, refusals."""

from __future__ import annotations

import io
import json
import os
import re
import warnings

import numpy as np
import octave_styles as styles
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx_builders import Builder
from onnx_ir.passes.common import AddInitializersToInputsPass
from oslic.bench.experiments.fusion import export_static
from oslic.cli.main import main
from oslic.export.cost import count
from oslic.export.form_selection import CostModel, Fixed, Measured, Preferred
from oslic.export.fusion import RULES, check, fuse, fuse_measured, random_inputs
from oslic.export.ir_queries import serialize
from oslic.export.rules.sums import SharedInput
from oslic.export.verify import Tolerance, require, run
from oslic.networks.codec import create
from oslic.networks.config import preset
from oslic.networks.octconv import OctConv2d
from oslic.runtime.bundle.folder import default_bundle
from oslic.runtime.bundle.manifest import GRAPH_NAMES
from torch import nn

SHAPE = (2, 3, 32, 48)


def export(module: nn.Module, *, dynamo: bool = False, size=SHAPE[2:], opset=17) -> ir.Model:
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
            part.weight.data.uniform_(0.5, 2)
            part.bias.data.normal_()
    x = torch.randn(2, 3, *size)
    module.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            return torch.onnx.export(module, (x,), dynamo=True, verbose=False).model
        file = io.BytesIO()
        torch.onnx.export(
            module,
            (x,),
            file,
            dynamo=False,
            opset_version=opset,
            # BN stays a node: folding it is the rules' work here.
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=True,
            input_names=["x"],
            dynamic_axes={"x": {0: "N", 2: "H", 3: "W"}},
        )
    return ir.from_proto(onnx.load_model_from_string(file.getvalue()))


def fused(model: ir.Model, form="phases", multiple=8, rules=RULES):
    name = str(model.graph.inputs[0].name)
    result, report = fuse(
        model,
        lambda sizes: Fixed(form, "merged", "stacked"),
        multiple=multiple,
        shapes={name: SHAPE},
        rules=rules,
    )
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    # Another size than the one that was exported, and the smallest.
    feeds = [random_inputs(model, {name: (n, 3, h, w)}, n) for n, h, w in ((1, 8, 16), (2, 32, 48))]
    report = check(model, result, report, feeds, Tolerance(1e-5, 1e-4))
    assert all(d.ok for d in report.differences), [str(d) for d in report.differences]
    return result, report


CASES = {
    "d-li14": (
        styles.ConvolveFirstPoolStride,
        {"normalized-sum": 3, "normalized-upsampled-sum": 1, "sum-of-convolutions": 3},
    ),
    "braincreators": (
        styles.InterpolateToSize,
        {
            "upsampling-to-size": 2,
            "normalized-upsampled-sum": 1,
            "normalized-sum": 1,
            "convolution-behind-upsampling": 1,
            "sum-of-convolutions": 1,
        },
    ),
    "lxtGH-sliced": (
        styles.SlicedWeight,
        {"convolution-behind-upsampling": 1, "sum-of-convolutions": 1},
    ),
    "lxtGH-strided": (
        styles.BranchNorm,
        {"normalization-behind-upsampling": 1, "normalized-convolution": 2, "normalized-sum": 1},
    ),
    "iacolippo": (styles.PackedTensor, {"sum-of-convolutions": 1}),
    "fkodom": (styles.PlainTensor, {"shared-input": 2, "product-with-ones": 2}),
    "zdyshine": (styles.WeightNorm, {"sum-of-convolutions": 1}),
    "AesFA": (
        styles.ReflectionPadded,
        {
            "empty-padding": 6,
            "pointwise-behind-upsampling": 2,
            "padded-convolution-behind-upsampling": 0,  # it has no phases, see below
            "sum-of-convolutions": 3,
        },
    ),
    "ours": (styles.Ours, {"convolution-behind-upsampling": 2, "sum-of-convolutions": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_public_styles_are_rewritten_and_compute_the_same(name):
    style, wanted = CASES[name]
    model = export(style(), size=(32, 32) if name == "iacolippo" else SHAPE[2:])
    if name == "iacolippo":  # it reshapes by the width: square images only
        x = str(model.graph.inputs[0].name)
        result, report = fuse(
            model, lambda _: Fixed("phases", "merged"), multiple=8, shapes={x: (1, 3, 32, 32)}
        )
        report = check(
            model, result, report, [random_inputs(model, {x: (2, 3, 32, 32)})], Tolerance(1e-5, 1e-4)
        )
        assert all(d.ok for d in report.differences)
    else:
        _, report = fused(model)
    assert {rule: report.hits[rule] for rule in wanted} == wanted
    assert report.after.macs <= report.before.macs
    assert all(miss.reason for rule in report.rules for miss in rule.near_misses)


@pytest.mark.parametrize(
    "form", ["phases", "phases-channels-last", "phases-paired", "transposed", "pooled", "keep"]
)
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_every_form_is_exact_at_the_borders(form, kernel):
    _, report = fused(export(styles.Ours(kernel)), form)
    assert report.hits["convolution-behind-upsampling"] == (0 if form == "keep" else 2)
    if form != "keep":
        share = {3: (16, 24, 36), 5: (36, 36, 100), 7: (64, 80, 196)}[kernel]
        taps = 1 / 4 if form == "pooled" else share[form == "phases-paired"] / share[2]
        lh_before = (8 * 18 + 6 * 4) * kernel**2 * 32 * 48 * 2
        low = report.before.macs - report.after.macs
        assert low == round(lh_before * (1 - taps))


@pytest.mark.parametrize("spelling", ["repeat_interleave", "expand", "stack"])
def test_repeated_rows_and_columns_are_an_upsampling(spelling):
    _, report = fused(export(styles.RepeatedRows(spelling)))
    assert report.hits["upsampling-by-repetition"] >= 1
    assert report.hits["convolution-behind-upsampling"] == 1
    assert not {"Tile", "Expand", "Reshape", "Unsqueeze"} & set(report.after.operators)


@pytest.mark.parametrize("dynamo", [False, True])
def test_repeated_whole_numbers_stay(dynamo):
    """Runtimes have no resampling of most whole numbers."""

    class Labels(nn.Module):
        def forward(self, x):
            return x.argmax(1, keepdim=True).repeat_interleave(2, 2).repeat_interleave(2, 3), x * 2

    model = export(Labels(), dynamo=dynamo)
    shapes = {str(model.graph.inputs[0].name): SHAPE}
    result, report = fuse(model, lambda _: Fixed(), multiple=2, shapes=shapes)
    reasons = {r.rule: [m.reason for m in r.near_misses] for r in report.rules}["upsampling-by-repetition"]
    assert any("repeats whole numbers" in reason for reason in reasons)
    report = check(model, result, report, [random_inputs(model, shapes)], Tolerance(0, 0))
    assert all(d.ok for d in report.differences)


@pytest.mark.parametrize("opset", [9, 11, 13, 18, 20])
@pytest.mark.parametrize(
    ("style", "wanted"),
    [
        (
            styles.InterpolateToSize,
            {"upsampling-to-size": 2, "normalized-upsampled-sum": 1, "convolution-behind-upsampling": 1},
        ),
        (
            lambda: styles.RepeatedRows("expand"),
            {"upsampling-by-repetition": 1, "convolution-behind-upsampling": 1},
        ),
    ],
)
def test_the_spellings_of_older_and_newer_operator_sets(style, wanted, opset):
    _, report = fused(export(style(), opset=opset))
    assert {rule: report.hits[rule] for rule in wanted} == wanted


def keras_layer(scale_shape=(1, 4, 1, 1)):
    """The structure of titu1994/keras-octconv in tf2onnx's spelling: channels last in between, BN as x * a + b."""
    from onnx import helper, numpy_helper

    random = np.random.default_rng(0)
    constants = {
        "wh": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "wl": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "axis": np.array([3]),
        "twice": np.array([1, 1, 1, 2, 1]),
        "rows": np.array([2, 32, 24, 4]),
        "both": np.array([2, 32, 48, 4]),
        "a": random.standard_normal(scale_shape).astype(np.float32),
        "b": random.standard_normal((1, 4, 1, 1)).astype(np.float32),
    }
    make = helper.make_node
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [
        make("Conv", ["x", "wh"], ["h"], **pads),
        make("AveragePool", ["x"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
        make("Conv", ["half", "wl"], ["l"], **pads),
        make("Unsqueeze", ["l", "axis"], ["l1"]),
        make("Tile", ["l1", "twice"], ["l2"]),
        make("Transpose", ["l2"], ["l3"], perm=[0, 2, 3, 4, 1]),
        make("Reshape", ["l3", "rows"], ["l4"]),
        make("Unsqueeze", ["l4", "axis"], ["l5"]),
        make("Tile", ["l5", "twice"], ["l6"]),
        make("Reshape", ["l6", "both"], ["l7"]),
        make("Transpose", ["l7"], ["up"], perm=[0, 3, 1, 2]),
        make("Add", ["up", "h"], ["sum"]),
        make("Mul", ["a", "sum"], ["scaled"]),
        make("Add", ["scaled", "b"], ["bn"]),
        make("Relu", ["bn"], ["y"]),
    ]
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    x = helper.make_tensor_value_info("x", 1, SHAPE)
    y = helper.make_tensor_value_info("y", 1, ["N", 4, 32, 48])
    graph = helper.make_graph(nodes, "keras", [x], [y], tensors)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


def test_graphs_of_keras_are_read():
    model = keras_layer()
    result, report = fuse(model, lambda _: Fixed("phases"))
    wanted = ("upsampling-by-repetition-transposed", "scale-and-shift", "normalized-upsampled-sum")
    assert [report.hits[rule] for rule in wanted] == [1, 1, 1]
    assert [node.op_type for node in result.graph].count("Add") == 1
    assert not {"Tile", "Transpose", "Mul", "BatchNormalization"} & set(report.after.operators)
    report = check(model, result, report, [random_inputs(model, report.shapes)], Tolerance(1e-5, 1e-4))
    assert all(d.ok for d in report.differences), [str(d) for d in report.differences]


@pytest.mark.parametrize("scale_shape", [(1, 1, 32, 48), (48,), ()])
def test_products_that_are_not_by_channel_stay(scale_shape):
    model = keras_layer(scale_shape=scale_shape)
    result, report = fuse(model, lambda _: Fixed("phases"))
    assert report.hits["scale-and-shift"] == 0
    if scale_shape:  # a scalar is a change of units, no normalization, and no near-miss
        reasons = {r.rule: [m.reason for m in r.near_misses] for r in report.rules}["scale-and-shift"]
        assert any("not float32 by channel" in reason for reason in reasons)
    report = check(model, result, report, [random_inputs(model, report.shapes)], Tolerance(1e-5, 1e-4))
    assert all(d.ok for d in report.differences), [str(d) for d in report.differences]


@pytest.mark.parametrize("form", ["transposed", "pooled", "keep"])
@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_repeated_borders_are_exact(form, mode):
    _, report = fused(export(styles.ReflectionPadded(mode)), form)
    assert report.hits["padded-convolution-behind-upsampling"] == (form != "keep")
    macs = 8 * 8 * 9 * 32 * 48 * 2
    saved = {"keep": 0, "transposed": macs * 20 // 36, "pooled": macs * 27 // 36}[form]
    # Two 1x1 convolutions go behind their upsampling.
    assert report.before.macs - report.after.macs >= saved


def padding(pads, mode="constant", value=0.0, axes=None, kernel=3, conv_pads=0, stride=1):
    """conv(pad(up(relu(x)))), each as a node."""
    from onnx import helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((4, 3, kernel, kernel)).astype(np.float32)
    constants = {"w": weight, "s": np.array([1, 1, 2, 2], np.float32), "p": np.array(pads, np.int64)}
    constants["c"] = np.array(value, np.float32)
    names = ["u", "p", "c"]
    if axes is not None:
        constants["a"] = np.array(axes, np.int64)
        names.append("a")
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["l"]),
            helper.make_node(
                "Resize",
                ["l", "", "s"],
                ["u"],
                mode="nearest",
                nearest_mode="floor",
                coordinate_transformation_mode="asymmetric",
            ),
            helper.make_node("Pad", names, ["q"], mode=mode),
            helper.make_node("Conv", ["q", "w"], ["y"], pads=[conv_pads] * 4, strides=[stride] * 2),
        ],
        "padding",
        [helper.make_tensor_value_info("x", 1, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("y", 1, ["N", 4, "h", "w"])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10))


@pytest.mark.parametrize(
    ("model", "rule"),
    [
        (padding([0, 0, 1, 1, 0, 0, 1, 1]), "convolution-behind-upsampling"),
        (padding([1, 1, 1, 1], axes=[2, 3]), "convolution-behind-upsampling"),
        (padding([1, 0, 1, 0], axes=[3, 2], conv_pads=1, kernel=5), "convolution-behind-upsampling"),
        (padding([0, 0, 2, 1, 0, 0, 2, 1], "edge"), "padded-convolution-behind-upsampling"),
        (padding([0, 0, 3, 0, 0, 0, 2, 3], "edge", kernel=5), "padded-convolution-behind-upsampling"),
        (padding([1, 0, 0, 1], "reflect", axes=[2, 3]), "padded-convolution-behind-upsampling"),
        (padding([0, 0, 0, 0], "reflect", axes=[2, 3], conv_pads=1), "convolution-behind-upsampling"),
        (padding([0, 0, 2, 2, 0, 0, 2, 2], "edge", kernel=2), "padded-convolution-behind-upsampling"),
        # Outputs of odd sizes, which have no phases.
        (padding([0] * 8, conv_pads=1, kernel=4), "convolution-behind-upsampling"),
        (padding([0, 0, 1, 1, 0, 0, 1, 1], "reflect", kernel=4), "padded-convolution-behind-upsampling"),
    ],
)
@pytest.mark.parametrize("form", ["transposed", "pooled"])
def test_paddings_of_their_own_are_exact(model, rule, form):
    _, report = fused(model, form)
    assert report.hits[rule] == 1


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (padding([0, 0, 1, 1, 0, 0, 1, 1], value=1), "pads with 1, a convolution with 0"),
        (padding([0, 0, 2, 2, 0, 0, 2, 2], "reflect", kernel=5), "only repeated borders"),
        (
            padding([0, 0, 1, 1, 0, 0, 1, 1], "reflect", conv_pads=1),
            "has strides (1, 1) and pads (1, 1, 1, 1)",
        ),
        (padding([0, 0, 1, 1, 0, 0, 1, 1], "reflect", stride=2), "has strides (2, 2) and pads (0, 0, 0, 0)"),
        (padding([1, 0, 1, 1, 0, 0, 1, 1]), "pads the batch or the channels"),
        (padding([0, 0, 1, 1, 0, 0, -1, -1]), "cuts"),
    ],
)
def test_paddings_that_cannot_be_moved_are_named(model, reason):
    _, report = fused(model, "pooled")
    assert any(reason in miss.reason for rule in report.rules for miss in rule.near_misses)
    assert report.before.macs == report.after.macs


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
def test_strided_layers_need_no_upsampling(kernel):
    _, report = fused(export(styles.Ours(kernel, stride=2)))
    assert report.hits["strided-behind-upsampling"] == 1
    if kernel == 1:
        assert report.hits["pointwise-behind-upsampling"] == 1
        assert report.hits["convolution-behind-upsampling"] == 0


@pytest.mark.parametrize("order", ["upsample_first", "convolve_first"])
def test_sizes_in_the_graph_prove_what_was_not_declared(order):
    model = export(styles.Ours(order=order))
    model.graph.inputs[0].shape = ir.Shape(SHAPE)
    _, report = fuse(model, lambda _: Fixed("phases", "merged"))
    assert report.hits["sum-of-convolutions"] == 1


def test_without_a_proof_of_even_sizes_the_graph_stays_right_at_odd_ones():
    model = export(styles.InterpolateToSize())
    result, report = fuse(model, lambda _: Fixed("phases"), shapes={"x": SHAPE})
    assert report.hits["convolution-behind-upsampling"] == 0
    reasons = [m.reason for r in report.rules for m in r.near_misses]
    assert any("not proved to repeat" in reason and "--multiple" in reason for reason in reasons)
    report = check(
        model, result, report, [random_inputs(model, {"x": (1, 3, 33, 47)})], Tolerance(1e-5, 1e-4)
    )
    assert all(d.ok for d in report.differences)


def test_sizes_that_are_numbers_need_no_declaration():
    model = export(styles.InterpolateToSize())
    model.graph.inputs[0].shape = ir.Shape((1, 3, 33, 47))
    result, report = fuse(model, lambda _: Fixed("phases"))
    reasons = [m.reason for r in report.rules for m in r.near_misses]
    assert any("not proved to repeat" in reason for reason in reasons)
    assert not any("--multiple" in reason for reason in reasons)
    # The sizes become constants, and whatever the factor, a batch normalization passes the resampling.
    assert report.hits["upsampling-to-size"] >= 1
    assert report.hits["normalized-upsampled-sum"] == 1
    assert not {"Shape", "BatchNormalization"} & set(report.after.operators)
    report = check(model, result, report, [random_inputs(model, report.shapes)], Tolerance(1e-5, 1e-4))
    assert all(d.ok for d in report.differences), [str(d) for d in report.differences]


@pytest.mark.parametrize("mode", ["nearest", "bilinear", "bicubic"])
def test_normalizations_pass_any_resampling_of_a_summand(mode):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.h, self.low, self.norm = (
                nn.Conv2d(3, 4, 3, 1, 1),
                nn.Conv2d(3, 4, 3, 3, 1),
                nn.BatchNorm2d(4),
            )

        def forward(self, x):
            return self.norm(self.h(x) + nn.functional.interpolate(self.low(x), size=x.shape[2:], mode=mode))

    model = export(Sum())
    model.graph.inputs[0].shape = ir.Shape((1, 3, 30, 48))
    result, report = fuse(model, lambda _: Fixed())
    assert report.hits["normalized-upsampled-sum"] == 1
    report = check(model, result, report, [random_inputs(model, report.shapes)], Tolerance(1e-5, 1e-4))
    assert all(d.ok for d in report.differences), [str(d) for d in report.differences]


def test_bilinear_upsampling_is_refused_with_its_reason():
    model = export(styles.SlicedWeight(mode="bilinear"))
    _, report = fuse(model, lambda _: Fixed("phases"), multiple=8, shapes={"x": SHAPE})
    assert report.hits["convolution-behind-upsampling"] == 0
    misses = {r.rule: [m.reason for m in r.near_misses] for r in report.rules}
    assert any(
        reason.endswith("is linear, not nearest") for reason in misses["convolution-behind-upsampling"]
    )


def test_pooling_an_upsampling_gives_back_its_input():
    class PoolFirst(styles.SlicedWeight):
        def forward(self, x):
            return nn.functional.avg_pool2d(
                nn.functional.interpolate(super().forward(x), scale_factor=2, mode="nearest"), 2
            )

    _, report = fused(export(PoolFirst()))
    assert report.hits["pool-of-upsampling"] == 1
    assert "AveragePool" in report.after.operators  # the style's own pools


def test_pointwise_convolutions_pass_pools_and_upsamplings():
    class Pointwise(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.up = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x):
            low = torch.relu(nn.functional.avg_pool2d(self.down(x), 2))
            return self.up(nn.functional.interpolate(low, scale_factor=2, mode="nearest"))

    _, report = fused(export(Pointwise()))
    assert report.hits["pool-of-pointwise"] == 1
    assert report.hits["pointwise-behind-upsampling"] == 1
    assert report.after.macs * 4 == report.before.macs


def test_max_unpooling_takes_the_first_of_equal_values():
    from onnx import helper

    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    graph = helper.make_graph(
        [
            helper.make_node("MaxPool", ["x"], ["p", "i"], **pool),
            helper.make_node("Relu", ["p"], ["v"]),
            helper.make_node("MaxUnpool", ["v", "i"], ["y"], **pool),
        ],
        "unpool",
        [helper.make_tensor_value_info("x", 1, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("y", 1, ["N", 3, "H", "W"])],
    )
    model = ir.from_proto(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    )
    result, report = fuse(model, lambda _: Fixed(), multiple=2, shapes={"x": SHAPE})
    assert report.hits["max-unpooling"] == 1
    assert not {"MaxUnpool", "ScatterND", "NonZero"} & set(report.after.operators)
    # Few distinct values: most windows hold their maximum more than once.
    x = np.random.default_rng(0).integers(-1, 2, SHAPE).astype(np.float32)
    report = check(model, result, report, [{"x": x}], Tolerance(0, 0))
    assert [d.maximum for d in report.differences] == [0.0]
    wanted = nn.functional.max_unpool2d(
        nn.functional.max_pool2d(torch.from_numpy(x), 2).relu(),
        nn.functional.max_pool2d(torch.from_numpy(x), 2, return_indices=True)[1],
        2,
    )
    assert np.array_equal(run(ir.to_proto(result).SerializeToString(), {"x": x})["y"], wanted.numpy())


def test_shared_inputs_become_one_convolution():
    model = export(styles.Ours(order="convolve_first"))
    _, report = fused(model, rules=(SharedInput,))
    assert report.hits["shared-input"] == 1
    assert report.after.macs == report.before.macs


def test_products_that_repeat_or_scale_stay():
    class Products(nn.Module):
        def forward(self, x):
            row = x.mean(2, keepdim=True)
            return row * torch.ones(1, 1, 4, 1), x * torch.full((1, 3, 1, 1), 0.5), x * torch.ones(3, 1, 1)

    model = export(Products())
    result, report = fuse(model, lambda _: Fixed(), shapes={"x": SHAPE})
    assert report.hits["product-with-ones"] == 1
    report = check(model, result, report, [random_inputs(model, {"x": SHAPE})], Tolerance(0, 0))
    assert all(d.ok for d in report.differences), [str(d) for d in report.differences]


def test_values_with_other_readers_stay():
    class Reader(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(3, 4, 3, 1, 1)

        def forward(self, x):
            a, b = self.a(x), self.b(x * 2)
            return torch.cat([a + b, a], 1)

    _, report = fused(export(Reader()))
    assert report.hits["sum-of-convolutions"] == 0
    # Skip connections are like that: nothing to report.
    (rule,) = (r for r in report.rules if r.rule == "sum-of-convolutions")
    assert not rule.near_misses


def test_small_kernels_are_embedded_in_larger_ones():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 5, 1, 2)

        def forward(self, x):
            return self.a(x) + self.b(torch.relu(x))

    _, report = fused(export(Sum()))
    assert report.hits["sum-of-convolutions"] == 1


def test_computed_weights_are_constants():
    model = export(styles.WeightNorm(width=48), dynamo=True)  # smaller weights the exporter computes
    assert "ReduceL2" in {node.op_type for node in model.graph}
    result, report = fuse(model, lambda _: Fixed("merged"))
    assert report.hits["sum-of-convolutions"] == 1
    assert not {"ReduceL2", "Div"} & {node.op_type for node in result.graph}
    report = check(model, result, report, [random_inputs(model, report.shapes)], Tolerance(1e-5, 1e-4))
    assert all(d.ok for d in report.differences), [str(d) for d in report.differences]


@pytest.mark.slow
@pytest.mark.parametrize(
    "style",
    [styles.Ours, styles.ConvolveFirstPoolStride, styles.SlicedWeight, styles.ReflectionPadded],
)
def test_graphs_of_the_dynamo_exporter(style):
    _, report = fuse(export(style(), dynamo=True), lambda _: Fixed("phases", "merged"))
    assert report.hits["sum-of-convolutions"] >= 1


@pytest.mark.parametrize("chooser", ["model", "measured"])
def test_choices_are_made_and_reported(chooser):
    model = export(styles.Ours())
    make = (
        (lambda sizes: CostModel("onnxruntime", sizes))
        if chooser == "model"
        else (lambda sizes: Measured(sizes, 1, 0.01))
    )
    _, report = fuse(model, make, multiple=8, shapes={"x": SHAPE})
    assert {c["rule"] for c in report.choices} >= {"convolution-behind-upsampling"}
    assert all(" ms" in c["reason"] for c in report.choices)


def test_a_whole_graph_is_taken_only_where_it_is_faster_beyond_doubt():
    model = export(styles.Ours())
    fused, report = fuse_measured(model, 1, multiple=8, shapes={"x": SHAPE}, seconds=0.01)
    assert report.timing.startswith("processor time of one thread, 11 rounds: as it was ")
    ratios = {
        name: [float(x) for x in numbers]
        for name, *numbers in re.findall(r"(forms [\w ]+?) ([\d.]+) \(([\d.]+) to ([\d.]+)\)", report.timing)
    }
    assert set(ratios) == {"forms measured one by one", "forms by the cost model"}
    taken = report.timing.rpartition(": taken ")[2]
    faster = {name: value for name, (value, _, high) in ratios.items() if high < 0.98}
    assert report.kept == (not faster)
    assert taken == (min(faster, key=faster.get) if faster else "as it was")
    assert report.after == count(fused.graph, report.shapes)
    feeds, tolerance = [random_inputs(model, report.shapes)], Tolerance(1e-5, 1e-4)
    require(check(model, fused, report, feeds, tolerance).differences, "the fastest graph", tolerance)


EXPLAINED = re.compile(
    r"^the present form was chosen: "  # by measurement or by the cost model, with the times of all forms
    r"|^strides of \S+ and \S+ differ: \(2, 2\) and \(1, 1\)$"  # LH at the low rate has no stride left
)


def explained(report):
    misses = [(rule.rule, miss) for rule in report.rules for miss in rule.near_misses]
    return [(rule, miss) for rule, miss in misses if not EXPLAINED.match(miss.reason)]


def behind_upsampling(model):
    """Convolutions that read a nearest upsampling."""
    return [
        node
        for node in model.graph
        if node.op_type == "Conv"
        and (before := node.inputs[0].producer()) is not None
        and before.op_type == "Resize"
        and before.attributes.get_string("mode", "nearest") == "nearest"
    ]


@pytest.mark.parametrize(
    "network", ["tiny", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lite", "base"))]
)
@pytest.mark.parametrize("graph", ["analyse", "synthesise"])
def test_every_octave_layer_of_our_networks_is_rewritten_and_no_near_miss_unexplained(network, graph):
    config = preset(network)
    naive = export_static(config, graph, (128, 192), 0)
    octaves = sum(
        isinstance(module, OctConv2d) and module.lh is not None
        for name, module in create(config, 0).named_modules()
        if name.startswith("comnet" if graph == "analyse" else "gnet")
    )
    assert octaves > 2
    model, report = fuse(naive, lambda _: Fixed("pooled", "merged", "stacked"))
    rewritten = sum(report.hits[rule] for rule in report.hits if "behind-upsampling" in rule)
    if config.lh_order == "upsample_first":
        assert rewritten >= octaves
    else:
        assert report.hits["shared-input"] >= 1
    assert not behind_upsampling(model)
    assert report.hits["sum-of-convolutions"] >= 1
    assert not explained(report)
    assert report.after.macs < 0.85 * report.before.macs
    _, report = fuse(naive, lambda sizes: CostModel("onnxruntime", sizes))
    assert not explained(report)


@pytest.mark.parametrize("graph", GRAPH_NAMES)
def test_the_shipped_graphs_leave_nothing_to_rewrite_and_nothing_unexplained(float_lite, graph):
    bundle = float_lite
    if graph not in bundle.manifest.graphs:
        pytest.skip("the shipped bundle has no such graph")
    model = ir.from_proto(onnx.load_model_from_string(bundle.read_graph(graph)))
    shapes = {
        str(value.name): {
            "image": (1, 512, 768, 3),
            "labels": (1, 128, 192),
            "compact": (1, 64, 96, 3),
            "decoded": (1, 512, 768, 3),
            "estimate": (1, 512, 768, 3),
            "settings": (1, 2),
        }[str(value.name)]
        for value in model.graph.inputs
    }
    _, report = fuse(model, lambda _: Fixed(), shapes=shapes)
    # The graphs were exported before this rule was there, which takes one node out of 151.
    later = "transposed-behind-upsampling"
    assert not any(count for rule, count in report.hits.items() if rule != later), report.hits
    assert report.hits[later] <= 1
    assert not explained(report)
    # What is left behind an upsampling is what the cost model does not expect to become faster.
    _, again = fuse(model, lambda sizes: CostModel("onnxruntime", sizes), shapes=shapes)
    assert again.hits["convolution-behind-upsampling"] == 0
    assert len(behind_upsampling(model)) <= len(again.choices)
    assert not {"BatchNormalization", "MaxUnpool", "ScatterND"} & set(report.before.operators)


def test_the_command_writes_graph_and_report(tmp_path, capsys):
    ir.save(export(styles.Ours()), tmp_path / "in.onnx")
    arguments = ["fuse", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx"), "--multiple", "4"]
    more = ["--shape", "x=1x3x32x48", "--form", "pooled"]
    assert main([*arguments, "--report", str(tmp_path / "r.json"), *more]) == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["macs"]["after"] < report["macs"]["before"]
    assert (tmp_path / "out.onnx").is_file()
    assert "convolution-behind-upsampling: 2 rewritten" in capsys.readouterr().out


def test_a_mismatch_is_an_error_and_writes_nothing(tmp_path, capsys):
    ir.save(export(styles.Ours()), tmp_path / "in.onnx")
    arguments = ["fuse", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx"), "--multiple", "4"]
    # A form that sums in another order; what the cost model chooses may be equal to the last bit on some processors.
    arguments += ["--form", "phases"]
    assert main([*arguments, "--atol", "0", "--rtol", "0"]) == 9
    assert not (tmp_path / "out.onnx").exists()
    assert "does not match its reference (atol 0, rtol 0)" in capsys.readouterr().err


def test_what_is_no_graph_is_refused(tmp_path, capsys):
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    assert main(["fuse", str(tmp_path / "x.onnx"), "-o", str(tmp_path / "y.onnx")]) == 2
    assert "is not an ONNX graph" in capsys.readouterr().err


def test_weights_that_older_exporters_list_as_inputs_are_constants(tmp_path, capsys):
    plain, report = fuse(
        export(styles.Ours()), lambda sizes: Preferred("phases", CostModel("onnxruntime", sizes)), multiple=4
    )
    model = export(styles.Ours())
    AddInitializersToInputsPass()(model)
    model.ir_version = 3  # the last that demands it
    assert len(model.graph.inputs) > 1
    listed = tmp_path / "in.onnx"
    ir.save(model, listed)
    out = tmp_path / "out.onnx"
    assert main(["fuse", str(listed), "-o", str(out), "--multiple", "4", "--form", "phases"]) == 0
    assert [str(value.name) for value in ir.load(out).graph.inputs] == ["x"]
    assert sum(1 for _ in ir.load(out).graph) == sum(1 for _ in plain.graph)
    assert {rule.rule: rule.hits for rule in report.rules}["convolution-behind-upsampling"] == 2
    output = capsys.readouterr().out
    assert "convolution-behind-upsampling: 2 rewritten" in output
    assert "initializers that are inputs, too, are constants now, as IR version 3 lists all weights" in output


class TwiceOut(nn.Module):
    """A feature map that is an output by itself, and again as what a pool behind its upsampling makes of it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        y = self.conv(x)
        up = nn.functional.interpolate(y, scale_factor=2, mode="nearest")
        return y, nn.functional.avg_pool2d(up, 2), y.view_as(y), nn.functional.avg_pool2d(up, 2)


@pytest.mark.parametrize("dynamo", [False, True])
def test_outputs_of_one_value_keep_their_names(dynamo):
    model = export(TwiceOut(), dynamo=dynamo)
    names = [str(value.name) for value in model.graph.outputs]
    assert len(set(names)) == 4
    result, report = fuse(
        model, lambda _: Fixed(), multiple=8, shapes={str(model.graph.inputs[0].name): SHAPE}
    )
    assert report.hits["pool-of-upsampling"] >= 1
    assert not any(node.op_type == "AveragePool" for node in result.graph)
    assert [str(value.name) for value in result.graph.outputs] == names
    report = check(model, result, report, [random_inputs(model, report.shapes)], Tolerance(1e-6, 1e-5))
    assert [difference.ok for difference in report.differences] == [True] * 4


def test_weights_beside_the_graph_come_with_it(tmp_path, monkeypatch):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    ir.save(export(styles.Ours()), there / "in.onnx", external_data="in.data", size_threshold_bytes=0)
    monkeypatch.chdir(here)  # where no weights lie
    assert main(["fuse", str(there / "in.onnx"), "-o", "out.onnx", "--multiple", "4"]) == 0
    fused = onnx.load(here / "out.onnx", load_external_data=False)
    assert fused.graph.initializer
    assert not any(onnx.external_data_helper.uses_external_data(w) for w in fused.graph.initializer)


def test_weights_that_are_missing_beside_the_graph_are_named(tmp_path, capsys):
    ir.save(export(styles.Ours()), tmp_path / "in.onnx", external_data="in.data", size_threshold_bytes=0)
    (tmp_path / "in.data").unlink()
    assert main(["fuse", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx")]) == 2
    error = capsys.readouterr().err
    assert "cannot read the weights" in error
    assert "in.data" in error


def test_weights_beside_the_graph_are_inputs_and_regular_files(tmp_path, capsys):
    """A pipe in their place was waited for without end; a graph may not name files elsewhere."""
    source, data = tmp_path / "in.onnx", tmp_path / "in.data"
    ir.save(export(styles.Ours()), source, external_data="in.data", size_threshold_bytes=0)
    content = data.read_bytes()
    (tmp_path / "link.onnx").hardlink_to(data)
    for output in ("in.data", "link.onnx"):
        assert main(["fuse", str(source), "-o", str(tmp_path / output)]) == 2
        assert "would be written over the input" in capsys.readouterr().err
        assert data.read_bytes() == content
    data.unlink()
    os.mkfifo(data)
    assert main(["fuse", str(source), "-o", str(tmp_path / "out.onnx")]) == 2
    assert "in.data: it is a pipe, not a regular file" in capsys.readouterr().err
    graph = onnx.load(source, load_external_data=False)
    for place in ("/etc/hostname", "../in.data"):
        for weight in graph.graph.initializer:
            for entry in weight.external_data:
                if entry.key == "location":
                    entry.value = place
        source.write_bytes(graph.SerializeToString())
        assert main(["fuse", str(source), "-o", str(tmp_path / "out.onnx")]) == 2
        assert f"{place}: only files beside the graph are read" in capsys.readouterr().err


def test_given_inputs_are_checked_by_name(tmp_path, capsys):
    ir.save(export(styles.Ours()), tmp_path / "in.onnx")
    file = tmp_path / "x.npz"
    arguments = ["fuse", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx"), "--multiple", "4"]
    x = np.random.default_rng(0).standard_normal((1, 3, 32, 48), np.float32)
    np.savez(file, x=x)
    assert main([*arguments, "--inputs", str(file)]) == 0
    assert "[1] 1x" in capsys.readouterr().out
    np.savez(file, image=x)
    assert main([*arguments, "--inputs", str(file)]) == 2
    assert f"{file} holds arrays named image; the graph's inputs are x" in capsys.readouterr().err
    np.save(tmp_path / "x.npy", x)
    assert main([*arguments, "--inputs", str(tmp_path / "x.npy")]) == 2
    assert "holds no arrays by input name" in capsys.readouterr().err


def test_graphs_without_convolutions_come_out_as_they_were(tmp_path):
    """Strings, sequences, constants, a rank that is not stated: nothing of ours, and no reason to stop."""
    from onnx import helper

    make, info = helper.make_node, helper.make_tensor_value_info
    graphs = {
        "strings": ([make("StringNormalizer", ["x"], ["y"])], info("x", onnx.TensorProto.STRING, [2]), 8),
        "sequence": (
            [
                make("SequenceConstruct", ["x"], ["all"]),
                make("Constant", [], ["i"], value_int=0),
                make("SequenceAt", ["all", "i"], ["y"]),
            ],
            info("x", 1, [2, 3]),
            1,
        ),
        "rank": ([make("Relu", ["x"], ["y"])], info("x", 1, None), 1),
    }
    for name, (nodes, x, kind) in graphs.items():
        graph = helper.make_graph(nodes, name, [x], [info("y", kind, None)])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        result, report = fuse(ir.from_proto(model), lambda sizes: CostModel("onnxruntime", sizes))
        assert not any(report.hits.values())
        data = np.array(["a", "b"]) if name == "strings" else np.arange(6, dtype=np.float32).reshape(2, 3)
        before, after = (run(serialize(m), {"x": data})["y"] for m in (ir.from_proto(model), result))
        assert np.array_equal(before, after)


def test_a_missing_folder_is_named_before_the_work(tmp_path, capsys):
    ir.save(export(styles.Ours()), tmp_path / "in.onnx")
    report = tmp_path / "none" / "r.json"
    arguments = ["fuse", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx"), "--report", str(report)]
    assert main(arguments) == 2
    output = capsys.readouterr()
    assert not output.out
    assert f"cannot write {report}: the folder {report.parent} does not exist; create it first" in output.err


def test_every_form_of_the_rules_has_its_option(capsys):
    seen = set()

    class Seeing:
        def choose(self, site, forms):
            seen.update(forms)
            return Fixed("phases", "merged", "stacked").choose(site, forms)

    joined = Builder(shape=(1, 8, 16, 16))
    lifted = joined.up(joined.conv(joined.op("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2]), 8, 8))
    both = joined.op("Concat", lifted, "x", axis=1)
    joined.conv(both, 16, 8, 1)
    joined.conv(both, 16, 8, 3, strides=[2, 2])
    models = [
        export(styles.Ours()),
        export(styles.PlainTensor()),
        joined.model(*(n.output[0] for n in joined.nodes[-2:])),
    ]
    for model in models:
        fuse(model, lambda _: Seeing(), multiple=4)
    with pytest.raises(SystemExit):
        main(["fuse", "--help"])
    listed = re.search(r"--form \{([^}]+)\}", capsys.readouterr().out)
    assert listed is not None
    assert set(listed[1].replace("\n", "").replace(" ", "").split(",")) == seen


@pytest.mark.parametrize("form", ["pooled", "phases-channels-last"])
def test_half_precision_is_fused_and_judged_in_its_steps(form):
    model = half(export(styles.Ours()))
    result, report = fuse(model, lambda _: Fixed(form, "merged"), multiple=4, shapes={"x": SHAPE})
    assert report.hits["convolution-behind-upsampling"] == 2
    assert report.hits["sum-of-convolutions"] == 1
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    weights = {
        value.const_value.dtype for value in result.graph.initializers.values() if "scale" not in value.name
    }
    assert weights <= {ir.DataType.FLOAT16, ir.DataType.INT64}
    feeds = [random_inputs(model, {"x": SHAPE})]
    (difference,) = check(model, result, report, feeds, Tolerance(1e-5, 1e-4)).differences
    assert difference.ok
    assert 1e-5 < difference.maximum < 2.0**-9 * difference.magnitude
    kernel = max((v for v in result.graph.initializers.values()), key=lambda v: v.const_value.size)
    kernel.const_value = ir.tensor(kernel.const_value.numpy() * np.float16(1.02))
    (difference,) = check(model, result, report, feeds, Tolerance(1e-5, 1e-4)).differences
    assert not difference.ok


def half(model: ir.Model) -> ir.Model:
    """All of a float32 graph in float16."""
    proto = ir.to_proto(model)
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    del proto.graph.value_info[:]
    return ir.from_proto(proto)


def test_shapes_that_do_not_fit_together_are_named_with_the_remedy(tmp_path, capsys):
    graph = default_bundle() / "synthesise.onnx"
    shapes = ("--shape", "compact=1x8x12x3", "--shape", "labels=1x16x20")
    assert main(["fuse", str(graph), "-o", str(tmp_path / "x.onnx"), "--multiple", "4", *shapes]) == 2
    message = capsys.readouterr().err
    assert (
        "does not run with compact=1x8x12x3, labels=1x16x20; give shapes that fit together (--shape)"
        in message
    )


def test_a_graph_with_an_embedding_is_checked_on_labels_that_it_has(tmp_path):
    graph = default_bundle() / "synthesise.onnx"
    shapes = ("--shape", "compact=1x8x12x3", "--shape", "labels=1x16x24")
    assert main(["fuse", str(graph), "-o", str(tmp_path / "again.onnx"), "--multiple", "4", *shapes]) == 0
    model = ir.load(graph)
    table = next(node for node in model.graph if node.op_type == "Gather").inputs[0]
    labels = random_inputs(model, {"compact": (1, 8, 12, 3), "labels": (1, 64, 64)})["labels"]
    assert labels.max() == table.shape[0] - 1
    assert labels.dtype == np.uint8
