"""The products that are installed have what is called of them."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import types

import numpy as np
import pytest
from oslic.runtime.backends.cuda import bindings as cuda
from oslic.runtime.backends.tensorrt.bindings import require_gpu, require_valid
from oslic.runtime.bundle.engine_files import (
    PRODUCTS,
)
from oslic.runtime.errors import BackendError
from stand_in_engines import put_engine, without_gpu


@pytest.mark.parametrize("product", PRODUCTS)
def test_the_bindings_have_what_the_runner_calls(product):
    if importlib.util.find_spec(PRODUCTS[product]) is None:
        pytest.skip(f"{product} is not installed")
    trt = importlib.import_module(PRODUCTS[product])
    needed = {
        trt.IExecutionContext: (
            "set_optimization_profile_async",
            "set_input_shape",
            "infer_shapes",
            "get_tensor_shape",
            "set_tensor_address",
            "execute_async_v3",
        ),
        trt.ICudaEngine: (
            "num_io_tensors",
            "get_tensor_name",
            "get_tensor_dtype",
            "create_execution_context",
            "create_runtime_config",
        ),
        trt.Runtime: ("deserialize_cuda_engine", "engine_host_code_allowed"),
        trt.Refitter: ("refit_cuda_engine",),
        trt.OnnxParserRefitter: ("refit_from_bytes",),
        trt.ILogger: ("ERROR", "INTERNAL_ERROR", "WARNING"),
        trt.BuilderFlag: ("TF32", "VERSION_COMPATIBLE", "STRIP_PLAN"),
        trt.DataType: ("UINT8",),
    }
    missing = [
        f"{kind.__name__}.{name}"
        for kind, names in needed.items()
        for name in names
        if not hasattr(kind, name)
    ]
    assert not missing
    if product == "tensorrt-rtx":
        assert hasattr(trt.IRuntimeConfig, "cuda_graph_strategy")
        assert {"DISABLED", "WHOLE_GRAPH_CAPTURE"} <= set(trt.CudaGraphStrategy.__members__)
        require_gpu(trt, product, "8.9")
        with pytest.raises(
            BackendError, match=r"no kernels for compute capability 9\.0, only for .*8\.9, 12\.0"
        ):
            require_gpu(trt, product, "9.0")


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")
@without_gpu
def test_a_product_is_asked_whether_it_can_run_an_engine(bundle):
    info = put_engine(bundle, "segment", backend="tensorrt-rtx")
    trt = importlib.import_module("tensorrt_rtx")
    with pytest.raises(BackendError, match=r"cannot run .*segment.* on this GPU"):
        require_valid(trt, bundle.path / "engines" / info.file, info)


def test_cuda_python_has_what_the_driver_calls():
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        pytest.skip("cuda-python is not installed")
    import ast
    import inspect

    api = importlib.import_module("cuda.bindings.runtime")
    calls = {
        node.value
        for node in ast.walk(ast.parse(inspect.getsource(cuda)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("cuda")
    }
    functions = {name for name in calls if name[4:5].isupper()}
    assert {"cudaMalloc", "cudaGraphLaunch", "cudaStreamBeginCapture"} <= functions
    assert not [name for name in functions if not hasattr(api, name)]
    assert api.cudaMemcpyKind.cudaMemcpyHostToDevice is not None
    assert api.cudaMemcpyKind.cudaMemcpyDeviceToDevice is not None
    assert api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal is not None
    # Every call answers with a tuple that starts with the error.
    assert isinstance(api.cudaGetDeviceCount(), tuple)


@without_gpu
@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("allocate", (16,)),
        ("free", (4096,)),
        ("allocate_pinned", (16,)),
        ("free_pinned", (4096,)),
        ("create_stream", ()),
        ("destroy_stream", (4096,)),
        ("create_event", ()),
        ("destroy_event", (4096,)),
        ("record", (4096, 8192)),
        ("elapsed", (4096, 8192)),
        ("to_device", (4096, np.zeros(4, np.uint8), 8192)),
        ("to_host", (np.zeros(4, np.uint8), 4096, 8192)),
        ("copy", (4096, 8192, 4, 8192)),
        ("synchronize", (4096,)),
        ("begin_capture", (4096,)),
        ("end_capture", (4096,)),
        ("launch", (4096, 8192)),
        ("destroy_graph", (4096,)),
    ],
)
def test_cuda_python_takes_our_arguments(call, arguments):
    """Without a driver every call fails, and with CUDA's own error: a wrong argument would be a TypeError."""
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        pytest.skip("cuda-python is not installed")
    driver = object.__new__(cuda._CudaPython)
    driver._api = importlib.import_module("cuda.bindings.runtime")
    driver.current = contextlib.nullcontext
    with pytest.raises(BackendError, match=r"cuda\w+ failed: .*driver.*\(35\); update NVIDIA's driver"):
        getattr(driver, call)(*arguments)


def test_pycudas_errors_are_ours_and_its_context_is_current_only_for_the_call(monkeypatch):
    """A stand-in for PyCUDA: what `_PyCuda` does around each of its calls."""
    stack = []
    api = types.ModuleType("pycuda.driver")
    api.Error = type("Error", (Exception,), {})

    def refuse(size):
        assert stack == ["context"]
        raise api.Error("cuMemAlloc failed: out of memory")

    def not_current():
        raise api.Error("cuCtxPushCurrent failed: invalid device context")

    context = types.SimpleNamespace(handle=4096, push=lambda: stack.append("context"), pop=stack.pop)
    api.init = list
    api.Device = lambda index: types.SimpleNamespace(retain_primary_context=lambda: context)
    api.mem_alloc = refuse
    monkeypatch.setattr(cuda.importlib, "import_module", lambda name: api)
    monkeypatch.setattr(cuda.importlib.metadata, "version", lambda name: "0")
    monkeypatch.setattr(cuda, "driver_library", lambda: None)
    driver = cuda._PyCuda()
    with pytest.raises(BackendError, match="PyCUDA failed: cuMemAlloc failed: out of memory"):
        driver.allocate(16)
    assert not stack
    with driver.current(), driver.current():
        assert stack == ["context"]
        with pytest.raises(BackendError, match="out of memory"):
            driver.allocate(16)
        assert stack == ["context"]
    assert not stack
    context.push = not_current
    with pytest.raises(BackendError, match="PyCUDA failed: cuCtxPushCurrent"):
        cuda._PyCuda().allocate(16)

    def no_device():
        raise api.Error("cuInit failed: no CUDA-capable device is detected")

    api.init = no_device
    cuda._pycuda_context.cache_clear()
    with pytest.raises(BackendError, match="PyCUDA failed: cuInit"):
        cuda._PyCuda()
