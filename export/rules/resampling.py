"""Nearest upsampling by whole factors: recognizing it, and writing it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..ir_queries import label, reads_nearest, reject
from ..symbolic_shapes.expression import describe, remedy

if TYPE_CHECKING:
    import onnx_ir as ir

    from .base import Rule

LARGEST_FACTOR: Final = 8
"""Of rows and columns; larger ones are not looked for."""


@dataclass(frozen=True)
class Upsampling:
    """A `Resize` that repeats rows and columns.

    Attributes:
        node: the node.
        x: its input, N x C x H x W.
        factors: how often each row and each column stands in the output; not both 1.
    """

    node: ir.Node
    x: ir.Value
    factors: tuple[int, int]

    @property
    def name(self) -> str:
        """The node's name, for messages."""
        return label(self.node)


def is_resized(value: ir.Value | None) -> bool:
    """Whether a `Resize` node computes a value."""
    node = None if value is None else value.producer()
    return node is not None and node.op_type == "Resize" and node.domain in {"", "ai.onnx"}


def upsampling(rule: Rule, up: ir.Value) -> Upsampling:
    """Read the `Resize` that computes a value.

    Raises:
        NotApplicableError: another mode, or factors that are not proved to be whole.
    """
    node = up.producer()
    if node is None or not is_resized(up) or node.inputs[0] is None:
        raise reject("")
    name = label(node)
    mode = node.attributes.get_string("mode", "nearest")
    if mode != "nearest":
        raise reject(f"{name} is {mode}, not nearest", node)
    before, after = rule.context.sizes.shape(node.inputs[0]), rule.context.sizes.shape(up)
    if before is None or after is None or len(before) != 4 or len(after) != 4:
        raise reject(
            f"{name} has sizes {describe(before)} and {describe(after)}, not four known ones"
            f"{remedy(before, after)}",
            node,
        )
    numbers = range(1, LARGEST_FACTOR + 1)
    found = [next((f for f in numbers if after[i] == before[i] * f), None) for i in (2, 3)]
    if before[:2] != after[:2] or None in found:
        raise reject(
            f"{name} is not proved to repeat the rows and columns of {describe(before)} a whole number of times: it "
            f"gives {describe(after)}{remedy(before, after)}",
            node,
        )
    factors = (found[0] or 1, found[1] or 1)
    if factors == (1, 1):
        raise reject("")  # it does nothing
    coordinates = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    rounding = node.attributes.get_string("nearest_mode", "round_prefer_floor")
    for factor in factors:
        if not reads_nearest(coordinates, rounding, factor):
            raise reject(
                f"{name} with {coordinates} and {rounding} does not repeat each pixel {factor} times", node
            )
    return Upsampling(node, node.inputs[0], factors)


def repeat(op: Any, rule: Rule, x: ir.Value, factors: tuple[int, int]) -> ir.Value:
    """Nearest upsampling as a `Resize` node on the tape."""
    scales = rule.weight(op, np.array([1, 1, *factors], np.float32), "scales")
    value: ir.Value = op.Resize(
        x, None, scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    return value


__all__ = ["LARGEST_FACTOR", "Upsampling", "is_resized", "repeat", "upsampling"]
