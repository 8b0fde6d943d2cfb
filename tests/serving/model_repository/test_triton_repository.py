"""The model repository that `oslic triton` writes, field by field. No server is needed."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import small_bundle
from oslic.cli import main as cli
from oslic.runtime.bundle.engine_files import EngineInfo
from oslic.runtime.bundle.folder import Bundle, write_bundle
from oslic.runtime.errors import BackendError, OslicError, UsageError
from oslic.serving.triton import model_config
from oslic.serving.triton.repository import Plan, write_repository

GRAPHS = ["segment", "analyse", "synthesise", "refine"]
IMAGE_SIDE, MOST = 64, 4


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small_bundle.write(tmp_path_factory.mktemp("bundles") / "small", refines=True)


def parse(text):
    """A message in protobuf's text format: field -> list of values. For what is written here, not for all there is."""
    tokens = iter(re.findall(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[\w.-]+', text))

    def message():
        fields = {}
        for name in tokens:
            if name == "}":
                return fields
            sign = next(tokens)
            if sign == "{":
                values = [message()]
            else:
                assert sign == ":"
                values = [next(tokens)]
                if values == ["["]:
                    values = []
                    for token in tokens:
                        if token == "]":
                            break
                        if token != ",":
                            values.append(int(token))
                else:
                    values = [json.loads(values[0]) if values[0][0] in '"0123456789-tf' else values[0]]
            fields.setdefault(name, []).extend(values)
        return fields

    return message()


def config_of(folder, model):
    return parse((folder / model / "config.pbtxt").read_text())


def parameters_of(config):
    return {entry["key"][0]: entry["value"][0]["string_value"][0] for entry in config.get("parameters", [])}


def ports(entries):
    return {entry["name"][0]: (entry["data_type"][0], entry["dims"]) for entry in entries}


def test_the_parser_of_these_tests_reads_what_is_written():
    message = {
        "a": 'x "quoted"\n',
        "b": [1, -1],
        "c": [{"d": True}, {"d": False}],
        "e": model_config.Literal("KIND_CPU"),
    }
    assert parse(model_config.text_of(message)) == {
        "a": ['x "quoted"\n'],
        "b": [1, -1],
        "c": [{"d": [True]}, {"d": [False]}],
        "e": ["KIND_CPU"],
    }


def test_the_models_that_clients_call(bundle, tmp_path):
    plan = Plan(instances=3, queue=17, max_pixels=1000, max_memory=1 << 30, tile=256)
    assert write_repository(bundle, tmp_path / "r", plan) == [
        f"oslic_{name}" for name in [*GRAPHS, "encode", "decode"]
    ]
    encode = config_of(tmp_path / "r", "oslic_encode")
    assert encode["backend"] == ["python"]
    assert encode["max_batch_size"] == [1]
    assert ports(encode["input"]) == {"IMAGE": ("TYPE_STRING", [1])}
    assert ports(encode["output"]) == {"STREAM": ("TYPE_STRING", [1]), "INFO": ("TYPE_STRING", [1])}
    assert encode["instance_group"] == [{"kind": ["KIND_CPU"], "count": [3]}]
    (policy,) = encode["dynamic_batching"][0]["default_queue_policy"]
    assert policy == {"allow_timeout_override": [True], "max_queue_size": [17]}
    assert parameters_of(encode) == {
        "oslic_prefix": "oslic",
        "oslic_tile": "256",
        "oslic_max_pixels": "1000",
        "oslic_max_memory": str(1 << 30),
    }
    decode = config_of(tmp_path / "r", "oslic_decode")
    assert ports(decode["input"]) == {"STREAM": ("TYPE_STRING", [1])}
    assert ports(decode["output"]) == {"IMAGE": ("TYPE_STRING", [1]), "INFO": ("TYPE_STRING", [1])}
    code = (tmp_path / "r/oslic_decode/1/model.py").read_text()
    assert "from oslic.serving.triton.codec_models import DecodeModel as TritonPythonModel" in code
    manifest = (tmp_path / "r/oslic_encode/1/manifest.json").read_bytes()
    assert manifest == (bundle.path / "manifest.json").read_bytes()


def test_graphs_by_the_python_backend(bundle, tmp_path):
    write_repository(bundle, tmp_path / "r", Plan(max_batch=8, queue_delay=500, instances=2, threads=3))
    for graph in GRAPHS:
        config = config_of(tmp_path / "r", f"oslic_{graph}")
        assert config["backend"] == ["python"]
        assert config["max_batch_size"] == [8]
        assert config["dynamic_batching"] == [{"max_queue_delay_microseconds": [500]}]
        assert config["instance_group"] == [{"kind": ["KIND_CPU"], "count": [2]}]
        assert parameters_of(config) == {
            "oslic_prefix": "oslic",
            "oslic_graph": graph,
            "oslic_backend": "onnxruntime-cpu",
            "oslic_threads": "3",
        }
        assert Bundle.open(tmp_path / f"r/oslic_{graph}/1").read_graph(graph) == bundle.read_graph(graph)


def test_inputs_and_outputs_are_those_of_the_graphs(bundle, tmp_path):
    """Against the ONNX files themselves: names, order, types and shapes but for the axis of the batch."""
    write_repository(bundle, tmp_path / "r", Plan(graphs="onnxruntime"))
    for graph in GRAPHS:
        folder = tmp_path / "r" / f"oslic_{graph}"
        model = onnx.load(folder / "1/model.onnx").graph
        config = config_of(tmp_path / "r", f"oslic_{graph}")
        for stated, found in ((config["input"], model.input), (config["output"], model.output)):
            wanted = {}
            for value in found:
                assert value.type.tensor_type.elem_type == onnx.TensorProto.UINT8
                dims = [d.dim_value or -1 for d in value.type.tensor_type.shape.dim]
                wanted[value.name] = ("TYPE_UINT8", dims[1:])
            assert ports(stated) == wanted
            assert list(ports(stated)) == [value.name for value in found]


@pytest.mark.parametrize(("device", "kind"), [("cpu", "KIND_CPU"), ("gpu", "KIND_GPU")])
def test_graphs_by_the_onnx_runtime_backend(bundle, tmp_path, device, kind):
    write_repository(bundle, tmp_path / "r", Plan(graphs="onnxruntime", device=device, threads=2))
    config = config_of(tmp_path / "r", "oslic_synthesise")
    assert config["backend"] == ["onnxruntime"]
    assert config["max_batch_size"] == [1]
    assert "dynamic_batching" not in config
    assert config["instance_group"][0]["kind"] == [kind]
    assert ("intra_op_thread_count" in parameters_of(config)) == (device == "cpu")
    assert sorted(path.name for path in (tmp_path / "r/oslic_synthesise/1").iterdir()) == ["model.onnx"]


def with_engines(bundle, folder, **changes):
    """The bundle with files in the place of engines: what is in them is for TensorRT alone to know."""
    import hashlib

    files = {info.file: bundle.read_graph(name) for name, info in bundle.manifest.graphs.items()}
    write_bundle(folder, bundle.manifest, files, replace=False)
    (folder / "engines").mkdir()
    for graph, info in bundle.manifest.graphs.items():
        data = f"engine of {graph}".encode()
        profiles = tuple(
            dict.fromkeys(info.inputs, ((1, 8, 8, 3), (1, 8, 8, 3), (MOST, side, side, 3)))
            for side in (IMAGE_SIDE, 2 * IMAGE_SIDE)
        )
        engine = EngineInfo(
            file=f"{graph}.engine", sha256=hashlib.sha256(data).hexdigest(), graph=graph, graph_sha256=info.sha256,
            backend="tensorrt", version="10.13.3.9", precision="fp16", gpu="9.0", profiles=profiles,
        )  # fmt: skip
        (folder / "engines" / engine.file).write_bytes(data)
        (folder / "engines" / f"{graph}.json").write_text(replace(engine, **changes).to_json())
    return Bundle.open(folder)


def test_graphs_by_the_tensorrt_backend(bundle, tmp_path):
    built = with_engines(bundle, tmp_path / "b")
    plan = Plan(graphs="tensorrt", device="gpu", max_batch=MOST, gpu="9.0", tensorrt="10.13.3.9")
    write_repository(built, tmp_path / "r", plan)
    for graph in GRAPHS:
        config = config_of(tmp_path / "r", f"oslic_{graph}")
        assert config["backend"] == ["tensorrt"]
        assert config["max_batch_size"] == [MOST]
        assert config["dynamic_batching"] == [{"max_queue_delay_microseconds": [0]}]
        # The profile for the larger pictures is the second one.
        assert config["instance_group"] == [{"kind": ["KIND_GPU"], "count": [1], "profile": ["1"]}]
        plan_file = tmp_path / f"r/oslic_{graph}/1/model.plan"
        assert plan_file.read_bytes() == f"engine of {graph}".encode()


@pytest.mark.parametrize(
    ("changes", "plan", "message"),
    [
        ({}, {"gpu": "8.9"}, "built for compute capability 9.0, here is 8.9"),
        ({}, {"tensorrt": "10.5.0"}, "built with tensorrt 10.13.3.9, here is 10.5.0"),
        ({}, {"precision": "fp32"}, "fp32"),
        ({"stripped": True}, {}, "without --stripped"),
        ({}, {"max_batch": MOST + 1}, "takes batches of at most 4"),
    ],
)
def test_engines_that_do_not_fit_are_refused(bundle, tmp_path, changes, plan, message):
    built = with_engines(bundle, tmp_path / "b", **changes)
    with pytest.raises(BackendError, match=message) as caught:
        write_repository(built, tmp_path / "r", Plan(graphs="tensorrt", device="gpu", **plan))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_without_engines_the_command_that_builds_them_is_named(bundle, tmp_path):
    with pytest.raises(BackendError, match="has no tensorrt engine of segment; build it: oslic build"):
        write_repository(bundle, tmp_path / "r", Plan(graphs="tensorrt", device="gpu"))


def test_models_that_are_there_are_replaced_only_when_asked_and_ours(bundle, tmp_path):
    folder = tmp_path / "r"
    (folder / "densenet").mkdir(parents=True)
    write_repository(bundle, folder, Plan())
    with pytest.raises(UsageError, match="--force replaces it"):
        write_repository(bundle, folder, Plan())
    write_repository(bundle, folder, Plan(tile=512), replace=True)
    assert parameters_of(config_of(folder, "oslic_encode"))["oslic_tile"] == "512"
    write_repository(bundle, folder, Plan(prefix="other"))
    names = {path.name for path in folder.iterdir()}
    assert names >= {"densenet", "oslic_encode", "other_decode", "other_segment"}
    (folder / "mine_decode").mkdir()
    (folder / "mine_decode" / "config.pbtxt").write_text('name: "mine_decode"')
    with pytest.raises(UsageError, match="no model of `oslic triton`"):
        write_repository(bundle, folder, Plan(prefix="mine"), replace=True)


def test_the_command(bundle, tmp_path, capsys):
    folder = tmp_path / "r"
    assert cli.main(["triton", str(bundle.path), "-o", str(folder), "--json", "--instances", "1"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "repository": str(folder),
        "models": [f"oslic_{name}" for name in [*GRAPHS, "encode", "decode"]],
    }
    config = config_of(folder, "oslic_synthesise")
    assert config["max_batch_size"] == [1], "the bundle is not exact"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", "{tmp}/a/b"], 2, "cannot write the model repository"),
        (["-o", "{tmp}/file"], 2, "cannot write the model repository"),
        (["-o", "{tmp}/r", "--tile", "100"], 2, "must be a multiple of 32"),
        (["-o", "{tmp}/r", "--name", "../x"], 2, "no name for models"),
        (["-o", "{tmp}/r", "--graphs", "tensorrt", "--device", "cpu"], 2, "engines run on GPUs"),
        (["-o", "{tmp}/r", "--graphs", "tensorrt"], 6, "no tensorrt engine"),
    ],
)
def test_what_is_wrong_is_one_line(bundle, tmp_path, capsys, arguments, code, message):
    (tmp_path / "file").write_text("")
    words = [word.format(tmp=tmp_path) for word in arguments]
    assert cli.main(["triton", str(bundle.path), *words]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_int8_bundles_are_written_as_cpus_run_them(tmp_path, bundle):
    """The zero points that `oslic calibrate` leaves are moved to uint8, as the runtime does; a plain graph has none."""
    graphs = {
        name: replace(info, precision="int8") if name == "synthesise" else info
        for name, info in bundle.manifest.graphs.items()
    }
    said = replace(bundle.manifest, graphs=graphs, quantization={"weight_limit": 64})
    files = {info.file: bundle.read_graph(name) for name, info in bundle.manifest.graphs.items()}
    write_bundle(tmp_path / "b", said, files, replace=False)
    with pytest.raises(OslicError, match="has no zero points"):
        write_repository(Bundle.open(tmp_path / "b"), tmp_path / "r", Plan(graphs="onnxruntime"))


def test_the_code_of_the_models_compiles(bundle, tmp_path):
    write_repository(bundle, tmp_path / "r", Plan())
    for path in Path(tmp_path / "r").rglob("model.py"):
        compile(path.read_text(), str(path), "exec")
