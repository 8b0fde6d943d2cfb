"""Any ONNX graph: what is read of it without the onnx package, against what that package reads."""

from __future__ import annotations

import foreign_networks
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from oslic.runtime.bundle.folder import default_bundle
from oslic.runtime.errors import BackendError, UsageError
from oslic.runtime.model import Port, open_source, read_model
from oslic.runtime.model.header import read_header

NAMES = {TensorProto.FLOAT: "float32", TensorProto.INT64: "int64", TensorProto.UINT8: "uint8"}


def ports_by_onnx(values):
    found = []
    for value in values:
        tensor = value.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
        found.append(Port(value.name, NAMES[tensor.elem_type], tuple(dims)))
    return tuple(found)


@pytest.mark.parametrize(
    "make", [foreign_networks.unet, foreign_networks.two_headed, foreign_networks.arithmetic]
)
def test_the_header_is_what_the_onnx_package_reads(make, tmp_path):
    model = make()
    header = read_model(foreign_networks.save(model, tmp_path / "m.onnx")).header
    assert header.inputs == ports_by_onnx(model.graph.input)
    assert header.outputs == ports_by_onnx(model.graph.output)
    assert header.opsets == {"": 18}
    assert sum(header.operators.values()) == len(model.graph.node)
    weights = sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)
    assert sum(header.parameters.values()) == weights


def test_a_bundle_is_a_source_of_its_graphs():
    source = open_source(default_bundle())
    assert [model.name for model in source.models] == list(source.bundle.manifest.graphs)
    for model in source.models:
        info = source.bundle.manifest.graphs[model.name]
        assert tuple(port.name for port in model.inputs) == info.inputs
        assert [port.name for port in model.outputs] == [info.output]
        assert {port.dtype for port in (*model.inputs, *model.outputs)} == {"uint8"}
    assert source.model("synthesise").ranges["labels"] == (0, len(source.bundle.manifest.classes) - 1)
    with pytest.raises(UsageError, match="no graph 'other'"):
        source.chosen(["other"])


def test_initializers_that_are_inputs_are_none(tmp_path):
    model = foreign_networks.arithmetic()
    name = model.graph.initializer[0].name
    model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, []))
    assert [port.name for port in read_model(foreign_networks.save(model, tmp_path / "m.onnx")).inputs] == [
        "x"
    ]


def test_operators_in_subgraphs_count(tmp_path):
    inner = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["z"])], "inner", [], [helper.make_tensor_value_info("z", 1, None)]
    )
    model = foreign_networks.arithmetic()
    model.graph.node.append(helper.make_node("If", ["c"], ["w"], then_branch=inner, else_branch=inner))
    header = read_header(model.SerializeToString(), "m")
    assert header.operators == {"Neg": 2, "Add": 1, "Mul": 1, "If": 1}


def test_weights_beside_the_graph_are_taken_in_and_none_from_elsewhere(tmp_path):
    model = foreign_networks.unet()
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=64)
    found = read_model(path)
    assert found.header.external == ()  # of what runs
    back = {
        t.name: numpy_helper.to_array(t) for t in onnx.load_model_from_string(found.data).graph.initializer
    }
    for tensor in foreign_networks.unet().graph.initializer:
        assert np.array_equal(back[tensor.name], numpy_helper.to_array(tensor))
    moved = onnx.load(path, load_external_data=False)
    for tensor in moved.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../m.bin"
    (tmp_path / "sub").mkdir()
    with pytest.raises(UsageError, match="only files beside the graph"):
        read_model(foreign_networks.save(moved, tmp_path / "sub" / "m.onnx"))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "holds no graph"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(64)), "is not an ONNX graph"),
        (b"just words, no graph at all\n" * 8, "is not an ONNX graph"),
        (b"\0\0\0\0ORTM" + bytes(64), "is not an ONNX graph"),
    ],
)
def test_files_that_are_no_graph_are_named(tmp_path, data, reason):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=reason) as caught:
        read_model(path)
    assert str(path) in str(caught.value)


def test_a_graph_without_outputs_and_one_with_an_engine_inside_are_refused(tmp_path):
    model = foreign_networks.arithmetic()
    del model.graph.output[:]
    with pytest.raises(UsageError, match="has no outputs"):
        read_model(foreign_networks.save(model, tmp_path / "m.onnx"))
    model = foreign_networks.arithmetic()
    model.graph.node.append(helper.make_node("EPContext", ["y"], ["z"], domain="com.microsoft"))
    with pytest.raises(UsageError, match="a node that runs an engine"):
        read_model(foreign_networks.save(model, tmp_path / "m.onnx"))


def test_truncated_graphs_are_errors_of_ours(tmp_path):
    data = foreign_networks.unet().SerializeToString()
    path = tmp_path / "m.onnx"
    for size in range(1, len(data), 997):
        path.write_bytes(data[:size])
        with pytest.raises(UsageError, match=r"m\.onnx"):
            read_model(path)


def test_places_that_hold_nothing_are_named(tmp_path):
    for path, reason in (
        (tmp_path / "x.onnx", "No such file"),
        (tmp_path, "so no bundle; name an ONNX file"),
    ):
        with pytest.raises(UsageError, match=reason):
            open_source(path)
    (tmp_path / "x.engine").write_bytes(b"plan")
    with pytest.raises(BackendError, match=r"has no sidecar x\.json"):
        open_source(tmp_path / "x.engine")
