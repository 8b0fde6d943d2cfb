"""Sizes of a graph's values as exact expressions in the sizes of its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir
from .expression import (
    UNKNOWN,
    Known,
    Number,
    Shape,
    Size,
    as_fraction,
    describe,
    parse_size,
    product,
    remedy,
)
from .operators import OPERATORS, SMALL, Operator


class Sizes:
    """Computes what is known of each value of a graph, on demand, and remembers it.

    Args:
        inputs: shapes of the graph's inputs by name, where they are to replace the graph's own: whole numbers,
            or `Size` expressions.
        multiple: every symbolic dimension of an input but the first (N) is declared to be a multiple of this.
    """

    def __init__(self, inputs: Mapping[str, Sequence[int | Size]] | None = None, multiple: int = 1) -> None:
        self._inputs = {
            name: tuple(d if isinstance(d, Size) else Size.of(d) for d in shape)
            for name, shape in (inputs or {}).items()
        }
        self._multiple = multiple
        self._memory: dict[ir.Value, Known] = {}

    def prepare(self, graph: ir.Graph) -> None:
        """Compute all values of a graph in its order, once for all later questions."""
        for node in graph:
            for output in node.outputs:
                self.known(output)

    def shape(self, value: ir.Value | None) -> Shape | None:
        """The value's dimensions, or None if its rank is unknown."""
        return None if value is None else self.known(value).shape

    def data(self, value: ir.Value | None) -> tuple[Number, ...] | None:
        """The value's elements, if it is a small tensor of sizes or factors."""
        return None if value is None else self.known(value).data

    def numbers(self, value: ir.Value | None) -> list[int] | None:
        """The value's elements as whole numbers, or None if one of them depends on a symbol."""
        data = self.data(value)
        if data is None:
            return None
        numbers = [as_fraction(x) for x in data]
        return None if any(x is None for x in numbers) else [int(x) for x in numbers if x is not None]

    def concrete(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """The value's dimensions as numbers, or None if one of them is not a number."""
        shape = self.shape(value)
        if shape is None:
            return None
        numbers = [d.known for d in shape]
        return None if None in numbers else tuple(d for d in numbers if d is not None)

    def known(self, value: ir.Value) -> Known:
        """What is known of the value."""
        # A stack of its own: graphs are deeper than Python's recursion may be.
        waiting = [] if value in self._memory else [value]
        opened: set[ir.Value] = set()
        while waiting:
            top = waiting[-1]
            missing = [] if top in opened else [x for x in _sources(top) if x not in self._memory]
            if missing:
                opened.add(top)  # on the way back, what is still missing lies on a cycle
                waiting += missing
                continue
            waiting.pop()
            if top not in self._memory:
                self._memory[top] = UNKNOWN  # what a cycle would find
                self._memory[top] = self._compute(top)
        return self._memory[value]

    def _compute(self, value: ir.Value) -> Known:
        if is_constant(value):
            assert value.const_value is not None
            shape = tuple(Size.of(d) for d in value.const_value.shape.numpy())
            data: tuple[Number, ...] | None = None
            if value.const_value.size <= SMALL and value.const_value.dtype.is_integer():
                data = tuple(Size.of(int(x)) for x in value.const_value.numpy().ravel())
            elif value.const_value.size <= SMALL and value.const_value.dtype.is_floating_point():
                array = value.const_value.numpy().astype(np.float64).ravel()
                if np.isfinite(array).all():
                    data = tuple(Fraction(float(x)) for x in array)
            return Known(shape, data)
        node = value.producer()
        if node is None:
            return self._input(value)
        rule = OPERATORS.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
        found = UNKNOWN
        if rule is not None:
            results = rule(Operator(self, node))
            index = value.index()
            if index is not None and index < len(results):
                found = results[index]
        if found.shape is None and value.shape is not None:
            # What the graph says of itself, with symbols that equal only themselves.
            names = [d if isinstance(d, int) else f"{value.name}.{i}" for i, d in enumerate(value.shape)]
            found = Known(tuple(Size.of(d) for d in names), found.data)
        return found

    def _input(self, value: ir.Value) -> Known:
        if value.name in self._inputs:
            return Known(self._inputs[value.name])
        if value.shape is None:
            return UNKNOWN
        dims = []
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, int):
                dims.append(Size.of(dim))
                continue
            size = parse_size(str(dim.value)) if dim.value is not None else Size.of(f"{value.name}.{axis}")
            # `4*h` is declared a multiple of M: h becomes a multiple of M / gcd(4, M).
            factor = math.gcd(*(c for _, c in size.terms))
            dims.append(size * (self._multiple // math.gcd(factor, self._multiple)) if axis else size)
        return Known(tuple(dims))


def is_constant(value: ir.Value | None) -> bool:
    """Whether a value is known ahead of time; an initializer that is an input, too, may be given another one."""
    return value is not None and value.const_value is not None and not value.is_graph_input()


def _sources(value: ir.Value) -> list[ir.Value]:
    """The values that a value is computed from."""
    node = None if value.const_value is not None else value.producer()
    return [] if node is None else [x for x in node.inputs if x is not None]


__all__ = ["Known", "Shape", "Size", "Sizes", "describe", "is_constant", "product", "remedy"]
