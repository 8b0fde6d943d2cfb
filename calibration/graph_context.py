"""One float graph that is to be calibrated, and all that its steps share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from ..runtime.bundle.folder import Bundle
from ..runtime.bundle.manifest import GraphName
from .evaluator import BundleGraphJudge, Damage, FloatNetworks, GraphJudge, Judge, Layers
from .graph import Graph
from .options import Options
from .ort_profile import Kernel, profile
from .qdq_insertion import Quantized, Recipe, quantize
from .qdq_placement import Layer, Placement

if TYPE_CHECKING:
    import numpy.typing as npt

    Feeds = Mapping[str, npt.NDArray[Any]]

FEW: Final = 4
"""Samples on which layers are tried one by one."""


@dataclass(frozen=True)
class Work:
    """What the calibrations of a bundle's graphs share.

    Attributes:
        bundle: of float graphs.
        seen: photographs that ranges are measured on.
        judged: others, on which the quantized graphs are judged.
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

    def judge(self, layers: list[Layers]) -> Judge:
        """Who scores graphs on some photographs, in the form in which they are written."""
        return Judge(self.networks, layers, self.options.threads, as_written=self.options.as_written)


@dataclass(frozen=True)
class Subject:
    """One graph: anybody's, or one of a bundle's.

    Attributes:
        name: of the graph.
        where: its file, for messages.
        data: the serialized float model.
        graph: the same.
        seen: its inputs on the photographs that ranges are measured on.
        judged: its inputs on those that it is judged on.
        judge: scores it on all of these.
        quick_judge: scores it on a few: layer by layer there are many runs.
        budget: damage that all quantized layers together may do, see `evaluator.Damage.value`.
        options: how to calibrate.
        tick: gets short lines on the progress.
        alone: it is no part of a bundle: what is excluded must be found in it.
    """

    name: str
    where: str
    data: bytes
    graph: Graph
    seen: Sequence[Feeds]
    judged: Sequence[Feeds]
    judge: GraphJudge
    quick_judge: GraphJudge
    budget: float
    options: Options
    tick: Callable[[str], Any]
    alone: bool = True

    @classmethod
    def of(cls, name: GraphName, work: Work) -> Self:
        """A graph of a bundle.

        Raises:
            BundleError: it is quantized already, or has nothing to quantize.
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
            judge=BundleGraphJudge(work.judge(work.judged), name),
            quick_judge=BundleGraphJudge(work.judge(work.judged[:FEW]), name),
            budget=options.budget_labels if name == "segment" else options.budget_db / sharing,
            options=options,
            tick=work.tick,
            alone=False,
        )

    def weight_limit(self, made: Quantized) -> int | None:
        """What `open_session` is to know of a graph: nothing if no layer is quantized."""
        return self.options.weight_limit if made.weights else None

    def profile(self, data: bytes, runs: int, weight_limit: int | None) -> list[Kernel]:
        """Run a form of the graph on the first photograph that it is judged on; see `ort_profile.profile`."""
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
        """Quantize some layers and score the graph.

        Args:
            placement: of the graph in int8 forms.
            layers: which layers.
            recipe: how.
            quick: on a few photographs.
        """
        made = quantize(placement, placement.plan(layers), recipe)
        data = made.graph.model.SerializeToString()
        judge = self.quick_judge if quick else self.judge
        return judge.damage(data, self.weight_limit(made))
