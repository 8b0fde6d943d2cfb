"""Element-wise functions behind upsampling: computed before it, on a fraction of the pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..ir_queries import NotApplicableError, label, reject
from ..symbolic_shapes.inference import is_constant
from .base import NodeRule
from .elementwise import BINARY, is_function, is_per_channel
from .resampling import Upsampling, is_resized, repeat, upsampling

if TYPE_CHECKING:
    import onnx_ir as ir

PIXELWISE: Final = frozenset(
    {"BatchNormalization", "GroupNormalization", "InstanceNormalization", "LRN", "LogSoftmax", "Softmax"}
)
"""Operators that compute each pixel from its channels, and statistics that repeated pixels do not change."""

_LONGEST: Final = 64


@dataclass(frozen=True)
class _Region:
    """What is computed from upsampled images alone, pixel by pixel.

    Attributes:
        ups: the upsampling of each image, by its output.
        nodes: the functions, in an order in which they can be computed.
        result: the one value that others read.
    """

    ups: Mapping[ir.Value, Upsampling]
    nodes: tuple[ir.Node, ...]
    result: ir.Value

    @property
    def factors(self) -> tuple[int, int]:
        return next(iter(self.ups.values())).factors


class FunctionsBehindUpsampling(NodeRule[_Region]):
    """What is computed pixel by pixel is computed before the upsampling, and convolutions behind it come next to it.

    Activations, normalizations, products and sums with constants by channel, and with each other: all that is computed
    from the upsampled image, or from images upsampled alike, as long as others read one value of it. Means and
    variances over an image are those of the image whose pixels are repeated.
    """

    title = "functions-behind-upsampling"
    identity = "f(up(l)) = up(f(l)), for element-wise f"
    operators = frozenset({"Resize"})

    def check(self, node: ir.Node) -> _Region:
        first = node.outputs[0]
        readers = [use.node for use in first.uses()]
        if first.is_graph_output() or not any(self._is_candidate(reader) for reader in readers):
            raise reject("")  # nothing of that kind
        try:
            up = upsampling(self, first)
        except NotApplicableError:
            raise reject("") from None  # the convolution behind it says why
        ups = {first: up}
        nodes = self._grow(ups)
        results = self._read_by_others(ups, nodes)
        if not nodes:
            raise reject("")
        if len(results) != 1 or results[0] in ups:
            others = sorted(
                {label(use.node) for value in results for use in value.uses() if use.node not in nodes}
            )
            raise reject(
                f"{up.name} and the functions behind it are read in several places ({', '.join(others)}): the "
                "upsampled image is needed all the same",
                node,
            )
        return _Region(ups, tuple(nodes), results[0])

    @staticmethod
    def _is_candidate(node: ir.Node) -> bool:
        return (
            node.domain in {"", "ai.onnx"}
            and len(node.outputs) == 1
            and (node.op_type in BINARY or node.op_type in PIXELWISE or is_function(node))
        )

    def _grow(self, ups: dict[ir.Value, Upsampling]) -> list[ir.Node]:
        """The functions of the upsampled images alone; further images of that kind are added to `ups`."""
        known = set(ups)
        nodes: list[ir.Node] = []
        waiting = [use.node for value in ups for use in value.uses()]
        while waiting and len(nodes) < _LONGEST:
            node = waiting.pop(0)
            if node in nodes or not self._is_candidate(node) or not self._belongs(node, known, ups):
                continue
            nodes.append(node)
            known.add(node.outputs[0])
            waiting += [use.node for use in node.outputs[0].uses()]
            # What was passed over because an operand was missing may be complete now.
            waiting += [use.node for value in known for use in value.uses() if use.node not in nodes]
            waiting = list(dict.fromkeys(waiting))
        return nodes

    def _belongs(self, node: ir.Node, known: set[ir.Value], ups: dict[ir.Value, Upsampling]) -> bool:
        if node.op_type in PIXELWISE:
            axis = node.attributes.get_int("axis", -1) % 4
            return (
                node.inputs[0] in known
                and all(is_constant(value) for value in node.inputs[1:])
                and not node.attributes.get_int("training_mode", 0)
                and (axis == 1 or node.op_type not in {"LogSoftmax", "Softmax"})
            )
        for value in node.inputs:
            if value is None or value in known or is_per_channel(value):
                continue
            other = self._alike(value, ups)
            if other is None:
                return False
            ups[value] = other
            known.add(value)
        return True

    def _alike(self, value: ir.Value, ups: Mapping[ir.Value, Upsampling]) -> Upsampling | None:
        """Another image that is upsampled by the same factors to the same size."""
        first = next(iter(ups))
        if not is_resized(value) or value.is_graph_output():
            return None
        try:
            found = upsampling(self, value)
            self.require_same_size(first, value)
        except NotApplicableError:
            return None
        return found if found.factors == ups[first].factors else None

    @staticmethod
    def _read_by_others(ups: Mapping[ir.Value, Upsampling], nodes: list[ir.Node]) -> list[ir.Value]:
        values = [*ups, *(node.outputs[0] for node in nodes)]
        inside = set(nodes)
        return [
            value
            for value in values
            if value.is_graph_output() or any(use.node not in inside for use in value.uses())
        ]

    def rewrite(self, op: Any, plan: _Region) -> Mapping[ir.Value, ir.Value]:
        low: dict[ir.Value, ir.Value] = {value: up.x for value, up in plan.ups.items()}
        for node in plan.nodes:
            inputs = [low.get(value, value) if value is not None else None for value in node.inputs]
            low[node.outputs[0]] = getattr(op, node.op_type)(*inputs, **dict(node.attributes))
        return {plan.result: repeat(op, self, low[plan.result], plan.factors)}


__all__ = ["FunctionsBehindUpsampling"]
