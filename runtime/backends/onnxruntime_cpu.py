"""ONNX Runtime on the CPU."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, ClassVar, cast

from ..errors import BackendError
from .protocol import Availability

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..bundle import Bundle, GraphName


def find_onnxruntime() -> tuple[Any, str]:
    """Import ONNX Runtime, whatever distribution brought it.

    Returns:
        The module, or None, and the reason why there is none.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        return None, "ONNX Runtime is not installed: pip install 'oslic[cpu]' (or 'oslic[gpu]')"
    try:
        import onnxruntime
    except ImportError as error:
        return None, f"ONNX Runtime is installed but does not load: {error}"
    if not hasattr(onnxruntime, "InferenceSession"):
        return None, "ONNX Runtime is only partly installed: pip install --force-reinstall onnxruntime"
    return onnxruntime, ""


class OnnxRuntimeRunner:
    """A session of ONNX Runtime, with one output."""

    def __init__(self, session: Any, name: str) -> None:
        self._session = session
        self._name = name
        self._inputs = [value.name for value in session.get_inputs()]
        self._outputs = [session.get_outputs()[0].name]

    def __call__(self, *inputs: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Run the graph: see `Runner`."""
        if self._session is None:
            raise BackendError(f"the {self._name} graph was closed")
        try:
            (output,) = self._session.run(self._outputs, dict(zip(self._inputs, inputs, strict=True)))
        except (RuntimeError, ValueError) as error:
            shapes = ", ".join(str(x.shape) for x in inputs)
            raise BackendError(
                f"ONNX Runtime failed in the {self._name} graph on inputs {shapes}: {error}"
            ) from error
        return cast("npt.NDArray[np.uint8]", output)

    def close(self) -> None:
        """Drop the session."""
        self._session = None


class OnnxRuntimeCpu:
    """ONNX Runtime's CPU execution provider."""

    name: ClassVar[str] = "onnxruntime-cpu"

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self._bundle = bundle
        self._threads = threads

    @classmethod
    def probe(cls, bundle: Bundle | None) -> Availability:
        """Say whether ONNX Runtime is installed; it takes every bundle."""
        del bundle
        onnxruntime, reason = find_onnxruntime()
        if onnxruntime is None:
            return Availability(False, None, reason)
        return Availability(True, onnxruntime.__version__, "runs everywhere")

    def load(self, graph: GraphName) -> OnnxRuntimeRunner:
        """Load one graph: see `Backend.load`."""
        onnxruntime, reason = find_onnxruntime()
        if onnxruntime is None:
            raise BackendError(reason)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        # Workers that spin between the graphs take the cores from the entropy coders.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        data = self._bundle.read_graph(graph)
        try:
            session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            raise BackendError(
                f"ONNX Runtime cannot load {self._bundle.graph_path(graph)}: {error}"
            ) from error
        return OnnxRuntimeRunner(session, graph)
