"""Where Q/DQ pairs stand: on the inputs and outputs of int8 convolutions, through what moves and adds their values.

ONNX Runtime and TensorRT fuse different patterns. What both take, and what is written here:

* Convolution, ReLU, Q: the ReLU stays before the Q. TensorRT fuses all three. ONNX Runtime leaves the ReLU out
  where the smallest integer stands for 0, which is so in the uint8 form of the graph (`runtime.bundle.uint8_form`), and
  a ReLU6 (`Clip` from 0 to 6) where the largest integer stands for no more than 6.
* A value that an int8 kernel computes has one Q/DQ pair, which all its readers share: they see the same numbers, as
  `Equal` behind a max-pooling must, and no convolution is computed twice. Of a value that is there in float anyway,
  float nodes read the original: the upsampled base of the estimate is not rounded for the convolution beside it.
* What only moves values (reshapes, transposes, slices, max-pooling, nearest upsampling, concatenation) has equal
  scales before and behind, so that it works on bytes and changes none.
* Sums of int8 values stay int8 where their result goes into an int8 convolution.
* Average pooling becomes a depthwise convolution: ONNX Runtime's int8 pooling has another memory layout.
* Nothing stands around element-wise tails, on biases, or on shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from onnx import NodeProto

from ..runtime.errors import BundleError
from .graph import Graph, attributes
from .int8_rewrites import pooling_kernel

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

# Their first input's values, in another place.
_MOVES: Final = frozenset(
    {"DepthToSpace", "Flatten", "MaxPool", "Reshape", "Resize", "Slice", "SpaceToDepth", "Squeeze", "Transpose",
     "Unsqueeze"}
)  # fmt: skip
_HEAVY: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Moves that never read less than they are given: behind an int8 value they are always cheaper on bytes.
_WHOLE_MOVES: Final = frozenset({"DepthToSpace", "Reshape", "Transpose"})


class NothingToQuantizeError(BundleError):
    """A graph without a convolution that could be quantized."""


@dataclass(frozen=True)
class Layer:
    """What is quantized or left in float as a whole: a convolution, or the phases of an upsampled one.

    Attributes:
        name: of the first convolution, or of the transposed one that it comes from.
        convolutions: names of the Conv nodes.
    """

    name: str
    convolutions: tuple[str, ...]


@dataclass(frozen=True)
class Group:
    """Values that share a scale.

    Attributes:
        values: names, in the graph's order.
        sources: those of them that are not another one moved.
        signed: whether any of them can be negative.
    """

    values: tuple[str, ...]
    sources: tuple[str, ...]
    signed: bool


@dataclass(frozen=True)
class Plan:
    """Which values carry Q/DQ pairs.

    Attributes:
        convolutions: Conv nodes with quantized weights.
        pools: AveragePool nodes to be written as depthwise convolutions, with their weights.
        groups: the quantized values.
        float_readers: nodes that go on to read a quantized value's float original, by value.
    """

    convolutions: frozenset[str]
    pools: dict[str, Floats]
    groups: tuple[Group, ...]
    float_readers: dict[str, frozenset[str]]

    @property
    def values(self) -> list[str]:
        """All quantized values."""
        return [value for group in self.groups for value in group.values]


class Placement:
    """Knows one graph, and plans Q/DQ pairs for any choice of its layers.

    Args:
        graph: a float graph, with transposed convolutions already written as phases.
        where: names it in messages.

    Attributes:
        layers: what can be quantized.
        nonnegative: values that are never below 0.

    Raises:
        NothingToQuantizeError: the graph has no convolution that could be quantized.
    """

    def __init__(self, graph: Graph, where: str) -> None:
        self.graph = graph
        self._channels = graph.channels()
        self.nonnegative = self._find_nonnegative()
        self.layers = self._find_layers()
        if not self.layers:
            raise NothingToQuantizeError(
                f"{where} has no two-dimensional convolution with constant float32 weights: nothing to quantize"
            )

    def _find_layers(self) -> list[Layer]:
        """All convolutions that can be quantized; those that share input and output scale make one layer."""
        usable = [node for node in self.graph.nodes if self._is_usable(node)]
        plan = self.plan([Layer(node.name, (node.name,)) for node in usable])
        group_of = {value: i for i, group in enumerate(plan.groups) for value in group.values}
        found: dict[tuple[str, int | str], list[str]] = {}
        for node in usable:
            output = self.stored(node.output[0])
            found.setdefault((node.input[0], group_of.get(output, output)), []).append(node.name)
        return [Layer(names[0].removesuffix(".00"), tuple(names)) for names in found.values()]

    def _is_usable(self, node: NodeProto) -> bool:
        return node.op_type == "Conv" and self.hindrance(node) is None

    def hindrance(self, node: NodeProto) -> str | None:
        """Why a heavy node cannot be quantized; None if it can."""
        if node.op_type not in {"Conv", "ConvTranspose"}:
            return f"a {node.op_type}: only convolutions are quantized"
        if node.op_type == "ConvTranspose":
            return "a transposed convolution that has no exact form as plain ones"
        weight = self.graph.constant(node.input[1])
        if weight is None:
            return "its weight is computed"
        if weight.ndim != 4:
            return f"a {weight.ndim - 2}-dimensional convolution: only two-dimensional ones are quantized"
        if weight.dtype != np.float32:
            return f"its weight is {weight.dtype}, not float32"
        if len(node.input) > 2 and node.input[2] and self.graph.constant(node.input[2]) is None:
            return "its bias is computed"
        return None

    def left(self) -> dict[str, str]:
        """Why each heavy node that belongs to no layer stays in float, by name."""
        placed = {name for layer in self.layers for name in layer.convolutions}
        found = {}
        for node in self.graph.nodes:
            if node.op_type in _HEAVY and node.name not in placed:
                reason = self.hindrance(node)
                if reason is not None and not _reads_no_weights(self.graph, node):
                    found[node.name] = reason
        return found

    def _find_nonnegative(self) -> set[str]:
        found: set[str] = set()
        for node in self.graph.nodes:
            inputs = [name for name in node.input if name]
            # A max-pooling, and positions without a source in none of these, add nothing negative.
            first = node.op_type in _MOVES | {"AveragePool"} and inputs[0] in found and not _overshoots(node)
            every = node.op_type in {"Add", "Concat", "Max"} and all(name in found for name in inputs)
            if self.is_rectifier(node) or first or every:
                found.add(node.output[0])
        return found

    def stored(self, value: str) -> str:
        """Where a computed value is quantized: behind the ReLU or ReLU6 that alone reads it, if there is one."""
        readers = self.graph.readers.get(value, [])
        if len(readers) == 1 and self.is_rectifier(readers[0]) and value not in self.graph.outputs:
            return str(readers[0].output[0])
        return value

    def is_rectifier(self, node: NodeProto) -> bool:
        """Whether a node is a ReLU, or a clip from 0 on, such as a ReLU6."""
        if node.op_type == "Relu":
            return True
        if node.op_type != "Clip" or len(node.input) < 2 or not node.input[1]:
            return False
        least = self.graph.constant(node.input[1])
        return least is not None and float(least) == 0

    def plan(self, layers: Iterable[Layer]) -> Plan:
        """Place Q/DQ pairs for a choice of layers."""
        chosen = frozenset(name for layer in layers for name in layer.convolutions)
        spread = _Spread(self, chosen)
        spread.run()
        return Plan(chosen, spread.pools, self._groups(spread.quantized), spread.float_readers())

    def channels_of(self, value: str) -> int | None:
        """Channels of a value, as a convolution that reads it has them, or as they follow from the graph."""
        for reader in self.graph.readers.get(value, []):
            weight = self.graph.constant(reader.input[1]) if reader.op_type == "Conv" else None
            if weight is not None:
                return int(weight.shape[1]) * int(attributes(reader).get("group", 1))
        return self._channels.get(value)

    def _groups(self, quantized: set[str]) -> tuple[Group, ...]:
        parent = {value: value for value in quantized}
        moved = set()

        def root(value: str) -> str:
            while parent[value] != value:
                value = parent[value]
            return value

        for node in self.graph.nodes:
            output = node.output[0]
            if output not in quantized:
                continue
            joined = [node.input[0]] if _is_move(node) else []
            if node.op_type == "Concat" and len({name in self.nonnegative for name in node.input}) == 1:
                joined = list(node.input)
            if joined and all(name in quantized for name in joined):
                moved.add(output)
                for name in joined:
                    parent[root(name)] = root(output)
        members: dict[str, list[str]] = {}
        computed = (value for node in self.graph.nodes for value in node.output)
        for value in (*self.graph.inputs, *computed):
            if value in quantized:
                members.setdefault(root(value), []).append(value)
        return tuple(
            Group(
                tuple(values),
                tuple(value for value in values if value not in moved),
                any(value not in self.nonnegative for value in values),
            )
            for values in members.values()
        )


class _Spread:
    """What is quantized for a choice of convolutions: their inputs and outputs, and what these reach by `_RULES`.

    Args:
        placement: of the graph.
        chosen: names of the convolutions.

    Attributes:
        quantized: values.
        pools: AveragePool nodes to be written as convolutions, with their weights.
    """

    def __init__(self, placement: Placement, chosen: frozenset[str]) -> None:
        self._placement = placement
        self._graph = placement.graph
        self._chosen = chosen
        convolutions = [node for node in self._graph.nodes if node.name in chosen]
        inputs = {node.input[0] for node in convolutions}
        self.quantized = inputs | {placement.stored(node.output[0]) for node in convolutions}
        self.pools: dict[str, Floats] = {}
        self._wanted = self._find_wanted(inputs)

    def _find_wanted(self, inputs: set[str]) -> set[str]:
        """Values that come into the inputs of int8 convolutions through moves and sums alone."""
        wanted = set(inputs)
        for node in reversed(self._graph.nodes):
            if node.output[0] not in wanted:
                continue
            if node.op_type in {"Add", "Concat"}:
                wanted.update(node.input)
            elif node.op_type in _MOVES | {"AveragePool"} or self._placement.is_rectifier(node):
                wanted.add(node.input[0])
        return wanted

    def run(self) -> None:
        """Apply the rules until they reach nothing new."""
        before = -1
        while before != len(self.quantized):
            before = len(self.quantized)
            for node in self._graph.nodes:
                self.quantized |= _RULES.get(node.op_type, _Spread.through_move)(self, node)
        self.quantized -= self._graph.outputs

    def through_move(self, node: NodeProto) -> set[str]:
        """What is moved is quantized behind the move as well, where that is wanted or costs nothing."""
        if not node.input or node.input[0] not in self.quantized:
            return set()
        whole = node.op_type in _WHOLE_MOVES and self._is_computed_in_int8(node.input[0])
        return {node.output[0]} if whole or (_is_move(node) and node.output[0] in self._wanted) else set()

    def through_max_pool(self, node: NodeProto) -> set[str]:
        """As a move. Backwards, too: unpooling asks with `Equal` where the maximum came from.

        The largest of integers is the integer of the largest, if both sides are integers, or neither.
        """
        return {node.input[0]} if node.output[0] in self.quantized else self.through_move(node)

    def through_concatenation(self, node: NodeProto) -> set[str]:
        """All parts with the whole; the whole with all parts, where it is wanted or one scale fits them."""
        inputs, output = set(node.input), node.output[0]
        if output in self.quantized and inputs & self.quantized:
            return {name for name in inputs if self._graph.constant(name) is None}
        of_one_sign = len({name in self._placement.nonnegative for name in inputs}) == 1
        return {output} if inputs <= self.quantized and (output in self._wanted or of_one_sign) else set()

    def through_sum(self, node: NodeProto) -> set[str]:
        """A sum of quantized values, where it is wanted."""
        output = self._placement.stored(node.output[0])
        return {output} if set(node.input) <= self.quantized and output in self._wanted else set()

    def through_average_pool(self, node: NodeProto) -> set[str]:
        """A mean, where it is wanted and can be written as a convolution."""
        value, output = node.input[0], node.output[0]
        if value not in self.quantized or output not in self._wanted:
            return set()
        channels = self._placement.channels_of(value) or self._placement.channels_of(output)
        kernel = pooling_kernel(node, channels) if channels else None
        if kernel is None:
            return set()
        self.pools[node.name] = kernel
        return {output}

    def float_readers(self) -> dict[str, frozenset[str]]:
        """Nodes that go on to read a quantized value's float original, by value."""
        found: dict[str, frozenset[str]] = {}
        for value in self.quantized:
            readers = self._graph.readers.get(value, [])
            if self._is_computed_in_int8(value) or "MaxPool" in {reader.op_type for reader in readers}:
                continue
            float_ones = {
                reader.name
                for reader in readers
                if reader.name not in self._chosen and not self._is_int8(reader)
            }
            if float_ones:
                found[value] = frozenset(float_ones)
        return found

    def _is_int8(self, node: NodeProto) -> bool:
        """Whether a node other than a convolution works on integers."""
        data = node.input if node.op_type in {"Add", "Concat"} else node.input[:1]
        kind = node.op_type in {"Add", "Concat", "AveragePool"} or _is_move(node)
        output = self._placement.stored(node.output[0])
        return kind and output in self.quantized and all(name in self.quantized for name in data)

    def _is_computed_in_int8(self, value: str) -> bool:
        node = self._graph.producers.get(value)
        if (
            node is not None
            and self._placement.is_rectifier(node)
            and self._placement.stored(node.input[0]) == value
        ):
            node = self._graph.producers.get(node.input[0])
        return node is not None and (node.name in self._chosen or self._is_int8(node))


# How a value comes to be quantized because of a node, by operator; what is not listed can only be a move.
_RULES: Final[dict[str, Callable[[_Spread, NodeProto], set[str]]]] = {
    "Add": _Spread.through_sum,
    "AveragePool": _Spread.through_average_pool,
    "Concat": _Spread.through_concatenation,
    "MaxPool": _Spread.through_max_pool,
}


def _reads_no_weights(graph: Graph, node: NodeProto) -> bool:
    """Whether a product is one of two computed values, such as the scores of attention."""
    return node.op_type == "MatMul" and all(graph.constant(name) is None for name in node.input)


def _is_move(node: NodeProto) -> bool:
    if node.op_type == "Resize":
        return bool(attributes(node).get("mode", b"nearest") == b"nearest")
    return node.op_type in _MOVES


def _overshoots(node: NodeProto) -> bool:
    """Whether a resize can leave the range of its input."""
    return node.op_type == "Resize" and bool(attributes(node).get("mode", b"nearest") == b"cubic")
