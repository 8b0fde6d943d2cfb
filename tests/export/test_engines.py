"""Engines: real builds where a product is installed, what is refused before a build, sidecars."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
from functools import partial
from types import SimpleNamespace

import numpy as np
import octave_styles as styles
import onnx
import onnx_ir as ir
import pytest
import small_bundle
from host_product import HostDriver, product
from oslic.export import engines
from oslic.export.engines import Options, Profile, build_plan, load_product, prepare, require_supported
from oslic.export.form_selection import CostModel, Fixed
from oslic.export.fusion import fuse, random_inputs
from oslic.export.precision import require_buildable, rest_to_half, to_half
from oslic.export.verify import Tolerance, compare, run
from oslic.runtime.bundle import engine_trust
from oslic.runtime.bundle.engine_files import EngineInfo, choose_engine, read_engine
from oslic.runtime.bundle.folder import Bundle, default_bundle
from oslic.runtime.bundle.manifest import LAYER_GRAPHS
from oslic.runtime.errors import BackendError, DependencyError, DeviceError, UsageError
from oslic.runtime.model.source import bundle_shapes, model_of
from test_fusion import SHAPE, export

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed"
)
SHAPES = {"x": ((1, 3, 16, 16), (1, 3, 32, 48), (2, 3, 64, 64))}


@pytest.fixture(scope="module")
def model():
    result, _ = fuse(
        export(styles.Ours()), lambda _: Fixed("phases", "merged"), multiple=8, shapes={"x": SHAPE}
    )
    return result


@pytest.fixture(scope="module")
def quantize(model, tmp_path_factory):
    """Q/DQ graphs by onnxruntime.quantization."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    folder = tmp_path_factory.mktemp("qdq")
    ir.save(model, folder / "float.onnx")

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = [random_inputs(model, {"x": SHAPE}, seed) for seed in range(2)]

        def get_next(self):
            return self.left.pop() if self.left else None

    def make(activations="int8", *, symmetric=True, bias=False):
        path = folder / f"{activations}{symmetric}{bias}.onnx"
        kind = QuantType.QInt8 if activations == "int8" else QuantType.QUInt8
        quantize_static(
            folder / "float.onnx",
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=kind,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv"],
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": bias},
        )
        return path.read_bytes()

    return make


def default_shapes(bundle, graph):
    info = bundle.manifest
    return engines.DEFAULT_PROFILE.shapes(
        info.graphs[graph].inputs, info.multiple, partial(bundle_shapes, info.label_scale)
    )


def data_of(model):
    return ir.to_proto(model).SerializeToString()


@needs_rtx
@pytest.mark.parametrize("form", ["phases", "phases-transposed", "transposed", "pooled", "keep"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_form_builds(form, precision):
    fused, _ = fuse(export(styles.Ours()), lambda _: Fixed(form, "merged"), multiple=8, shapes={"x": SHAPE})
    plan = build_plan(load_product("tensorrt-rtx"), prepare(data_of(fused), precision), [SHAPES], Options())
    assert len(plan) > 10_000


STYLES = {
    "ConvolveFirstPoolStride": styles.ConvolveFirstPoolStride,
    "InterpolateToSize": styles.InterpolateToSize,
    "SlicedWeight": styles.SlicedWeight,
    "BranchNorm": styles.BranchNorm,
    "PlainTensor": styles.PlainTensor,
    "WeightNorm": styles.WeightNorm,
    "ReflectionPadded": styles.ReflectionPadded,
    "replicated": lambda: styles.ReflectionPadded("replicate"),
    "RepeatedRows": lambda: styles.RepeatedRows("repeat_interleave"),
}


@needs_rtx
@pytest.mark.parametrize("name", STYLES)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_public_styles_build_fused_for_the_target(name, precision):
    fused, _ = fuse(
        export(STYLES[name]()), lambda sizes: CostModel("tensorrt", sizes), multiple=8, shapes={"x": SHAPE}
    )
    plan = build_plan(load_product("tensorrt-rtx"), prepare(data_of(fused), precision), [SHAPES], Options())
    assert len(plan) > 10_000


@needs_rtx
def test_bf16_and_int8_build_and_report_their_progress(model, quantize):
    trt = load_product("tensorrt-rtx")
    assert build_plan(trt, prepare(data_of(model), "bf16"), [SHAPES], Options())
    lines = []
    assert build_plan(trt, prepare(quantize(), "int8"), [SHAPES], Options(), lines.append)
    assert lines
    assert build_plan(trt, prepare(quantize(), "int8-fp16"), [SHAPES], Options())


@needs_rtx
def test_a_graph_that_the_product_cannot_read_is_an_error_with_its_reason(model):
    proto = ir.to_proto(model)
    proto.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(BackendError, match="cannot read the graph"):
        build_plan(load_product("tensorrt-rtx"), proto.SerializeToString(), [SHAPES], Options())


@needs_rtx
def test_options_that_the_product_lacks_are_named_before_the_build(tmp_path):
    trt = load_product("tensorrt-rtx")
    with pytest.raises(UsageError, match="no timing cache"):
        require_supported(trt, "tensorrt-rtx", "fp16", Options(timing_cache=tmp_path / "c"))
    with pytest.raises(UsageError, match="all GPUs"):
        require_supported(trt, "tensorrt-rtx", "fp16", Options(hardware_compatible=True))
    if engines.compute_capability() is None:
        with pytest.raises(DeviceError, match="--layers needs a GPU"):
            require_supported(trt, "tensorrt-rtx", "fp16", Options(layers=True))


@needs_rtx
def test_engines_with_detailed_layers_build(model):
    plan = build_plan(load_product("tensorrt-rtx"), data_of(model), [SHAPES], Options(layers=True))
    assert len(plan) > 10_000


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("graph", LAYER_GRAPHS)
def test_uint8_meets_no_type_that_tensorrt_does_not_cast_it_to(float_lite, graph, precision):
    bundle = float_lite
    data = prepare(bundle.read_graph(graph), precision)
    bridged = engines.bridge_casts(data)
    inferred = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(bridged), strict_mode=True)
    onnx.checker.check_model(inferred, full_check=True)
    values = [*inferred.graph.input, *inferred.graph.output, *inferred.graph.value_info]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    for node in inferred.graph.node:
        kinds = {types.get(name) for name in (*node.input, *node.output)}
        if onnx.TensorProto.UINT8 in kinds:
            assert node.op_type == "Cast"
            assert kinds < {onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    sides = [
        engines.DEFAULT_PROFILE.shapes(
            bundle.manifest.graphs[graph].inputs,
            bundle.manifest.multiple,
            partial(bundle_shapes, bundle.manifest.label_scale),
        )
    ]
    random = np.random.default_rng(0)
    feeds = {name: random.integers(0, 11, least, np.uint8) for name, (least, _, _) in sides[0].items()}
    for name, y in run(data, feeds).items():
        assert np.array_equal(run(bridged, feeds)[name], y)
    assert engines.bridge_casts(bridged) is bridged


def test_layers_of_engines_for_later_versions_are_described():
    """Such an engine carries code of its own, which its runtime must be allowed to load."""
    host = product(HostDriver())

    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, plan):
            inspector = SimpleNamespace(get_engine_information=lambda form: "{}")
            found = SimpleNamespace(create_engine_inspector=lambda: inspector)
            return found if self.engine_host_code_allowed else None

    host.Runtime, host.LayerInformationFormat = Runtime, SimpleNamespace(JSON=1)
    assert engines.describe_layers(host, b"plan") == "{}"


@needs_rtx
def test_what_is_built_is_recorded_outside_of_the_bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    bundle = small_bundle.write(tmp_path / "bundle")
    profile = Profile.parse("1x32x32,1x64x64,1x64x64")
    options = Options(optimization_level=0)
    model = model_of(bundle, "synthesise")
    shapes = engines.profiles_of(model, sizes=[profile], bundle=bundle)
    engines.build_engine(model, "tensorrt-rtx", "fp32", shapes, bundle.path / "engines", options=options)
    info = EngineInfo.read(bundle.path / "engines" / "synthesise.tensorrt-rtx.fp32.json")
    assert engine_trust.built_here(info)
    assert [file.name for file in (tmp_path / "state" / "oslic" / "engines").iterdir()] == [info.sha256]
    assert not engine_trust.built_here(dataclasses.replace(info, sha256="ab" * 32))
    assert not engine_trust.built_here(dataclasses.replace(info, version_compatible=True))
    here = {"version": info.version, "gpu": None, "precision": None}
    assert choose_engine(bundle, "synthesise", "tensorrt-rtx", **here)[1] == info
    # The bundle elsewhere, or for somebody else: the record does not go with it.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "other"))
    with pytest.raises(BackendError, match="loading an engine can run code"):
        choose_engine(bundle, "synthesise", "tensorrt-rtx", **here)


@needs_rtx
def test_where_nothing_can_be_recorded_nothing_is_built(tmp_path, monkeypatch):
    (tmp_path / "state").write_text("a file")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    bundle = small_bundle.write(tmp_path / "bundle")
    with pytest.raises(UsageError, match="set XDG_STATE_HOME to one that can"):
        engines.build_engine(
            model_of(bundle, "synthesise"),
            "tensorrt-rtx",
            "fp32",
            [],
            bundle.path / "engines",
            options=Options(),
        )
    assert not (bundle.path / "engines").exists()


def test_records_lie_where_the_system_keeps_state(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for named in ("", "relative/state"):
        monkeypatch.setenv("XDG_STATE_HOME", named)
        assert engine_trust.state_folder() == tmp_path / ".local" / "state" / "oslic" / "engines"
    monkeypatch.delenv("XDG_STATE_HOME")
    engine_trust.record(INFO_WITH_IMAGE)
    assert engine_trust.built_here(INFO_WITH_IMAGE)
    assert (tmp_path / ".local/state/oslic/engines").stat().st_mode & 0o077 == 0
    (tmp_path / ".local/state/oslic/engines" / INFO_WITH_IMAGE.sha256).write_text("{damaged")
    assert not engine_trust.built_here(INFO_WITH_IMAGE)


@needs_rtx
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("graph", LAYER_GRAPHS)
def test_every_shipped_graph_builds(graph, precision):
    if not default_bundle().is_dir():
        pytest.skip("no bundle is shipped yet")
    bundle = Bundle.open(default_bundle())
    shapes = engines.DEFAULT_PROFILE.shapes(
        bundle.manifest.graphs[graph].inputs,
        bundle.manifest.multiple,
        partial(bundle_shapes, bundle.manifest.label_scale),
    )
    data = prepare(bundle.read_graph(graph), precision)
    assert build_plan(load_product("tensorrt-rtx"), data, [shapes], Options(optimization_level=0))


@pytest.mark.skipif(importlib.util.find_spec("tensorrt") is not None, reason="tensorrt is installed")
def test_a_product_that_is_not_installed_is_named_with_its_package():
    with pytest.raises(DependencyError, match="pip install tensorrt"):
        load_product("tensorrt")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activations": "uint8", "symmetric": False}, "is uint8; TensorRT takes it as int8"),
        ({"symmetric": False}, "is not 0; TensorRT has only symmetric"),
        ({"bias": True}, "int32 bias"),
    ],
)
def test_quantization_that_tensorrt_lacks_is_refused_before_the_build(quantize, arguments, message):
    with pytest.raises(UsageError, match=message):
        prepare(quantize(**arguments), "int8")


def test_precision_and_graph_must_fit(model, quantize):
    for precision in ("int8", "int8-fp16"):
        with pytest.raises(UsageError, match="oslic calibrate"):
            prepare(data_of(model), precision)
    with pytest.raises(UsageError, match="--precision int8, not fp16"):
        prepare(quantize(), "fp16")


def test_unpooling_by_indices_is_refused():
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("MaxPool", ["x"], ["p", "i"], **pool),
            onnx.helper.make_node("MaxUnpool", ["p", "i"], ["y"], **pool),
        ],
        "unpool",
        [onnx.helper.make_tensor_value_info("x", 1, SHAPE)],
        [onnx.helper.make_tensor_value_info("y", 1, SHAPE)],
    )
    with pytest.raises(UsageError, match="gives no indices"):
        require_buildable(ir.from_proto(onnx.helper.make_model(graph)), "fp32")


def test_half_precision_keeps_types_at_the_borders_and_numbers_within_its_own(model):
    half = to_half(model, "fp16")
    onnx.checker.check_model(ir.to_proto(half), full_check=True)
    weights = [v.const_value for v in half.graph.initializers.values() if v.const_value.size > 100]
    assert {w.dtype for w in weights} == {ir.DataType.FLOAT16}
    feeds = random_inputs(model, {"x": SHAPE})
    y, reference = (next(iter(run(data_of(m), feeds).values())) for m in (half, model))
    assert y.dtype == np.float32
    found = compare("y", y, reference, Tolerance(5e-3, 5e-3))
    assert found.ok, str(found)
    assert found.maximum > 1e-6  # it was computed in half precision


def test_a_weight_beyond_float16_is_named(model):
    large = ir.from_proto(ir.to_proto(model))
    name, value = next((k, v) for k, v in large.graph.initializers.items() if v.const_value.size > 100)
    value.const_value = ir.tensor(value.const_value.numpy() * np.float32(1e8), name=name)
    with pytest.raises(UsageError, match="beyond float16; build with bf16 or fp32"):
        to_half(large, "fp16")


def test_the_rest_of_a_quantized_graph_runs_in_half_precision(model, quantize):
    import onnxruntime

    def run_as_written(data):
        # ONNX Runtime's own rewriting has no form of these pairs.
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return session.run(None, random_inputs(model, {"x": SHAPE}))[0]

    int8, mixed = (prepare(quantize(), precision) for precision in ("int8", "int8-fp16"))
    proto = onnx.load_model_from_string(mixed)
    onnx.checker.check_model(proto, full_check=True)
    read = {name for n in proto.graph.node if n.op_type == "Conv" for name in n.input[:2]}
    pairs = [n for n in proto.graph.node if n.op_type == "DequantizeLinear" and n.output[0] in read]
    scales = {n.input[1] for n in pairs}
    kinds = {t.name: t.data_type for t in proto.graph.initializer}
    assert {kinds[name] for name in scales} == {onnx.TensorProto.FLOAT16}
    weights = [t for t in proto.graph.initializer if np.prod(t.dims) > 100]
    assert {t.data_type for t in weights} == {onnx.TensorProto.INT8}
    wanted, y = run_as_written(int8), run_as_written(mixed)
    assert y.dtype == np.float32
    noise = np.abs(wanted - next(iter(run(data_of(model), random_inputs(model, {"x": SHAPE})).values())))
    # A value between two integers may be rounded to the other one: no more than int8 itself costs.
    assert 0 < np.abs(y - wanted).mean() < noise.mean()


def test_scales_below_float16_are_refused(quantize):
    model = ir.from_proto(onnx.load_model_from_string(quantize()))
    node = next(node for node in model.graph if node.op_type == "DequantizeLinear")
    value = node.inputs[1]
    value.const_value = ir.tensor(np.full_like(value.const_value.numpy(), 1e-9), name=value.name)
    with pytest.raises(UsageError, match="is below float16; build with --precision int8"):
        rest_to_half(model, "fp16")


@pytest.mark.parametrize(
    "text", ["1x64x64", "1x64x64,1x32x32,1x64x64", "0x1x1,1x1x1,1x1x1", "a,b,c", "1x2,1x2,1x2"]
)
def test_bad_profiles_are_refused(text):
    with pytest.raises(UsageError, match="--shapes"):
        Profile.parse(text)


def test_profiles_are_padded_to_the_multiple():
    shapes = Profile.parse("1x1x1,1x500x750,2x512x768").shapes(
        ("compact", "labels"), 32, partial(bundle_shapes, 4)
    )
    assert shapes == {
        "compact": ((1, 4, 4, 3), (1, 64, 96, 3), (2, 64, 96, 3)),
        "labels": ((1, 8, 8), (1, 128, 192), (2, 128, 192)),
    }


INFO = EngineInfo(
    file="synthesise.engine",
    sha256=hashlib.sha256(b"plan").hexdigest(),
    graph="synthesise",
    graph_sha256="ab" * 32,
    backend="tensorrt-rtx",
    version="1.7.1",
    precision="fp16",
    gpu="9.0",
    profiles=({"x": ((1, 8), (1, 64), (4, 128))}, {"x": ((1, 8), (1, 16), (4, 32))}),
)


INFO_WITH_IMAGE = dataclasses.replace(
    INFO, profiles=({"image": ((1, 32, 32, 3), (1, 64, 96, 3), (2, 64, 96, 3))},)
)


def test_sidecars_come_back_as_they_were(tmp_path):
    path = tmp_path / "synthesise.json"
    info = INFO_WITH_IMAGE
    path.write_text(info.to_json())
    assert EngineInfo.read(path) == info
    path.write_text(path.read_text().replace('"oslic-engine"', '"other"'))
    with pytest.raises(BackendError, match="another version"):
        EngineInfo.read(path)
    path.write_text("{")
    with pytest.raises(BackendError, match=r"the engine's sidecar .* is not JSON"):
        EngineInfo.read(path)


def test_engines_that_do_not_fit_say_why():
    assert INFO.misfit("ab" * 32, "1.7.1", "9.0") is None
    assert "another graph" in INFO.misfit("cd" * 32, "1.7.1", "9.0")
    assert INFO.misfit("ab" * 32, "1.8.0", "9.0") == "built with tensorrt-rtx 1.7.1, here is 1.8.0"
    assert "capability 9.0, here is 8.9" in INFO.misfit("ab" * 32, "1.7.1", "8.9")
    portable = dataclasses.replace(INFO, gpu="any", version_compatible=True)
    assert portable.misfit("ab" * 32, "1.8.0", "8.9") is None
    assert portable.misfit("ab" * 32, "2.0.0", "8.9") is not None


def test_the_nearest_profile_is_taken():
    assert INFO.profile_for({"x": (1, 64)}) == 0
    assert INFO.profile_for({"x": (1, 16)}) == 1
    assert INFO.profile_for({"x": (8, 16)}) is None


def test_altered_engines_are_refused(tmp_path):
    path = tmp_path / "synthesise.engine"
    path.write_bytes(b"plan")
    assert read_engine(path, INFO) == b"plan"
    path.write_bytes(b"plan!")
    with pytest.raises(BackendError, match="was altered"):
        read_engine(path, INFO)
