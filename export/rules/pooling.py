"""Pools: those that undo an upsampling, those that 1x1 convolutions pass, and max-unpooling."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from ..ir_queries import Convolution, label, producer, reject, require_live, require_single_use
from ..symbolic_shapes.expression import describe, remedy
from .base import Bound, FusionRule, again, integers
from .resampling import upsampling


def require_halving(rule: FusionRule, pooled: ir.Value) -> None:
    """Reject a pool that is not 2x2 with stride 2 over an even height and width.

    Raises:
        NotApplicableError: another window, padding, or a size that is not proved even.
    """
    node = producer(pooled)
    name = label(node)
    kernel = tuple(node.attributes.get_ints("kernel_shape", []))
    strides = tuple(node.attributes.get_ints("strides", [1, 1]))
    dilations = tuple(node.attributes.get_ints("dilations", [1, 1]))
    if kernel != (2, 2) or strides != (2, 2) or dilations != (1, 1):
        raise reject(f"{name} pools {kernel} with strides {strides}, must be 2x2 and 2", node)
    if any(node.attributes.get_ints("pads", [])):
        raise reject(f"{name} pads", node)
    shape = rule.context.sizes.shape(node.inputs[0])
    if shape is None or len(shape) != 4 or not all(d.divisible(2) for d in shape[2:]):
        raise reject(
            f"the height and width of the input of {name}, {describe(shape)}, are not proved even{remedy(shape)}",
            node,
        )


class PoolOfUpsampling(FusionRule):
    """pool(up(l)) is l."""

    title = "pool-of-upsampling"
    identity = "pool(up(l)) = l"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.AveragePool(op.Resize(x, _allow_other_inputs=True, _outputs=["up"]), _outputs=["pooled"])

    def check(self, bound: Bound) -> None:
        up, pooled = (bound[name] for name in ("up", "pooled"))
        require_live(pooled)
        factors = upsampling(self, up).factors
        node = producer(pooled)
        windows = tuple(node.attributes.get_ints("kernel_shape", []))
        strides = tuple(node.attributes.get_ints("strides", [1, 1]))
        dilations = tuple(node.attributes.get_ints("dilations", [1, 1]))
        if windows != factors or strides != factors or dilations != (1, 1):
            raise reject(
                f"{label(node)} pools {windows} with strides {strides}, the upsampling is by {factors}", node
            )
        if any(node.attributes.get_ints("pads", [])):
            raise reject(f"{label(node)} pads", node)

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        x = bound["x"]
        value: ir.Value = op.Identity(x)
        return value


class PoolOfPointwise(FusionRule):
    """pool(conv1x1(h)) is conv1x1(pool(h)): a quarter of the multiplications."""

    title = "pool-of-pointwise"
    identity = "pool(conv1x1(h)) = conv1x1(pool(h))"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.AveragePool(op.Conv(x, _allow_other_inputs=True, _outputs=["conv"]), _outputs=["pooled"])

    def check(self, bound: Bound) -> None:
        conv, pooled = (bound[name] for name in ("conv", "pooled"))
        require_live(pooled)
        found = Convolution.read(producer(conv))
        if found.kernel != (1, 1):
            raise reject("")  # nothing that commutes
        if not found.is_pointwise:
            raise reject(
                f"{found.name} has strides {found.strides} and pads {found.pads}; with either it does not "
                "commute with a pool",
                found.node,
            )
        require_single_use(conv, f"the output of {found.name}")
        node = producer(pooled)
        if any(node.attributes.get_ints("pads", [])):
            raise reject(f"{label(node)} pads", node)

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        x, conv, pooled = (bound[name] for name in ("x", "conv", "pooled"))
        found = Convolution.read(producer(conv))
        y = op.AveragePool(x, **dict(producer(pooled).attributes))
        return again(op, self, y, found)


class MaxUnpooling(FusionRule):
    """2x2 max-unpooling by the pool's own indices, in operators that every runtime has.

    The four phases of the pooled image, their maximum, and masks that name the first phase that holds it; the value
    goes into that phase. The first of equal values wins, as in PyTorch. Values must be finite: elsewhere they are
    multiplied by 0.
    """

    title = "max-unpooling"
    identity = "unpool(v, argmax 2x2 of x) = depth_to_space(v times whether the phase is the first maximum)"

    def pattern(self, op: Any, v: ir.Value, x: ir.Value) -> Any:
        _, indices = op.MaxPool(x, _outputs=["pooled", "indices"])
        return op.MaxUnpool(v, indices, _allow_other_inputs=True, _outputs=["unpooled"])

    def check(self, bound: Bound) -> None:
        v, x, pooled, unpooled = (bound[name] for name in ("v", "x", "pooled", "unpooled"))
        require_live(unpooled)
        require_halving(self, pooled)
        node = producer(unpooled)
        kernel, strides = (
            node.attributes.get_ints("kernel_shape", []),
            node.attributes.get_ints("strides", []),
        )
        if list(kernel) != [2, 2] or list(strides) != [2, 2] or any(node.attributes.get_ints("pads", [])):
            raise reject(f"{label(node)} does not unpool 2x2 with stride 2 and no padding", node)
        if producer(pooled).attributes.get_int("storage_order", 0):
            raise reject(f"{label(producer(pooled))} counts its indices by columns", producer(pooled))
        self.require_same_size(v, pooled)
        if self.context.sizes.shape(unpooled) != self.context.sizes.shape(x):
            raise reject(f"{label(node)} is not proved to restore the size before the pool", node)

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        v, x, pooled = (bound[name] for name in ("v", "x", "pooled"))
        axes = integers(op, self, [2, 3], "axes")
        steps = integers(op, self, [2, 2], "steps")
        ends = integers(op, self, [2**31 - 1, 2**31 - 1], "ends")
        parts = []
        taken = None
        for a in (0, 1):
            for b in (0, 1):
                starts = integers(op, self, [a, b], "starts")
                if (a, b) == (1, 1):
                    mask = op.Not(taken)  # the maximum must be here
                else:
                    here = op.Equal(op.Slice(x, starts, ends, axes, steps), pooled)
                    mask = here if taken is None else op.And(here, op.Not(taken))
                    taken = here if taken is None else op.Or(taken, here)
                # Not Where: ONNX Runtime's CPU kernel of it takes three times as long as a product.
                parts.append(op.Mul(op.Cast(mask, to=ir.DataType.FLOAT), v))
        value: ir.Value = op.DepthToSpace(op.Concat(*parts, axis=1), blocksize=2, mode="DCR")
        return value
