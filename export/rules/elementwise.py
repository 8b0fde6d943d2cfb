"""Element-wise functions: which nodes compute one output element from one input element, and how to write them anew."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..symbolic_shapes.inference import is_constant

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from .base import Rule

UNARY: Final = frozenset(
    {
        "Abs", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish",
        "Neg", "PRelu", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sign", "Softplus", "Softsign", "Sqrt", "Swish",
        "Tanh", "ThresholdedRelu",
    }
)  # fmt: skip
"""Functions of one image; further inputs are constants by channel or for all."""

BINARY: Final = frozenset({"Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"})
"""Functions of two images, or of one and a constant by channel or for all."""


def is_per_channel(value: ir.Value | None) -> bool:
    """Whether a value is a constant that does not vary over the rows and columns of N x C x H x W, or is absent."""
    if value is None:
        return True
    if not is_constant(value):
        return False
    assert value.const_value is not None
    shape = value.const_value.shape.numpy()
    return len(shape) <= 4 and math.prod(shape[-2:]) == 1


def is_function(node: ir.Node) -> bool:
    """Whether a node is an element-wise function of its first input alone, the same at all rows and columns."""
    return (
        node.op_type in UNARY
        and node.domain in {"", "ai.onnx"}
        and len(node.outputs) == 1
        and all(is_per_channel(value) for value in node.inputs[1:])
    )


def following(value: ir.Value) -> list[ir.Node]:
    """The element-wise functions that alone read a value, one behind the other."""
    found: list[ir.Node] = []
    while len(value.uses()) == 1 and not value.is_graph_output():
        (use,) = value.uses()
        if use.idx != 0 or not is_function(use.node) or use.node.graph is not _graph(value):
            break
        found.append(use.node)
        value = use.node.outputs[0]
    return found


def _graph(value: ir.Value) -> object:
    node = value.producer()
    return value.graph if node is None else node.graph


def apply(op: Any, rule: Rule, value: ir.Value, nodes: Sequence[ir.Node], copies: int = 1) -> ir.Value:
    """Functions of another value, on the tape.

    Args:
        op: the tape.
        rule: for the names of new constants.
        value: what they are of.
        nodes: the functions.
        copies: how often the channels that the functions are of lie behind one another in the value.
    """
    for node in nodes:
        constants = [_repeated(op, rule, x, copies) for x in node.inputs[1:]]
        value = getattr(op, node.op_type)(value, *constants, **dict(node.attributes))
    return value


def _repeated(op: Any, rule: Rule, value: ir.Value | None, copies: int) -> ir.Value | None:
    """A constant by channel, for channels that lie behind one another several times."""
    if value is None or copies == 1:
        return value
    assert value.const_value is not None
    values = value.const_value.numpy()
    if values.ndim < 3 or values.shape[-3] == 1:
        return value
    return rule.weight(op, np.concatenate([values] * copies, axis=-3), f"{value.name}.repeated")


__all__ = ["BINARY", "UNARY", "apply", "following", "is_function", "is_per_channel"]
