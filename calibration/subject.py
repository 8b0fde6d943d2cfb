"""One float graph that is to be calibrated, and all that its steps share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from ..runtime.bundle import Bundle, GraphName
from .graph import Graph
from .judge import Damage, FloatNetworks, Judge, Layers
from .kernels import Kernel, profile
from .options import Options
from .placement import Layer, Placement
from .writing import Quantised, Recipe, quantise

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Feeds = dict[str, npt.NDArray[np.uint8]]

_FEW: Final = 4


@dataclass(frozen=True)
class Work:
    """What the calibrations of a bundle's graphs share.

    Attributes:
        bundle: of float graphs.
        seen: photographs that ranges are measured on.
        judged: others, on which the quantised graphs are judged.
        options: how to calibrate.
        networks: the float graphs, loaded.
        tick: gets short lines on the progress, many of them.
    """

    bundle: Bundle
    seen: list[Layers]
    judged: list[Layers]
    options: Options
    networks: FloatNetworks
    tick: Callable[[str], Any]


@dataclass(frozen=True)
class Subject:
    """One graph.

    Attributes:
        name: which graph.
        where: its file, for messages.
        data: the serialised float model.
        graph: the same.
        seen: its inputs on the photographs that ranges are measured on.
        judged: its inputs on those that it is judged on.
        image_shape: of the first of these photographs, N x H x W x 3.
        judge: scores it on all of these.
        quick_judge: scores it on a few: layer by layer there are many runs.
        budget: damage that all quantised layers together may do, see `judge.Damage.value`.
        options: how to calibrate.
        tick: gets short lines on the progress.
    """

    name: GraphName
    where: str
    data: bytes
    graph: Graph
    seen: list[Feeds]
    judged: list[Feeds]
    image_shape: tuple[int, ...]
    judge: Judge
    quick_judge: Judge
    budget: float
    options: Options
    tick: Callable[[str], Any]

    @classmethod
    def of(cls, name: GraphName, work: Work) -> Self:
        """A graph of the bundle.

        Raises:
            BundleError: it is quantised already, or has nothing to quantise.
        """
        options = work.options
        where, data = str(work.bundle.graph_path(name)), work.bundle.read_graph(name)
        graph = Graph.parse(data, where)
        graph.require_float(where)
        # The estimate's loss is shared by the graphs that it comes from.
        sharing = len({"analyse", "synthesise"} & set(options.graphs))
        return cls(
            name=name,
            where=where,
            data=data,
            graph=graph,
            seen=[layers.feeds(name) for layers in work.seen],
            judged=[layers.feeds(name) for layers in work.judged],
            image_shape=work.judged[0].image.shape,
            judge=Judge(work.networks, work.judged, options.threads),
            quick_judge=Judge(work.networks, work.judged[:_FEW], options.threads),
            budget=options.budget_labels if name == "segment" else options.budget_db / sharing,
            options=options,
            tick=work.tick,
        )

    def weight_limit(self, made: Quantised) -> int | None:
        """What `open_session` is to know of a graph: nothing if no layer is quantised."""
        return self.options.weight_limit if made.weights else None

    def profile(self, data: bytes, runs: int, weight_limit: int | None) -> list[Kernel]:
        """Run a form of the graph on the first photograph that it is judged on; see `kernels.profile`."""
        return profile(
            data,
            self.judged[0],
            where=self.where,
            threads=self.options.threads,
            runs=runs,
            weight_limit=weight_limit,
        )

    def score(
        self, placement: Placement, layers: Sequence[Layer], recipe: Recipe, *, quick: bool = False
    ) -> Damage:
        """Quantise some layers and score the graph.

        Args:
            placement: of the graph in int8 forms.
            layers: which layers.
            recipe: how.
            quick: on a few photographs.
        """
        made = quantise(placement, placement.plan(layers), recipe)
        data = made.graph.model.SerializeToString()
        judge = self.quick_judge if quick else self.judge
        return judge.damage(self.name, data, self.weight_limit(made))
