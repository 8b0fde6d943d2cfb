"""Bundles that nobody vouches for: graphs that reach for other files, give anything, never end; absurd manifests."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import time
from copy import deepcopy as copy_of
from pathlib import Path

import numpy as np
import onnx
import pytest
import small_bundle
from onnx import TensorProto, helper, numpy_helper
from oslic.cli.main import main
from oslic.runtime.backends import Options
from oslic.runtime.backends.onnxruntime.cpu import open_session
from oslic.runtime.bundle.engine_files import EngineInfo, rebuild_command
from oslic.runtime.bundle.folder import Bundle, default_bundle, write_bundle
from oslic.runtime.bundle.graph_safety import require_self_contained
from oslic.runtime.bundle.manifest import Manifest
from oslic.runtime.codec import Codec
from oslic.runtime.codec.networks import Graphs
from oslic.runtime.errors import BackendError, BundleError, LimitError, UsageError
from oslic.runtime.plain_json import MOST_DEPTH, parse_object

CASES = Path(__file__).parents[2] / "data" / "bundle"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trust") / "small"
    small_bundle.write(folder)
    return folder


@pytest.fixture
def copy(plain, tmp_path):
    return shutil.copytree(plain, tmp_path / "bundle")


def put_graph(folder, graph, data, **changes):
    """Put a graph into a bundle, with its hash in the manifest: whoever makes a bundle makes both."""
    body = json.loads((folder / "manifest.json").read_text())
    (folder / f"{graph}.onnx").write_bytes(data)
    body["graphs"][graph] |= {"sha256": hashlib.sha256(data).hexdigest(), **changes}
    (folder / "manifest.json").write_text(json.dumps(body))


def change_manifest(folder, place, value):
    body = json.loads((folder / "manifest.json").read_text())
    part = body
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    (folder / "manifest.json").write_text(json.dumps(body))


def synthesise(folder, timeout=None):
    options = Options(threads=1, timeout=timeout)
    with Graphs(Bundle.open(folder), "onnxruntime-cpu", options) as graphs:
        return graphs.synthesise(np.zeros((4, 4, 3), np.uint8), np.zeros((8, 8), np.uint8), 32, 32)


# -- other files ------------------------------------------------------------------------------------------------------


def external(name="secret", kind=TensorProto.UINT8, count=32 * 32 * 3):
    """A tensor whose data lie in a file."""
    tensor = TensorProto(name=name, data_type=kind, dims=[count])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")
    return tensor


def sparse(values, indices):
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[1 << 20])


def subgraph(*, nodes=(), initializers=(), sparse_initializers=()):
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, None)
    graph = helper.make_graph(list(nodes), "g", [], [out], list(initializers))
    graph.sparse_initializer.extend(sparse_initializers)
    return graph


def node(**attributes):
    made = helper.make_node("Anything", [], ["o"])
    made.attribute.extend(onnx.AttributeProto(name=name, **given) for name, given in attributes.items())
    return made


def model(graph=None, functions=(), training=None):
    made = helper.make_model(graph or subgraph(), opset_imports=[helper.make_opsetid("", 18)])
    made.functions.extend(functions)
    if training is not None:
        made.training_info.add().algorithm.CopyFrom(training)
    return made


INSIDE = numpy_helper.from_array(np.arange(3), "inside")
NESTED = subgraph(nodes=[node(then={"g": subgraph(nodes=[node(value={"t": external()})])})])
PLACES = {
    "initializer": model(subgraph(initializers=[INSIDE, external()])),
    "sparse values": model(subgraph(sparse_initializers=[sparse(external(), INSIDE)])),
    "sparse indices": model(subgraph(sparse_initializers=[sparse(INSIDE, external(kind=TensorProto.INT64))])),
    "attribute": model(subgraph(nodes=[node(value={"t": external()})])),
    "list of tensors": model(subgraph(nodes=[node(values={"tensors": [INSIDE, external()]})])),
    "sparse attribute": model(subgraph(nodes=[node(v={"sparse_tensor": sparse(external(), INSIDE)})])),
    "sparse list": model(subgraph(nodes=[node(v={"sparse_tensors": [sparse(external(), INSIDE)]})])),
    "subgraph of a subgraph": model(NESTED),
    "list of graphs": model(subgraph(nodes=[node(branches={"graphs": [subgraph(), NESTED]})])),
    "function": model(functions=[onnx.FunctionProto(name="f", node=[node(value={"t": external()})])]),
    "default of a function": model(
        functions=[
            onnx.FunctionProto(name="f", attribute_proto=[onnx.AttributeProto(name="a", t=external())])
        ]
    ),
    "training": model(training=NESTED),
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_found_wherever_a_tensor_may_stand(place):
    with pytest.raises(BundleError, match="data lie in another"):
        require_self_contained(PLACES[place].SerializeToString(), "the graph")


def test_either_sign_of_external_data_is_enough():
    for drop in ("data_location", "external_data"):
        tensor = external()
        tensor.ClearField(drop)
        with pytest.raises(BundleError, match="data lie in another"):
            require_self_contained(model(subgraph(initializers=[tensor])).SerializeToString(), "the graph")
    inside = numpy_helper.from_array(np.arange(3), "inside")
    inside.data_location = TensorProto.DEFAULT
    require_self_contained(model(subgraph(initializers=[inside])).SerializeToString(), "the graph")


def test_engines_inside_graphs_are_refused():
    context = helper.make_node(
        "EPContext", [], ["o"], domain="com.microsoft", embed_mode=1, ep_cache_context=b"x"
    )
    with pytest.raises(BundleError, match="runs an engine"):
        require_self_contained(model(subgraph(nodes=[context])).SerializeToString(), "the graph")
    with pytest.raises(BundleError, match="own format"):
        require_self_contained(b"\x20\0\0\0ORTM" + bytes(64), "the graph")


def test_whole_networks_pass():
    bundle = Bundle.open(default_bundle())
    for graph in bundle.manifest.graphs:
        start = time.process_time()
        data = bundle.read_graph(graph)
        require_self_contained(data, graph)
        assert time.process_time() - start < 1


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def deep(levels):
    """A graph in an attribute of a node in a graph, and so on."""
    data = b""
    for _ in range(levels):
        for tag in (0x32, 0x2A, 0x0A):  # attribute.g, node.attribute, graph.node
            data = bytes([tag]) + varint(len(data)) + data
    return b"\x3a" + varint(len(data)) + data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x3a\x05\x0a", "runs 4 bytes over its end"),
        (b"\x3a", "ends within a number"),
        (b"\x08" + b"\xff" * 11, "longer than 64 bits"),
        (b"\x3b\x3c", "wire type 3"),
        (b"\x07\x00", "field number at byte 0 is 0"),
        (b"\x38\x01", "field 7 of a model has wire type 0"),
        (b"\x0d\x00", "runs 3 bytes over its end"),
        (deep(1000), "nested more than 100 deep"),
        (b"\x08\x01" * ((1 << 22) + 1), "more than 4194304 fields"),
        (b"PK\x03\x04" + bytes(40), "not a readable ONNX model"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_what_cannot_be_parsed_is_refused(data, reason):
    with pytest.raises(BundleError, match=reason):
        require_self_contained(data, "the graph")


def test_a_walk_never_raises_anything_else():
    """Cut and altered models: an error of ours, or a model that protobuf too finds without external data."""
    random = np.random.default_rng(5)
    sources = [made.SerializeToString() for made in PLACES.values()]
    agreed = {True: 0, False: 0}
    for _ in range(20_000):
        data = bytearray(sources[random.integers(len(sources))])
        for _ in range(random.integers(1, 4)):
            data[random.integers(len(data))] = random.integers(256)
        try:
            require_self_contained(bytes(data), "the graph")
        except BundleError:
            agreed[False] += 1
            continue
        try:
            parsed = onnx.ModelProto.FromString(bytes(data))
        except Exception:
            continue
        assert not _has_external(parsed)
        agreed[True] += 1
    assert min(agreed.values()) > 200


def _has_external(message):
    if isinstance(message, TensorProto) and (message.external_data or message.data_location):
        return True
    for field, value in message.ListFields():
        if field.message_type is not None:
            parts = [value] if hasattr(value, "ListFields") else value
            if any(_has_external(part) for part in parts):
                return True
    return False


def test_a_bundle_does_not_read_the_current_directory(copy, tmp_path, monkeypatch):
    """As it was found: the graph returned a file of the system as pixels, with "digest ok"."""
    (tmp_path / "secret.bin").write_bytes(bytes(range(256)) * 12)
    monkeypatch.chdir(tmp_path)
    tensor = external(kind=TensorProto.UINT8)
    tensor.dims[:] = [1, 32, 32, 3]
    ports = [helper.make_tensor_value_info(n, TensorProto.UINT8, None) for n in ("compact", "labels")]
    out = helper.make_tensor_value_info("estimate", TensorProto.UINT8, None)
    graph = helper.make_graph(
        [helper.make_node("Identity", ["secret"], ["estimate"])], "g", ports, [out], [tensor]
    )
    reading = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    put_graph(copy, "synthesise", reading.SerializeToString())
    with pytest.raises(BundleError, match="external data"):
        synthesise(copy)
    import onnxruntime

    session = onnxruntime.InferenceSession(reading.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {"compact": np.zeros((1, 4, 4, 3), np.uint8), "labels": np.zeros((1, 8, 8), np.uint8)}
    assert session.run(None, feeds)[0].tobytes()[:4] == b"\0\1\2\3"  # what the check is there for


# -- outputs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("cycle", "cannot load the graph .* acyclic"),
        ("empty", r"gave uint8 \(0, 16, 16, 3\), must give uint8 \(1, 32, 32, 3\)"),
        ("no-output", r"has the outputs \[\], the manifest says \['estimate'\]"),
        ("scalar", r"gave uint8 \(\), must give"),
        ("string", r"estimate is tensor\(string\), must be tensor\(uint8\)"),
        ("too-small", r"gave uint8 \(1, 4, 4, 3\), must give"),
    ],
)
def test_outputs_of_graphs_are_checked(copy, case, message):
    put_graph(copy, "synthesise", (CASES / f"{case}.onnx").read_bytes())
    with pytest.raises(BundleError, match=message):
        synthesise(copy)


def test_a_graph_that_never_ends_is_stopped_where_that_is_asked_for(copy, tmp_path, capfd):
    put_graph(copy, "synthesise", (CASES / "infinite-loop2.onnx").read_bytes())
    start = time.monotonic()
    with pytest.raises(LimitError, match=r"the synthesise graph took longer than the time limit of 0\.5 s"):
        synthesise(copy, timeout=0.5)
    assert time.monotonic() - start < 20
    sample = Path(__file__).parents[3] / "samples" / "coffee.png"
    code = main(
        ["compress", str(sample), "-o", str(tmp_path / "o.oslic"), "--bundle", str(copy), "--timeout", "1"]
    )
    assert code == LimitError.exit_code
    error = capfd.readouterr().err
    assert "time limit of 1 s" in error
    assert error.count("\n") == 1  # ONNX Runtime's own log is silent
    with pytest.raises(UsageError, match="time limit is 0"):
        Options(timeout=0)


def test_loading_a_graph_is_within_the_time_limit_too():
    data = Bundle.open(default_bundle()).read_graph("segment")
    with pytest.raises(LimitError, match=r"loading the graph took longer than the time limit of 0\.0001 s"):
        open_session(data, 1, timeout=1e-4)
    open_session(data, 1, timeout=600)


def test_a_bundle_that_could_not_be_read_is_not_written(plain, tmp_path):
    bundle = Bundle.open(plain)
    files = {graph.file: bundle.read_graph(name) for name, graph in bundle.manifest.graphs.items()}
    for change in ({"provenance": {"loss": float("nan")}}, {"name": "\ud800"}, {"license": "x" * 5000}):
        with pytest.raises(BundleError, match="the manifest of the new bundle"):
            write_bundle(
                tmp_path / "new", dataclasses.replace(bundle.manifest, **change), files, replace=False
            )
    outside = PLACES["initializer"].SerializeToString()
    graphs = dict(bundle.manifest.graphs)
    graphs["segment"] = dataclasses.replace(graphs["segment"], sha256=hashlib.sha256(outside).hexdigest())
    with pytest.raises(BundleError, match=r"the segment graph of the new bundle .*external data"):
        write_bundle(
            tmp_path / "new",
            dataclasses.replace(bundle.manifest, graphs=graphs),
            files | {graphs["segment"].file: outside},
            replace=False,
        )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("file", ["manifest.json", "synthesise.onnx"])
def test_a_pipe_in_place_of_a_file_of_a_bundle_is_refused(copy, file):
    (copy / file).unlink()
    os.mkfifo(copy / file)
    with pytest.raises(BundleError, match="a pipe, not a regular file"):
        Bundle.open(copy).read_graph("synthesise")


def test_values_of_outputs_are_those_that_the_manifest_allows(copy):
    change_manifest(copy, ("levels",), 2)
    with (
        Codec.open(copy, "onnxruntime-cpu", 1) as codec,
        pytest.raises(BundleError, match="must give values below 2"),
    ):
        # A picture without noise is a drawing, and would have no layers.
        codec.compress(np.random.default_rng(1).integers(190, 210, (32, 32, 3), dtype=np.uint8), effort=0)


# -- manifests and other JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("graphs", "synthesise", "working_bytes_per_pixel"), 1e308),
        (("graphs", "synthesise", "file"), "a\0b"),
        (("graphs", "synthesise", "file"), "\ud800x"),
        (("graphs", "synthesise", "file"), "x" * 300),
        (("graphs", "synthesise", "inputs"), "compact"),
        (("graphs", "synthesise", "inputs"), [["compact"]]),
        (("graphs", "synthesise", "opset"), 10**30),
        (("graphs", "synthesise", "ir_version"), -1),
        (("graphs", "synthesise", "parameters"), True),
        (("graphs", "synthesise"), None),
        (("graphs",), [1]),
        (("classes",), {}),
        (("classes",), [{"name": "a", "color": [1, 2]}]),
        (("classes",), [{"name": 5, "color": [1, 2, 3]}]),
        (("classes",), [{"name": "a", "color": [1, 2, 300]}, {"name": "a", "color": [1, 2, 3]}]),
        (("classes",), [7]),
        (("classes",), [{"name": "a", "color": [1, 2, 3]}] * 2),
        (("groups",), []),
        (("groups",), {"person": "0"}),
        (("groups",), {"person": ["0", "no such class"]}),
        (("groups",), {"person": []}),
        (("groups",), {"person": [["0"]]}),
        (("groups",), {"0": ["0"]}),
        (("levels",), 10**400),
        (("multiple",), 8.0),
        (("alpha",), -1),
        (("name",), ["lite"]),
        (("license",), "x" * 5000),
        (("version",), [[[[]]]]),
        (("quantization",), {"weight_limit": "a lot"}),
        (("quantization",), {"certificate": [1]}),
        (("quantization",), {"certificate": {"synthesise": "fine"}}),
        (("quantization",), {"certificate": {"synthesise": {"nodes": 3}}}),
        (("quantization",), {"certificate": {"other": {}}}),
    ],
    ids=str,
)
def test_absurd_manifests_are_errors_of_ours(copy, place, value):
    change_manifest(copy, place, value)
    with pytest.raises(BundleError) as caught:
        Bundle.open(copy)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"a":' * (MOST_DEPTH + 1) + "1" + "}" * (MOST_DEPTH + 1),
        '{"a": ' + "9" * 5000 + "}",
        '{"a": 1e999}',
        '{"a": NaN}',
        '{"a": 1, "a": 2}',
        '{"\\u0000": 1}',
        '{"a": ["\\udfff"]}',
        "[]",
        "",
        b"\xff\xfe{\0}\0",
        b"\xed\xa0\x80",
    ],
    ids=lambda text: str(text[:20]),
)
def test_json_that_is_refused(text):
    with pytest.raises(BackendError, match="the file"):
        parse_object(text, "the file", BackendError)


def test_json_that_is_read():
    nested = '{"a":' * (MOST_DEPTH - 2) + '{"b": [1, -2.5, "ü\\ud83d\\ude00", null]}' + "}" * (MOST_DEPTH - 2)
    value = parse_object(nested, "the file", BackendError)
    while "a" in value:
        value = value["a"]
    assert value == {"b": [1, -2.5, "ü😀", None]}


# -- the terminal -----------------------------------------------------------------------------------------------------

EVIL = "\nx\x1b]0;owned\x07\x1b[31m\u202eevil\x9b2J\r"


def test_strings_of_a_manifest_reach_a_terminal_escaped(copy, capsys):
    change_manifest(copy, ("name",), EVIL)
    change_manifest(copy, ("license",), EVIL)
    change_manifest(copy, ("classes", 0, "name"), EVIL)
    change_manifest(copy, ("provenance",), {EVIL: [EVIL]})
    change_manifest(copy, ("graphs", "segment", "form"), EVIL)
    assert main(["inspect", str(copy)]) == 0
    out = capsys.readouterr().out
    assert "evil" in out
    assert all(c.isprintable() or c == "\n" for c in out)
    change_manifest(copy, ("graphs", "segment", "file"), EVIL)
    assert main(["inspect", str(copy)]) == BundleError.exit_code
    change_manifest(copy, (EVIL,), 1)
    assert main(["inspect", str(copy)]) == BundleError.exit_code
    error = capsys.readouterr().err
    assert "evil" in error
    assert all(c.isprintable() or c == "\n" for c in error)


def test_a_streams_error_names_the_bundle_escaped(copy, tmp_path, capsys):
    sample = Path(__file__).parents[3] / "samples" / "chelsea.png"
    assert main(["compress", str(sample), "-o", str(tmp_path / "x.oslic"), "--effort", "0"]) == 0
    change_manifest(copy, ("name",), EVIL)
    code = main(
        ["decompress", str(tmp_path / "x.oslic"), "-o", str(tmp_path / "x.png"), "--bundle", str(copy)]
    )
    assert code == BundleError.exit_code
    captured = capsys.readouterr()
    assert "evil" in captured.err
    assert all(c.isprintable() or c == "\n" for c in captured.err + captured.out)


# -- mutations --------------------------------------------------------------------------------------------------------

VALUES = (
    None, True, 0, -1, 2, 8, 10**9, 2**62, 1.5, 1e300, "", "x", "x" * 300, EVIL, "/etc/passwd", "../x", [], [1], [[1]],
    {}, {"a": 1}, ["a"] * 300, [0] * 4,
)  # fmt: skip


def mutated(random, body):
    """A JSON value with one to three parts dropped, added or replaced."""
    body = json.loads(json.dumps(body))
    for _ in range(random.integers(1, 4)):
        part = body
        while True:
            keys = list(part) if isinstance(part, dict) else range(len(part))
            key = keys[random.integers(len(keys))]
            if isinstance(part[key], dict | list) and part[key] and random.random() < 0.8:
                part = part[key]
                continue
            break
        if random.random() < 0.2 and isinstance(part, dict) and len(body) > 1:
            del part[key]
        else:
            part[key] = copy_of(VALUES[random.integers(len(VALUES))])
        if not body:
            break
    return body


def test_mutated_manifests_and_sidecars_are_read_or_refused(tmp_path):
    random = np.random.default_rng(8)
    manifest = json.loads((default_bundle() / "manifest.json").read_text())
    del manifest["provenance"], manifest["tools"]  # free fields: nearly all of a manifest by size
    side = EngineInfo(
        file="a.engine", sha256="ab" * 32, graph="synthesise", graph_sha256="ab" * 32, backend="tensorrt", version="1",
        precision="fp16", gpu="9.0", profiles=({"image": ((1, 8, 8, 3), (1, 64, 64, 3), (4, 128, 128, 3))},),
    )  # fmt: skip
    side = json.loads(side.to_json())
    read, messages = {"manifest": 0, "sidecar": 0}, []
    for _ in range(600):
        try:
            found = Manifest.from_json(json.dumps(mutated(random, manifest)))
            assert Manifest.from_json(found.to_json()) == found
            read["manifest"] += 1
        except BundleError as error:
            messages.append(str(error))
        (tmp_path / "a.json").write_text(json.dumps(mutated(random, side)))
        try:
            info = EngineInfo.read(tmp_path / "a.json")
            rebuild_command(tmp_path, info)
            info.misfit("ab" * 32, "1.2", "9.0")
            read["sidecar"] += 1
        except BackendError as error:
            messages.append(str(error))
    assert max(map(len, messages)) < 1000
    assert 5 < read["manifest"] < 500
    assert 5 < read["sidecar"] < 500
