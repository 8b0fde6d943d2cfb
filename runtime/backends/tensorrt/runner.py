"""Running an engine: its inputs and outputs, streams, shapes and CUDA graphs."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ...bundle.engine_files import (
    EngineInfo,
)
from ...errors import BackendError
from ...model.header import Port
from ..base import LayerTime
from ..cuda.arrays import View, view
from ..cuda.driver import Driver
from ..cuda.graph_capture import CaptureState, Step
from ..cuda.memory import Buffer, Pool, Resource

if TYPE_CHECKING:
    import numpy.typing as npt

from .bindings import Log, numpy_type

# Of every address that a context takes. CUDA allocates like this; a part of an array need not lie so.
_ALIGNMENT: Final = 256


class DeviceArray:
    """A result that stays on the GPU, uint8 in C order: for whatever reads `__cuda_array_interface__`.

    Its memory goes back when it is gone.

    Attributes:
        shape: its shape.
    """

    def __init__(self, memory: Resource, shape: tuple[int, ...]) -> None:
        self._memory = memory
        self.shape: Final = shape

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        # The runner has waited for it: there is no stream to wait for.
        return {
            "shape": self.shape,
            "typestr": "|u1",
            "data": (self._memory.handle, False),
            "version": 3,
            "strides": None,
            "stream": None,
        }


class TensorRtRunner:
    """One engine with its execution context, stream and memory.

    A call copies what lies in host memory to the device, reads what lies on the device where it lies, picks the
    optimization profile by the shapes, and launches the engine, from the third equal call on as a CUDA graph.

    Args:
        trt: the product's module.
        engine: the deserialized engine.
        context: its execution context.
        driver: CUDA.
        info: the engine's sidecar.
        names: of the inputs, and of the outputs, in order.
        rebuild: the command that builds the engine again, for messages.
        capture: whether to record CUDA graphs here (TensorRT-RTX does that itself).
        log: what the product says.
        pixels: whether all inputs and outputs must be uint8, as those of a bundle's graphs.
    """

    def __init__(
        self,
        trt: Any,
        engine: Any,
        context: Any,
        driver: Driver,
        *,
        info: EngineInfo,
        names: tuple[tuple[str, ...], tuple[str, ...]],
        rebuild: str,
        capture: bool,
        log: Log,
        pixels: bool = True,
    ) -> None:
        self._trt = trt
        # In the order in which they must go: context, then engine.
        self._context, self._engine = context, engine
        self._driver = driver
        self._info = info
        self._inputs, self._outputs = names
        self._rebuild = rebuild
        self._log = log
        self._lock = threading.Lock()
        self._state = CaptureState(enabled=capture)
        self._stream = Resource(driver.create_stream(), driver.destroy_stream)
        self._events = [Resource(driver.create_event(), driver.destroy_event) for _ in range(2)]
        self._staging = [Buffer(driver.allocate, driver.free) for _ in self._inputs]
        self._results = [Buffer(driver.allocate, driver.free) for _ in self._outputs]
        self._host = Pool(driver.allocate_pinned, driver.free_pinned)
        self._graph: Resource | None = None
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._closed = False
        self._dtypes = self._check_ports(pixels=pixels)

    def _check_ports(self, *, pixels: bool) -> dict[str, np.dtype[Any]]:
        """The element type of each tensor."""
        found = {self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)}
        wanted = {*self._inputs, *self._outputs}
        if found != wanted:
            raise BackendError(
                f"the engine {self._info.file} has the tensors {', '.join(sorted(found))} instead of "
                f"{', '.join(sorted(wanted))}; {self._rebuild}"
            )
        dtypes: dict[str, np.dtype[Any]] = {}
        for name in sorted(wanted):
            kind = self._engine.get_tensor_dtype(name)
            if pixels and kind != self._trt.DataType.UINT8:
                raise BackendError(
                    f"the engine {self._info.file}: {name} is {kind}, not uint8; {self._rebuild}"
                )
            dtypes[name] = np.dtype(np.uint8) if pixels else numpy_type(self._trt, name, kind)
        return dtypes

    @property
    def inputs(self) -> tuple[Port, ...]:
        """What the engine takes: types as built, and the sizes from the smallest to the largest of its profiles."""

        def shape(name: str) -> tuple[int | str, ...] | None:
            known = [profile[name] for profile in self._info.profiles if name in profile]
            if not known:
                return None
            lows = [min(sizes) for sizes in zip(*(least for least, _, _ in known), strict=True)]
            highs = [max(sizes) for sizes in zip(*(most for _, _, most in known), strict=True)]
            return tuple(a if a == b else f"{a}..{b}" for a, b in zip(lows, highs, strict=True))

        return tuple(Port(name, str(self._dtypes[name]), shape(name)) for name in self._inputs)

    @property
    def records_graphs(self) -> bool:
        """Whether CUDA graphs are recorded here: asked for, and not refused by the engine."""
        return self._state.enabled

    @property
    def device_milliseconds(self) -> float:
        """GPU time of the last run: between its first and its last kernel, without copies."""
        start, end = (event.handle for event in self._events)
        return self._driver.elapsed(start, end)

    def __call__(self, *inputs: Any) -> npt.NDArray[np.uint8]:
        """Run the engine: see `Runner`. The output lies in page-locked memory that goes with the array."""
        return self._in_host_memory(inputs)[0]

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], names: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Run the engine: see `ModelRunner`. The outputs lie in page-locked memory that goes with the arrays."""
        outputs = dict(zip(self._outputs, self._in_host_memory(self._ordered(feeds)), strict=True))
        return outputs if names is None else {name: outputs[name] for name in names}

    def layer_times(self, feeds: Mapping[str, npt.NDArray[Any]], runs: int) -> list[LayerTime]:
        """Time each layer of the engine: see `ModelRunner`. CUDA graphs are left aside."""
        total: dict[str, float] = {}

        class Profiler(self._trt.IProfiler):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                super().__init__()

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                total[layer_name] = total.get(layer_name, 0.0) + float(ms)

        arrays = self._ordered(feeds)
        self.launch(*arrays)
        profiler = Profiler()  # the context does not keep it
        with self._lock:
            self._state.refused()  # a replayed recording reports no layers
            self._drop_graph()
            self._context.profiler = profiler
        for _ in range(runs):
            self.launch(*arrays)
        return [LayerTime(name, "", ms / runs) for name, ms in total.items()]

    def _ordered(self, feeds: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        missing = [name for name in self._inputs if name not in feeds]
        if missing:
            raise BackendError(
                f"the engine {self._info.file} takes the input {missing[0]}, which is not given"
            )
        return [np.ascontiguousarray(feeds[name]) for name in self._inputs]

    def _in_host_memory(self, inputs: Sequence[Any]) -> list[npt.NDArray[Any]]:
        outputs: list[npt.NDArray[Any]] = []
        with self._lock, self._driver.current():
            placed, read = self._run(inputs, self._results)
            for name, (address, shape) in zip(self._outputs, placed, strict=True):
                dtype = self._dtypes[name]
                raw = self._host.array((math.prod(shape) * dtype.itemsize,))
                self._driver.to_host(raw, address, self._stream.handle)
                outputs.append(raw.view(dtype).reshape(shape))
            self._driver.synchronize(self._stream.handle)
            del read  # until now the device was reading them
        return outputs

    def on_device(self, *inputs: Any) -> DeviceArray:
        """Run the engine, and leave the output on the GPU.

        Args:
            inputs: as for `__call__`.

        Returns:
            The output. Each call allocates it anew, so CUDA graphs do not help here.
        """
        with self._lock, self._driver.current():
            buffer = Buffer(self._driver.allocate, self._driver.free)
            ((_, shape),), read = self._run(inputs, [buffer])
            self._driver.synchronize(self._stream.handle)
            del read
        return DeviceArray(buffer.hand_over(), shape)

    def launch(self, *inputs: Any) -> None:
        """Run the engine and wait for it; the output stays inside, where the next run overwrites it. For measuring.

        Args:
            inputs: as for `__call__`.
        """
        with self._lock, self._driver.current():
            _, read = self._run(inputs, self._results)
            self._driver.synchronize(self._stream.handle)
            del read

    def _run(
        self, inputs: Sequence[Any], results: Sequence[Buffer]
    ) -> tuple[list[tuple[int, tuple[int, ...]]], Sequence[View]]:
        """Launch everything.

        Args:
            inputs: as for `__call__`.
            results: memory of the outputs, one for each.

        Returns:
            Address and shape of each output, valid when the stream is done, and what must live until then.
        """
        if self._closed:
            raise BackendError(f"the {self._info.graph} engine was closed")
        stream = self._stream.handle
        if len(inputs) != len(self._inputs):
            raise BackendError(
                f"the {self._info.graph} engine takes {len(self._inputs)} inputs, not {len(inputs)}"
            )
        views = [
            view(array, stream, self._dtypes[name]) for name, array in zip(self._inputs, inputs, strict=True)
        ]
        shapes = {name: v.shape for name, v in zip(self._inputs, views, strict=True)}
        profile = self._profile_for(shapes)
        addresses = [self._place(v, buffer) for v, buffer in zip(views, self._staging, strict=True)]
        self._use(profile, shapes)
        placed = []
        for name, result in zip(self._outputs, results, strict=True):
            shape = tuple(int(size) for size in self._context.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise BackendError(
                    f"the size of the output {name} of {self._info.file} depends on the data, not only on the inputs' "
                    "sizes: this runner does not take such engines"
                )
            placed.append((result.require(math.prod(shape) * self._dtypes[name].itemsize), shape))
        addresses += [address for address, _ in placed]
        for name, place in zip((*self._inputs, *self._outputs), addresses, strict=True):
            if not self._context.set_tensor_address(name, place):
                raise BackendError(
                    f"{self._trt.__name__} refuses the memory of {name}: {self._log.reasons()}"
                )
        step, drop = self._state.step((profile, tuple(shapes.items()), *addresses))
        if drop:
            self._drop_graph()
        start, end = (event.handle for event in self._events)
        self._driver.record(start, stream)
        self._launch(step)
        self._driver.record(end, stream)
        return placed, views

    def _profile_for(self, shapes: dict[str, tuple[int, ...]]) -> int:
        if any(profile.keys() != shapes.keys() for profile in self._info.profiles):
            raise BackendError(
                f"the profiles of the engine {self._info.file} have no shapes of {', '.join(shapes)}; {self._rebuild}"
            )
        for name, shape in shapes.items():
            rank = len(self._info.profiles[0][name][0])
            if len(shape) != rank:
                raise BackendError(f"{name} has {len(shape)} dimensions, must have {rank}")
        profile = self._info.profile_for(shapes)
        if profile is None:
            sizes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
            ranges = "; ".join(
                ", ".join(
                    f"{name} {'x'.join(map(str, least))} to {'x'.join(map(str, most))}"
                    for name, (least, _, most) in profile_.items()
                )
                for profile_ in self._info.profiles
            )
            raise BackendError(
                f"no profile of the engine {self._info.file} takes {sizes} (it takes {ranges}); build it with a "
                f"further --shapes MIN,OPT,MAX: {self._rebuild}"
            )
        return profile

    def _place(self, source: View, staging: Buffer) -> int:
        """The device address of an input: its own, or that of a copy that is on its way."""
        if source.on_device:
            if source.device != 0:
                raise BackendError(f"an input lies on GPU {source.device}; the engine runs on GPU 0")
            if not self._driver.reaches(source.address):
                raise BackendError(
                    "an input lies in another CUDA context than the primary one of GPU 0, where the engine cannot read "
                    "it; allocate it there (PyCUDA: `import pycuda.autoprimaryctx` in place of `pycuda.autoinit`)"
                )
            if source.stream:
                self._driver.synchronize(source.stream)
            if source.address % _ALIGNMENT == 0:
                return source.address
            address = staging.require(source.size)
            self._driver.copy(address, source.address, source.size, self._stream.handle)
            return address
        address = staging.require(source.size)
        self._driver.to_device(address, source.host(), self._stream.handle)
        return address

    def _use(self, profile: int, shapes: dict[str, tuple[int, ...]]) -> None:
        """Set profile and shapes where they differ from the last run's."""
        if (profile, shapes) == (self._profile, self._shapes):
            return
        # What was recorded of the context as it is now must not be replayed, even if this run gets no further.
        if self._state.reset():
            self._drop_graph()
        self._shapes = {}
        if profile != self._profile:
            if not self._context.set_optimization_profile_async(profile, self._stream.handle):
                raise BackendError(f"{self._trt.__name__} refuses profile {profile}: {self._log.reasons()}")
            self._profile = profile
        for name, shape in shapes.items():
            if not self._context.set_input_shape(name, shape):
                raise BackendError(f"{self._trt.__name__} refuses {name} {shape}: {self._log.reasons()}")
        try:
            missing = self._context.infer_shapes()
        except RuntimeError as error:  # for whatever but missing shapes
            raise BackendError(
                f"{self._trt.__name__} cannot run {shapes}: {error}; {self._log.reasons()}"
            ) from error
        if missing:
            raise BackendError(f"{self._trt.__name__} knows no shape for {', '.join(missing)}")
        self._shapes = dict(shapes)

    def _launch(self, step: Step) -> None:
        stream = self._stream.handle
        if step is Step.RECORD:
            step = self._record()
        if step is Step.REPLAY:
            assert self._graph is not None
            self._driver.launch(self._graph.handle, stream)
        elif not self._context.execute_async_v3(stream):
            raise BackendError(f"{self._trt.__name__} failed in {self._info.graph}: {self._log.reasons()}")

    def _record(self) -> Step:
        """Record the engine's launches; says how to run it now."""
        stream = self._stream.handle
        self._driver.begin_capture(stream)
        launched = self._context.execute_async_v3(stream)
        try:
            # Also where the launch failed: the stream must leave its recording.
            graph = Resource(self._driver.end_capture(stream), self._driver.destroy_graph)
        except BackendError:
            launched = False
        if not launched:
            self._state.refused()
            return Step.RUN
        self._graph = graph
        self._state.recorded()
        return Step.REPLAY

    def _drop_graph(self) -> None:
        if self._graph is not None:
            self._graph.close()
        self._graph = None

    def _drop_engine(self) -> None:
        with self._driver.current():
            self._context = self._engine = None

    def close(self) -> None:
        """Give back context, engine, graph, stream and memory; outputs stay valid."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._state.reset()
            for give_back in (
                lambda: self._driver.synchronize(self._stream.handle),
                self._drop_graph,
                *(buffer.close for buffer in (*self._staging, *self._results)),
                self._host.close,
                *(resource.close for resource in (*self._events, self._stream)),
                self._drop_engine,
            ):
                # On a broken device every call fails: the error that broke it is what the caller must see.
                with contextlib.suppress(BackendError):
                    give_back()
