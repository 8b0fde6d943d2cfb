"""Where the elements of a value come from, through operators that move and repeat them but compute nothing.

A dimension of a value is a product of factors, the outermost first: an axis of the source, or a repetition, along which
nothing changes. `Unsqueeze` adds a dimension without factors, `Tile` and `Expand` put a repetition before what is
there, `Transpose` orders dimensions anew, `Reshape` leaves the sequence of all factors as it is and cuts it elsewhere.
So a doubling that is written in such operators is recognized whatever their order, and proved for every size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from .symbolic_shapes.expression import Shape, Size, product
from .symbolic_shapes.inference import Sizes, is_constant

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import onnx_ir as ir

_MOST_STEPS: Final = 12
_MOVING: Final = frozenset(
    {"Concat", "Expand", "Flatten", "Identity", "Reshape", "Squeeze", "Tile", "Transpose", "Unsqueeze"}
)


@dataclass(frozen=True)
class Factor:
    """One factor of a dimension.

    Attributes:
        axis: of the source; None for a repetition.
        size: of the factor, not 1.
    """

    axis: int | None
    size: Size


Layout = tuple[tuple[Factor, ...], ...]
"""The factors of each dimension; a dimension of size 1 has none."""


def chain(value: ir.Value) -> Iterator[ir.Node]:
    """The nodes that lead to a value and only move elements, the last first."""
    for _ in range(_MOST_STEPS):
        node = value.producer()
        if node is None or node.op_type not in _MOVING or node.domain not in {"", "ai.onnx"}:
            return
        source = node.inputs[0]
        if source is None or (node.op_type == "Concat" and not all(_alike(x, source) for x in node.inputs)):
            return
        yield node
        value = source


def _alike(one: ir.Value | None, two: ir.Value | None, steps: int = _MOST_STEPS) -> bool:
    """Whether two values are one, or made in the same way from one, in so many steps at the most."""
    if one is two:
        return True
    if one is None or two is None or not steps:
        return False
    if is_constant(one) and is_constant(two):
        assert one.const_value is not None
        assert two.const_value is not None
        left, right = one.const_value, two.const_value
        return left.dtype == right.dtype and np.array_equal(left.numpy(), right.numpy())
    first, second = one.producer(), two.producer()
    if first is None or second is None or first.op_type != "Unsqueeze" or second.op_type != "Unsqueeze":
        return False  # of what exporters repeat, only what a stack is made of
    return all(_alike(a, b, steps - 1) for a, b in zip(first.inputs, second.inputs, strict=True))


def layout(shape: Shape) -> Layout:
    """The layout of a source."""
    return tuple(_factor(axis, size) for axis, size in enumerate(shape))


def move(node: ir.Node, before: Layout, sizes: Sizes) -> Layout | None:
    """What a node of a chain makes of a layout; None where that cannot be said of all sizes."""
    shape = sizes.shape(node.outputs[0])
    if shape is None:
        return None
    if node.op_type == "Identity":
        return before
    if node.op_type == "Transpose":
        order = node.attributes.get_ints("perm", list(range(len(before)))[::-1])
        return tuple(before[i] for i in order)
    if node.op_type == "Concat":
        axis = node.attributes.get_int("axis", 0) % len(before)
        return _repeated(before, [len(node.inputs) if i == axis else 1 for i in range(len(before))])
    if node.op_type == "Tile":
        return _repeated(before, sizes.numbers(node.inputs[1]) or [])
    if node.op_type == "Expand":
        return _expanded(before, shape)
    return _cut(before, shape)


def _factor(axis: int | None, size: Size) -> tuple[Factor, ...]:
    return () if size.known == 1 else (Factor(axis, size),)


def _size(factors: Sequence[Factor]) -> Size:
    return product(factor.size for factor in factors)


def _repeated(before: Layout, repeats: Sequence[int]) -> Layout | None:
    if len(repeats) != len(before) or min(repeats, default=1) < 1:
        return None
    return tuple(
        (*_factor(None, Size.of(count)), *factors) for factors, count in zip(before, repeats, strict=True)
    )


def _expanded(before: Layout, shape: Shape) -> Layout | None:
    padded: Layout = (*([()] * (len(shape) - len(before))), *before)
    result = []
    for factors, size in zip(padded, shape, strict=True):
        if _size(factors) == size:
            result.append(factors)
        elif not factors:
            result.append(_factor(None, size))
        else:
            return None
    return tuple(result)


def _cut(before: Layout, shape: Shape) -> Layout | None:
    """The same factors in dimensions of the given sizes; None if one of them would be cut itself."""
    rest = [factor for factors in before for factor in factors]
    result = []
    for size in shape:
        taken: list[Factor] = []
        while _size(taken) != size:
            if not rest:
                return None
            taken.append(rest.pop(0))
        result.append(tuple(taken))
    return None if rest else tuple(result)


def repetition(after: Layout, shape: Shape) -> tuple[int, int] | None:
    """How often the rows and columns of a source N x C x H x W stand one after another in a layout; None if not so."""
    if len(after) != 4 or len(shape) != 4:
        return None
    if after[:2] != (_factor(0, shape[0]), _factor(1, shape[1])):
        return None
    factors = []
    for axis in (2, 3):
        own = _factor(axis, shape[axis])
        rest = after[axis][len(own) :]
        number = rest[0].size.known if len(rest) == 1 and rest[0].axis is None else None
        if after[axis][: len(own)] != own or (rest and number is None):
            return None
        factors.append(number or 1)
    return factors[0], factors[1]


def repeated(value: ir.Value, sizes: Sizes) -> tuple[ir.Value, tuple[int, int]] | None:
    """The value whose rows and columns this one repeats, by operators that repeat and move, and how often; or None.

    Args:
        value: N x C x f H x g W.
        sizes: what is proved of sizes.
    """
    nodes: list[ir.Node] = []
    deepest = None
    for node in chain(value):
        nodes.insert(0, node)
        source = node.inputs[0]
        shape = sizes.shape(source)
        if source is None or shape is None or len(shape) != 4:
            continue
        found: Layout | None = layout(shape)
        for step in nodes:
            found = None if found is None else move(step, found, sizes)
        factors = None if found is None else repetition(found, shape)
        if factors is not None and factors != (1, 1):
            deepest = source, factors
    return deepest


def goes_on(value: ir.Value, sizes: Sizes) -> bool:
    """Whether what reads a repeated image moves and repeats it further, and the whole is a repetition, too.

    Args:
        value: N x C x f H x g W.
        sizes: what is proved of sizes.
    """
    ahead = value
    for _ in range(_MOST_STEPS):
        node = next((use.node for use in ahead.uses() if use.idx == 0), None)
        if node is None or node.op_type not in _MOVING:
            return False
        ahead = node.outputs[0]
        found = repeated(ahead, sizes)
        if found is not None and any(step.outputs[0] is value for step in chain(ahead)):
            source = found[0]
            return source is not value and not any(
                step.outputs[0] is source for step in _between(ahead, value)
            )
    return False


def _between(ahead: ir.Value, value: ir.Value) -> Iterator[ir.Node]:
    """The nodes of the chain from one value back to another."""
    for node in chain(ahead):
        if node.outputs[0] is value:
            return
        yield node
