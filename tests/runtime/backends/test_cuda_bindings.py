"""The only file that calls CUDA, on a stand-in for NVIDIA's driver library: `host_driver.cpp`."""

from __future__ import annotations

import ctypes
import functools
import importlib
import shutil
import subprocess
import threading
import types
from pathlib import Path

import pytest
from oslic.runtime.backends.cuda import bindings as cuda
from oslic.runtime.backends.cuda import driver as cuda_driver
from oslic.runtime.backends.cuda.driver import Gpu, driver_call, gpus
from oslic.runtime.errors import BackendError

COMPILER = shutil.which("c++") or shutil.which("g++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="the stand-in needs a C++ compiler")


@pytest.fixture(scope="module")
def library_file(tmp_path_factory):
    file = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    source = Path(__file__).parents[2] / "support" / "host_driver.cpp"
    subprocess.run([COMPILER, "-std=c++17", "-shared", "-fPIC", "-o", file, source], check=True)
    return file


@pytest.fixture
def library(library_file, monkeypatch):
    monkeypatch.setattr(cuda_driver, "_DRIVER_LIBRARIES", (str(library_file),))
    found = ctypes.CDLL(str(library_file))
    found.host_driver_other.restype = ctypes.c_void_p
    found.host_driver_foreign.restype = ctypes.c_ulonglong
    found.cuCtxPushCurrent_v2.argtypes = [ctypes.c_void_p]
    yield found
    assert found.host_driver_depth() == 0
    assert found.host_driver_graphs() == 0


@pytest.fixture
def runtime_api(monkeypatch, library):
    """cuda-python's runtime API, of which the tests need where it is called."""
    depths = []

    def malloc(size):
        depths.append(library.host_driver_depth())
        return 0, 4096

    api = types.SimpleNamespace(cudaMalloc=malloc)
    monkeypatch.setattr(cuda.importlib, "import_module", lambda name: api)
    monkeypatch.setattr(cuda.importlib.metadata, "version", lambda name: "0")
    return depths


def test_a_machine_is_described_without_any_package(library):
    assert gpus() == ([Gpu("Host memory", "8.9")], "")


def test_cuda_python_is_called_in_the_primary_context_and_the_callers_comes_back(library, runtime_api):
    driver = cuda._CudaPython()
    driver.allocate(16)
    library.cuCtxPushCurrent_v2(library.host_driver_other())  # as `import pycuda.autoinit` leaves it
    driver.allocate(16)
    with driver.current(), driver.current():
        driver.allocate(16)
    assert runtime_api == [1, 2, 2]
    popped = ctypes.c_void_p()
    assert library.cuCtxPopCurrent_v2(ctypes.byref(popped)) == 0
    assert popped.value == library.host_driver_other()


def test_every_thread_has_its_own_current_context(library, runtime_api):
    driver = cuda._CudaPython()
    with driver.current():
        thread = threading.Thread(target=functools.partial(driver.allocate, 16))
        thread.start()
        thread.join()
    assert runtime_api == [1]


def test_an_error_inside_leaves_nothing_current(library, runtime_api):
    driver = cuda._CudaPython()
    with pytest.raises(KeyError), driver.current():
        raise KeyError
    assert library.host_driver_depth() == 0


def test_only_memory_that_is_known_to_lie_elsewhere_is_out_of_reach(library, runtime_api):
    driver = cuda._CudaPython()
    assert driver.reaches(1 << 40)
    assert not driver.reaches(library.host_driver_foreign())
    assert driver.reaches(4096)  # the driver does not know it
    assert driver.reaches(8192)  # it knows no context of it


@pytest.fixture
def pycuda(monkeypatch, library):
    """PyCUDA's contexts, on the same stand-in."""
    handle = ctypes.c_void_p()
    api = types.ModuleType("pycuda.driver")
    api.Error = type("Error", (Exception,), {})
    api.init = lambda: library.cuInit(0)

    def retain():
        assert library.cuDevicePrimaryCtxRetain(ctypes.byref(handle), 7) == 0
        return types.SimpleNamespace(
            handle=handle.value,
            push=lambda: library.cuCtxPushCurrent_v2(handle),
            pop=lambda: library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p())),
        )

    api.Device = lambda index: types.SimpleNamespace(retain_primary_context=retain)
    real = importlib.import_module
    monkeypatch.setattr(
        cuda.importlib, "import_module", lambda name: api if name == "pycuda.driver" else real(name)
    )
    monkeypatch.setattr(cuda.importlib.metadata, "version", lambda name: "0")
    cuda._pycuda_context.cache_clear()
    return cuda._PyCuda()


def test_recordings_beside_pycuda_are_made_replayed_and_given_back(pycuda, library):
    stream = 0x7F00_0000_1000
    pycuda.begin_capture(stream)
    with pytest.raises(BackendError, match=r"cuStreamBeginCapture_v2 failed: unknown error \(1\)"):
        pycuda.begin_capture(stream)
    graph = pycuda.end_capture(stream)
    assert library.host_driver_graphs() == 1  # the executable one; what it was made from is gone
    pycuda.launch(graph, stream)
    pycuda.synchronize(stream)
    pycuda.destroy_graph(graph)
    with pytest.raises(BackendError, match=r"cuGraphLaunch failed: unknown error \(400\)"):
        pycuda.launch(graph, stream)
    with pytest.raises(BackendError, match="cuStreamEndCapture failed"):
        pycuda.end_capture(stream)


def test_pycuda_reaches_the_same_memory(pycuda, library):
    assert pycuda.reaches(1 << 40)
    assert not pycuda.reaches(library.host_driver_foreign())
    assert cuda._pycuda_context(importlib.import_module("pycuda.driver")).handle  # one, kept


def test_the_drivers_words_are_in_the_error(library):
    with pytest.raises(BackendError, match=r"cuCtxPopCurrent_v2 failed: invalid device context \(201\)"):
        driver_call(library, "cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))
