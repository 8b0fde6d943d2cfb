"""Judging the quantized graphs of a bundle on photographs that no range was measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from ..measure.metrics import psnr
from ..runtime.bundle.folder import Bundle
from ..runtime.bundle.manifest import GraphName
from ..runtime.image.arrays import ceil_div, mirror
from ..runtime.segmentation_size import labels_on, reduce_image, reduction_for
from ..runtime.tiling import Box
from .images import Photograph
from .ort_session import Session

if TYPE_CHECKING:
    from ..runtime.image.arrays import Pixels

# Equal images have an infinite PSNR; nobody sees more than this.
_MOST_DB: Final = 99.0


@dataclass(frozen=True)
class Layers:
    """A photograph and what the float networks make of it, as batches of one.

    Attributes:
        name: of the file.
        image: uint8 (1, H, W, 3).
        seen: uint8 (1, h, w, 3), the image as `segment` sees it: reduced and padded.
        label_map: uint8 (1, h/Q, w/Q), what `segment` makes of it.
        labels: uint8 (1, H/Q, W/Q), the same on the image's grid.
        compact: uint8 (1, H/8, W/8, 3).
        estimate: uint8 (1, H, W, 3).
    """

    name: str
    image: Pixels
    seen: Pixels
    label_map: Pixels
    labels: Pixels
    compact: Pixels
    estimate: Pixels

    def feeds(self, graph: GraphName) -> dict[str, Pixels]:
        """The inputs of a graph by name."""
        return {
            "segment": {"image": self.seen},
            "analyse": {"image": self.image, "labels": self.labels},
            "synthesise": {"compact": self.compact, "labels": self.labels},
        }[graph]


class FloatNetworks:
    """The float graphs of a bundle.

    Args:
        bundle: of float graphs.
        threads: threads per run.
    """

    def __init__(self, bundle: Bundle, threads: int) -> None:
        names: tuple[GraphName, ...] = ("segment", "analyse", "synthesise")
        self._multiple = bundle.manifest.multiple
        self._label_scale = bundle.manifest.label_scale
        self._sessions = {
            name: Session(bundle.read_graph(name), threads, where=str(bundle.graph_path(name)))
            for name in names
        }

    def run(self, graph: GraphName, feeds: dict[str, Pixels]) -> Pixels:
        """Run one graph on a batch."""
        output: Pixels = self._sessions[graph].run(feeds)[0]
        return output

    def layers(self, photograph: Photograph) -> Layers:
        """Run all three."""
        image = photograph.pixels[np.newaxis]
        seen = self._seen(photograph.pixels)[np.newaxis]
        label_map = self.run("segment", {"image": seen})
        labels = self.spread(label_map, image)
        compact = self.run("analyse", {"image": image, "labels": labels})
        estimate = self.run("synthesise", {"compact": compact, "labels": labels})
        return Layers(photograph.name, image, seen, label_map, labels, compact, estimate)

    def _seen(self, pixels: Pixels) -> Pixels:
        small = reduce_image(pixels, reduction_for(*pixels.shape[:2]))
        height, width = (ceil_div(side, self._multiple) * self._multiple for side in small.shape[:2])
        return mirror(small, height, width)

    def spread(self, label_map: Pixels, image: Pixels) -> Pixels:
        """A label map, (1, h/Q, w/Q), on the grid of its image, (1, H, W, 3): uint8 (1, H/Q, W/Q)."""
        height, width = image.shape[1:3]
        scale = self._label_scale * reduction_for(height, width)
        return labels_on(label_map[0], scale, Box(0, 0, width, height), self._label_scale)[np.newaxis]


@dataclass(frozen=True)
class Damage:
    """What a quantized graph costs.

    Attributes:
        value: what counts against the budget; the more, the worse. Of a bundle: the share of the labels that change
            (`segment`), else the loss of the estimate's PSNR in dB, mean over the photographs, negative if it gained;
            of other graphs as `outputs.OutputJudge` says.
        score: the figure that the budget is about, as the user reads it: PSNR of the estimate in dB, ...
        agreement: how near the outputs are to the float graph's, the more the nearer: PSNR or SQNR in dB; for labels,
            the share that agree.
    """

    value: float
    score: float
    agreement: float


class GraphJudge(Protocol):
    """Scores quantized forms of one graph."""

    @property
    def measure(self) -> str:
        """What `Damage.score` is, in words."""

    def damage(self, data: bytes, weight_limit: int | None) -> Damage:
        """Score a form of the graph.

        Args:
            data: the serialized model.
            weight_limit: see `open_session`.
        """

    def before(self) -> float:
        """The score of the float graph."""

    def text(self, value: float) -> str:
        """A damage or a budget in words."""


@dataclass(frozen=True)
class BundleGraphJudge:
    """Scores one graph of a bundle, the other graphs in float.

    Attributes:
        judge: of the bundle.
        graph: which one.
    """

    judge: Judge
    graph: GraphName

    @property
    def measure(self) -> str:
        """See `GraphJudge.measure`."""
        return "PSNR of the estimate, dB"

    def damage(self, data: bytes, weight_limit: int | None) -> Damage:
        """See `GraphJudge.damage`."""
        return self.judge.damage(self.graph, data, weight_limit)

    def before(self) -> float:
        """See `GraphJudge.before`."""
        return self.judge.float_db()

    def text(self, value: float) -> str:
        """See `GraphJudge.text`."""
        return f"{100 * value:.2f} % of the labels change" if self.graph == "segment" else f"{value:.4f} dB"


class Judge:
    """Scores quantized graphs against the float ones.

    Args:
        networks: the float graphs.
        layers: of the photographs to judge on.
        threads: threads per run.
        as_written: quantized graphs are run in the form that they are in, not in uint8.
    """

    def __init__(
        self, networks: FloatNetworks, layers: list[Layers], threads: int, *, as_written: bool = False
    ) -> None:
        self._networks = networks
        self._layers = layers
        self._threads = threads
        self._as_written = as_written

    def float_db(self) -> float:
        """Mean PSNR of the float estimate."""
        return float(np.mean([_psnr(layer.image, layer.estimate) for layer in self._layers]))

    def damage(self, graph: GraphName, data: bytes, weight_limit: int | None) -> Damage:
        """Score a graph.

        Args:
            graph: which one it replaces.
            data: the serialized model.
            weight_limit: see `open_session`.
        """
        session = self._session(graph, data, weight_limit)
        outputs = [session.run(layer.feeds(graph))[0] for layer in self._layers]
        if graph == "segment":
            same = float(
                np.mean([np.mean(o == x.label_map) for o, x in zip(outputs, self._layers, strict=True)])
            )
            return Damage(1 - same, self.float_db(), same)
        agreement, estimates = [], []
        for output, layer in zip(outputs, self._layers, strict=True):
            estimate = output
            agreement.append(_psnr(layer.compact if graph == "analyse" else layer.estimate, output))
            if graph == "analyse":
                estimate = self._networks.run("synthesise", {"compact": output, "labels": layer.labels})
            estimates.append(_psnr(layer.image, estimate))
        mean = float(np.mean(estimates))
        return Damage(self.float_db() - mean, mean, float(np.mean(agreement)))

    def together(self, models: dict[GraphName, tuple[bytes, int | None]]) -> dict[str, Any]:
        """Score all graphs in a row, each fed by those before it, as the codec runs them.

        Args:
            models: serialized model and weight limit of each graph.
        """
        sessions = {name: self._session(name, data, limit) for name, (data, limit) in models.items()}
        same, changed, estimates = [], [], []
        for layer in self._layers:
            (label_map,) = sessions["segment"].run({"image": layer.seen})
            labels = self._networks.spread(label_map, layer.image)
            (compact,) = sessions["analyse"].run({"image": layer.image, "labels": labels})
            (estimate,) = sessions["synthesise"].run({"compact": compact, "labels": labels})
            same.append(np.mean(label_map == layer.label_map))
            changed.append(np.mean(compact != layer.compact))
            estimates.append(_psnr(layer.image, estimate))
        return {
            "estimate_db": {"before": self.float_db(), "after": float(np.mean(estimates))},
            "labels_changed": 1 - float(np.mean(same)),
            "compact_changed": float(np.mean(changed)),
        }

    def _session(self, graph: GraphName, data: bytes, weight_limit: int | None) -> Session:
        return Session(
            data,
            self._threads,
            where=f"the quantized graph '{graph}'",
            weight_limit=weight_limit,
            as_written=self._as_written,
        )


def _psnr(image: Pixels, other: Pixels) -> float:
    return min(psnr(image, other), _MOST_DB)
