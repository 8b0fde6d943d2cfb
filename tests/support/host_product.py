"""A stand-in for TensorRT and CUDA on a machine without a GPU, for what stands between them and the codec.

It is no test of either product: "device" memory is the C library's heap, a stream runs at once, and the "engine" reads
and writes raw addresses through ONNX Runtime's CPU provider. What it can show is that the runner gives the right
addresses, shapes and profiles, keeps memory alive, and records and replays when it should. It refuses what the real
products refuse: shapes outside the profile, launches before all shapes and addresses are set, replays of a
recording whose context has been changed since. A product's objects may be called only where the driver's context is
current.
"""

from __future__ import annotations

import contextlib
import ctypes
import enum
import json
import types

import numpy as np
import onnx
import onnxruntime
from oslic.bench.gpu import engine_candidates, layer_profile
from oslic.runtime.backends.cuda import bindings as cuda
from oslic.runtime.backends.cuda import driver as cuda_driver
from oslic.runtime.backends.cuda.driver import Gpu
from oslic.runtime.errors import BackendError

_LIBC = ctypes.CDLL(None)
_LIBC.aligned_alloc.restype = ctypes.c_void_p
_LIBC.aligned_alloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
_LIBC.free.argtypes = [ctypes.c_void_p]


ALIGNMENT = 256


class Heap:
    """Aligned as CUDA's allocations are, counting what is out."""

    def __init__(self):
        self.live = {}

    def allocate(self, size):
        address = _LIBC.aligned_alloc(ALIGNMENT, -(-size // ALIGNMENT) * ALIGNMENT)
        self.live[address] = size
        return address

    def free(self, address):
        del self.live[address]  # a second free is a KeyError
        _LIBC.free(address)


class HostDriver:
    """`cuda.Driver` on the heap; a log of what was asked."""

    name = "host"

    def __init__(self):
        self.device, self.pinned = Heap(), Heap()
        self.log = []
        self.handles = set()
        self.graphs = {}
        self.capturing = None
        self.depth = 0
        self.elsewhere = set()
        self._next = 1

    @contextlib.contextmanager
    def current(self):
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def reaches(self, address):
        return address not in self.elsewhere

    def _handle(self):
        self._next += 1
        self.handles.add(self._next)
        return self._next

    def allocate(self, size):
        return self.device.allocate(size)

    def free(self, address):
        self.device.free(address)

    def allocate_pinned(self, size):
        return self.pinned.allocate(size)

    def free_pinned(self, address):
        self.pinned.free(address)

    def create_stream(self):
        return self._handle()

    def destroy_stream(self, stream):
        self.handles.remove(stream)

    create_event, destroy_event = create_stream, destroy_stream

    def record(self, event, stream):
        assert {event, stream} <= self.handles

    def elapsed(self, start, end):
        assert {start, end} <= self.handles
        return 1.25

    def to_device(self, address, source, stream):
        assert stream in self.handles
        ctypes.memmove(address, source.ctypes.data, source.nbytes)

    def to_host(self, target, address, stream):
        assert stream in self.handles
        ctypes.memmove(target.ctypes.data, address, target.nbytes)

    def copy(self, target, source, size, stream):
        assert stream in self.handles
        ctypes.memmove(target, source, size)

    def synchronize(self, stream):
        self.log.append("synchronize")

    def begin_capture(self, stream):
        assert self.capturing is None
        self.capturing = []

    def end_capture(self, stream):
        launches, self.capturing = self.capturing, None
        if launches == ["broken"]:
            raise BackendError("the recording failed")
        handle = self._handle()
        self.graphs[handle] = launches
        return handle

    def launch(self, graph, stream):
        self.log.append("replay")
        for work in self.graphs[graph]:
            work()

    def destroy_graph(self, graph):
        self.handles.remove(graph)
        del self.graphs[graph]


class DataType(enum.Enum):
    UINT8 = "tensor(uint8)"
    FLOAT = "tensor(float)"
    HALF = "tensor(float16)"
    BOOL = "tensor(bool)"
    INT64 = "tensor(int64)"
    BF16 = "tensor(bfloat16)"


class TensorIOMode(enum.Enum):
    INPUT = 1
    OUTPUT = 2


_NUMPY = {
    DataType.UINT8: np.uint8,
    DataType.FLOAT: np.float32,
    DataType.HALF: np.float16,
    DataType.BOOL: np.bool_,
    DataType.INT64: np.int64,
}


def nptype(kind):
    if kind not in _NUMPY:
        raise TypeError(kind)  # as the products do
    return _NUMPY[kind]


class Engine:
    """What the runner asks of `ICudaEngine`; without profiles it takes every shape."""

    def __init__(self, model, profiles, driver, *, dtype=None, capturable=True):
        options = onnxruntime.SessionOptions()
        # Engines have types that ONNX Runtime's own rewriting has no form of.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        self.session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        nodes = onnx.load_model_from_string(model).graph.node
        self.layers = {f"kernel {n.name}": n.name for n in nodes if n.op_type in {"Conv", "ConvTranspose"}}
        self.profiles, self.driver = profiles, driver
        self._dtype = dtype
        self.capturable = capturable
        self._types = {v.name: v.type for v in (*self.session.get_inputs(), *self.session.get_outputs())}
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.names)

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return self._dtype or DataType(self._types[name])

    def create_engine_inspector(self):
        assert self.driver.depth
        layers = [{"Name": k, "Metadata": f"[ONNX Layer: {n}]"} for k, n in self.layers.items()]
        text = json.dumps({"Layers": [*layers, {"Name": "Reformat"}]})
        return types.SimpleNamespace(get_engine_information=lambda form: text)

    def create_execution_context(self):
        assert self.driver.depth
        return Context(self)


class Context:
    """What the runner asks of `IExecutionContext`."""

    def __init__(self, engine):
        self.engine = engine
        self.profile, self.shapes, self.addresses = 0, {}, {}
        self.generation = 0
        self.profiler = None

    def set_optimization_profile_async(self, index, stream):
        assert self.engine.driver.depth
        self.profile, self.shapes = index, {}
        self.generation += 1
        return index < len(self.engine.profiles)

    def set_input_shape(self, name, shape):
        assert self.engine.driver.depth
        self.generation += 1
        self.shapes[name] = tuple(shape)
        if not self.engine.profiles:
            return True
        least, _, most = self.engine.profiles[self.profile][name]
        return all(a <= x <= b for a, x, b in zip(least, shape, most, strict=True))

    def infer_shapes(self):
        return [name for name in self.engine.inputs if name not in self.shapes]

    def _compute(self, feeds):
        return dict(zip(self.engine.outputs, self.engine.session.run(None, feeds), strict=True))

    def get_tensor_shape(self, name):
        kinds = {n: nptype(self.engine.get_tensor_dtype(n)) for n in self.shapes}
        return self._compute({n: np.zeros(s, kinds[n]) for n, s in self.shapes.items()})[name].shape

    def set_tensor_address(self, name, address):
        assert name in self.engine.names
        self.addresses[name] = address
        return address % ALIGNMENT == 0

    def execute_async_v3(self, stream):
        driver = self.engine.driver
        assert driver.depth
        assert set(self.shapes) == set(self.engine.inputs)
        assert set(self.addresses) == set(self.engine.names)
        shapes, addresses, generation = dict(self.shapes), dict(self.addresses), self.generation
        kinds = {n: np.dtype(nptype(self.engine.get_tensor_dtype(n))) for n in shapes}

        def work():
            assert generation == self.generation, "a recording of another state was replayed"
            for name, y in self._compute(
                {n: _array(addresses[n], shapes[n], kinds[n]) for n in shapes}
            ).items():
                plain = np.ascontiguousarray(y)
                ctypes.memmove(addresses[name], plain.ctypes.data, plain.nbytes)

        if driver.capturing is not None:
            driver.capturing.append(work if self.engine.capturable else "broken")
            return True
        driver.log.append("launch")
        work()
        if self.profiler is not None:
            for i, name in enumerate([*self.engine.layers, "Reformat"]):
                self.profiler.report_layer_time(name, (i + 1) / 8)
        return True


def _array(address, shape, kind):
    size = int(np.prod(shape)) * kind.itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), kind).reshape(shape)


class Profiler:
    """Layer i, from 1 on, takes i / 8 ms; the last one is a conversion."""


class Logger:
    ERROR = INTERNAL_ERROR = WARNING = 0


def product(driver):
    """The module of a product whose "plans" are ONNX models."""

    class Runtime:
        def __init__(self, logger):
            assert isinstance(logger, Logger)
            assert driver.depth

        def deserialize_cuda_engine(self, plan):
            assert driver.depth
            return Engine(plan, [], driver)

    return types.SimpleNamespace(
        __name__="host",
        __version__="11.4.0",
        DataType=DataType,
        TensorIOMode=TensorIOMode,
        Runtime=Runtime,
        ILogger=Logger,
        nptype=nptype,
        IProfiler=Profiler,
        LayerInformationFormat=types.SimpleNamespace(JSON=1),
    )


def install(monkeypatch, driver, module):
    """Put a stand-in for a product, CUDA and a GPU where `bench` looks for them."""
    for user in (engine_candidates, layer_profile):
        monkeypatch.setattr(user, "load_product", lambda name: module)
    monkeypatch.setattr(engine_candidates, "build_plan", lambda trt, data, shapes, options: data)
    monkeypatch.setattr(cuda_driver, "gpus", lambda: ([Gpu("a stand-in", "9.0")], ""))
    monkeypatch.setattr(cuda, "open_driver", lambda: driver)


PRODUCT = types.SimpleNamespace(__name__="host", DataType=DataType)
