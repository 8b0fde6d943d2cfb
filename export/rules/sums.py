"""Convolutions that are added, or that share an input: one convolution."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir_queries import Convolution, NotApplicableError, label, producer, reject, require_live
from ..kernels import embed
from .base import Bound, Builder, FusionRule, Site, again, integers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    import onnx_ir as ir


class SumOfConvolutions(FusionRule):
    """conv(a) + conv(b) of equal geometry is one convolution of concat(a, b); biases add."""

    title = "sum-of-convolutions"
    identity = "A * a + B * b = [A | B] * concat(a, b)"

    def pattern(self, op: Any, a: ir.Value, b: ir.Value) -> Any:
        return op.Add(
            op.Conv(a, _allow_other_inputs=True, _outputs=["left"]),
            op.Conv(b, _allow_other_inputs=True, _outputs=["right"]),
            _outputs=["total"],
        )

    def check(self, bound: Bound) -> None:
        left, right, total = (bound[name] for name in ("left", "right", "total"))
        require_live(total)
        self._merged(left, right)

    def _merged(
        self, left: ir.Value, right: ir.Value
    ) -> tuple[Convolution, Convolution, npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        """The two convolutions with the geometry of the larger first; the merged weight and bias."""
        if left is right:
            raise reject("both summands are one convolution", left)
        large, small = Convolution.read(producer(left)), Convolution.read(producer(right))
        for value, found in ((left, large), (right, small)):
            if found.group != 1 or len(value.uses()) != 1 or value.is_graph_output():
                raise reject("")  # a skip connection, as most networks have them
        for what in ("strides", "dilations"):
            one, two = getattr(large, what), getattr(small, what)
            if one != two and self.context.wrote(large.node) and self.context.wrote(small.node):
                raise reject("")  # phases of what was a sum of convolutions that differ by nothing
            if one != two:
                raise reject(
                    f"{what} of {large.name} and {small.name} differ: {one} and {two}", large.node, small.node
                )
        self.require_same_size(left, right)
        ordered = [large.weight, small.weight]
        if small.kernel > large.kernel:
            large, small = small, large
        padded = embed(small.weight, small.pads, large.kernel, large.pads)
        if padded is None or (small.dilations != (1, 1) and small.kernel != large.kernel):
            raise reject(
                f"kernel {small.kernel} with pads {small.pads} of {small.name} does not lie within kernel "
                f"{large.kernel} with pads {large.pads} of {large.name}",
                large.node,
                small.node,
            )
        ordered = [padded if w is small.weight else w for w in ordered]
        biases = [found.bias for found in (large, small) if found.bias is not None]
        bias = sum(biases[1:], biases[0]) if biases else None
        return large, small, np.concatenate(ordered, axis=1), bias

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        a, b, left, right = (bound[name] for name in ("a", "b", "left", "right"))
        large, small, weight, bias = self._merged(left, right)
        one, two = Convolution.read(producer(left)), Convolution.read(producer(right))

        def keep(op: Any, inputs: Sequence[ir.Value]) -> ir.Value:
            parts = [again(op, self, x, found) for x, found in zip(inputs, (one, two), strict=True)]
            value: ir.Value = op.Add(*parts)
            return value

        forms: dict[str, Builder] = {
            "keep": keep,
            "merged": lambda op, inputs: again(
                op, self, op.Concat(*inputs, axis=1), replace(large, weight=weight, bias=bias)
            ),
        }
        key = (
            large.weight.shape,
            small.weight.shape,
            large.strides,
            large.pads,
            large.dilations,
            bias is None,
        )
        return self.choose(op, Site(self.title, large.name, (a, b), key), forms)


class SharedInput(FusionRule):
    """Two convolutions of one input with equal geometry are one with stacked outputs."""

    title = "shared-input"
    identity = "(A * x, B * x) = split([A ; B] * x)"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Conv(x, _allow_other_inputs=True, _outputs=["first"])

    def check(self, bound: Bound) -> None:
        self._pair(bound["first"])

    def _pair(self, first: ir.Value) -> ir.Value:
        """The output of the first later convolution of the same input that can be stacked."""
        require_live(first)
        node = producer(first)
        x = node.inputs[0]
        assert x is not None
        assert node.graph is not None
        readers = {use.node for use in x.uses() if use.idx == 0 and use.node.op_type == "Conv"}
        ordered = [other for other in node.graph if other in readers]
        reasons = []
        for other in ordered[ordered.index(node) + 1 :]:
            try:
                self._stacked(first, other.outputs[0])
            except NotApplicableError as error:
                reasons.append(error)
                continue
            return other.outputs[0]
        raise next((error for error in reasons if error.reason), reject(""))

    def _stacked(
        self, first: ir.Value, second: ir.Value
    ) -> tuple[Convolution, Convolution, npt.NDArray[np.float32], npt.NDArray[np.float32] | None]:
        require_live(first)
        require_live(second)
        one, two = producer(first), producer(second)
        if second.is_graph_output():
            raise reject(f"the output of {label(two)} is one of the graph's", two)
        top, bottom = Convolution.read(one), Convolution.read(two)
        for found in (top, bottom):
            found.require_dense()
        if any(
            getattr(top, what) != getattr(bottom, what) for what in ("kernel", "strides", "pads", "dilations")
        ):
            raise reject("")  # nothing to stack
        bias = None
        if top.bias is not None or bottom.bias is not None:
            zeros = [np.zeros(found.weight.shape[0], np.float32) for found in (top, bottom)]
            own = [
                zero if found.bias is None else found.bias
                for found, zero in zip((top, bottom), zeros, strict=True)
            ]
            bias = np.concatenate(own)
        return top, bottom, np.concatenate([top.weight, bottom.weight]), bias

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        first, x = bound["first"], bound["x"]
        second = self._pair(first)
        top, bottom, weight, bias = self._stacked(first, second)
        counts = [top.weight.shape[0], bottom.weight.shape[0]]

        def stacked(op: Any, inputs: Sequence[ir.Value]) -> Sequence[ir.Value]:
            y = again(op, self, inputs[0], replace(top, weight=weight, bias=bias))
            parts: Sequence[ir.Value] = op.Split(y, integers(op, self, counts, "split"), axis=1, _outputs=2)
            return parts

        def join(op: Any, parts: Sequence[ir.Value]) -> ir.Value:
            value: ir.Value = op.Concat(*(op.Relu(part) for part in parts), axis=1)
            return value

        forms: dict[str, Builder] = {
            "keep": lambda op, inputs: join(
                op, [again(op, self, inputs[0], found) for found in (top, bottom)]
            ),
            "stacked": lambda op, inputs: join(op, stacked(op, inputs)),
        }
        key = (top.weight.shape, bottom.weight.shape, top.strides, top.pads, top.dilations, bias is None)
        self.decide(Site(self.title, f"{top.name}, {bottom.name}", (x,), key), forms)
        parts = stacked(op, [x])
        if not self.context.tracing:
            # The pattern replaces the first output; the second, which stands behind it, is moved over here.
            second.replace_all_uses_with(parts[1])
        return parts[0]
