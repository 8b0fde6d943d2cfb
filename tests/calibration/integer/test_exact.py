"""Graphs of integers give the same on every way of running them: ONNX Runtime, PyTorch, plain whole numbers, int8."""

from __future__ import annotations

import json

import integer_graphs
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import small_bundle
from integer_interpreter import Interpreter
from onnx import helper, numpy_helper
from oslic.calibration.graph import Graph
from oslic.calibration.integer.certificate import PAIR_LIMIT, certify
from oslic.cli.main import main
from oslic.export.quantized import int8_form
from oslic.runtime.bundle.folder import Bundle
from PIL import Image

SIZE = 64, 96
DOMAINS = {
    "synthesise": {"compact": 31, "labels": 3},
    "refine": {"decoded": 255, "estimate": 255, "settings": 100},
}
LEVELS = onnxruntime.GraphOptimizationLevel


def shapes(graph, height, width):
    if graph == "synthesise":
        return {"compact": (1, height // 8, width // 8, 3), "labels": (1, height // 4, width // 4)}
    return {"decoded": (1, height, width, 3), "estimate": (1, height, width, 3), "settings": (1, 2)}


def feeds_of(graph, kind, photo, domains=None, size=SIZE):
    """Inputs: "natural", "random", or "extreme", whose values are the ends of their ranges."""
    random = np.random.default_rng(len(kind))
    domains = domains or DOMAINS[graph]
    found = {}
    for name, shape in shapes(graph, *size).items():
        most = domains[name]
        if kind == "extreme":
            array = random.choice([0, most], shape)
        elif kind == "random" or name in {"labels", "settings"}:
            array = random.integers(0, most + 1, shape)
        else:
            small = np.asarray(Image.fromarray(photo).resize((shape[2], shape[1])))
            array = small[np.newaxis].astype(int) * most // 255
        if name == "settings":
            array[:, 1] = array[:, 1] > 50
        found[name] = array.astype(np.uint8)
    return found


def run(model, feeds, level=LEVELS.ORT_ENABLE_ALL, threads=1, **entries):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = threads
    for key, value in entries.items():
        options.add_session_config_entry(key.replace("__", "."), value)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)[0]


WAYS = {
    **{f"level {int(level)}, {threads} threads": {"level": level, "threads": threads} for level in (
        LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_BASIC, LEVELS.ORT_ENABLE_EXTENDED, LEVELS.ORT_ENABLE_ALL
    ) for threads in (1, 2)},
    "Q/DQ not fused": {"session__disable_quant_qdq": "1"},
    "kernels for processors without VNNI": {"session__x64quantprecision": "1"},
}  # fmt: skip


@pytest.mark.parametrize("kind", ["natural", "random", "extreme"])
@pytest.mark.parametrize("graph", list(DOMAINS))
def test_onnxruntime_agrees_with_whole_numbers(exact_models, photo, graph, kind):
    model, feeds = exact_models[graph], feeds_of(graph, kind, photo)
    wanted = Interpreter(model).run(**feeds)
    assert wanted.std() > 5, "a picture of one color would prove nothing"
    for name, way in WAYS.items():
        assert np.array_equal(run(model, feeds, **way), wanted), name


@pytest.mark.parametrize("graph", list(DOMAINS))
def test_the_shipped_certificate_is_proved_again(exact_bundle, exact_models, graph):
    found = certify(Graph(exact_models[graph]), DOMAINS[graph])
    assert found.exact
    assert exact_bundle.manifest.exact
    assert exact_bundle.manifest.quantization["certificate"][graph] == found.summary()
    assert 0 < found.pair_sum <= PAIR_LIMIT
    convolutions = [node for node in exact_models[graph].graph.node if node.op_type == "Conv"]
    assert len(found.convolutions) == len(convolutions) > 3


@pytest.mark.parametrize("graph", list(DOMAINS))
def test_sums_stay_within_the_certificate(exact_models, photo, graph):
    model = exact_models[graph]
    proofs = {proof.name: proof for proof in certify(Graph(model), DOMAINS[graph]).convolutions}
    makers = {node.output[0]: node for node in model.graph.node}
    for kind in ("random", "extreme"):
        interpreter = Interpreter(model)
        interpreter.run(**feeds_of(graph, kind, photo))
        checked = 0
        for node in (node for node in model.graph.node if node.op_type == "Conv"):
            x, weight = (makers.get(name) for name in node.input[:2])
            if weight is None or x.op_type != "DequantizeLinear":
                continue
            step = interpreter.constants[x.input[1]] * interpreter.constants[weight.input[1]]
            value = interpreter.values[node.output[0]]
            sums = np.abs(value.n).max(axis=(0, 2, 3)) * 2.0**value.e / step
            assert np.all(sums <= proofs[node.name].sums)
            checked += 1
        assert checked > 3


def one_convolution(weight, bias, zero):
    """uint8 in, a convolution of integers, its sums out: exact to the last bit, as they are float32."""
    taps, kind = weight.shape[1], np.uint8
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "one", "zero"], ["activations"]),
        helper.make_node("DequantizeLinear", ["w", "ones", "zeros"], ["weights"], axis=0),
        helper.make_node("Conv", ["activations", "weights", "bias"], ["sums"]),
    ]
    tensors = {
        "one": np.float32(1), "zero": kind(zero), "w": weight.astype(np.int8), "bias": bias.astype(np.float32),
        "ones": np.ones(len(weight), np.float32), "zeros": np.zeros(len(weight), np.int8),
    }  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, [1, taps, 1, 1])],
        [helper.make_tensor_value_info("sums", onnx.TensorProto.FLOAT, [1, len(weight), 1, 1])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize("zero", [0, 128])
def test_an_adversary_reaches_the_bound_and_is_exact_there(zero):
    """The largest weights, inputs at the ends of their range, a bias that fills the sum up to 2^24."""
    random = np.random.default_rng(4)
    low, high = (-128, 127) if zero else (0, 127)
    taps = 1 << 11
    weight = random.choice([-63, -62, 62, 63], (8, taps, 1, 1))
    bound = np.abs(weight).sum((1, 2, 3)) * max(-low, high)
    bias = (1 << 24) - bound
    assert np.all(bias >= 0)
    model = one_convolution(weight, bias, zero)
    for channel in range(len(weight)):
        driven = np.where(weight[channel] > 0, high, low)[np.newaxis]
        wanted = (weight.astype(np.int64) * driven).sum((1, 2, 3)) + bias
        assert abs(int(wanted[channel])) <= 1 << 24
        for name, way in WAYS.items():
            sums = run(model, {"x": (driven + zero).astype(np.uint8)}, **way)
            assert np.array_equal(sums.ravel().astype(np.int64), wanted), name


def test_beyond_the_bound_float_sums_are_not_exact():
    """Why there is a bound: one step above 2^24 a sum comes out as another."""
    weight = np.full((1, 1 << 11, 1, 1), 63)
    model = one_convolution(weight, np.array([(1 << 24) - 63]), 0)
    x = np.zeros((1, 1 << 11, 1, 1), np.uint8)
    x[0, :2] = 1
    found = run(model, {"x": x}, LEVELS.ORT_DISABLE_ALL).item()
    assert found != (1 << 24) + 63
    assert abs(found - ((1 << 24) + 63)) == 1


@pytest.mark.parametrize("graph", list(DOMAINS))
def test_the_int8_form_is_the_same_function(exact_models, photo, graph):
    """What engines are made of: no clip, no zero point, and the same bytes."""
    model = exact_models[graph]
    signed = ir.to_proto(int8_form(ir.from_proto(model)))
    kinds = {t.data_type for t in signed.graph.initializer}
    assert onnx.TensorProto.UINT8 not in kinds
    assert certify(Graph(signed), DOMAINS[graph]).exact
    for kind in ("natural", "random", "extreme"):
        feeds = feeds_of(graph, kind, photo)
        wanted = Interpreter(model).run(**feeds)
        assert np.array_equal(Interpreter(signed).run(**feeds), wanted)
        assert np.array_equal(run(signed, feeds, LEVELS.ORT_DISABLE_ALL), wanted)


@pytest.mark.parametrize("graph", list(DOMAINS))
def test_pytorch_agrees(exact_models, photo, graph):
    """Its own float32 kernels, which add in another order."""
    torch_interpreter = pytest.importorskip("torch_interpreter")
    model = exact_models[graph]
    for kind in ("natural", "random", "extreme"):
        feeds = feeds_of(graph, kind, photo)
        wanted = Interpreter(model).run(**feeds)
        assert np.array_equal(torch_interpreter.run(model, **feeds), wanted)


def test_engines_are_built_without_a_warning(exact_models):
    trt = pytest.importorskip("tensorrt_rtx")
    from oslic.export.engines import Options, build_plan, prepare

    data = prepare(exact_models["synthesise"].SerializeToString(), "int8")
    named = {
        name: tuple((1, *(size * k for size in shape[1:3]), *shape[3:]) for k in (1, 1, 2))
        for name, shape in shapes("synthesise", 64, 64).items()
    }
    assert len(build_plan(trt, data, [named], Options(optimization_level=0))) > 1000


def test_the_report_has_every_output_channel(exact_bundle):
    report = json.loads((exact_bundle.path / "calibration.json").read_text())
    page = (exact_bundle.path / "calibration.html").read_text()
    for graph, found in report["integer"].items():
        certificate = found["certificate"]
        assert f"{graph}, of integers" in page
        assert certificate["failures"] == {}
        assert sum(len(proof["sums"]) for proof in certificate["proofs"]) == certificate["channels"]
        assert max(max(p["sums"]) for p in certificate["proofs"]) <= 2 ** certificate["allowed_bits"]
        assert all(proof["name"] in page for proof in certificate["proofs"])


def test_inspect_shows_the_certificate(exact_bundle, capsys):
    assert main(["inspect", str(exact_bundle.path)]) == 0
    shown = capsys.readouterr().out
    assert "the estimate is the same on every machine" in shown
    for graph, proof in exact_bundle.manifest.quantization["certificate"].items():
        line = next(line for line in shown.splitlines() if f"certificate  {graph}:" in line)
        assert f"sums up to 2^{proof['largest_bits']} (allowed: 2^24)" in line
        assert f"{proof['channels']} output channels" in line


def test_a_graph_that_is_not_certified_makes_no_exact_bundle(float_bundle, photographs, tmp_path, capsys):
    """A division in its tail: everything is made, and the manifest does not claim what is not proved."""
    model = integer_graphs.synthesise()
    for node in model.graph.node:
        if node.op_type == "Mul" and next(c for c in node.input[1:]) in {
            t.name for t in model.graph.initializer if numpy_helper.to_array(t).size == 1
            and numpy_helper.to_array(t) == 256
        }:  # fmt: skip
            node.op_type = "Div"
            node.input[1] = "white"
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1 / 256), "white"))
    folder = small_bundle.write(tmp_path / "float", {"synthesise": model}).path
    arguments = [
        "calibrate",
        str(folder),
        "--integer",
        "--graphs",
        "synthesise",
        "--images",
        str(photographs),
    ]
    assert (
        main([*arguments, "-o", str(tmp_path / "made"), "--threads", "1", "--cache", str(tmp_path / "c")])
        == 0
    )
    said = capsys.readouterr().out
    assert "NOT certified" in said
    assert "a division rounds" in said
    assert not Bundle.open(tmp_path / "made").manifest.exact
