"""Operators that do nothing, which exporters and modules write all the same: they hide what other rules look for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir_queries import constant, producer, reject, require_live
from ..symbolic_shapes.inference import is_constant
from .base import Bound, FusionRule

if TYPE_CHECKING:
    import onnx_ir as ir


class EmptyPadding(FusionRule):
    """Padding by nothing, which exporters write for 1x1 convolutions that pad by reflection, is its input."""

    title = "empty-padding"
    identity = "pad(x, 0) = x"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Pad(x, _allow_other_inputs=True, _outputs=["padded"])

    def check(self, bound: Bound) -> None:
        padded = bound["padded"]
        require_live(padded)
        sizes = producer(padded).inputs[1]
        if sizes is None or not is_constant(sizes) or np.any(constant(sizes, "the sizes")):
            raise reject("")  # it does something

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        value: ir.Value = op.Identity(bound["x"])
        return value


class ProductWithOnes(FusionRule):
    """A product with ones that repeats nothing is its other operand."""

    title = "product-with-ones"
    identity = "x * 1 = x"
    commutes = True

    def pattern(self, op: Any, x: ir.Value, ones: ir.Value) -> Any:
        return op.Mul(x, ones, _outputs=["product"])

    def check(self, bound: Bound) -> None:
        x, ones, product = (bound[name] for name in ("x", "ones", "product"))
        require_live(product)
        shape = self.context.sizes.shape(x)
        if not _is_one(ones) or (shape is not None and len(shape) < 2):
            raise reject("")  # a product, or arithmetic of sizes
        self.require_same_size(x, product)

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        value: ir.Value = op.Identity(bound["x"])
        return value


def _is_one(value: ir.Value) -> bool:
    """Whether all elements are 1: a constant, or one that is filled or repeated."""
    node = value.producer()
    while node is not None and node.op_type in {"Expand", "Tile"} and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    if is_constant(value):
        assert value.const_value is not None
        return bool(np.all(value.const_value.numpy() == 1))
    if node is None:
        return False
    fill = node.attributes.get("value")
    return (
        node.op_type == "ConstantOfShape" and fill is not None and bool(fill.as_tensor().numpy().item() == 1)
    )
