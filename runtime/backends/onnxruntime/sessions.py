"""ONNX Runtime, whatever distribution brought it: sessions that run where they were told to, or not at all.

ONNX Runtime falls back to the CPU without a word: for a whole session when a provider's libraries do not load, and for
single nodes that a provider has no kernel for. `open_session` refuses both.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import json
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import numpy as np

from ...dependencies import NAMESPACE, without_telemetry
from ...errors import BackendError, BundleError, DependencyError, LimitError, UsageError, one_line
from ..base import LayerTime
from ..cuda.arrays import View, view
from ..cuda.graph_capture import CaptureState, Step

if TYPE_CHECKING:
    import numpy.typing as npt

    from ...bundle.folder import Bundle
    from ...bundle.manifest import GraphInfo, GraphName
    from ...model.source import Model
    from ..base import Options

CPU: Final = "CPUExecutionProvider"
PRECISION_NAMES: Final = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
}
"""Precision as manifests say it -> as engines and options say it; the others are the same."""

_DEVICE_THREAD: Final = "oslic-gpu"
_FATAL: Final = 4

_Result = TypeVar("_Result")

# What computes sizes from `Shape`; providers for GPUs leave it to the CPU on purpose, on a few whole numbers.
_SIZE_ARITHMETIC: Final = frozenset(
    {
        "Shape", "Size", "Constant", "ConstantOfShape", "Gather", "Concat", "Slice", "Squeeze", "Unsqueeze", "Cast",
        "Add", "Sub", "Mul", "Div", "Mod", "Range", "Identity", "ReduceProd", "Equal", "Where", "Expand",
    }
)  # fmt: skip
# Exceptions of ONNX Runtime that say that the model itself is wrong, whatever runs it.
_NO_MODEL: Final = frozenset({"InvalidGraph", "InvalidProtobuf"})
_MOST_SLOTS: Final = 8
_NO_GRAPH: Final = "-1"
_NODE_EVENT: Final = "_kernel_time"
# How ONNX Runtime says that there is no memory; its exceptions are those of all other failures.
_OUT_OF_MEMORY: Final = ("std::bad_alloc", "Failed to allocate memory")


def find_onnxruntime() -> tuple[Any, str]:
    """Import ONNX Runtime; where nobody has before, without telemetry, and its default logger falls silent.

    That one tells of plug-ins which it does not need, at every session on CUDA, and of errors that are raised as well.
    It speaks if Python's logger `oslic` is set to the level DEBUG, as `oslic --debug` does.

    Returns:
        The module, or None, and the reason why there is none.
    """
    ours = "onnxruntime" not in sys.modules
    if importlib.util.find_spec("onnxruntime") is None:
        return None, "ONNX Runtime is not installed: pip install 'oslic[cpu]' (or 'oslic[gpu]')"
    try:
        with without_telemetry():
            module = importlib.import_module("onnxruntime")
    except ImportError as error:
        return None, f"ONNX Runtime is installed but does not load: {error}"
    if not hasattr(module, "InferenceSession"):
        return None, "ONNX Runtime is only partly installed: pip install --force-reinstall onnxruntime"
    if ours and not _debugging():
        module.set_default_logger_severity(_FATAL)
    return module, ""


def _debugging() -> bool:
    return logging.getLogger(NAMESPACE).isEnabledFor(logging.DEBUG)


def require_onnxruntime(purpose: str) -> Any:
    """Import ONNX Runtime as `find_onnxruntime` does.

    Args:
        purpose: what needs it, in words.

    Raises:
        DependencyError: it is not installed, or does not load.
    """
    module, reason = find_onnxruntime()
    if module is None:
        raise DependencyError(f"{purpose} needs ONNX Runtime: {reason}")
    return module


def require_precision(bundle: Bundle, graph: GraphName, backend: str, options: Options) -> None:
    """Refuse a precision that the graph does not have: ONNX Runtime runs graphs as they are.

    Raises:
        BackendError: naming both.
    """
    stated = bundle.manifest.graphs[graph].precision
    here = PRECISION_NAMES.get(stated, stated)
    if options.precision is not None and options.precision != here:
        raise BackendError(
            f"{backend} runs graphs as they are, and {graph} is {here}, not {options.precision}: leave the precision "
            "out, or take a bundle in that precision (fp16: `oslic cast` makes one)"
        )


def require_plain(model: Model, backend: str, options: Options) -> None:
    """Refuse a precision for a graph that runs as it is.

    Raises:
        BackendError: one was asked for, other than that of the graph's weights.
    """
    if options.precision is None:
        return
    kinds = {PRECISION_NAMES.get(kind, kind) for kind in model.header.parameters}
    if model.header.quantized:
        kinds = {"int8"}
    if options.precision not in kinds:
        raise BackendError(
            f"{backend} runs graphs as they are, and {model.path} is {'/'.join(sorted(kinds)) or 'without weights'}, "
            f"not {options.precision}: leave the precision out, or make such a graph (`oslic cast`, `oslic calibrate`)"
        )


@contextlib.contextmanager
def naming(model: Model) -> Iterator[None]:
    """What goes wrong when a graph is loaded names its file; what is no valid model is the user's error.

    Raises:
        UsageError: in place of BundleError, unless a bundle holds it.
    """
    try:
        yield
    except BundleError as error:
        raise UsageError(f"{model.path}: {error}") from error
    except (BackendError, LimitError) as error:
        raise type(error)(f"{model.path}: {error}") from error


@dataclass(frozen=True)
class Provider:
    """An execution provider and its options.

    Attributes:
        name: as ONNX Runtime calls it.
        options: its options.
        helpers: providers that may take nodes which it does not, on the same device.
        devices: of a provider that was registered from a library of its own: what to run on; empty for others.
    """

    name: str
    options: Mapping[str, str]
    helpers: tuple[tuple[str, Mapping[str, str]], ...] = ()
    devices: tuple[Any, ...] = ()


def session_options(onnxruntime: Any, threads: int | None, *, optimize: bool = True) -> Any:
    """Options that all our sessions have; see `base.Options`."""
    options = onnxruntime.SessionOptions()
    if not _debugging():
        # What it calls an error is raised as well; a run that is stopped would print one.
        options.log_severity_level = _FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    # Workers that spin between the graphs take the cores from the entropy coders.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


@contextlib.contextmanager
def time_limit(seconds: float | None, stop: Callable[[], object], what: str) -> Iterator[None]:
    """Call `stop` from another thread when the time is up; what the work then raises becomes an error of ours.

    Args:
        seconds: how long it may take; None: no limit.
        stop: makes the work end.
        what: names the work in messages.

    Raises:
        LimitError: the time was up.
    """
    if seconds is None:
        yield
        return
    expired = threading.Event()

    def end() -> None:
        expired.set()
        stop()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if expired.is_set():
            raise LimitError(f"{what} took longer than the time limit of {seconds:g} s") from error
        raise
    finally:
        timer.cancel()


def require_ports(session: Any, info: GraphInfo) -> None:
    """Refuse a graph whose inputs and outputs are not those that the manifest states.

    Raises:
        BundleError: naming both.
    """
    for what, ports, wanted in (
        ("inputs", session.get_inputs(), list(info.inputs)),
        ("outputs", session.get_outputs(), [info.output]),
    ):
        found = [port.name for port in ports]
        if found != wanted:
            raise BundleError(f"the graph has the {what} {found}, the manifest says {wanted}")
        for port in ports:
            if port.type != "tensor(uint8)":
                raise BundleError(f"{port.name} is {port.type}, must be tensor(uint8)")


def open_session(
    onnxruntime: Any, data: bytes, provider: Provider, options: Any, *, timeout: float | None = None
) -> Any:
    """Open a session on a provider, and make sure that it runs there.

    Args:
        onnxruntime: the module.
        data: a serialized ONNX model.
        provider: where it is to run.
        options: from `session_options`; changed here.
        timeout: seconds that it may take; None: no limit.

    Raises:
        BackendError: the provider does not start, or leaves nodes to the CPU; the message says which.
        BundleError: it is no valid model.
        LimitError: the time was up.
    """
    on_cpu = provider.name == CPU
    if not on_cpu:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    arguments: dict[str, Any] = {}
    if provider.devices:
        options.add_provider_for_devices(list(provider.devices), dict(provider.options))
    else:
        arguments["providers"] = [
            (name, dict(given)) for name, given in ((provider.name, provider.options), *provider.helpers)
        ]
    try:
        with warnings.catch_warnings(), time_limit(timeout, _canceller(options), "loading the graph"):
            warnings.simplefilter("ignore")  # that the provider is missing is said below, as an error
            session = onnxruntime.InferenceSession(data, options, enable_fallback=0, **arguments)
    except LimitError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        invalid = type(error).__name__ in _NO_MODEL or "invalid model" in str(error).lower()
        kind = BundleError if invalid else BackendError
        raise kind(f"ONNX Runtime cannot load the graph on {provider.name}: {one_line(error)}") from error
    session.disable_fallback()
    if on_cpu:
        return session
    if provider.name not in session.get_providers():
        raise BackendError(
            f"ONNX Runtime would run on {', '.join(session.get_providers())}: {provider.name} does not start; its "
            "libraries (CUDA, cuDNN, TensorRT of the versions that it was built for) are not found"
        )
    allowed = {provider.name, *(name for name, _ in provider.helpers)}
    misplaced = _misplaced(session, allowed)
    if misplaced:
        listed = ", ".join(f"{count} {kind}" for kind, count in sorted(misplaced.items()))
        raise BackendError(
            f"{provider.name} leaves nodes to another provider: {listed}; it is not used like this"
        )
    return session


def _canceller(options: Any) -> Callable[[], object]:
    """What ends the loading of a session; before ONNX Runtime 1.21 nothing does."""
    cancel = getattr(options, "set_load_cancellation_flag", None)
    return (lambda: None) if cancel is None else functools.partial(cancel, True)


def _misplaced(session: Any, allowed: set[str]) -> Counter[str]:
    """Nodes by operator that run elsewhere, without those that only compute sizes."""
    ask = getattr(session, "get_provider_graph_assignment_info", None)
    if ask is None:
        raise BackendError(
            "this ONNX Runtime does not say where each node runs: install version 1.24 or later, so that nodes on the "
            "CPU are noticed"
        )
    return Counter(
        node.op_type
        for part in ask()
        if part.ep_name not in allowed
        for node in part.get_nodes()
        if not (part.ep_name == CPU and node.domain == "" and node.op_type in _SIZE_ARITHMETIC)
    )


def _failure(name: str, shapes: Sequence[tuple[int, ...]], error: Exception) -> BackendError | LimitError:
    listed = ", ".join(str(shape) for shape in shapes)
    if any(words in str(error) for words in _OUT_OF_MEMORY):
        return LimitError(
            f"not enough memory for the {name} graph on inputs {listed}: free some, or take a smaller image"
        )
    return BackendError(f"ONNX Runtime failed in the {name} graph on inputs {listed}: {one_line(error)}")


def _stopper(options: Any) -> Callable[[], object]:
    """What ends a run with these options at its next node."""
    return functools.partial(setattr, options, "terminate", True)


class HostRunner:
    """A session whose inputs and output lie in host memory.

    Args:
        onnxruntime: the module.
        session: with one output.
        name: of the graph, for messages.
        timeout: see `Options`.
        gives_back: whether a run returns its memory to the system, by the shape of the first input; None: it is kept
            for the next one.
        reopen: opens the session again with a profile under this path prefix; None: there are no layer times.
    """

    def __init__(
        self,
        onnxruntime: Any,
        session: Any,
        name: str,
        *,
        timeout: float | None = None,
        gives_back: Callable[[tuple[int, ...]], bool] | None = None,
        reopen: Callable[[str], Any] | None = None,
    ) -> None:
        self._api = onnxruntime
        self._session = session
        self._name = name
        self._timeout = timeout
        self._gives_back = gives_back
        self._reopen = reopen
        self._inputs = [value.name for value in session.get_inputs()]
        self._outputs = [value.name for value in session.get_outputs()]

    def __call__(self, *inputs: Any) -> npt.NDArray[np.uint8]:
        """Run the graph: see `Runner`."""
        arrays = [x if isinstance(x, np.ndarray) else _in_host_memory(view(x)) for x in inputs]
        gives_back = self._gives_back is not None and bool(arrays) and self._gives_back(arrays[0].shape)
        return self._run_in_order(arrays, gives_back=gives_back)

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], names: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Run the graph: see `ModelRunner`."""
        wanted = self._outputs if names is None else list(names)
        return dict(zip(wanted, self._run(feeds, wanted, gives_back=False), strict=True))

    def layer_times(self, feeds: Mapping[str, npt.NDArray[Any]], runs: int) -> list[LayerTime]:
        """Time each node of the optimized graph: see `ModelRunner`."""
        if self._reopen is None:
            raise BackendError(f"ONNX Runtime gives no layer times of {self._name} on this provider")
        return layer_times(self._reopen, feeds, runs)

    @property
    def device_milliseconds(self) -> float | None:
        """None: ONNX Runtime does not tell the device's time apart."""
        return None

    def give_back(self, *inputs: npt.NDArray[np.uint8]) -> None:
        """Return what earlier runs left in the arena to the system; the inputs are the smallest that the graph takes.

        ONNX Runtime does so behind a run only.
        """
        if self._gives_back is not None:
            self._run_in_order(list(inputs), gives_back=True)

    def _run_in_order(
        self, arrays: list[npt.NDArray[np.uint8]], *, gives_back: bool
    ) -> npt.NDArray[np.uint8]:
        if len(arrays) != len(self._inputs):
            raise BackendError(f"the {self._name} graph takes {len(self._inputs)} inputs, not {len(arrays)}")
        feeds = dict(zip(self._inputs, arrays, strict=True))
        return cast("npt.NDArray[np.uint8]", self._run(feeds, self._outputs[:1], gives_back=gives_back)[0])

    def _run(
        self, feeds: Mapping[str, npt.NDArray[Any]], names: list[str], *, gives_back: bool
    ) -> list[npt.NDArray[Any]]:
        if self._session is None:
            raise BackendError(f"the {self._name} graph was closed")
        options = self._api.RunOptions()
        if gives_back:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            with time_limit(self._timeout, _stopper(options), f"the {self._name} graph"):
                outputs: list[npt.NDArray[Any]] = self._session.run(names, dict(feeds), options)
        except LimitError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            raise _failure(self._name, [x.shape for x in feeds.values()], error) from error
        return outputs

    def close(self) -> None:
        """Drop the session."""
        self._session = None


def layer_times(
    reopen: Callable[[str], Any], feeds: Mapping[str, npt.NDArray[Any]], runs: int
) -> list[LayerTime]:
    """Run a session with ONNX Runtime's profiler, and read the fastest time of each node of the optimized graph.

    Args:
        reopen: opens the session with a profile under this path prefix.
        feeds: inputs by name.
        runs: how often it runs.
    """
    with tempfile.TemporaryDirectory(prefix="oslic-") as folder:
        session = reopen(str(Path(folder) / "profile"))
        for _ in range(runs):
            session.run(None, dict(feeds))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    fastest: dict[tuple[str, str], float] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_NODE_EVENT):
            key = event["name"].removesuffix(_NODE_EVENT), str(event["args"]["op_name"])
            fastest[key] = min(fastest.get(key, float("inf")), event["dur"] * 1e-3)
    return [LayerTime(name, operator, ms) for (name, operator), ms in fastest.items()]


def _in_host_memory(source: View) -> npt.NDArray[np.uint8]:
    if source.on_device:
        raise BackendError("an input lies on a GPU; this backend takes arrays in host memory")
    return source.host().reshape(source.shape)


@functools.cache
def _device_thread(process: int) -> ThreadPoolExecutor:
    """The thread of a process: one that was forked off has none of its parent's."""
    del process
    return ThreadPoolExecutor(1, thread_name_prefix=_DEVICE_THREAD)


def on_device_thread(work: Callable[[], _Result]) -> _Result:
    """Do something on the one thread of this process that calls ONNX Runtime for a GPU.

    It records CUDA graphs for each thread anew, and keeps them as long as the session; and it records in CUDA's global
    mode: meanwhile a call that allocates memory or waits for the device fails on every other thread, and takes the
    recording with it.

    Args:
        work: returns, or raises, what this does.
    """
    if threading.current_thread().name.startswith(_DEVICE_THREAD):
        return work()
    try:
        done = _device_thread(os.getpid()).submit(work)
    except RuntimeError:  # the interpreter is shutting down, and its threads have ended: nobody is disturbed
        return work()
    return done.result()


def at_once(work: Callable[[], _Result]) -> _Result:
    """Do something on the caller's thread."""
    return work()


class _Slot:
    """What belongs to one set of input shapes: device values at fixed addresses, and whether they are recorded."""

    def __init__(self, inputs: list[Any], graph: int, *, capture: bool) -> None:
        self.inputs = inputs
        self.output: Any = None
        self.graph = graph
        self.state = CaptureState(enabled=capture)


class BoundRunner:
    """A session whose inputs and output are bound to memory of its device.

    Inputs in host memory are copied into device memory that each set of shapes keeps, so that ONNX Runtime can
    record CUDA graphs, one for each set; inputs on the device are bound where they lie, without recording.

    Args:
        onnxruntime: the module.
        session: with one output.
        name: of the graph, for messages.
        device: ONNX Runtime's name of the device: `cuda`, or `cpu`.
        capture: whether the provider records CUDA graphs.
        timeout: see `Options`.
        call: does what calls ONNX Runtime; None: on the device's thread, if it is a GPU.
    """

    def __init__(
        self,
        onnxruntime: Any,
        session: Any,
        name: str,
        *,
        device: str,
        capture: bool,
        timeout: float | None = None,
        call: Callable[[Callable[[], Any]], Any] | None = None,
    ) -> None:
        self._api = onnxruntime
        self._session = session
        self._name = name
        self._device = device
        self._call = call or (at_once if device == "cpu" else on_device_thread)
        self._capture = capture
        self._timeout = timeout
        self._inputs = [value.name for value in session.get_inputs()]
        self._output = session.get_outputs()[0].name
        self._slots: OrderedDict[tuple[tuple[int, ...], ...], _Slot] = OrderedDict()
        self._graphs = 0
        self._lock = threading.Lock()

    def __call__(self, *inputs: Any) -> npt.NDArray[np.uint8]:
        """Run the graph: see `Runner`."""
        if len(inputs) != len(self._inputs):
            raise BackendError(f"the {self._name} graph takes {len(self._inputs)} inputs, not {len(inputs)}")
        views = [view(x) for x in inputs]
        found: npt.NDArray[np.uint8] = self._call(functools.partial(self._run_on, views))
        return found

    def _run_on(self, views: Sequence[View]) -> npt.NDArray[np.uint8]:
        shapes = tuple(v.shape for v in views)
        with self._lock:
            if self._session is None:
                raise BackendError(f"the {self._name} graph was closed")
            try:
                if self._device != "cpu" and all(v.on_device for v in views):
                    return self._in_place(views)
                return self._through_slot(views, shapes)
            except (BackendError, LimitError):
                raise
            except Exception as error:  # ONNX Runtime's exceptions have no common base but this
                raise _failure(self._name, shapes, error) from error

    def _in_place(self, views: Sequence[View]) -> npt.NDArray[np.uint8]:
        binding = self._session.io_binding()
        for name, source in zip(self._inputs, views, strict=True):
            binding.bind_input(
                name, self._device, source.device, np.uint8, list(source.shape), source.address
            )
        binding.bind_output(self._output, self._device)
        self._run(binding, _NO_GRAPH)
        return self._copy_out(binding.get_outputs()[0])

    def _through_slot(
        self, views: Sequence[View], shapes: tuple[tuple[int, ...], ...]
    ) -> npt.NDArray[np.uint8]:
        slot = self._slot(shapes)
        for value, source in zip(slot.inputs, views, strict=True):
            if source.on_device:
                raise BackendError("inputs must all lie on the device, or all in host memory")
            value.update_inplace(source.host().reshape(source.shape))
        binding = self._session.io_binding()
        for name, value in zip(self._inputs, slot.inputs, strict=True):
            binding.bind_ortvalue_input(name, value)
        if slot.output is None:
            binding.bind_output(self._output, self._device)
        else:
            binding.bind_ortvalue_output(self._output, slot.output)
        step, _ = slot.state.step(shapes)
        # ONNX Runtime records on the first run under a number, and replays from then on.
        self._run(binding, _NO_GRAPH if step is Step.RUN else str(slot.graph))
        if step is Step.RECORD:
            slot.state.recorded()
        if slot.output is None:
            slot.output = binding.get_outputs()[0]
        return self._copy_out(slot.output)

    def _run(self, binding: Any, graph: str) -> None:
        options = self._api.RunOptions()
        options.add_run_config_entry("gpu_graph_id", graph)
        binding.synchronize_inputs()
        with time_limit(self._timeout, _stopper(options), f"the {self._name} graph"):
            self._session.run_with_iobinding(binding, options)
        binding.synchronize_outputs()

    @staticmethod
    def _copy_out(value: Any) -> npt.NDArray[np.uint8]:
        # On the CPU `numpy` is a view of memory that the next run of these shapes writes into.
        return np.array(value.numpy())

    def _slot(self, shapes: tuple[tuple[int, ...], ...]) -> _Slot:
        if shapes in self._slots:
            self._slots.move_to_end(shapes)
            return self._slots[shapes]
        make = self._api.OrtValue.ortvalue_from_shape_and_type
        inputs = [make(list(shape), np.uint8, self._device, 0) for shape in shapes]
        # Recordings cannot be given back on every version, so only so many are made at all.
        capture = self._capture and self._graphs < _MOST_SLOTS
        slot = _Slot(inputs, self._graphs, capture=capture)
        self._graphs += capture
        self._slots[shapes] = slot
        if len(self._slots) > _MOST_SLOTS:
            # A recorded slot's memory is what its recording writes to: it stays.
            plain = next((key for key, old in self._slots.items() if not old.state.enabled), None)
            if plain is not None and plain != shapes:
                del self._slots[plain]
        return slot

    def close(self) -> None:
        """Drop the session and what is bound to it."""
        self._call(self._drop)

    def _drop(self) -> None:
        with self._lock:
            self._slots.clear()
            self._session = None
