"""Rules around nearest upsampling: concatenations, element-wise functions, any factor, groups, half precision."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx_builders import Builder
from oslic.export.form_selection import Fixed, Measured
from oslic.export.fusion import check, fuse, random_inputs
from oslic.export.rules.padding import RepeatedBorder, pad
from oslic.export.verify import Tolerance

CONV, CONCAT, FUNCTIONS = (
    "convolution-behind-upsampling",
    "convolution-of-concatenation",
    "functions-behind-upsampling",
)
PHASES = ("phases", "phases-channels-last", "phases-blocked", "phases-paired", "phases-stacked")
FORMS = (*PHASES, "transposed", "pooled")
EXACT = Tolerance(2e-5, 1e-4)


def fused(model, form, *, shapes=None, multiple=1):
    shapes = shapes or {"x": (1, 8, 12, 16)}
    result, report = fuse(model, lambda _: Fixed(form), multiple=multiple, shapes=shapes)
    onnx.checker.check_model(ir.to_proto(result))
    # The sizes that the costs are of, and others.
    other = {n: (2, s[1], *(side // 2 for side in s[2:])) for n, s in shapes.items()}
    feeds = [random_inputs(model, shapes), random_inputs(model, other, 1)]
    if any(isinstance(d, int) for value in model.graph.inputs for d in (value.shape[0], *value.shape[2:])):
        feeds = feeds[:1]
    report = check(model, result, report, feeds, EXACT)
    assert all(d.ok for d in report.differences), [str(d) for d in report.differences]
    return result, report


def count(model, *kinds):
    return sum(node.op_type in kinds for node in model.graph)


def reasons(report, rule):
    return [m.reason for r in report.rules if r.rule == rule for m in r.near_misses]


def joined(*, static=False, kernel=3, order=("up", "skip"), factor=2, behind=("Relu",), **settings):
    """conv(concat(up(l), skip)) with l and skip from two inputs."""
    h, w = (6, 8) if static else ("H", "W")
    b = Builder(shape=("N", 8, h, w))
    b.inputs["s"] = ("N", 4, *((factor * 6, factor * 8) if static else (f"{factor}*H", f"{factor}*W")))
    low = b.op("Abs", "x")
    parts = {
        "up": b.up(low, factor, factor),
        "skip": b.op("Neg", "s"),
        "other": b.up(b.op("Sin", "x"), factor, factor),
    }
    channels = {"up": 8, "skip": 4, "other": 8}
    y = b.op("Concat", *(parts[name] for name in order), axis=1)
    y = b.conv(y, sum(channels[name] for name in order), 6, kernel, **settings)
    for kind in behind:
        y = b.op(kind, y)
    return b.model(y)


SHAPES = {"x": (1, 8, 6, 8), "s": (1, 4, 12, 16)}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("order", [("up", "skip"), ("skip", "up"), ("up", "skip", "other"), ("up", "other")])
def test_a_convolution_of_a_concatenation_is_split(form, static, order):
    result, report = fused(joined(static=static, order=order), form, shapes=SHAPES)
    assert report.hits[CONCAT] == 1
    assert report.before.macs > report.after.macs or form == "phases-stacked"
    assert not count(result, "Resize")
    (choice,) = [c for c in report.choices if c["rule"] == CONCAT]
    assert choice["form"] == form


def test_its_multiplications_are_those_of_the_parts():
    _, report = fused(joined(), "pooled", shapes=SHAPES)
    high = 12 * 16 * 6 * 9
    assert report.before.macs == high * 12
    assert report.after.macs == high * 4 + 6 * 8 * 6 * 9 * 8  # skip, and 9 taps for each pixel of l


@pytest.mark.parametrize(
    ("settings", "form", "nodes"),
    [
        ({"kernel": 1}, "pointwise", {"Conv": 2, "Resize": 1}),
        ({"strides": [2, 2]}, "strided", {"Conv": 2, "Resize": 0}),
        ({"kernel": 5}, "phases", {"Conv": 8, "Resize": 0}),
        ({"dilations": [2, 2], "pads": [2] * 4}, "phases", {"Conv": 8, "Resize": 0}),
        ({"bias": False}, "transposed", {"Conv": 1, "ConvTranspose": 1, "Resize": 0}),
    ],
)
def test_other_convolutions_of_concatenations(settings, form, nodes):
    result, report = fused(joined(**settings), form, shapes=SHAPES)
    assert report.hits[CONCAT] == 1
    assert {kind: count(result, kind) for kind in nodes} == nodes


def test_functions_behind_a_concatenation_are_done_phase_by_phase():
    result, report = fused(joined(behind=("Relu", "Sigmoid")), "phases-channels-last", shapes=SHAPES)
    assert report.hits[CONCAT] == 1
    assert (count(result, "Relu"), count(result, "Sigmoid"), count(result, "Add")) == (4, 4, 4)


def test_concatenations_that_cannot_be_split_are_named():
    def reason(model, shapes=None):
        _, report = fused(model, "pooled", shapes=shapes or SHAPES)
        assert report.hits[CONCAT] == 0
        return reasons(report, CONCAT)

    b = Builder(shape=("N", 8, "H", "W"))
    b.inputs["s"] = ("N", 8, "2*H", "2*W")
    linear = b.up(b.op("Abs", "x"), mode="linear")
    b.conv(b.op("Concat", linear, "s", axis=1), 16, 4)
    assert any(
        "is linear, not nearest" in r for r in reason(b.model(), {"x": (1, 8, 6, 8), "s": (1, 8, 12, 16)})
    )
    assert any("group of" in r for r in reason(joined(group=3)))
    assert any("are no multiples of the factors" in r for r in reason(joined(strides=[3, 3])))


def padded(
    pads,
    mode,
    *,
    factors=(2, 2),
    kernel=3,
    order=("up", "skip"),
    behind=("Elu",),
    value=0.0,
    conv_pads=0,
    opset=17,
    **settings,
):
    """conv(pad(concat(up(l), skip))); pads are (top, left, bottom, right)."""
    b = Builder(shape=("N", 8, "H", "W"))
    b.inputs["s"] = (
        "N",
        4,
        *(name if f == 1 else f"{f}*{name}" for f, name in zip(factors, "HW", strict=True)),
    )
    parts = {
        "up": b.up(b.op("Abs", "x"), *factors),
        "skip": b.op("Neg", "s"),
        "other": b.up(b.op("Sin", "x"), *factors),
    }
    channels = {"up": 8, "skip": 4, "other": 8}
    sizes = b.weight(np.array([0, 0, *pads[:2], 0, 0, *pads[2:]]))
    y = b.op("Concat", *(parts[name] for name in order), axis=1)
    y = b.op("Pad", y, sizes, *([b.weight(np.float32(value))] if mode == "constant" else []), mode=mode)
    y = b.conv(y, sum(channels[name] for name in order), 6, kernel, pads=[conv_pads] * 4, **settings)
    for kind in behind:
        y = b.op(kind, y)
    return b.model(y, opset=opset)


def fused_padded(model, form, factors=(2, 2)):
    """The fused graph, compared at odd, even and the smallest sizes."""

    def shapes(n, h, w):
        return {"x": (n, 8, h, w), "s": (n, 4, factors[0] * h, factors[1] * w)}

    result, report = fuse(model, lambda _: Fixed(form), shapes=shapes(1, 5, 7))
    onnx.checker.check_model(ir.to_proto(result))
    feeds = [
        random_inputs(model, shapes(*size), i) for i, size in enumerate(((1, 5, 7), (2, 4, 3), (1, 3, 6)))
    ]
    report = check(model, result, report, feeds, EXACT)
    return result, report


@pytest.mark.parametrize(
    ("pads", "mode", "settings"),
    [
        ((1, 1, 1, 1), "reflect", {}),
        ((1, 1, 1, 1), "edge", {}),
        ((1, 0, 0, 1), "reflect", {"behind": ()}),
        ((0, 1, 1, 0), "edge", {"bias": False}),
        ((1, 1, 1, 1), "reflect", {"bias": False, "behind": ("Relu", "Sigmoid")}),
        ((2, 1, 0, 3), "edge", {"kernel": 5}),
        ((2, 2, 2, 2), "edge", {"kernel": 5, "order": ("skip", "up")}),
        ((1, 1, 1, 1), "reflect", {"kernel": 4}),
        ((1, 1, 1, 1), "edge", {"kernel": 1}),
        ((1, 1, 1, 1), "reflect", {"factors": (3, 3)}),
        ((1, 2, 3, 4), "edge", {"factors": (3, 3)}),
        ((1, 1, 1, 1), "reflect", {"factors": (2, 3), "bias": False}),
        ((4, 3, 2, 5), "edge", {"factors": (3, 2), "kernel": 5}),
        ((0, 1, 0, 1), "reflect", {"factors": (1, 2)}),
        ((1, 1, 2, 1), "edge", {"factors": (2, 1)}),
        ((1, 1, 1, 1), "reflect", {"order": ("up", "skip", "other")}),
        ((1, 1, 1, 1), "edge", {"order": ("up", "other")}),
        ((1, 1, 1, 1), "reflect", {"order": ("up", "other"), "bias": False, "behind": ()}),
    ],
)
@pytest.mark.parametrize("form", ["transposed", "pooled", "keep"])
def test_a_concatenation_with_repeated_borders_is_split(form, pads, mode, settings):
    result, report = fused_padded(padded(pads, mode, **settings), form, settings.get("factors", (2, 2)))
    assert all(d.ok for d in report.differences), [str(d) for d in report.differences]
    assert report.hits[CONCAT] == (form != "keep")
    if form != "keep":
        # What is upsampled alike is padded once, before it is; so is the rest, as it stood.
        rest = "skip" in settings.get("order", "skip")
        modes = [n.attributes.get_string("mode", "constant") for n in result.graph if n.op_type == "Pad"]
        assert sorted(modes) == sorted(["edge", *([mode] if rest else [])])
        assert (count(result, "Resize"), count(result, "ConvTranspose")) == (0, 1)


def test_a_border_that_is_not_the_same_is_noticed(monkeypatch):
    def zeros(border, op, rule, x):
        return pad(op, rule, x, border.around, "constant")

    monkeypatch.setattr(RepeatedBorder, "before", zeros)
    _, report = fused_padded(padded((1, 1, 1, 1), "reflect"), "pooled")
    assert report.hits[CONCAT] == 1
    assert not any(d.ok for d in report.differences)


def test_the_multiplications_of_a_padded_concatenation_are_those_of_its_parts():
    _, report = fused_padded(padded((1, 1, 1, 1), "reflect"), "pooled")
    high, low = 10 * 14, 7 * 9  # a row and a column more around l
    assert report.before.macs == high * 12 * 6 * 9
    assert report.after.macs == high * 4 * 6 * 9 + low * 8 * 6 * 9


@pytest.mark.parametrize("mode", ["reflect", "edge"])
@pytest.mark.parametrize("form", ["transposed", "pooled"])
def test_parts_of_several_factors_have_borders_of_their_own(form, mode):
    b = Builder(shape=("N", 8, "H", "W"))
    b.inputs |= {"c": ("N", 8, "2*H", "2*W"), "s": ("N", 4, "4*H", "4*W")}
    parts = [b.up(b.op("Abs", "x"), 4, 4), b.op("Neg", "s"), b.up(b.op("Sin", "c"))]
    y = b.op("Pad", b.op("Concat", *parts, axis=1), b.weight(np.array([0, 0, 1, 1, 0, 0, 1, 1])), mode=mode)
    y = b.op("Elu", b.conv(y, 20, 6, pads=[0] * 4))
    shapes = {"x": (1, 8, 4, 6), "c": (1, 8, 8, 12), "s": (1, 4, 16, 24)}
    result, report = fused(b.model(y), form, shapes=shapes)
    assert report.hits[CONCAT] == 1
    assert (count(result, "Resize"), count(result, "Pad"), count(result, "ConvTranspose")) == (0, 3, 2)


def test_a_part_whose_border_is_not_repeated_stays_upsampled():
    b = Builder(shape=("N", 8, "H", "W"))
    b.inputs["c"] = ("N", 8, "2*H", "W")
    parts = [b.up(b.op("Abs", "x")), b.up(b.op("Sin", "c"), 1, 2)]
    y = b.op(
        "Pad", b.op("Concat", *parts, axis=1), b.weight(np.array([0, 0, 1, 1, 0, 0, 1, 1])), mode="reflect"
    )
    y = b.conv(y, 16, 6, pads=[0] * 4)
    result, report = fused(b.model(y), "pooled", shapes={"x": (1, 8, 4, 6), "c": (1, 8, 8, 6)})
    assert report.hits[CONCAT] == 1
    assert (count(result, "Resize"), count(result, "Pad"), count(result, "ConvTranspose")) == (1, 2, 1)


@pytest.mark.parametrize("form", FORMS)
def test_zeros_around_a_concatenation_are_the_convolutions_own(form):
    result, report = fused_padded(padded((1, 1, 1, 1), "constant"), form)
    assert all(d.ok for d in report.differences), [str(d) for d in report.differences]
    assert (report.hits["zero-padded-convolution"], report.hits[CONCAT]) == (1, 1)
    assert count(result, "Pad", "Resize") == 0


@pytest.mark.parametrize(
    ("pads", "mode", "settings", "reason"),
    [
        ((2, 2, 2, 2), "reflect", {"kernel": 5}, "in the mode reflect: only repeated borders"),
        ((1, 1, 1, 1), "wrap", {"opset": 19}, "in the mode wrap: only repeated borders"),
        (
            (1, 1, 1, 1),
            "reflect",
            {"conv_pads": 1},
            "has strides (1, 1) and pads (1, 1, 1, 1), must be 1 and 0",
        ),
        (
            (1, 1, 1, 1),
            "edge",
            {"strides": [2, 2]},
            "has strides (2, 2) and pads (0, 0, 0, 0), must be 1 and 0",
        ),
        ((1, 1, 1, 1), "constant", {"value": 1.0}, "pads with 1, a convolution with 0"),
        ((0, 1, -1, 1), "edge", {}, "cuts"),
        ((1, 1, 1, 1), "reflect", {"group": 2}, "group of"),
    ],
)
def test_padded_concatenations_that_stay_are_named(pads, mode, settings, reason):
    _, report = fused_padded(padded(pads, mode, **settings), "pooled")
    assert all(d.ok for d in report.differences)
    assert report.hits[CONCAT] == 0
    (miss,) = [m.reason for r in report.rules for m in r.near_misses]
    assert reason in miss
    assert "\n" not in miss


@pytest.mark.parametrize("factors", [(3, 3), (4, 4), (2, 3), (1, 2), (2, 1)])
@pytest.mark.parametrize("form", FORMS)
def test_any_whole_factors(factors, form):
    b = Builder()
    low = b.op("Abs", "x")
    b.op("Relu", b.conv(b.up(low, *factors), 8, 6))
    result, report = fused(b.model(), form)
    square = factors[0] == factors[1]
    if (form in {"phases", "phases-stacked"} and not square) or (form == "phases-paired" and factors[1] == 1):
        assert report.hits[CONV] == 0
        return
    assert report.hits[CONV] == 1
    assert not count(result, "Resize")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (1, 1, 1), (1,)])
@pytest.mark.parametrize("beside", ["nothing", "convolution", "concatenation"])
def test_functions_with_a_constant_for_each_channel(form, shape, beside):
    b = Builder(shape=("N", 8, "H", "W"))
    up = b.up(b.op("Abs", "x"), 2, 2)
    shapes = {"x": (1, 8, 6, 8)}
    if beside == "nothing":
        y = b.conv(up, 8, 6, 3)
    else:
        b.inputs["s"] = ("N", 4, "2*H", "2*W")
        shapes["s"] = (1, 4, 12, 16)
        if beside == "convolution":
            y = b.op("Add", b.conv(up, 8, 6, 3), b.conv("s", 4, 6, 3))
        else:
            y = b.conv(b.op("Concat", up, "s", axis=1), 12, 6, 3)
    result, report = fused(b.model(b.op("PRelu", y, b.normal(*shape))), form, shapes=shapes)
    assert not count(result, "Resize")
    assert form in {choice["form"] for choice in report.choices}


def test_forms_of_functions_with_constants_are_measured():
    b = Builder(shape=(1, 8, 6, 8))
    y = b.op("PRelu", b.conv(b.up(b.op("Abs", "x"), 2, 2), 8, 6, 3), b.normal(6, 1, 1))
    _, report = fuse(b.model(y), lambda sizes: Measured(sizes, 1, 0.0), shapes={"x": (1, 8, 6, 8)})
    assert any("phases-stacked" in choice["reason"] for choice in report.choices)


@pytest.mark.parametrize("form", ["phases-channels-last", "phases", "transposed", "pooled"])
@pytest.mark.parametrize("group", [2, 8])
def test_groups(form, group):
    b = Builder()
    low = b.op("Abs", "x")
    b.conv(b.up(low), 8, 8, group=group)
    b.conv(b.up(low), 8, 16, 1, group=group)
    b.conv(b.up(low), 8, 8, strides=[2, 2], group=group)
    result, report = fused(b.model(*(node.output[0] for node in b.nodes if node.op_type == "Conv")), form)
    assert [
        report.hits[rule] for rule in (CONV, "pointwise-behind-upsampling", "strided-behind-upsampling")
    ] == [1] * 3
    assert count(result, "Resize") == 1  # behind the pointwise one


@pytest.mark.parametrize(("factor", "stride", "convs"), [(4, 2, 4), (2, 4, 1), (3, 3, 1), (4, 4, 1)])
def test_strides_and_factors_that_divide_each_other(factor, stride, convs):
    b = Builder()
    b.conv(b.up(b.op("Abs", "x"), factor, factor), 8, 4, 5, strides=[stride, stride])
    result, report = fused(b.model(), "phases-channels-last")
    assert report.hits[CONV] + report.hits["strided-behind-upsampling"] == 1
    assert (count(result, "Conv"), count(result, "Resize")) == (convs, 0)


def test_strides_and_factors_without_a_common_form_are_named():
    b = Builder()
    b.conv(b.up(b.op("Abs", "x")), 8, 4, strides=[3, 3])
    _, report = fused(b.model(), "phases")
    assert any("has no form before the upsampling" in r for r in reasons(report, CONV))


@pytest.mark.parametrize("form", [*FORMS, "keep"])
@pytest.mark.parametrize("swapped", [False, True])
def test_another_convolution_that_is_added_is_part_of_the_forms(form, swapped):
    b = Builder()
    low = b.op("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2])
    parts = [b.conv("x", 8, 8, 5), b.conv(b.up(low), 8, 8)]
    y = b.op("LeakyRelu", b.op("Add", *(parts[::-1] if swapped else parts)), alpha=0.1)
    result, report = fused(b.model(y), form, multiple=2)
    assert report.hits[CONV] == (form != "keep")
    if form in {"phases", "phases-channels-last"}:
        # Each phase has its sum and its function; the other convolution strides.
        assert count(result, "Add", "LeakyRelu") == 8
        assert (
            sum(
                list(n.attributes.get_ints("strides", [])) == [2, 2] and n.op_type == "Conv"
                for n in result.graph
            )
            == 4
        )


def test_sums_with_what_others_read_stay():
    b = Builder()
    low = b.op("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2])
    own = b.conv("x", 8, 8)
    total = b.op("Add", own, b.conv(b.up(low), 8, 8))
    result, report = fused(b.model(total, own), "phases", multiple=2)
    assert report.hits[CONV] == 1
    assert count(result, "Add") == 1


@pytest.mark.parametrize(
    "spelling", ["batch norm", "instance norm", "softmax", "prelu", "silu", "affine", "two images"]
)
def test_functions_pass_the_upsampling(spelling):
    b = Builder()
    low = b.op("Abs", "x")
    up = b.up(low)
    extra = 0
    if spelling == "batch norm":
        values = [
            b.weight(np.abs(np.random.default_rng(i).standard_normal(8)).astype(np.float32)) for i in range(4)
        ]
        y = b.op("Relu", b.op("BatchNormalization", up, *values))
        extra = 1
    elif spelling == "instance norm":
        y = b.op("InstanceNormalization", up, b.normal(8), b.normal(8))
    elif spelling == "softmax":
        y = b.op("Softmax", up, axis=1)
    elif spelling == "prelu":
        y = b.op("PRelu", up, b.normal(8, 1, 1))
    elif spelling == "silu":
        y = b.op("Mul", up, b.op("Sigmoid", up))
    elif spelling == "affine":
        y = b.op("Add", b.op("Mul", up, b.normal(1, 8, 1, 1)), b.weight(np.float32(0.5)))
    else:
        y = b.op("Mul", up, b.op("Tanh", b.up(b.op("Neg", "x"))))
    y = b.conv(y, 8, 4)
    result, report = fused(b.model(y), "pooled")
    assert report.hits[FUNCTIONS] == 1 or extra
    assert report.hits[CONV] == 1
    assert not count(result, "Resize")
    assert report.after.macs * 4 == report.before.macs


def test_functions_stay_where_the_upsampled_image_is_needed_all_the_same():
    b = Builder()
    up = b.up(b.op("Abs", "x"))
    y = b.op("Relu", up)
    result, report = fused(b.model(y, b.op("MaxPool", up, kernel_shape=[2, 2])), "pooled")
    assert report.hits[FUNCTIONS] == 0
    (reason,) = reasons(report, FUNCTIONS)
    assert "read in several places" in reason
    assert count(result, "Resize") == 1


def test_functions_of_rows_and_columns_are_none():
    b = Builder(shape=(1, 8, 6, 8))
    up = b.up(b.op("Abs", "x"))
    y = b.op("Mul", up, b.normal(1, 1, 12, 16))
    result, report = fused(b.model(b.op("Relu", y)), "pooled", shapes={"x": (1, 8, 6, 8)})
    assert report.hits[FUNCTIONS] == 0
    assert count(result, "Resize") == 1


def test_an_upsampling_of_an_upsampling_is_one():
    b = Builder()
    b.conv(b.up(b.up(b.op("Abs", "x"), 1, 2), 2, 1), 8, 4)
    result, report = fused(b.model(), "pooled")
    assert (report.hits["upsampling-twice"], report.hits[CONV]) == (1, 1)
    assert count(result, "Resize") == 0


def test_pools_undo_upsamplings_by_their_own_factor_alone():
    b = Builder()
    up = b.up(b.op("Abs", "x"), 3, 3)
    outputs = [b.op("AveragePool", up, kernel_shape=[k, k], strides=[k, k]) for k in (3, 2)]
    _, report = fused(b.model(*outputs), "keep", shapes={"x": (1, 8, 4, 6)})
    assert report.hits["pool-of-upsampling"] == 1
    assert any("pools (2, 2)" in r for r in reasons(report, "pool-of-upsampling"))


@pytest.mark.parametrize(
    ("kernel", "stride", "factors", "more"),
    [
        (4, 2, (2, 2), {"pads": [1] * 4}),
        (3, 1, (2, 3), {"pads": [1] * 4}),
        (3, 2, (3, 2), {"pads": [1] * 4, "output_padding": [1, 1]}),
        (2, 2, (2, 2), {}),
    ],
)
@pytest.mark.parametrize("group", [1, 2])
def test_transposed_convolutions_take_an_upsampling_in(kernel, stride, factors, more, group):
    b = Builder()
    up = b.up(b.op("Abs", "x"), *factors)
    weights = b.normal(8, 4 // group, kernel, kernel), b.normal(4)
    b.op("ConvTranspose", up, *weights, strides=[stride] * 2, group=group, **more)
    result, report = fused(b.model(), "keep")
    assert report.hits["transposed-behind-upsampling"] == 1
    assert [node.op_type for node in result.graph] == ["Abs", "ConvTranspose"]
    assert report.after.macs <= report.before.macs


@pytest.mark.parametrize(
    ("kernel", "settings", "reason"),
    [
        (2, {"strides": [3, 3]}, "leaves gaps"),
        (3, {"dilations": [2, 2]}, "has dilations (2, 2), must be 1"),
        (3, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, "depends on the size"),
    ],
)
def test_transposed_convolutions_that_cannot_are_named(kernel, settings, reason):
    b = Builder()
    b.op("ConvTranspose", b.up(b.op("Abs", "x")), b.normal(8, 4, kernel, kernel), **settings)
    _, report = fused(b.model(), "keep")
    assert report.hits["transposed-behind-upsampling"] == 0
    (found,) = reasons(report, "transposed-behind-upsampling")
    assert reason in found


def near_misses(model, shapes=None):
    _, report = fused(model, "pooled", shapes=shapes)
    return [(m.node, m.reason) for r in report.rules for m in r.near_misses]


def test_every_place_that_resembles_a_pattern_is_told_and_why_it_is_none():
    def nodes(kind, **settings):
        b = Builder(shape=("N", 8, "H", "W"))
        b.inputs["s"] = ("N", 8, "2*H", "2*W")
        up = b.up(b.op("Abs", "x"), **settings)
        if kind == "sum":
            y = b.op("Relu", b.op("Add", up, "s"))
        elif kind == "concatenation of padded":
            sizes = b.weight(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
            images = [b.op("Pad", image, sizes, mode="reflect") for image in (up, "s")]
            y = b.op("Concat", *images, axis=1)
        elif kind == "function":
            y = b.op("Relu", up)
            b.op("Add", y, "s")
        else:
            y = b.op("Mul", b.op("ReduceMean", up, axes=[1]), "s")
        channels = 16 if "concat" in kind else 8
        y = b.conv(y, channels, 4, pads=[0 if "padded" in kind else 1] * 4)
        return b.model(*([y] if kind != "function" else [y, b.op("Abs", "s")]))

    shapes = {"x": (1, 8, 6, 8), "s": (1, 8, 12, 16)}
    ((node, reason),) = near_misses(nodes("sum"), shapes)
    assert node.startswith("Conv")
    assert "(Add) mixes the upsampled image of Resize_1 with another one" in reason
    ((_, reason),) = near_misses(nodes("concatenation of padded"), shapes)
    assert "Pad_2 (Pad) and Concat_4 (Concat) stand between Resize_1 and the convolution" in reason
    ((_, reason),) = near_misses(nodes("function", mode="linear"), shapes)
    assert reason == "Resize_1 before Relu_2 (Relu) is linear, not nearest"
    # A mean over channels and a product with it resemble nothing.
    assert near_misses(nodes("attention"), shapes) == []


def test_sizes_that_are_no_multiples_are_told_with_what_may_help():
    b = Builder(shape=("N", 8, "H", "W"))
    b.conv(b.up(b.op("Abs", "x"), 1.5, 1.5), 8, 4)
    ((_, reason),) = near_misses(b.model())
    assert "is not proved to repeat the rows and columns" in reason
    assert "--multiple" in reason
