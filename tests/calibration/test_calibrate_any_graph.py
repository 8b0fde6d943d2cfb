"""`oslic calibrate` on graphs that are nobody's bundle: what it writes is right and in int8 where it is said to run."""

from __future__ import annotations

import collections
import importlib.util
import json
import os
import shlex
import subprocess
import sys

import foreign_networks
import numpy as np
import onnx
import onnxruntime
import pytest
import small_bundle
from foreign_networks import oslic
from onnx import TensorProto, helper, numpy_helper
from oslic.calibration.ort_session import Session
from oslic.calibration.preparation import prepare
from oslic.cli.main import main
from oslic.runtime.bundle.engine_files import EngineInfo
from oslic.runtime.model import read_model

OPENVINO = importlib.util.find_spec("openvino") is not None
QUICK = "--threads 1 --ignore-time --cache cache"


@pytest.fixture(scope="module")
def data(tmp_path_factory, photo):
    """Crops of a photograph as floats in 0..1, (6, 3, 64, 64), in a file."""
    folder = tmp_path_factory.mktemp("data")
    crops = [photo[i * 30 : i * 30 + 64, i * 50 : i * 50 + 64] for i in range(6)]
    np.savez(folder / "data.npz", input=(np.stack(crops).transpose(0, 3, 1, 2) / 255).astype(np.float32))
    return folder / "data.npz"


@pytest.fixture(scope="module")
def quantized(data, tmp_path_factory):
    """The U-Net for both targets, in a folder with its report and the float graph."""
    folder = tmp_path_factory.mktemp("quantized")
    foreign_networks.save(foreign_networks.unet(), folder / "unet.onnx")
    for target in ("cpu", "tensorrt"):
        words = f"--data {data} --target {target} -o {folder}/{target}.onnx --ranges minmax --threads 1 --ignore-time"
        assert main(shlex.split(f"calibrate {folder}/unet.onnx {words} --cache {folder}/cache")) == 0
    return folder


def plain(path, feeds):
    """A session as anybody opens it."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def sqnr(y, reference):
    noise = np.square(y.astype(float) - reference).sum()
    return 10 * np.log10(np.square(reference.astype(float)).sum() / noise)


def kernels(path, feeds):
    """How many kernels of each kind a plain session runs."""
    session = Session(path.read_bytes(), 1, where="x")
    return collections.Counter(layer.operator for layer in session.layer_times(feeds, 1))


def test_the_forms_are_those_of_their_targets(quantized):
    for target, kind in (("cpu", TensorProto.UINT8), ("tensorrt", TensorProto.INT8)):
        graph = onnx.load(quantized / f"{target}.onnx").graph
        onnx.checker.check_model(onnx.load(quantized / f"{target}.onnx"))
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        activations = [node for node in graph.node if node.op_type == "QuantizeLinear"]
        assert activations
        assert {tensors[node.input[2]].data_type for node in activations} == {kind}
        zeros = {int(numpy_helper.to_array(tensors[node.input[2]])) for node in activations}
        assert zeros == ({0, 128} if target == "cpu" else {0})
        report = json.loads((quantized / f"{target}.calibration.json").read_text())
        assert report["graphs"]["unet"]["target"] == target
        assert report["settings"]["target"] == target
        assert target in (quantized / f"{target}.calibration.html").read_text()


def test_values_that_are_never_negative_use_the_whole_range_on_a_cpu(quantized):
    scales = {}
    for target in ("cpu", "tensorrt"):
        report = json.loads((quantized / f"{target}.calibration.json").read_text())
        scales[target] = {value["name"]: value["scale"] for value in report["graphs"]["unet"]["values"]}
    # Behind a ReLU, and of pixels in 0..1: 255 steps in place of 127.
    for name in ("v1", "input"):
        assert scales["tensorrt"][name] / scales["cpu"][name] == pytest.approx(255 / 127, rel=1e-6)
    assert scales["tensorrt"]["v19"] == pytest.approx(scales["cpu"]["v19"], rel=1e-6)  # logits


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_a_plain_session_of_onnxruntime_gives_the_float_graphs_outputs(quantized, data, target):
    with np.load(data) as file:
        feeds = {"input": file["input"][:2]}
    reference = plain(quantized / "unet.onnx", feeds)
    assert sqnr(plain(quantized / f"{target}.onnx", feeds), reference) > 35


def test_a_plain_session_runs_every_convolution_in_int8_on_a_cpu(quantized, data):
    with np.load(data) as file:
        feeds = {"input": file["input"][:1]}
    found = kernels(quantized / "cpu.onnx", feeds)
    report = json.loads((quantized / "cpu.calibration.json").read_text())["graphs"]["unet"]
    assert found["QLinearConv"] == report["int8_convolutions"]["meant"] == 11  # seven, and four phases
    assert not {kind for kind in found if kind in {"Conv", "FusedConv", "ConvTranspose"}}
    # The pairs of a value with several readers stay float there: what the form for a CPU is for.
    assert kernels(quantized / "tensorrt.onnx", feeds)["QLinearConv"] < 11


@pytest.mark.skipif(not OPENVINO, reason="OpenVINO is not installed: pip install 'oslic[openvino]'")
@pytest.mark.parametrize("isa", ["DEFAULT", "AVX512_CORE"])
def test_openvino_gives_the_float_graphs_outputs_on_processors_with_and_without_amx(quantized, data, isa):
    """In a process of its own: the kernels are chosen once. Where the processor lacks more, both are the same."""
    code = (
        "import sys, numpy as np\n"
        "from oslic.runtime.model import read_model\n"
        "from oslic.runtime.model.running import load\n"
        "from pathlib import Path\n"
        "x = np.load(sys.argv[1])['input'][:2]\n"
        "run = lambda name: load(read_model(Path(sys.argv[2]) / name), 'openvino').run({'input': x})['mask']\n"
        "np.savez(sys.argv[3], **{name: run(f'{name}.onnx') for name in ('unet', 'cpu', 'tensorrt')})\n"
    )
    out = quantized / f"{isa}.npz"
    done = subprocess.run(
        [sys.executable, "-c", code, str(data), str(quantized), str(out)],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": isa},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(out) as found:
        assert sqnr(found["cpu"], found["unet"]) > 35
        if isa == "DEFAULT":
            assert sqnr(found["tensorrt"], found["unet"]) > 25


def branching():
    """A value that is never negative, read by two convolutions."""
    w = small_bundle.Writer(5)
    x = w.op("Relu", w.conv("input", (8, 3, 3, 3), name="stem"))
    left, right = (w.conv(x, (8, 8, 3, 3), name=name) for name in ("left", "right"))
    w.conv(w.op("Relu", w.op("Add", left, right)), (4, 8, 3, 3), name="head", output="y")
    w.nodes[-1].output[0] = "y"
    return foreign_networks.finish(
        w, {"input": (TensorProto.FLOAT, ["N", 3, 16, 16])}, {"y": ["N", 4, 16, 16]}
    )


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("ranges", ["auto", "mse"])
def test_what_is_judged_is_the_file_that_is_written(here, target, ranges):
    """Samples beyond the range that was measured: int8 clips them, the uint8 form of the same graph does not."""
    foreign_networks.save(branching(), here / "net.onnx")
    x = np.random.default_rng(3).standard_normal((8, 3, 16, 16)).astype(np.float32)
    x[1::2] *= 3  # those that are judged
    np.savez("x.npz", input=x)
    words = f"--data x.npz -o q.onnx --target {target} --ranges {ranges} --min-sqnr 0 {QUICK}"
    assert oslic(f"calibrate net.onnx {words}") == 0
    judged = {"input": x[1::2]}
    found = sqnr(plain("q.onnx", judged), plain("net.onnx", judged))
    report = json.loads((here / "q.calibration.json").read_text())["graphs"]["net"]
    assert report["score"]["after"] == pytest.approx(found, abs=0.5)


def test_kernels_and_times_of_onnxruntime_decide_nothing_for_tensorrt(here, capsys):
    foreign_networks.save(branching(), here / "net.onnx")
    np.savez("x.npz", input=np.random.default_rng(3).random((6, 3, 16, 16), np.float32))
    words = "--data x.npz -o q.onnx --threads 1 --cache cache --min-sqnr 5 --ranges minmax"
    assert oslic(f"calibrate net.onnx {words} --target tensorrt") == 0
    said = capsys.readouterr().out
    assert "4 of 4 layers in int8" in said
    assert "as fast here" not in said
    report = json.loads((here / "q.calibration.json").read_text())["graphs"]["net"]
    assert report["latency"] == report["kernels"] == {}
    assert {layer["int8_ms"] for layer in report["layers"]} == {None}
    # ONNX Runtime leaves some of them in float, and is not asked.
    assert kernels(here / "q.onnx", {"input": np.ones((1, 3, 16, 16), np.float32)})["QLinearConv"] < 4
    assert "in float32 on this CPU, ms" in (here / "q.calibration.html").read_text()


def branches():
    """Weights, a folded normalization's output and a quantized value that only the branches of an `If` read."""
    w = small_bundle.Writer(6)
    x = w.op("Relu", w.conv("input", (8, 3, 3, 3), name="stem"))
    y = w.conv(x, (8, 8, 3, 3), name="body")
    ones = [w.constant(np.full(8, v, np.float32)) for v in (1.5, 0.1, 0, 1)]
    y = w.op("BatchNormalization", y, *ones)
    y = w.op("Relu", y)
    y = w.op("Relu", w.conv(y, (8, 8, 3, 3), name="end"))
    weight = w.weight((4, 8, 3, 3))
    w.op("Constant", output="shared", value=numpy_helper.from_array(np.float32(0.5)))
    big = w.op("Greater", w.op("ReduceMean", "input", keepdims=0), w.constant(np.float32(0.5)))
    then = [
        helper.make_node("Conv", [y, weight], ["inner"], name="inner", pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["inner", "shared"], ["then"], name="scaled"),
    ]
    other = [helper.make_node("Conv", [x, weight], ["else"], name="other", pads=[1, 1, 1, 1])]
    graphs = [
        helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])
        for nodes, name in ((then, "then"), (other, "else"))
    ]
    w.op("If", big, output="y", then_branch=graphs[0], else_branch=graphs[1])
    return foreign_networks.finish(
        w, {"input": (TensorProto.FLOAT, ["N", 3, 16, 16])}, {"y": ["N", 4, 16, 16]}
    )


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
@pytest.mark.parametrize("level", [0, 0.5])
def test_what_the_branches_of_an_if_read_is_kept_and_quantized(here, target, level):
    foreign_networks.save(branches(), here / "net.onnx")
    x = np.random.default_rng(3).random((8, 3, 16, 16), np.float32) * 0.5 + np.float32(level)
    np.savez("x.npz", input=x)
    assert oslic(f"calibrate net.onnx --data x.npz -o q.onnx --target {target} --min-sqnr 5 {QUICK}") == 0
    onnx.checker.check_model(onnx.load("q.onnx"))
    found = sqnr(plain("q.onnx", {"input": x[1::2]}), plain("net.onnx", {"input": x[1::2]}))
    report = json.loads((here / "q.calibration.json").read_text())["graphs"]["net"]
    assert report["score"]["after"] == pytest.approx(found, abs=1)
    assert {layer["decision"] for layer in report["layers"]} == {"int8"}
    assert len(report["layers"]) == 3
    if target == "cpu":
        assert report["int8_convolutions"]["run"] == 3
        assert report["kernels"].get("BatchNormalization") is None


def test_a_graph_that_is_not_valid_is_an_error_of_usage(here, capsys):
    model = branching()
    model.graph.node[0].input[0] = "nothing"
    (here / "net.onnx").write_bytes(model.SerializeToString())
    np.savez("x.npz", input=np.ones((2, 3, 16, 16), np.float32))
    assert oslic(f"calibrate net.onnx --data x.npz -o q.onnx {QUICK}") == 2
    assert "nothing" in capsys.readouterr().err


def test_layers_are_left_out_by_name_type_and_budget(here, data, capsys):
    command = f"calibrate unet.onnx --data {data} {QUICK} --ranges minmax --json"
    assert oslic(f"{command} -o a.onnx --exclude enc* --exclude head --exclude-type ConvTranspose") == 0
    layers = json.loads(capsys.readouterr().out)["graphs"]["unet"]["layers"]
    reasons = {x["name"]: x["reason"] for x in layers if x["decision"] == "float32"}
    assert reasons["enc1"] == "left out by its name (--exclude enc*)"
    assert reasons["enc2"] == "left out by its name (--exclude enc*)"
    assert reasons["ConvTranspose14"] == "left out by its type (--exclude-type ConvTranspose)"
    assert set(reasons) == {"enc1", "enc2", "head", "ConvTranspose14"}
    weights = {t.name for t in onnx.load("a.onnx").graph.initializer if t.data_type == TensorProto.INT8}
    assert not any(name.startswith(("enc", "head", "ConvTranspose14")) for name in weights)
    kinds = [node.op_type for node in onnx.load("a.onnx").graph.node]
    assert kinds.count("ConvTranspose") == 1  # what stays in float stays as it was
    assert oslic(f"{command} -o b.onnx --min-sqnr 0") == 0
    everything = json.loads(capsys.readouterr().out)["graphs"]["unet"]["score"]
    assert everything["measure"] == "SQNR of the worst output, dB"
    bound = round(everything["after"]) + 4
    assert oslic(f"{command} -o b.onnx --min-sqnr {bound}") == 0
    report = json.loads(capsys.readouterr().out)["graphs"]["unet"]
    assert report["score"]["after"] >= bound
    assert any(f"the budget is SQNR {bound}.0 dB for all" in layer["reason"] for layer in report["layers"])


def test_a_metric_of_the_users_decides(here, data, capsys):
    (here / "scores.py").write_text(
        "import numpy as np\n"
        "def share(outputs, inputs):\n"
        "    assert {x['input'].shape for x in inputs} == {(1, 3, 64, 64)}\n"
        "    return np.mean([(y['mask'] > 0.5).mean() for y in outputs])\n"
        "def broken(outputs, inputs):\n"
        "    return outputs['mask']\n"
    )
    command = f"calibrate unet.onnx --data {data} {QUICK} --ranges minmax -o a.onnx"
    assert oslic(f"{command} --metric scores:share --budget 0.05 --json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["metric"] == "scores:share"
    score = report["graphs"]["unet"]["score"]
    assert score["measure"] == "scores:share"
    assert score["before"] - score["after"] <= 0.05
    for name, code, message in (
        ("scores:broken", 10, "the metric scores:broken failed: TypeError"),
        ("scores:missing", 2, "--metric scores:missing"),
        ("nothing:x", 2, "No module named 'nothing'"),
        ("scores", 2, "name a function as module:function"),
    ):
        assert oslic(f"{command} --metric {name}") == code
        assert message in capsys.readouterr().err


def test_graphs_without_anything_to_quantize_are_passed_on_with_a_note(here, capsys):
    np.save("x.npy", np.ones((6, 4), np.float32))
    assert oslic(f"calibrate arithmetic.onnx --data x.npy -o a.onnx {QUICK}") == 0
    assert "nothing to quantize; the graph is passed on as it came" in capsys.readouterr().out
    assert (here / "a.onnx").read_bytes() == (here / "arithmetic.onnx").read_bytes()
    assert "passed on" in json.loads((here / "a.calibration.json").read_text())["note"]
    assert "passed on" in (here / "a.calibration.html").read_text()


def mobile():
    """What bundles do not have: batch normalization, ReLU6, constants as nodes, an old operator set."""
    w = small_bundle.Writer(11)

    def norm(x, channels):
        values = [
            w.random.uniform(0.5, 2, channels),
            w.random.normal(0, 0.3, channels),
            w.random.normal(0, 0.3, channels),
        ]
        values.append(w.random.uniform(0.5, 2, channels))
        return w.op("BatchNormalization", x, *(w.constant(v.astype(np.float32)) for v in values))

    six, zero = (w.constant(np.float32(v)) for v in (6, 0))
    x = w.op(
        "Clip", norm(w.conv("input", (8, 3, 3, 3), bias=False, strides=[2, 2], name="stem"), 8), zero, six
    )
    x = w.op("Clip", norm(w.conv(x, (8, 1, 3, 3), group=8, name="depthwise"), 8), zero, six)
    x = norm(w.conv(x, (16, 8, 1, 1), name="project"), 16)
    pooled = w.op("Flatten", w.op("GlobalAveragePool", x))
    w.op("Gemm", pooled, w.weight((16, 5)), output="logits", name="classifier")
    weight = w.tensors.pop(0)
    constant = helper.make_node("Constant", [], [weight.name], name="constant", value=weight)
    w.nodes.insert(0, constant)
    # Shared constants stand behind identities in what TorchScript's exporter writes.
    norm_node = next(node for node in w.nodes if node.op_type == "BatchNormalization")
    w.nodes.insert(0, helper.make_node("Identity", [norm_node.input[1]], ["shared"], name="shared"))
    norm_node.input[1] = "shared"
    model = foreign_networks.finish(w, {"input": (TensorProto.FLOAT, ["N", 3, 64, 64])}, {"logits": ["N", 5]})
    model.opset_import[0].version = 12
    onnx.checker.check_model(model)
    return model


def test_normalizations_are_folded_exactly(data):
    model = mobile()
    graph = prepare(model.SerializeToString(), "m")
    kinds = [node.op_type for node in graph.nodes]
    assert "BatchNormalization" not in kinds
    assert "Constant" not in kinds
    with np.load(data) as file:
        feeds = {"input": file["input"]}
    one, two = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, feeds
        )[0]
        for m in (model, graph.model)
    )
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)


def test_relu6_is_the_clip_of_the_integers(here, data, capsys):
    foreign_networks.save(mobile(), here / "mobile.onnx")
    assert oslic(f"calibrate mobile.onnx --data {data} -o m8.onnx {QUICK}") == 0
    text = capsys.readouterr().out
    assert "in float: classifier: a Gemm: only convolutions are quantized" in text
    with np.load(data) as file:
        feeds = {"input": file["input"][:1]}
    found = kernels(here / "m8.onnx", feeds)
    assert found["QLinearConv"] == 3
    assert not {"Clip", "FusedConv", "Conv"} & set(found)
    assert sqnr(plain("m8.onnx", feeds), plain("mobile.onnx", feeds)) > 20


def test_photographs_and_folders_of_arrays_are_data(here, data, samples, capsys):
    (here / "arrays").mkdir()
    with np.load(data) as file:
        for i in range(3):
            np.savez(here / "arrays" / f"{i}.npz", input=file["input"][i : i + 1])
    for place, more in ((here / "arrays", ""), (samples, "--size 48x32 --mean 0.5 --std 0.25")):
        command = (
            f"calibrate unet.onnx --data {place} -o a.onnx {QUICK} --ranges minmax --count 2 --json {more}"
        )
        assert oslic(command) == 0
        settings = json.loads(capsys.readouterr().out)["settings"]
        assert len(settings["data"]) == 3 if more == "" else len(settings["data"]) >= 2
    stated = json.loads((here / "a.calibration.json").read_text())["settings"]["preprocessing"]
    assert stated["scale"] == pytest.approx(1 / 255)
    assert (stated["layout"], stated["mean"], stated["std"]) == ("nchw", [0.5], [0.25])


def test_an_int8_engine_of_a_unet_is_built(here, quantized, capsys):
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt-rtx is not installed")
    command = "--backend tensorrt-rtx --precision int8 --shapes input=1x3x64x64 --optimization-level 0"
    assert oslic(f"build {quantized}/tensorrt.onnx {command} -o engines") == 0
    info = EngineInfo.read(here / "engines" / "tensorrt.tensorrt-rtx.int8.json")
    assert info.precision == "int8"
    assert info.graph_sha256 == read_model(quantized / "tensorrt.onnx").file_sha256
    assert oslic(f"build {quantized}/cpu.onnx {command} -o engines") == 2
    assert "calibrate the float graph again with --target tensorrt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("unet.onnx --data nowhere", 10, "nowhere does not exist"),
        (
            "unet.onnx --data {data} --exclude nothing",
            2,
            "no layer of unet.onnx has such a name; there are enc1",
        ),
        ("unet.onnx --data {data} --exclude-type Gemm", 2, "is one; there are Conv, ConvTranspose"),
        (
            "two_headed.onnx --data {data}",
            2,
            "no input 'input'; the graph takes image float32 Nx3x16x16, kind int64 N",
        ),
        ("two_headed.onnx --data {samples}", 2, "photographs feed one input"),
        (
            "unet.onnx --data wrong.npz",
            2,
            "the input input is float64 1x3x8x8, the graph expects float32 Nx3xHxW",
        ),
        ("unet.onnx --data empty.npz", 10, "empty.npz holds no samples"),
        ("unet.onnx --data unet.onnx", 2, "is no file of arrays"),
        ("unet.onnx --data folder", 10, "holds no arrays (.npz, .npy) and no images"),
        ("unet.onnx --data {data} --budget 1", 2, "--budget is the loss of a --metric"),
        ("unet.onnx --data {data} --min-sqnr 3 --metric a:b", 2, "give one of them"),
        ("unet.onnx --data {data} --budget-db 1", 2, "--budget-db is for bundles"),
        ("lite --data {samples} --min-sqnr 1", 2, "--min-sqnr is for single graphs"),
        ("{quantized}/cpu.onnx --data {data}", 2, "is already quantized (it has QuantizeLinear"),
        ("unet.onnx --data {data} --count 0", 2, "--count is 0, must be at least 1"),
        ("missing.onnx --data {data}", 2, "cannot read the graph missing.onnx"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line_and_nothing_is_written(
    here, data, samples, quantized, capsys, words, code, message
):
    np.savez("wrong.npz", input=np.zeros((1, 3, 8, 8)))
    np.savez("empty.npz", input=np.zeros((0, 3, 8, 8), np.float32))
    (here / "folder").mkdir()
    words = words.format(data=data, samples=samples, quantized=quantized)
    assert oslic(f"calibrate {words} -o out.onnx --threads 1 --cache cache --ranges minmax") == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not [path for path in here.iterdir() if path.name.startswith("out")]
