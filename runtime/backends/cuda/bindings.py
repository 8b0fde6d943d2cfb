"""The bindings of CUDA, cuda-python or PyCUDA: the only file that calls them."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
import importlib.metadata
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ...errors import BackendError

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
from . import driver as cuda_driver
from .driver import Driver, driver_call, driver_library

_POINTER_CONTEXT: Final = 1  # CU_POINTER_ATTRIBUTE_CONTEXT
_CAPTURE_THREAD_LOCAL: Final = 1  # CU_STREAM_CAPTURE_MODE_THREAD_LOCAL


class _Current:
    """Makes a context this thread's for the length of a block, and afterwards what was there before.

    Inside another such block it does nothing.

    Args:
        push: makes it the thread's.
        pop: makes what was there before the thread's again.
    """

    def __init__(self, push: Callable[[], object], pop: Callable[[], object]) -> None:
        self._push, self._pop = push, pop
        self._thread = threading.local()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        depth = getattr(self._thread, "depth", 0)
        if depth == 0:
            self._push()
        self._thread.depth = depth + 1
        try:
            yield
        finally:
            self._thread.depth = depth
            if depth == 0:
                self._pop()


def _lies_in(library: Any, context: int, address: int) -> bool:
    """Whether device memory belongs to a context; also where the driver does not know (pools, virtual memory)."""
    owner = ctypes.c_void_p()
    code = library.cuPointerGetAttribute(ctypes.byref(owner), _POINTER_CONTEXT, ctypes.c_ulonglong(address))
    return bool(code) or owner.value in {None, context}


class _CudaPython:
    """The runtime API by cuda-python (`cuda.bindings.runtime`).

    The runtime API follows the thread's context, so that is set by the driver library's own calls: `cudaSetDevice`
    would take the caller's away.
    """

    def __init__(self) -> None:
        self._api: Any = importlib.import_module("cuda.bindings.runtime")
        self.name = f"cuda-python {importlib.metadata.version('cuda-bindings')}"
        library, context, device = driver_library(), ctypes.c_void_p(), ctypes.c_int()
        driver_call(library, "cuDeviceGet", ctypes.byref(device), 0)
        # Never released: the runtime API holds it for as long as the process lives, too.
        driver_call(library, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.current = _Current(
            lambda: driver_call(library, "cuCtxPushCurrent_v2", context),
            lambda: driver_call(library, "cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p())),
        )
        self.reaches = functools.partial(_lies_in, library, int(context.value or 0))

    def _call(self, function: str, *arguments: Any) -> Any:
        with self.current():
            error, *values = getattr(self._api, function)(*arguments)
        if int(error):
            _, text = self._api.cudaGetErrorString(error)
            reason = text.decode() if isinstance(text, bytes) else str(text)
            hint = ""
            if error == self._api.cudaError_t.cudaErrorInsufficientDriver:
                hint = "; update NVIDIA's driver, or install a cuda-python of the CUDA version that nvidia-smi shows"
            raise BackendError(f"{function} failed: {reason} ({int(error)}){hint}")
        return values[0] if values else None

    def allocate(self, size: int) -> int:
        return int(self._call("cudaMalloc", size))

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def allocate_pinned(self, size: int) -> int:
        return int(self._call("cudaMallocHost", size))

    def free_pinned(self, address: int) -> None:
        self._call("cudaFreeHost", address)

    def create_stream(self) -> int:
        return int(self._call("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking))

    def destroy_stream(self, stream: int) -> None:
        self._call("cudaStreamDestroy", stream)

    def create_event(self) -> int:
        return int(self._call("cudaEventCreateWithFlags", self._api.cudaEventDefault))

    def destroy_event(self, event: int) -> None:
        self._call("cudaEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        self._call("cudaEventRecord", event, stream)

    def elapsed(self, start: int, end: int) -> float:
        return float(self._call("cudaEventElapsedTime", start, end))

    def to_device(self, address: int, source: Bytes, stream: int) -> None:
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, source.ctypes.data, source.nbytes, kind, stream)

    def to_host(self, target: Bytes, address: int, stream: int) -> None:
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target.ctypes.data, address, target.nbytes, kind, stream)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, stream)

    def synchronize(self, stream: int) -> None:
        self._call("cudaStreamSynchronize", stream)

    def begin_capture(self, stream: int) -> None:
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)

    def end_capture(self, stream: int) -> int:
        graph = self._call("cudaStreamEndCapture", stream)
        try:
            return int(self._call("cudaGraphInstantiate", graph, 0))
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: int, stream: int) -> None:
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        self._call("cudaGraphExecDestroy", graph)


@functools.cache
def _pycuda_context(api: Any) -> Any:
    """PyCUDA's object of the primary context, one for as long as the process lives.

    When such an object goes, PyCUDA makes the context current, and calls `cuCtxDetach`, which is not for primary
    contexts and so does not take it away again. So none ever goes.
    """
    api.init()
    context = api.Device(0).retain_primary_context()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))
    return context


class _PyCuda:
    """The driver API by PyCUDA, on the primary context, which TensorRT uses too.

    PyCUDA has no CUDA graphs: those calls go to the driver library directly.
    """

    def __init__(self) -> None:
        self._api: Any = importlib.import_module("pycuda.driver")
        with self._errors():
            context = _pycuda_context(self._api)
        self._library = driver_library()
        self.name = f"PyCUDA {importlib.metadata.version('pycuda')}"
        # PyCUDA keeps a stack of contexts of its own, so the driver library must not push behind its back.
        self.current = _Current(lambda: self._translated(context.push), lambda: self._translated(context.pop))
        self.reaches = functools.partial(_lies_in, self._library, context.handle)
        # PyCUDA's objects own what their handles name.
        self._objects: dict[int, Any] = {}

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """PyCUDA's errors become ours."""
        try:
            yield
        except self._api.Error as error:
            raise BackendError(f"PyCUDA failed: {error}") from error

    def _translated(self, call: Callable[[], object]) -> None:
        with self._errors():
            call()

    @contextlib.contextmanager
    def _ready(self) -> Iterator[Any]:
        """PyCUDA in its context."""
        with self.current(), self._errors():
            yield self._api

    def _keep(self, handle: int, thing: Any) -> int:
        self._objects[handle] = thing
        return handle

    def _drop(self, handle: int) -> None:
        with self._ready():
            del self._objects[handle]

    def allocate(self, size: int) -> int:
        with self._ready() as api:
            memory = api.mem_alloc(size)
        return self._keep(int(memory), memory)

    def free(self, address: int) -> None:
        self._drop(address)

    def allocate_pinned(self, size: int) -> int:
        with self._ready() as api:
            memory = api.pagelocked_empty(size, np.uint8)
        return self._keep(memory.ctypes.data, memory)

    def free_pinned(self, address: int) -> None:
        self._drop(address)

    def create_stream(self) -> int:
        with self._ready() as api:
            stream = api.Stream(1)  # CU_STREAM_NON_BLOCKING
        return self._keep(stream.handle, stream)

    def destroy_stream(self, stream: int) -> None:
        self._drop(stream)

    def create_event(self) -> int:
        with self._ready() as api:
            event = api.Event()
        return self._keep(id(event), event)  # PyCUDA does not tell an event's own handle

    def destroy_event(self, event: int) -> None:
        self._drop(event)

    def record(self, event: int, stream: int) -> None:
        with self._ready():
            self._objects[event].record(self._objects[stream])

    def elapsed(self, start: int, end: int) -> float:
        with self._ready():
            return float(self._objects[start].time_till(self._objects[end]))

    def to_device(self, address: int, source: Bytes, stream: int) -> None:
        with self._ready() as api:
            api.memcpy_htod_async(address, source, self._objects[stream])

    def to_host(self, target: Bytes, address: int, stream: int) -> None:
        with self._ready() as api:
            api.memcpy_dtoh_async(target, address, self._objects[stream])

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        with self._ready() as api:
            api.memcpy_dtod_async(target, source, size, self._objects[stream])

    def synchronize(self, stream: int) -> None:
        with self._ready():  # also for streams of others, which PyCUDA does not know
            driver_call(self._library, "cuStreamSynchronize", ctypes.c_void_p(stream))

    def begin_capture(self, stream: int) -> None:
        with self._ready():
            driver_call(
                self._library, "cuStreamBeginCapture_v2", ctypes.c_void_p(stream), _CAPTURE_THREAD_LOCAL
            )

    def end_capture(self, stream: int) -> int:
        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        with self._ready():
            driver_call(self._library, "cuStreamEndCapture", ctypes.c_void_p(stream), ctypes.byref(graph))
            try:
                driver_call(
                    self._library,
                    "cuGraphInstantiateWithFlags",
                    ctypes.byref(executable),
                    graph,
                    ctypes.c_ulonglong(0),
                )
            finally:
                driver_call(self._library, "cuGraphDestroy", graph)
        return int(executable.value or 0)

    def launch(self, graph: int, stream: int) -> None:
        with self._ready():
            driver_call(self._library, "cuGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(stream))

    def destroy_graph(self, graph: int) -> None:
        with self._ready():
            driver_call(self._library, "cuGraphExecDestroy", ctypes.c_void_p(graph))


_DRIVERS: Final[dict[str, Callable[[], Driver]]] = {"pycuda": _PyCuda, "cuda": _CudaPython}


def package() -> str | None:
    """The package that `open_driver` will take: `pycuda`, `cuda` (cuda-python), or None."""
    for name, needed in (("pycuda", "pycuda.driver"), ("cuda", "cuda.bindings.runtime")):
        with contextlib.suppress(ImportError):
            importlib.import_module(needed)
            return name
    return None


def open_driver() -> Driver:
    """CUDA on the first GPU, by PyCUDA where it is installed, otherwise by cuda-python.

    Raises:
        BackendError: neither is installed, or there is no GPU.
    """
    found, reason = cuda_driver.gpus()
    if not found:
        raise BackendError(f"no GPU can be used: {reason}")
    name = package()
    if name is None:
        raise BackendError("neither cuda-python nor PyCUDA is installed: pip install cuda-python")
    return _DRIVERS[name]()
