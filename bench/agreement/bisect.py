"""Where two runs of a graph part: the first tensor that leaves its tolerance, found by bisection."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import onnx
import onnx_ir as ir

from ...export.ir_queries import label
from ...export.verify import Difference, Tolerance, compare
from ...runtime.errors import BackendError, UsageError
from ...runtime.model.running import load
from . import engine_tensors

if TYPE_CHECKING:
    import numpy.typing as npt

    from .outputs import Side

    Arrays = Mapping[str, npt.NDArray[Any]]

Values = Callable[[Sequence[str]], dict[str, "npt.NDArray[Any]"]]
"""Values of a graph's tensors, by name; each call runs the graph."""

DECISIONS: Final = frozenset(
    {
        "And",
        "ArgMax",
        "Ceil",
        "Equal",
        "Floor",
        "Greater",
        "GreaterOrEqual",
        "Less",
        "LessOrEqual",
        "Not",
        "Or",
        "Round",
    }
)
"""Operators whose outputs tip from one value to another where their inputs are equal but for rounding."""
DECISION_SHARE: Final = 0.05
"""Share of such outputs that may have tipped before that counts as the place where two runs part."""

_WIDTH: Final = 12
_SWEEP: Final = 48
"""Tensors per round where all are looked at."""


@dataclass(frozen=True)
class Tensor:
    """A tensor that both graphs have.

    Attributes:
        name: its name.
        node: the node of the reference's graph that computes it.
        operator: of the node.
        inputs: the tensors it is computed from, as far as both graphs have them and they are not sizes or weights.
    """

    name: str
    node: str
    operator: str
    inputs: tuple[str, ...]


@dataclass(frozen=True)
class Finding:
    """Where two runs of a graph part.

    Attributes:
        graph: which graph.
        tensor: the first tensor that is beyond its tolerance; None: all are within it.
        difference: how far it is off; None without a tensor.
        good: the tensors it is computed from, all within the tolerance.
        tipped: of those that are outputs of `DECISIONS`, the share of their elements that tipped, where some did.
        tensors: how many tensors both graphs have.
        runs: how often each side was run.
        visible: whether the graph's own output was beyond the tolerance.
    """

    graph: str
    tensor: Tensor | None
    difference: Difference | None
    good: tuple[str, ...]
    tipped: dict[str, float]
    tensors: int
    runs: int
    visible: bool

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""
        return asdict(self) | {"difference": self.difference and self.difference.to_dict()}

    def __str__(self) -> str:
        if self.tensor is None or self.difference is None:
            return f"{self.graph}: all of {self.tensors} tensors are within the tolerance ({self.runs} runs)"
        origin = ", ".join(self.good) or "the graph's inputs"
        tipped = "".join(
            f"; {name} tipped in {100 * share:.4f} % of its elements, which may be all: --layer-share looks on"
            for name, share in self.tipped.items()
        )
        return (
            f"{self.graph}: first beyond the tolerance is {self.tensor.name}, the output of {self.tensor.operator} "
            f"{self.tensor.node} ({self.difference}); what it is computed from, {origin}, is within it"
            f"{tipped} ({self.runs} runs, {self.tensors} tensors)"
        )


def tensors(reference: ir.Graph, other: ir.Graph) -> list[Tensor]:
    """The tensors that both graphs compute, in the reference's order, without whole numbers that are sizes.

    Args:
        reference: a graph.
        other: another form of it, which has named its tensors alike as far as they are the same.
    """
    data = _carrying_data(reference)
    common = {str(v.name) for node in other for v in node.outputs}
    names = [str(v.name) for v in data if str(v.name) in common]
    known = set(names)
    found = []
    for value in data:
        node = value.producer()
        if str(value.name) not in known or node is None:
            continue
        found.append(
            Tensor(str(value.name), label(node), node.op_type, tuple(dict.fromkeys(_sources(value, known))))
        )
    return found


def _carrying_data(graph: ir.Graph) -> list[ir.Value]:
    """Computed values that depend on the contents of the inputs, and not only on their sizes."""
    found: dict[ir.Value, None] = dict.fromkeys(graph.inputs)
    for node in graph:
        if node.op_type != "Shape" and any(value in found for value in node.inputs if value is not None):
            found.update(
                dict.fromkeys(value for value in node.outputs if value.uses() or value.is_graph_output())
            )
    return [value for value in found if value.producer() is not None]


def _sources(value: ir.Value, known: set[str]) -> list[str]:
    """The nearest known tensors that a value is computed from."""
    result: list[str] = []
    node = value.producer()
    stack = [] if node is None else [v for v in node.inputs if v is not None]
    seen: set[ir.Value] = set()
    while stack:
        current = stack.pop(0)
        if current in seen:
            continue
        seen.add(current)
        if str(current.name) in known:
            result.append(str(current.name))
        elif (before := current.producer()) is not None:
            stack.extend(v for v in before.inputs if v is not None)
    return result


class Bisection:
    """A search over the tensors of a graph, in their order.

    Each round takes a dozen tensors spread over what is left, runs both sides with these as further outputs, and goes
    on before the first that is bad. A difference can vanish again (behind a clip, or a rounding), so in the end the
    sources of the tensor found are looked at as well, and the search goes on before them if one is bad; and if no
    tensor was found, all are looked at.

    Args:
        order: the tensors.
        reference: values of the reference's tensors.
        other: values of the other side's.
        tolerance: what may differ.
        width: tensors per round.
    """

    def __init__(
        self,
        order: Sequence[Tensor],
        reference: Values,
        other: Values,
        tolerance: Tolerance,
        width: int = _WIDTH,
    ) -> None:
        self._order = list(order)
        self._place = {tensor.name: i for i, tensor in enumerate(order)}
        self._sides = (reference, other)
        self._tolerance = tolerance
        self._width = width
        self.known: dict[str, Difference] = {}
        self.runs = 0

    def look(self, names: Sequence[str]) -> None:
        """Run both sides and compare these tensors, unless that was done before."""
        missing = [name for name in dict.fromkeys(names) if name not in self.known]
        if not missing:
            return
        self.runs += 1
        references, values = (side(missing) for side in self._sides)
        for name in missing:
            tolerance = self._tolerance
            if self._order[self._place[name]].operator in DECISIONS:
                tolerance = replace(tolerance, share=max(tolerance.share, DECISION_SHARE))
            self.known[name] = compare(name, values[name], references[name], tolerance)

    def first(self, last: int) -> int | None:
        """The first bad tensor up to and including place `last`, or None."""
        low, high = -1, last
        self.look([self._order[last].name])
        found = None if self.known[self._order[last].name].ok else last
        while high - low > 1:
            step = max(1, (high - low) // (self._width + 1))
            places = list(range(low + step, high, step))[: self._width] or [low + 1]
            self.look([self._order[i].name for i in places])
            bad = next((i for i in places if not self.known[self._order[i].name].ok), None)
            if bad is not None:
                low, high, found = max((i for i in places if i < bad), default=low), bad, bad
            else:
                low = places[-1]
        return found

    def _sweep(self) -> int | None:
        """The first bad tensor of all, each looked at: what begins and vanishes between two looks."""
        for start in range(0, len(self._order), _SWEEP):
            part = self._order[start : start + _SWEEP]
            self.look([tensor.name for tensor in part])
            bad = next((self._place[tensor.name] for tensor in part if not self.known[tensor.name].ok), None)
            if bad is not None:
                return bad
        return None

    def _tipped(self, names: Sequence[str]) -> dict[str, float]:
        shares = {
            name: self.known[name].exceeding
            for name in names
            if self._order[self._place[name]].operator in DECISIONS
        }
        return {name: share for name, share in shares.items() if share > 0}

    def search(self, graph: str) -> Finding:
        """Find the first bad tensor."""
        end = len(self._order) - 1
        place = self.first(end)
        visible = not self.known[self._order[end].name].ok
        if place is None:
            place = self._sweep()
        while place is not None:
            tensor = self._order[place]
            self.look(tensor.inputs)
            bad = [self._place[name] for name in tensor.inputs if not self.known[name].ok]
            if not bad:
                return Finding(
                    graph,
                    tensor,
                    self.known[tensor.name],
                    tensor.inputs,
                    self._tipped(tensor.inputs),
                    len(self._order),
                    self.runs,
                    visible,
                )
            place = self.first(min(bad))
        return Finding(graph, None, None, (), {}, len(self._order), self.runs, visible)


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of each tensor, as far as it can be inferred: TensorRT's parser wants outputs to say theirs."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    # Types noted in the file may be those of another precision.
    del bare.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(bare, strict_mode=False)
    return {value.name: value.type.tensor_type.elem_type for value in inferred.graph.value_info}


def with_outputs(model: onnx.ModelProto, names: Sequence[str], types: Mapping[str, int]) -> bytes:
    """A serialized copy of a model with some of its tensors as further outputs.

    Args:
        model: the model.
        names: of the tensors.
        types: from `element_types`.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    present = {value.name for value in copy.graph.output}
    for name in names:
        if name not in present:
            copy.graph.output.append(onnx.helper.make_tensor_value_info(name, types.get(name, 0), None))
    return bytes(copy.SerializeToString())


def graph_values(side: Side, graph: str, feeds: Arrays) -> Values:
    """Values of a graph's tensors on one side of a comparison.

    A side that runs engines builds them again for each look, with the tensors as further outputs, and without whatever
    the builder would have fused across them.
    """
    model = onnx.load_model_from_string(side.graph(graph))
    types = element_types(model)

    def values(names: Sequence[str]) -> dict[str, npt.NDArray[Any]]:
        data = with_outputs(model, names, types)
        if side.product is not None:
            return engine_tensors.values(side.product, data, names, feeds)
        # Recorded graphs need bound memory; here each run is another session anyway.
        try:
            loaded = load(
                side.model(graph).with_data(data), side.backend, replace(side.options, cuda_graphs=False)
            )
            return loaded.run(dict(feeds), names)
        except BackendError as error:
            raise BackendError(f"{side.label} failed with further outputs of {graph}: {error}") from error

    return values


def bisect(one: Side, other: Side, graph: str, feeds: Arrays, tolerance: Tolerance) -> Finding:
    """Find where two sides part in one graph.

    Args:
        one: the reference.
        other: what is compared with it.
        graph: which graph.
        feeds: inputs by name.
        tolerance: of every tensor: |b - a| <= atol + rtol * |a|; NaN and infinities on one side alone are beyond it.
            Of the outputs of `DECISIONS` a share of `DECISION_SHARE` may exceed it.

    Raises:
        UsageError: the graphs have no tensors in common.
        BackendError: a side cannot run its graph with further outputs.
    """
    models = [ir.from_proto(onnx.load_model_from_string(s.graph(graph))) for s in (one, other)]
    order = tensors(models[0].graph, models[1].graph)
    if not order:
        raise UsageError(f"the two graphs {graph} have no tensors in common: they were exported apart")
    values = [graph_values(side, graph, feeds) for side in (one, other)]
    return Bisection(order, values[0], values[1], tolerance).search(graph)
