"""The three graphs of a bundle on one backend, for images of any size."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from .backends import Options, Runner, select
from .bundle import COMPACT_SCALE, Bundle, GraphName
from .limits import Limits
from .pixels import ceil_div, extend

if TYPE_CHECKING:
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

# Pixels, estimate, residual, samples and the reconstruction, with their temporaries.
_ARRAY_BYTES_PER_PIXEL: Final = 32


class Graphs:
    """Runs segment, analyse and synthesise; each is loaded at its first use. Safe to use from several threads.

    The graphs take sides that are multiples of the bundle's number: images are extended by their edges, outputs cut.

    Args:
        bundle: whose graphs.
        backend: a name from `oslic backends`, or "auto" for the best that is present.
        options: threads and precision.
        limits: what to refuse.

    Raises:
        BackendError: the backend is not usable; the message says why.

    Warns:
        PassedOverWarning: "auto" took a slower backend than this machine or this bundle is meant for.
    """

    def __init__(self, bundle: Bundle, backend: str, options: Options, limits: Limits) -> None:
        self.bundle = bundle
        self.selection = select(backend, bundle, options)
        self._limits = limits
        self._runners: dict[GraphName, Runner] = {}
        self._loading = threading.Lock()

    def close(self) -> None:
        """Give back what the backend holds."""
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def load(self, *graphs: GraphName) -> None:
        """Load graphs ahead of their first use, so that it does not count into the first image's time."""
        with self._loading:
            for graph in graphs:
                if graph not in self._runners:
                    self._runners[graph] = self.selection.backend.load(graph)

    def run(self, graph: GraphName, *inputs: Pixels) -> Pixels:
        """Run one graph on a batch as it is: all arrays with N first, sides that the graph takes."""
        self.load(graph)
        return self._runners[graph](*inputs)

    def _run_one(self, graph: GraphName, *inputs: Pixels) -> Pixels:
        output: Pixels = self.run(graph, *(x[np.newaxis] for x in inputs))[0]
        return output

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        multiple = self.bundle.manifest.multiple
        return ceil_div(height, multiple) * multiple, ceil_div(width, multiple) * multiple

    def check_memory(self, height: int, width: int, *graphs: GraphName) -> None:
        """Refuse an image whose graphs need more memory than the limits allow.

        Raises:
            LimitError: the message names a size that fits.
        """
        padded = self._padded(height, width)
        infos = self.bundle.manifest.graphs
        most = max(infos[graph].working_bytes_per_pixel for graph in graphs)
        self._limits.check_memory(padded[1], padded[0], most + _ARRAY_BYTES_PER_PIXEL)

    def segment(self, image: Pixels) -> Pixels:
        """Return the label map as it is stored.

        Args:
            image: uint8 (H, W, 3).

        Returns:
            uint8 (ceil(H/S), ceil(W/S)), values below K.
        """
        height, width = image.shape[:2]
        scale = self.bundle.manifest.label_scale
        labels = self._run_one("segment", extend(image, *self._padded(height, width)))
        return np.ascontiguousarray(labels[: ceil_div(height, scale), : ceil_div(width, scale)])

    def analyse(self, image: Pixels, labels: Pixels) -> Pixels:
        """Return the compact image as it is stored.

        Args:
            image: uint8 (H, W, 3).
            labels: as `segment` returns them.

        Returns:
            uint8 (ceil(H/8), ceil(W/8), 3), values 0..L-1.
        """
        height, width = image.shape[:2]
        padded = self._padded(height, width)
        compact = self._run_one("analyse", extend(image, *padded), self._extended_labels(labels, padded))
        return np.ascontiguousarray(
            compact[: ceil_div(height, COMPACT_SCALE), : ceil_div(width, COMPACT_SCALE)]
        )

    def synthesise(self, compact: Pixels, labels: Pixels, height: int, width: int) -> Pixels:
        """Return the estimate.

        Args:
            compact: as `analyse` returns it.
            labels: as `segment` returns them.
            height: of the image.
            width: of the image.

        Returns:
            uint8 (height, width, 3).
        """
        padded = self._padded(height, width)
        extended = extend(compact, padded[0] // COMPACT_SCALE, padded[1] // COMPACT_SCALE)
        estimate = self._run_one("synthesise", extended, self._extended_labels(labels, padded))
        return np.ascontiguousarray(estimate[:height, :width])

    def _extended_labels(self, labels: Pixels, padded: tuple[int, int]) -> Pixels:
        scale = self.bundle.manifest.label_scale
        return extend(labels, padded[0] // scale, padded[1] // scale)
