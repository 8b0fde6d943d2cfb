"""What the graphs of a codec are given while pictures are coded: data for calibration and comparisons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..backends import Options
from ..model.samples import Sample
from .graphs import KindGraphs
from .registry import kind_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from ..bundle.folder import Bundle
    from ..image.arrays import Pixels
    from ..model.feeds import Feeds

_BACKEND: Final = "onnxruntime-cpu"


class RecordingRun:
    """Runs the graphs of a codec for one picture, and keeps what they are given. See `contract.Run`.

    Args:
        graphs: of the bundle.
        height: of the picture.
        width: likewise.

    Attributes:
        height, width: as given.
        feeds: by graph the inputs of each of its runs.
    """

    def __init__(self, graphs: KindGraphs, height: int, width: int) -> None:
        self.height = height
        self.width = width
        self.feeds: dict[str, list[Feeds]] = {}
        self._graphs = graphs

    def __call__(self, graph: str, **inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run a graph."""
        self.feeds.setdefault(graph, []).append({name: np.array(value) for name, value in inputs.items()})
        return self._graphs.run(graph, inputs)

    def check(self, what: str, values: npt.NDArray[Any]) -> None:
        """Both sides run here, on the same backend: there is nothing to find out."""


def record(
    bundle: Bundle, pictures: Iterable[tuple[str, Pixels]], threads: int | None
) -> dict[str, list[Sample]]:
    """Code pictures and decode them again, on ONNX Runtime.

    Args:
        bundle: of any kind but `oslic`.
        pictures: name and pixels of each, uint8 (H, W, 3), sides that are multiples of the bundle's number.
        threads: of the networks; None leaves it to the backend.

    Returns:
        By graph what it was given, in the order of the pictures.

    Raises:
        BundleError: the kind is not installed, or does not keep its contract.
    """
    kind = kind_of(bundle)
    found: dict[str, list[Sample]] = {}
    graphs = KindGraphs(bundle, _BACKEND, Options(threads=threads))
    try:
        for label, pixels in pictures:
            run = RecordingRun(graphs, *pixels.shape[:2])
            kind.decode(kind.encode(pixels, run), run)
            for name, feeds in run.feeds.items():
                found.setdefault(name, []).extend(Sample(label, each) for each in feeds)
    finally:
        graphs.close()
    return found
