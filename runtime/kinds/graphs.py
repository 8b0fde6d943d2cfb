"""The graphs of a bundle of any kind on one backend."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from ..backends import Options, select
from ..errors import BackendError, BundleError
from ..model.running import Loaded, load
from ..model.source import model_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..bundle.folder import Bundle


class KindGraphs:
    """Runs the graphs of a bundle by name; each is loaded at its first use. Safe to use from several threads.

    Args:
        bundle: whose graphs.
        backend: a name from `oslic backends`, or "auto" for the best that is present.
        options: threads, precision and so on.

    Raises:
        BackendError: the backend is not usable; the message says why.
    """

    def __init__(self, bundle: Bundle, backend: str, options: Options) -> None:
        self.bundle = bundle
        self.selection = select(backend, bundle, options)
        self._options = options
        self._loaded: dict[str, Loaded] = {}
        self._loading = threading.Lock()

    def load(self, *names: str) -> None:
        """Load graphs ahead of their first use, so that it does not count into the first image's time.

        Raises:
            BundleError: the bundle has no such graph.
        """
        with self._loading:
            for name in names:
                if name not in self.bundle.manifest.graphs:
                    raise BundleError(f"the bundle {self.bundle.path} has no graph {name!r}")
                if name not in self._loaded:
                    self._loaded[name] = load(
                        model_of(self.bundle, name), self.selection.backend.name, self._options
                    )

    def run(self, name: str, inputs: dict[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """Run a graph and return its output.

        Raises:
            BundleError: the bundle has no such graph, or its output is missing.
            BackendError: the run failed.
        """
        self.load(name)
        info = self.bundle.manifest.graphs[name]
        if set(inputs) != set(info.inputs):
            raise BackendError(
                f"the {name} graph takes {', '.join(info.inputs)}, not {', '.join(inputs) or 'nothing'}"
            )
        return self._loaded[name].run(inputs, [info.output])[info.output]

    def close(self) -> None:
        """Give back what the graphs hold."""
        for graph in self._loaded.values():
            graph.close()
        self._loaded.clear()
