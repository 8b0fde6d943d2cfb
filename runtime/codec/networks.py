"""The graphs of a bundle on one backend, for images of any size."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Self

import numpy as np

from ..backends import Options, Runner, select
from ..backends.onnxruntime.cpu import thrifty_runner
from ..backends.onnxruntime.sessions import HostRunner
from ..bundle.folder import Bundle
from ..bundle.manifest import COMPACT_SCALE, SEARCH_FILE, GraphName, Manifest
from ..errors import BundleError, UsageError
from ..image.arrays import ceil_div, extend, mirror
from .search import SMALLEST_SIDE, search

if TYPE_CHECKING:
    from ..image.arrays import Pixels
    from .search import SearchSettings


class Graphs:
    """Runs segment, analyse, synthesise and, where there is one, refine; each is loaded at its first use.

    Safe to use from several threads.

    The graphs take sides that are multiples of the bundle's number: images are extended by their edges, outputs cut.

    Args:
        bundle: whose graphs.
        backend: a name from `oslic backends`, or "auto" for the best that is present.
        options: threads and precision.

    Raises:
        BackendError: the backend is not usable; the message says why.

    Warns:
        PassedOverWarning: "auto" took a slower backend than this machine or this bundle is meant for.
    """

    _closed = False
    _searching: HostRunner | None = None

    def __init__(self, bundle: Bundle, backend: str, options: Options) -> None:
        self.bundle = bundle
        self.selection = select(backend, bundle, options)
        self._options = options
        self._runners: dict[GraphName, Runner] = {}
        self._loading = threading.Lock()

    def close(self) -> None:
        """Give back what the backend holds. The graphs cannot be used afterwards."""
        self._closed = True
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()
        if self._searching is not None:
            self._searching.close()
            self._searching = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def load(self, *graphs: GraphName) -> None:
        """Load graphs ahead of their first use, so that it does not count into the first image's time."""
        with self._loading:
            if self._closed:
                raise UsageError("the codec was closed: open it again")
            for graph in graphs:
                if graph not in self._runners:
                    self._runners[graph] = self.selection.backend.load(graph)

    def run(self, graph: GraphName, *inputs: Pixels) -> Pixels:
        """Run one graph on a batch as it is: all arrays with N first, sides that the graph takes.

        Raises:
            BundleError: what comes back is not what the graph of a bundle must give.
            BackendError: the run failed.
            LimitError: it took longer than `Options.timeout`.
        """
        self.load(graph)
        output = self._runners[graph](*inputs)
        _check_output(output, graph, inputs[0].shape, self.bundle)
        return output

    def _run_one(self, graph: GraphName, *inputs: Pixels) -> Pixels:
        output: Pixels = self.run(graph, *(x[np.newaxis] for x in inputs))[0]
        return output

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        multiple = self.bundle.manifest.multiple
        return ceil_div(height, multiple) * multiple, ceil_div(width, multiple) * multiple

    def give_back(self) -> None:
        """Return memory that `synthesise` keeps for its next run, where the backend keeps any on the host."""
        runner, manifest = self._runners.get("synthesise"), self.bundle.manifest
        if isinstance(runner, HostRunner):
            side = manifest.multiple
            compact = np.zeros((1, side // COMPACT_SCALE, side // COMPACT_SCALE, 3), np.uint8)
            labels = np.zeros((1, side // manifest.label_scale, side // manifest.label_scale), np.uint8)
            runner.give_back(compact, labels)

    def segment(self, image: Pixels) -> Pixels:
        """Return the label map of a picture as it is stored.

        Args:
            image: uint8 (h, w, 3), the picture at the size at which the network is to see it; see `segmentation`.

        Returns:
            uint8 (ceil(h/s), ceil(w/s)), values below K; s is the manifest's `label_scale`.
        """
        height, width = image.shape[:2]
        scale = self.bundle.manifest.label_scale
        labels = self._run_one("segment", mirror(image, *self._padded(height, width)))
        return np.ascontiguousarray(labels[: ceil_div(height, scale), : ceil_div(width, scale)])

    def analyse(self, image: Pixels, labels: Pixels) -> Pixels:
        """Return the compact image as it is stored.

        Args:
            image: uint8 (H, W, 3).
            labels: uint8 (ceil(H/Q), ceil(W/Q)); Q is the manifest's `label_scale`.

        Returns:
            uint8 (ceil(H/8), ceil(W/8), 3), values 0..L-1.
        """
        height, width = image.shape[:2]
        padded = self._padded(height, width)
        compact = self._run_one("analyse", extend(image, *padded), self._extended_labels(labels, padded))
        return np.ascontiguousarray(
            compact[: ceil_div(height, COMPACT_SCALE), : ceil_div(width, COMPACT_SCALE)]
        )

    def search(self, compact: Pixels, labels: Pixels, image: Pixels, settings: SearchSettings) -> Pixels:
        """Return a better compact image, where one is found; see `search`.

        Args:
            compact: as `analyse` returns it.
            labels: as for `analyse`.
            image: as for `analyse`.
            settings: how long, and for what.

        Returns:
            uint8, in the shape of `compact`.

        Raises:
            BackendError: ONNX Runtime, which runs the bundle's search graph, is not there.
        """
        sides = [max(side, SMALLEST_SIDE) for side in image.shape[:2]]
        padded = self._padded(*sides)
        found = search(
            self._search_graph(),
            extend(compact, padded[0] // COMPACT_SCALE, padded[1] // COMPACT_SCALE),
            self._extended_labels(labels, padded),
            extend(image, *padded),
            levels=self.bundle.manifest.levels,
            settings=settings,
        )
        return np.ascontiguousarray(found[: compact.shape[0], : compact.shape[1]])

    def _search_graph(self) -> HostRunner:
        """The graph that a search asks; whatever the backend is, ONNX Runtime runs it on the CPU."""
        with self._loading:
            if self._searching is None:
                self._searching = thrifty_runner(
                    self.bundle.read_file(SEARCH_FILE),
                    SEARCH_FILE,
                    self._options.threads,
                    timeout=self._options.timeout,
                )
            return self._searching

    def synthesise(self, compact: Pixels, labels: Pixels, height: int, width: int) -> Pixels:
        """Return the estimate.

        Args:
            compact: as `analyse` returns it.
            labels: uint8 (ceil(H/Q), ceil(W/Q)); Q is the manifest's `label_scale`.
            height: of the image.
            width: of the image.

        Returns:
            uint8 (height, width, 3).
        """
        padded = self._padded(height, width)
        extended = extend(compact, padded[0] // COMPACT_SCALE, padded[1] // COMPACT_SCALE)
        estimate = self._run_one("synthesise", extended, self._extended_labels(labels, padded))
        return np.ascontiguousarray(estimate[:height, :width])

    def refine(self, decoded: Pixels, estimate: Pixels, *, quality: int, visual: bool) -> Pixels:
        """Return the refined picture.

        Args:
            decoded: x', uint8 (H, W, 3).
            estimate: e, likewise; x' where the picture has no layers.
            quality: of the residual, 0..100.
            visual: whether the residual was tuned for the eye.

        Returns:
            uint8 (H, W, 3).
        """
        height, width = decoded.shape[:2]
        padded = self._padded(height, width)
        settings = np.array([quality, int(visual)], np.uint8)
        refined = self._run_one("refine", extend(decoded, *padded), extend(estimate, *padded), settings)
        return np.ascontiguousarray(refined[:height, :width])

    def _extended_labels(self, labels: Pixels, padded: tuple[int, int]) -> Pixels:
        scale = self.bundle.manifest.label_scale
        return extend(labels, padded[0] // scale, padded[1] // scale)


def _check_output(output: object, graph: GraphName, given: tuple[int, ...], bundle: Bundle) -> None:
    """Refuse an output that is not what the graph must give: a bundle may hold any graph.

    Args:
        output: what a backend returned.
        graph: which graph.
        given: shape of the graph's first input: (N, H, W, 3) of the image or (N, H/8, W/8, 3) of the compact image.
        bundle: that the graph is from.

    Raises:
        BundleError: another number of outputs, dtype, rank or shape, or values that its manifest rules out.
    """
    where = f"{bundle.graph_path(graph)}: the {graph} graph"
    count, height, width, _ = given
    scale = bundle.manifest.label_scale
    shapes = {
        "segment": (count, height // scale, width // scale),
        "analyse": (count, height // COMPACT_SCALE, width // COMPACT_SCALE, 3),
        "synthesise": (count, height * COMPACT_SCALE, width * COMPACT_SCALE, 3),
        "refine": (count, height, width, 3),
    }
    if not isinstance(output, np.ndarray):
        raise BundleError(f"{where} gave no tensor; export the bundle again")
    if output.dtype != np.uint8 or output.shape != shapes[graph]:
        raise BundleError(
            f"{where} gave {output.dtype} {output.shape}, must give uint8 {shapes[graph]}; export the bundle again"
        )
    values = _value_count(graph, bundle.manifest)
    largest = int(output.max(initial=0))
    if largest >= values:
        raise BundleError(f"{where} gave the value {largest}, must give values below {values}")


def _value_count(graph: GraphName, manifest: Manifest) -> int:
    """How many values a graph's output can take, from 0 on."""
    if graph == "segment":
        return len(manifest.classes)
    return manifest.levels if graph == "analyse" else 256
