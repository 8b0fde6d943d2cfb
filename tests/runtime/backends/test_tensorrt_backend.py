"""The TensorRT backend as a whole, on a stand-in for the product."""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import types
import warnings
from pathlib import Path

import numpy as np
import pytest
from oslic.cli.commands.inspect import describe
from oslic.runtime.backends import Options, PassedOverWarning, probe_all, select
from oslic.runtime.backends.cuda import bindings as cuda
from oslic.runtime.backends.tensorrt import backend as tensorrt
from oslic.runtime.backends.tensorrt.bindings import require_gpu
from oslic.runtime.bundle import engine_trust
from oslic.runtime.bundle.engine_files import (
    EngineInfo,
    choose_engine,
)
from oslic.runtime.codec import Codec
from oslic.runtime.errors import BackendError
from stand_in_engines import HERE, put_engine, without_gpu


def test_engines_run_only_if_built_here_or_trusted(bundle, monkeypatch, tmp_path):
    info = put_engine(
        bundle, "synthesise", built_here=False, sha256=hashlib.sha256(b"a stranger's").hexdigest()
    )
    with pytest.raises(
        BackendError, match=r"not built by this user .* can run code: .* --trust-engines.*oslic build"
    ):
        choose_engine(bundle, "synthesise", "tensorrt", **HERE)
    assert choose_engine(bundle, "synthesise", "tensorrt", **HERE, trust=True)[1] == info
    engine_trust.record(info)
    assert choose_engine(bundle, "synthesise", "tensorrt", **HERE)[1] == info
    # The sidecar of an engine that was built here cannot say that it may run code of its own.
    sidecar = bundle.path / "engines" / "synthesise.tensorrt.fp16.json"
    sidecar.write_text(dataclasses.replace(info, version_compatible=True).to_json())
    with pytest.raises(BackendError, match="not built by this user"):
        choose_engine(bundle, "synthesise", "tensorrt", **HERE)
    sidecar.write_text(info.to_json())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    with pytest.raises(BackendError, match="not built by this user"):
        choose_engine(bundle, "synthesise", "tensorrt", **HERE)


def test_untrusted_engines_are_neither_deserialized_nor_asked_about(stand_in, monkeypatch, tmp_path):
    bundle, module, _ = stand_in
    loaded = []
    real = module.Runtime.deserialize_cuda_engine
    monkeypatch.setattr(
        module.Runtime, "deserialize_cuda_engine", lambda self, plan: loaded.append(plan) or real(self, plan)
    )
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(BackendError, match="loading an engine can run code"):
        select("tensorrt", bundle)
    with pytest.raises(BackendError, match="loading an engine can run code"):
        tensorrt.TensorRt(bundle, Options()).load("segment")
    with pytest.warns(PassedOverWarning, match="loading an engine can run code"):
        assert select("auto", bundle).backend.name == "onnxruntime-cpu"
    assert not loaded
    trusting = select("tensorrt", bundle, Options(trust_engines=True)).backend
    trusting.load("segment").close()
    assert len(loaded) == 1


@pytest.mark.parametrize("version_compatible", [False, True])
def test_host_code_is_allowed_only_in_engines_that_were_built_with_it(
    stand_in, version_compatible, monkeypatch
):
    bundle, module, _ = stand_in
    allowed = []
    real = module.Runtime.deserialize_cuda_engine
    monkeypatch.setattr(
        module.Runtime,
        "deserialize_cuda_engine",
        lambda self, plan: allowed.append(self.engine_host_code_allowed) or real(self, plan),
    )
    data = bundle.read_graph("segment")
    put_engine(
        bundle, "segment", precision="fp32", sha256=hashlib.sha256(data).hexdigest(),
        version_compatible=version_compatible,
    )  # fmt: skip
    (bundle.path / "engines" / "segment.tensorrt.fp32.engine").write_bytes(data)
    tensorrt.TensorRt(bundle, Options()).load("segment").close()
    assert allowed == [version_compatible]


def test_engines_cannot_be_interrupted(stand_in):
    with pytest.raises(BackendError, match="cannot be interrupted: leave the time limit out"):
        select("tensorrt", stand_in[0], Options(timeout=5))


def test_the_layers_beside_an_engine_are_no_sidecar(bundle):
    info = put_engine(bundle, "segment")
    (bundle.path / "engines" / "segment.tensorrt.fp16.layers.json").write_text('{"Layers": []}')
    assert choose_engine(bundle, "segment", "tensorrt", **HERE)[1] == info
    assert [entry["file"] for entry in describe(bundle)["engines"]] == [info.file]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("file", "../../secret"), ("file", "/etc/hostname"), ("file", ""), ("file", "a\0b"), ("file", None),
        ("sha256", "xyz"), ("graph_sha256", 5), ("graph", "../other"), ("gpu", "9" * 5000), ("version", 11),
        ("version_compatible", "no"), ("stripped", 1), ("optimization_level", 1e300), ("optimization_level", True),
        ("profiles", []), ("profiles", {}), ("profiles", [[]]), ("profiles", [{"image": 7}]),
        ("profiles", [{"image": [[10**30] * 4] * 3}]), ("profiles", [{"image": [[1.5] * 4] * 3}]),
        ("build_seconds", "nan"), ("backend", ["tensorrt"]), ("surprise", "\ud800"),
    ],
)  # fmt: skip
def test_absurd_sidecars_are_errors_of_ours(bundle, field, value):
    info = put_engine(bundle, "segment")
    path = bundle.path / "engines" / f"{Path(info.file).stem}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(BackendError) as caught:
        EngineInfo.read(path)
    assert len(str(caught.value)) < 1000


def test_the_codec_runs_on_engines_as_on_the_cpu(stand_in, photo):
    bundle, _, driver = stand_in
    image = photo[:70, :90]
    with Codec.open(bundle, "onnxruntime-cpu") as reference:
        wanted = reference.compress(image, 40, effort=0)
    with Codec.open(bundle) as codec:
        assert codec.graphs.selection.reason.startswith(
            "tensorrt 11.4.0: the best here; engines of this bundle in fp32"
        )
        for _ in range(3):  # plain, recorded, replayed
            assert codec.compress(image, 40, effort=0) == wanted
        assert driver.log.count("replay") == 6
        back = codec.decompress(wanted)
        assert back.shape == image.shape
        with pytest.raises(BackendError, match="no profile of the engine"):
            codec.graphs.synthesise(
                np.zeros((140, 250, 3), np.uint8), np.zeros((280, 500), np.uint8), 1120, 2000
            )
    gc.collect()
    assert not driver.device.live
    assert not driver.handles


def test_auto_passes_over_stale_engines_aloud_and_by_name_they_are_refused(stand_in):
    bundle, module, _ = stand_in
    module.__version__ = "11.5.0"
    with pytest.warns(
        PassedOverWarning, match=r"tensorrt is passed over.*built with tensorrt 11\.4\.0, here is 11\.5\.0"
    ):
        chosen = select("auto", bundle)
    assert chosen.backend.name == "onnxruntime-cpu"
    with pytest.raises(BackendError, match=r"tensorrt cannot be used: the engine .*oslic build"):
        select("tensorrt", bundle)


def test_a_product_that_does_not_start_is_an_error_of_ours(stand_in, monkeypatch):
    """The bindings raise a TypeError where the library returns nothing, as it does if CUDA does not start."""
    bundle, module, _ = stand_in

    def nothing(logger):
        logger.log(module.ILogger.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    monkeypatch.setattr(module, "Runtime", nothing)
    with pytest.raises(
        BackendError, match="host gives no Runtime: CUDA initialization failure with error: 35"
    ):
        select("tensorrt", bundle)
    from oslic.export.engines import Options as BuildOptions
    from oslic.export.engines import build_plan

    monkeypatch.setattr(module, "Builder", nothing, raising=False)
    module.NetworkDefinitionCreationFlag = None
    with pytest.raises(BackendError, match="host gives no Builder: CUDA initialization failure"):
        build_plan(module, b"", [], BuildOptions())


def test_a_driver_that_does_not_open_is_passed_over_aloud(stand_in, monkeypatch):
    bundle, _, _ = stand_in

    def too_old():
        raise BackendError("cudaSetDevice failed: CUDA driver version is insufficient")

    monkeypatch.setattr(cuda, "open_driver", too_old)
    with pytest.warns(PassedOverWarning, match="tensorrt is passed over: .*version is insufficient"):
        assert select("auto", bundle).backend.name == "onnxruntime-cpu"
    assert not probe_all()["tensorrt"].usable


def test_altered_and_missing_engines_are_refused(stand_in):
    bundle, _, _ = stand_in
    (file,) = (bundle.path / "engines").glob("analyse*.engine")
    backend = select("tensorrt", bundle).backend
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(BackendError, match="was altered"):
        backend.load("analyse")
    file.unlink()
    with pytest.raises(BackendError, match="cannot read the engine"):
        backend.load("analyse")
    with pytest.raises(BackendError, match="is fp32, not fp16; build it: oslic build"):
        select("tensorrt", bundle, Options(precision="fp16"))


def test_gpus_that_a_product_has_no_kernels_for_are_refused(stand_in):
    """TensorRT-RTX goes on from 8.9 to 12.0, without the datacenter GPUs between them."""
    _, module, _ = stand_in
    module.ComputeCapability = types.SimpleNamespace(
        __members__=dict.fromkeys(("NONE", "CURRENT", "SM75", "SM89", "SM120"))
    )
    found = probe_all()
    assert found["tensorrt"].usable  # whatever the module knows of: its engines are built for this GPU
    assert not found["tensorrt-rtx"].usable
    assert "no kernels for compute capability 9.0, only for 7.5, 8.9, 12.0" in found["tensorrt-rtx"].reason
    require_gpu(module, "tensorrt-rtx", "12.0")


@without_gpu
def test_engines_in_a_bundle_do_not_promise_a_gpu(bundle):
    for graph in bundle.manifest.graph_names:
        put_engine(bundle, graph)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert select("auto", bundle).backend.name == "onnxruntime-cpu"
