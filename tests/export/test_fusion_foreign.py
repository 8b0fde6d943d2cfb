"""Fusion of graphs as they come: deep, odd, large, quantized, with operators of their own, or broken."""

from __future__ import annotations

import importlib.util
import os
import re

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper
from onnx_builders import Builder, make
from oslic.cli.main import main
from oslic.export.form_selection import CostModel, Fixed, Preferred
from oslic.export.fusion import check, fuse, random_inputs
from oslic.export.graph_files import read_graph, write_graph
from oslic.export.normal_form import normalize
from oslic.export.verify import Tolerance, run
from oslic.runtime.errors import UsageError

RULE = "convolution-behind-upsampling"
EXACT = Tolerance(1e-5, 1e-4)


def upsampled(**settings):
    b = Builder(**settings)
    b.conv(b.up("x"), 8, 8)
    return b


def fused(model, form="pooled", **options):
    options = {"shapes": {"x": (1, 8, 12, 16)}, **options}
    result, report = fuse(model, lambda _: Fixed(form), **options)
    if all(value.shape is not None for value in result.graph.inputs):
        onnx.checker.check_model(ir.to_proto(result))
    report = check(model, result, report, [random_inputs(result, report.shapes)], EXACT)
    assert all(d.ok for d in report.differences), [str(d) for d in report.differences]
    return result, report


def reasons(report, rule=None):
    return [m.reason for r in report.rules if rule in {None, r.rule} for m in r.near_misses]


@pytest.mark.parametrize("count", [2000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_graph_is_fused_however_deep_it_is(count):
    b = Builder()
    x = "x"
    for _ in range(count // 2):
        x = b.op("LeakyRelu", x, alpha=0.9)
        x = b.op("Reshape", x, b.weight(np.array([0, 0, 0, 0]))) if len(b.nodes) % 50 == 1 else b.op("Abs", x)
    x = b.conv(b.up(x), 8, 4)
    _, report = fused(b.model())
    assert report.hits[RULE] == 1
    assert sum(report.after.operators.values()) == sum(report.before.operators.values())


def test_what_cannot_be_counted_is_a_note():
    b = Builder()
    b.inputs["scales"] = (4,)
    b.op("Conv", b.op("Resize", "x", "", "scales", mode="nearest"), b.normal(8, 8, 3, 3), pads=[1] * 4)
    model = b.model()
    result, report = fuse(model, lambda sizes: CostModel("onnxruntime", sizes), shapes={"x": (1, 8, 6, 6)})
    (note,) = report.notes
    assert "multiply-accumulates of 1 nodes (Conv_1) are not counted" in note
    assert report.before.uncounted == ("Conv_1",)
    feeds = random_inputs(model, report.shapes)
    assert feeds["scales"].tolist() == [1, 1, 2, 2]
    report = check(model, result, report, [feeds], EXACT)
    assert [d.shape for d in report.differences] == [(1, 8, 12, 12)]


def test_an_input_without_a_shape_is_given_one_by_its_convolution():
    model = upsampled(shape=None).model()
    _, report = fused(model, shapes=None)
    assert report.shapes == {"x": (1, 8, 256, 256)}
    assert report.hits[RULE] == 1
    assert "the graph states no shape for x, 1x8x256x256 was taken" in report.notes[0]
    b = Builder(shape=None)
    b.op("Relu", "x")
    with pytest.raises(UsageError, match=r"states no shape for x.*--shape x=1x3x512x768.*--no-check"):
        fused(b.model(), shapes=None)


def test_a_resize_that_keeps_the_aspect_is_known_for_numbers():
    b = Builder(shape=(1, 8, 12, 16))
    sizes = b.weight(np.array([24, 99]))
    up = b.op(
        "Resize",
        *("x", "", "", sizes),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        keep_aspect_ratio_policy="not_larger",
        axes=[2, 3],
    )
    b.conv(up, 8, 8)
    _, report = fused(b.model(opset=18))
    assert report.hits[RULE] == 1


@pytest.mark.parametrize("opset", [17, 18])
def test_functions_are_put_in_place_of_their_calls_before_the_opset_is_raised(opset):
    b = Builder()
    b.op("UpConv", "x", b.normal(8, 8, 3, 3), b.weight(np.array([1, 1, 2, 2], np.float32)), domain="my")
    function = helper.make_function(
        "my",
        "UpConv",
        ["a", "w", "s"],
        ["c"],
        [
            make("Resize", ["a", "", "s"], ["u"], mode="nearest"),
            make("Conv", ["u", "w"], ["c"], pads=[1] * 4),
        ],
        [helper.make_opsetid("", opset)],
    )
    model = b.model(opset=opset, functions=[function], domains=["my"])
    for wanted in (None, 20):
        result, report = fused(model, opset=wanted)
        assert report.hits[RULE] == 1
        assert not result.functions
        assert result.graph.opset_imports[""] == (wanted or opset)


def test_functions_of_another_opset_are_refused_where_that_matters():
    b = Builder()
    b.op("F", "x", domain="my")
    nodes = [make("BatchNormalization", ["a"] * 5, ["c"])]
    function = helper.make_function("my", "F", ["a"], ["c"], nodes, [helper.make_opsetid("", 13)])
    with pytest.raises(UsageError, match="BatchNormalization of the function F is of opset 13"):
        normalize(b.model(functions=[function], domains=["my"]))


def test_an_initializer_that_is_an_input_stays_one():
    b = upsampled()
    weight = b.nodes[-1].input[1]
    b.inputs[weight] = (8, 8, 3, 3)
    model = b.model()
    result, report = fused(model)
    assert report.hits[RULE] == 0
    assert [str(v.name) for v in result.graph.inputs] == ["x", weight]
    assert any("is an input of the graph, too" in r and "--freeze-inputs" in r for r in reasons(report))
    x = random_inputs(model, {"x": (1, 8, 6, 6)})["x"]
    other = np.ones((8, 8, 3, 3), np.float32)
    before, after = (
        run(ir.to_proto(m).SerializeToString(), {"x": x, weight: other}) for m in (model, result)
    )
    (y,), (z,) = before.values(), after.values()
    assert np.allclose(y, z, atol=1e-4)
    frozen, report = fused(model, freeze=True)
    assert report.hits[RULE] == 1
    assert [str(v.name) for v in frozen.graph.inputs] == ["x"]
    assert "1 initializers that are inputs, too, are constants now, as told" in report.notes[0]


def quantized(*, inside=False):
    b = upsampled()
    scale, zero = b.weight(np.float32(0.02)), b.weight(np.int8(0))
    y = b.nodes[-1].output[0]
    y = b.op("DequantizeLinear", b.op("QuantizeLinear", y, scale, zero), scale, zero)
    if inside:
        b.conv(y, 8, 4)
    return b.model()


@pytest.mark.parametrize("inside", [False, True])
def test_quantized_graphs_are_judged_in_their_steps(inside):
    model = quantized(inside=inside)
    _, report = fused(model, shapes={"x": (1, 8, 128, 128)})
    assert report.hits[RULE] == 1
    steps, real = report.differences
    assert 0 < steps.exceeding < (1e-3 if inside else 1e-4)  # some roundings tip
    assert real.name.endswith("without quantization")
    assert real.exceeding == 0


def test_a_quantized_graph_that_computes_something_else_is_not_excused():
    model = quantized()
    result, report = fuse(model, lambda _: Fixed("pooled"), shapes={"x": (1, 8, 64, 64)})
    kernel = next(node for node in result.graph if node.op_type == "ConvTranspose").inputs[1]
    kernel.const_value = ir.tensor(kernel.const_value.numpy() * np.float32(1.003))
    report = check(model, result, report, [random_inputs(model, report.shapes)], EXACT)
    assert [d.ok for d in report.differences] == [False, False]


def test_operators_of_others_are_fused_around_without_a_check(tmp_path, capsys):
    b = upsampled()
    b.op("MyOp", b.nodes[-1].output[0], domain="my")
    ir.save(b.model(domains=["my"]), tmp_path / "in.onnx")
    command = ["fuse", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx"), "--form", "pooled"]
    assert main(command) == 9
    error = capsys.readouterr().err
    assert "--custom-ops" in error
    assert "--no-check" in error
    assert main([*command, "--no-check"]) == 0
    assert f"{RULE}: 1 rewritten" in capsys.readouterr().out
    assert [n.op_type for n in ir.load(tmp_path / "out.onnx").graph][-1] == "MyOp"
    (tmp_path / "none.so").write_bytes(b"no library")
    assert main([*command, "--custom-ops", str(tmp_path / "none.so")]) == 2
    assert "none.so cannot be loaded as a library of custom operators" in capsys.readouterr().err


def test_a_library_of_custom_operators_runs_the_check(tmp_path, capsys):
    extensions = pytest.importorskip("onnxruntime_extensions")
    b = upsampled()
    outputs = b.op("NegPos", b.nodes[-1].output[0], outputs=2, domain="ai.onnx.contrib")
    ir.save(b.model(*outputs, domains=["ai.onnx.contrib"]), tmp_path / "in.onnx")
    command = ["fuse", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx"), "--shape", "x=1x8x16x16"]
    assert main([*command, "--form", "pooled", "--custom-ops", extensions.get_library_path()]) == 0
    assert capsys.readouterr().out.count("check (atol") == 2


def broken_weight(dims):
    b = upsampled()
    proto = ir.to_proto(b.model())
    weight = next(t for t in proto.graph.initializer if t.name == b.nodes[-1].input[1])
    del weight.dims[:]
    weight.dims.extend(dims)
    return proto


def cyclic():
    b = Builder()
    b.nodes += [make("Add", ["x", "b"], ["a"]), make("Relu", ["a"], ["b"])]
    b.conv("b", 8, 8)
    return ir.to_proto(b.model())


def dangling():
    b = Builder()
    b.nodes.append(make("Add", ["x", "nowhere"], ["a"], name="sum"))
    return ir.to_proto(b.model())


BROKEN = pytest.mark.parametrize(
    ("proto", "message"),
    [
        (broken_weight([9, 8, 3, 3]), r"does not hold what its dimensions 9x8x3x3 say"),
        (broken_weight([2**40, 8, 3, 3]), r"does not hold what its dimensions 1099511627776x8x3x3 say"),
        (cyclic(), r"form a cycle"),
        (dangling(), r"sum of .* reads 'nowhere', which nothing computes"),
    ],
    ids=["wrong dimensions", "huge dimensions", "cycle", "dangling"],
)


@BROKEN
@pytest.mark.parametrize(
    "command",
    [
        "cast {graph} -o {out}.onnx --no-check",
        "cast {graph} -o {out}.onnx --no-check --weights-only",
        "build {graph} -o {out} --backend tensorrt-rtx --shapes x=1x8x16x16",
    ],
)
def test_a_broken_graph_is_told_in_one_line_by_all(command, proto, message, tmp_path, capsys):
    if command.startswith("build"):
        pytest.importorskip("tensorrt_rtx")
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    words = command.format(graph=tmp_path / "in.onnx", out=tmp_path / "out").split()
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not list(tmp_path.glob("out*"))


@BROKEN
def test_a_broken_graph_is_told_in_one_line(proto, message, tmp_path, capsys):
    (tmp_path / "in.onnx").write_bytes(proto.SerializeToString())
    assert main(["fuse", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(message, error)
    assert not (tmp_path / "out.onnx").exists()


def test_a_graph_that_is_none_is_told_in_one_line(tmp_path, capsys):
    proto = ir.to_proto(upsampled().model())
    del proto.graph.output[:]
    for data, message in ((b"", "is not an ONNX graph"), (proto.SerializeToString(), "has no outputs")):
        (tmp_path / "in.onnx").write_bytes(data)
        for command in (["fuse"], ["cast"], ["inspect"]):
            output = [] if command == ["inspect"] else ["-o", str(tmp_path / "out.onnx"), "--no-check"]
            assert main([*command, str(tmp_path / "in.onnx"), *output]) == 2
            error = capsys.readouterr().err
            assert message in error
            assert error.count("\n") == 1


def test_outputs_that_are_no_tensors_are_told_in_one_line(tmp_path, capsys):
    b = Builder(shape=(1, 8, 4, 4))
    b.nodes.append(make("SequenceConstruct", [b.op("Relu", "x")], ["s"]))
    proto = ir.to_proto(b.model(b.nodes[0].output[0]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("s", 1, None))
    path = str(tmp_path / "in.onnx")
    onnx.save(proto, path)
    np.savez(tmp_path / "x.npz", x=np.zeros((2, 8, 4, 4), np.float32))
    out = ["-o", str(tmp_path / "out.onnx")]
    for words in (
        ["run"],
        ["compare", path],
        ["fuse", *out],
        ["calibrate", *out, "--data", str(tmp_path / "x.npz")],
    ):
        assert main([words[0], path, *words[1:]]) == 2
        error = capsys.readouterr().err
        assert "the output s is no tensor (a sequence" in error
        assert error.count("\n") == 1
    assert main(["fuse", path, *out, "--no-check"]) == 0


def test_what_measuring_keeps_is_not_called_rewritten(tmp_path, monkeypatch, capsys):
    ir.save(upsampled().model(), tmp_path / "in.onnx")
    monkeypatch.setattr("oslic.export.form_timing.CLEAR", 1.0)  # nothing is that much faster
    words = ["--measure", "--shape", "x=1x8x16x16", "-o", str(tmp_path / "out.onnx")]
    assert main(["fuse", str(tmp_path / "in.onnx"), *words]) == 0
    said = capsys.readouterr().out
    assert "taken as it was" in said
    assert "rewritten" not in said
    assert [n.op_type for n in ir.load(tmp_path / "out.onnx").graph] == [
        n.op_type for n in ir.load(tmp_path / "in.onnx").graph
    ]


def unequal():
    """Halved and doubled again, and added to what it was: odd sizes do not fit."""
    b = Builder(shape=("N", 8, "H", "W"))
    low = b.op("MaxPool", "x", kernel_shape=[2, 2], strides=[2, 2])
    b.op("Concat", "x", b.conv(b.up(low, 2, 2), 8, 8), axis=1)
    return b.model()


def test_sizes_that_a_graph_does_not_take_are_an_error_of_usage(tmp_path, capsys):
    path, out = str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")
    ir.save(unequal(), path)
    np.savez(tmp_path / "odd.npz", x=np.zeros((2, 8, 15, 15), np.float32))
    commands = [
        ["fuse", path, "-o", out, "--shape", "x=1x8x15x15"],
        ["fuse", path, "-o", out, "--shape", "x=1x8x15x15", "--measure"],
        ["run", path, "--shapes", "x=1x8x15x15"],
        ["compare", path, path, "--shapes", "x=1x8x15x15"],
        ["cast", path, "-o", out, "--shapes", "x=1x8x15x15"],
        ["calibrate", path, "-o", out, "--data", str(tmp_path / "odd.npz")],
    ]
    if importlib.util.find_spec("openvino"):
        commands.append(["run", path, "--shapes", "x=1x8x15x15", "--backend", "openvino"])
    if importlib.util.find_spec("tensorrt_rtx"):
        commands.append(["build", path, "-o", out, "--shapes", "x=1x8x15x15", "--backend", "tensorrt-rtx"])
    for words in commands:
        assert main(words) == 2, words
        assert capsys.readouterr().err.count("\n") == 1
        assert not (tmp_path / "out.onnx").exists()
    assert main(["run", path, "--shapes", "x=1x8x16x16"]) == 0


def test_bfloat16_that_the_cpu_lacks_is_told_with_what_to_do_without(tmp_path, capsys):
    ir.save(upsampled(dtype=ml_dtypes.bfloat16).model(), tmp_path / "in.onnx")
    path, out = str(tmp_path / "in.onnx"), str(tmp_path / "out.onnx")
    shape = ["--shape", "x=1x8x16x16"]
    assert main(["fuse", path, "-o", out, *shape]) == 9
    assert (
        "in bfloat16 for this graph on the CPU: do without the comparison (--no-check)"
        in capsys.readouterr().err
    )
    assert main(["fuse", path, "-o", out, *shape, "--measure"]) == 9
    assert "do without measuring (--measure) and the comparison (--no-check)" in capsys.readouterr().err
    assert main(["fuse", path, "-o", out, *shape, "--no-check", "--form", "phases"]) == 0


def test_nans_of_the_original_are_said_to_be_its_own(tmp_path, capsys):
    b = upsampled()
    b.op("Log", b.nodes[-1].output[0])
    ir.save(b.model(), tmp_path / "in.onnx")
    words = ["-o", str(tmp_path / "out.onnx"), "--shape", "x=1x8x16x16", "--form", "phases"]
    assert main(["fuse", str(tmp_path / "in.onnx"), *words]) == 9
    found = re.search(
        r", (\d+) NaN or infinite \((\d+) of them NaN in the original, too\)", capsys.readouterr().err
    )
    assert found is not None
    assert found[1] == found[2] != "0"


def test_weights_in_a_pipe_are_refused_at_once(tmp_path, capsys):
    ir.save(upsampled().model(), tmp_path / "in.onnx", external_data="w.bin", size_threshold_bytes=0)
    (tmp_path / "w.bin").unlink()
    os.mkfifo(tmp_path / "w.bin")
    assert main(["fuse", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx")]) == 2
    assert "w.bin: it is a pipe, not a regular file" in capsys.readouterr().err


@pytest.mark.parametrize("wanted", [None, 15, 17, 18, 21])
def test_the_opset_is_the_graphs_own_or_as_told(wanted):
    result, report = fused(upsampled().model(opset=17), "phases", opset=wanted)
    assert report.hits[RULE] == 1
    assert result.graph.opset_imports[""] == (wanted or 17)


def test_opsets_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="there is no opset 999"):
        fused(upsampled().model(), opset=999)
    b = upsampled()
    b.op("Gelu", b.nodes[-1].output[0])
    with pytest.raises(UsageError, match="opset 20 cannot be converted to 13"):
        fused(b.model(opset=20, ir_version=9), opset=13)


def test_large_results_have_their_weights_beside_them(tmp_path):
    model = upsampled().model()
    for name in ("inside", "beside"):
        limit = {} if name == "inside" else {"largest": 2**26}
        data = write_graph(tmp_path / f"{name}.onnx", model, **limit)
        assert data == (None if name == "inside" else tmp_path / "beside.onnx.data")
    assert (tmp_path / "beside.onnx").stat().st_size < (tmp_path / "inside.onnx").stat().st_size - 2000
    onnx.checker.check_model(str(tmp_path / "beside.onnx"))
    x = random_inputs(model, {"x": (1, 8, 6, 6)})
    values = [run(str(tmp_path / f"{name}.onnx"), x).popitem()[1] for name in ("inside", "beside")]
    assert np.array_equal(*values)
    again = read_graph(tmp_path / "beside.onnx")
    assert all(
        np.array_equal(v.const_value.numpy(), model.graph.initializers[k].const_value.numpy())
        for k, v in again.graph.initializers.items()
    )


def test_a_form_is_taken_where_it_is_and_the_rest_is_left_to_the_model():
    b = Builder()
    low = b.conv(b.op("AveragePool", "x", kernel_shape=[2, 2], strides=[2, 2]), 8, 8)
    high = b.conv("x", 8, 8)
    b.op("Add", b.conv(b.op("Relu", high), 8, 8), b.conv(b.op("Abs", high), 8, 8))
    b.conv(b.up(low), 8, 8)
    model = b.model(b.nodes[-1].output[0], b.nodes[-3].output[0])
    chosen = []

    class Keeping:
        def choose(self, site, forms):
            chosen.append((site.rule, set(forms)))
            return "keep", "for the test"

    _, report = fuse(
        model, lambda _: Preferred("phases", Keeping()), multiple=2, shapes={"x": (1, 8, 16, 16)}
    )
    assert report.hits[RULE] == 1
    assert report.hits["sum-of-convolutions"] == 0
    assert chosen
    assert all("phases" not in forms for _, forms in chosen)
