"""The graphs of a bundle as models of the same Triton server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from ...runtime.backends import Options
from ...runtime.codec.networks import Graphs

if TYPE_CHECKING:
    from ...runtime.bundle.folder import Bundle
    from ...runtime.bundle.manifest import GraphInfo, GraphName
    from ...runtime.image.arrays import Pixels

Call: TypeAlias = Callable[[str, Mapping[str, Any], str], Any]
"""Calls a model: its name, inputs by name, name of the output -> output. Raises OslicError."""


class ServedGraphs(Graphs):
    """Runs each graph by a call of the model that holds it; a search asks its graph in this process.

    Args:
        bundle: its manifest is enough, and for searches the file of their graph.
        model: name of a graph -> name of its model.
        call: calls a model; safe to use from several threads.
    """

    def __init__(self, bundle: Bundle, model: Callable[[GraphName], str], call: Call) -> None:
        self.bundle = bundle
        self._options = Options(threads=1)
        self._loading = threading.Lock()
        self._runners = {
            name: _ModelCall(model(name), info, call) for name, info in bundle.manifest.graphs.items()
        }


class _ModelCall:
    """One graph: see `runtime.backends.Runner`."""

    def __init__(self, model: str, info: GraphInfo, call: Call) -> None:
        self._model = model
        self._info = info
        self._call = call

    def __call__(self, *inputs: Any) -> Pixels:
        output: Pixels = self._call(
            self._model, dict(zip(self._info.inputs, inputs, strict=True)), self._info.output
        )
        return output

    def close(self) -> None:
        """Nothing is held: the server has the model."""
