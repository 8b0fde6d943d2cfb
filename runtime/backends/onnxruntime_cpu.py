"""ONNX Runtime on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import BackendError
from . import sessions
from .protocol import Availability

if TYPE_CHECKING:
    from ..bundle import Bundle, GraphName
    from .protocol import Options


def open_session(data: bytes, threads: int | None) -> Any:
    """A session of ONNX Runtime on the CPU.

    Args:
        data: a serialised ONNX model.
        threads: threads to use; None leaves it the choice.

    Raises:
        BackendError: ONNX Runtime is missing, or cannot take the model.
    """
    onnxruntime, reason = sessions.find_onnxruntime()
    if onnxruntime is None:
        raise BackendError(reason)
    options = sessions.session_options(onnxruntime, threads)
    return sessions.open_session(onnxruntime, data, sessions.Provider(sessions.CPU, {}), options)


class OnnxRuntimeCpu:
    """ONNX Runtime's CPU execution provider."""

    name: ClassVar[str] = "onnxruntime-cpu"

    def __init__(self, bundle: Bundle, options: Options) -> None:
        self._bundle = bundle
        self._options = options

    @classmethod
    def probe(cls, bundle: Bundle | None, options: Options) -> Availability:
        """Say whether ONNX Runtime is installed; it takes every bundle."""
        onnxruntime, reason = sessions.find_onnxruntime()
        if onnxruntime is None:
            return Availability(False, None, reason)
        version = str(onnxruntime.__version__)
        try:
            if bundle is not None:
                for graph in bundle.manifest.graphs:
                    sessions.require_precision(bundle, graph, cls.name, options)
        except BackendError as error:
            return Availability(False, version, str(error))
        return Availability(True, version, "runs everywhere")

    def load(self, graph: GraphName) -> sessions.HostRunner:
        """Load one graph: see `Backend.load`."""
        sessions.require_precision(self._bundle, graph, self.name, self._options)
        data = self._bundle.read_graph(graph)
        try:
            return sessions.HostRunner(open_session(data, self._options.threads), graph)
        except BackendError as error:
            raise BackendError(f"{self._bundle.graph_path(graph)}: {error}") from error
