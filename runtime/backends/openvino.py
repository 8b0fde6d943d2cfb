"""OpenVINO on the CPU.

OpenVINO reads ONNX itself, computes in bfloat16 wherever the processor can unless it is told otherwise, and has kernels
for activations in uint8 (`runtime.bundle.uint8_form`). Here it computes what the graph says: float32 stays float32, and
bfloat16 or float16 must be asked for.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from ..bundle.uint8_form import uint8_activations, weight_limit
from ..errors import BackendError, BundleError, UsageError, one_line
from ..model.header import read_header
from .base import Availability, LayerTime, Options
from .cuda.arrays import view
from .exactness import require_exact

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..bundle.folder import Bundle
    from ..bundle.manifest import GraphName
    from ..model.source import Model

# How OpenVINO calls the precisions in which it can be told to compute a float graph.
_HINTS: Final = {None: "f32", "fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_NEEDED: Final = {"bf16": "BF16", "fp16": "FP16"}
_DEVICE: Final = "CPU"
_TELEMETRY: Final = "openvino_telemetry"


@functools.cache
def _core(module: Any) -> Any:
    return module.Core()


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """While entered, OpenVINO starts without telemetry.

    Its conversion tools, which come along, else write an identifier below the user's home when they are imported, and
    send what imported them. They fall back to a stub where the package that does so is missing; no setting prevents it.
    """
    if _TELEMETRY in sys.modules:
        yield
        return
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment] # makes its import fail
    try:
        yield
    finally:
        del sys.modules[_TELEMETRY]


def find_openvino() -> tuple[Any, str]:
    """Import OpenVINO; where nobody has before, without telemetry.

    Returns:
        The module, or None, and the reason why there is none.
    """
    if importlib.util.find_spec("openvino") is None:
        return None, "OpenVINO is not installed: pip install 'oslic[openvino]'"
    try:
        with _without_telemetry():
            return importlib.import_module("openvino"), ""
    except ImportError as error:
        return None, f"OpenVINO is installed but does not load: {one_line(error)}"


class OpenVinoRunner:
    """One compiled graph with its request.

    Args:
        compile_: compiles the graph; with True so that it counts the time of its layers.
        name: of the graph, for messages.
        inputs: names of the graph's inputs, in order; OpenVINO drops those on which nothing depends.

    Attributes:
        inputs: their names, in order.
        outputs: their names, in order.
    """

    def __init__(self, compile_: Any, name: str, inputs: tuple[str, ...]) -> None:
        self._compile = compile_
        self._name = name
        self._compiled = compile_(False)
        # One for each thread that calls: making one takes longer than a small graph.
        self._requests = threading.local()
        self.inputs = inputs
        self.outputs = tuple(port.get_any_name() for port in self._compiled.outputs)

    def __call__(self, *inputs: Any) -> npt.NDArray[np.uint8]:
        """Run the graph: see `Runner`."""
        if len(inputs) != len(self.inputs):
            raise BackendError(f"the {self._name} graph takes {len(self.inputs)} inputs, not {len(inputs)}")
        arrays = [x if isinstance(x, np.ndarray) else _in_host_memory(x) for x in inputs]
        first: npt.NDArray[np.uint8] = self.run(
            dict(zip(self.inputs, arrays, strict=True)), self.outputs[:1]
        )[self.outputs[0]]
        return first

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], names: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Run the graph: see `ModelRunner`."""
        found = self._infer(self._compiled, feeds)
        wanted = self.outputs if names is None else names
        return {name: np.array(found[self.outputs.index(name)]) for name in wanted}

    def _infer(self, compiled: Any, feeds: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
        if compiled is None:
            raise BackendError(f"the {self._name} graph was closed")
        try:
            request = getattr(self._requests, "one", None)
            if request is None:
                request = self._requests.one = compiled.create_infer_request()
            return list(request.infer(_read(compiled, feeds)).values())
        except Exception as error:  # OpenVINO's exceptions have no common base but this
            shapes = ", ".join(str(x.shape) for x in feeds.values())
            raise BackendError(
                f"OpenVINO failed in the {self._name} graph on inputs {shapes}: {one_line(error)}"
            ) from error

    def layer_times(self, feeds: Mapping[str, npt.NDArray[Any]], runs: int) -> list[LayerTime]:
        """Time each node of the compiled graph: see `ModelRunner`."""
        compiled = self._compile(True)
        request = compiled.create_infer_request()
        fastest: dict[str, LayerTime] = {}
        for _ in range(runs):
            request.infer(_read(compiled, feeds))
            for node in request.get_profiling_info():
                ms = node.real_time.total_seconds() * 1e3
                known = fastest.get(node.node_name)
                if ms > 0 and (known is None or ms < known.milliseconds):
                    kind = f"{node.node_type} {node.exec_type}"
                    fastest[node.node_name] = LayerTime(node.node_name, kind, ms)
        return list(fastest.values())

    @property
    def device_milliseconds(self) -> float | None:
        """None: the device is the processor."""
        return None

    def close(self) -> None:
        """Drop the compiled graph."""
        self._compiled = None
        self._requests = threading.local()


def _read(compiled: Any, feeds: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The arrays that the compiled graph reads: it has lost the inputs on which nothing depends."""
    names = {port.get_any_name() for port in compiled.inputs}
    return {name: array for name, array in feeds.items() if name in names}


def _in_host_memory(array: Any) -> npt.NDArray[np.uint8]:
    source = view(array)
    if source.on_device:
        raise BackendError("an input lies on a GPU; this backend takes arrays in host memory")
    return source.host().reshape(source.shape)


def _compiler(data: bytes, options: Options) -> Any:
    """A function that compiles the graph.

    Raises:
        BackendError: OpenVINO is missing, does not take the graph or the options.
    """
    module, reason = find_openvino()
    if module is None:
        raise BackendError(reason)
    _require_options(options)
    core = _core(module)
    hint = _HINTS[options.precision]
    needed = _NEEDED.get(options.precision or "")
    if needed and needed not in core.get_property(_DEVICE, "OPTIMIZATION_CAPABILITIES"):
        raise BackendError(f"this processor has no {options.precision} for OpenVINO: leave the precision out")
    settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": hint}
    if options.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = options.threads

    def compile_(counting: bool) -> Any:
        try:
            model = core.read_model(data)
            return core.compile_model(model, _DEVICE, settings | {"PERF_COUNT": counting})
        except Exception as error:  # OpenVINO's exceptions have no common base but this
            raise BackendError(f"OpenVINO cannot load the graph: {one_line(error, 300)}") from error

    return compile_


def _require_options(options: Options) -> None:
    if options.precision not in _HINTS:
        raise BackendError(
            f"openvino computes float graphs in fp32, bf16 or fp16, not in {options.precision}: int8 is a graph of its "
            "own (`oslic calibrate`)"
        )
    if options.timeout is not None:
        raise BackendError("OpenVINO cannot be interrupted: leave the time limit out")
    if not options.optimize:
        raise BackendError("OpenVINO compiles each graph: there is no running it unoptimized")


class OpenVino:
    """OpenVINO's CPU plugin."""

    name: ClassVar[str] = "openvino"

    def __init__(self, bundle: Bundle, options: Options) -> None:
        self._bundle = bundle
        self._options = options

    @classmethod
    def probe(cls, bundle: Bundle | None, options: Options) -> Availability:
        """Say whether OpenVINO is installed; it takes every bundle but exact ones."""
        module, reason = find_openvino()
        if module is None:
            return Availability(False, None, reason)
        version = str(module.__version__).split("-", maxsplit=1)[0]
        try:
            _require_options(options)
            if bundle is not None:
                require_exact(bundle, cls.name)
        except BackendError as error:
            return Availability(False, version, str(error))
        return Availability(True, version, "runs on the CPU, in float32 unless bf16 or fp16 is asked for")

    def load(self, graph: GraphName) -> OpenVinoRunner:
        """Load one graph: see `Backend.load`."""
        require_exact(self._bundle, self.name)
        path = self._bundle.graph_path(graph)
        data = self._bundle.read_graph(graph)
        ports = self._bundle.manifest.graphs[graph]
        try:
            if weight_limit(self._bundle.manifest, graph) is not None:
                data = uint8_activations(data, "the graph")
            runner = OpenVinoRunner(_compiler(data, self._options), graph, ports.inputs)
        except (BackendError, BundleError) as error:
            raise type(error)(f"{path}: {error}") from error
        header = read_header(data, path)
        found = (tuple(p.name for p in header.inputs), tuple(p.name for p in header.outputs))
        if found != (ports.inputs, (ports.output,)):
            raise BundleError(
                f"{path}: the graph has the inputs and outputs {found}, the manifest says {ports.inputs} and "
                f"{ports.output}"
            )
        return runner

    @classmethod
    def open(cls, model: Model, options: Options) -> OpenVinoRunner:
        """Load any ONNX graph: see `Backend.open`."""
        data = model.data
        try:
            if model.weight_limit is not None:
                data = uint8_activations(data, "the graph")
            names = tuple(port.name for port in model.inputs)
            return OpenVinoRunner(_compiler(data, options), model.name, names)
        except BundleError as error:
            raise UsageError(f"{model.path}: {error}") from error
        except BackendError as error:
            raise BackendError(f"{model.path}: {error}") from error
