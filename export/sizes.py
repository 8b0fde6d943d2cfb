"""Sizes of a graph's values as exact expressions in the sizes of its inputs.

Rewrites that hold only at even sizes need a proof, not a guess: every dimension is kept as a polynomial with
integer coefficients, `8*H + 3`, in the symbols of the graph's inputs. What an operator does to a dimension
(a stride, a pool, `Shape` arithmetic before a `Resize`) is computed on these expressions; what cannot be
expressed, such as the half of a size that is not known to be even, becomes a symbol of its own that equals only
itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

_SMALL = 64
"""Constants with more elements than this are never sizes."""


Monomial = tuple[str, ...]


@dataclass(frozen=True)
class Size:
    """A polynomial with integer coefficients in symbols, which are positive whole numbers.

    Attributes:
        terms: products of symbols (sorted) and their coefficients, sorted, no zero coefficients; the constant
            belongs to the empty product.
    """

    terms: tuple[tuple[Monomial, int], ...] = ()

    @classmethod
    def of(cls, value: int | str) -> Size:
        """A number or a symbol."""
        if isinstance(value, str):
            return cls((((value,), 1),))
        return cls((((), value),) if value else ())

    @classmethod
    def _from(cls, terms: Mapping[Monomial, int]) -> Size:
        return cls(tuple(sorted((m, c) for m, c in terms.items() if c)))

    @property
    def known(self) -> int | None:
        """The number that it is, or None if it depends on a symbol."""
        if not self.terms:
            return 0
        return self.terms[0][1] if self.terms[0][0] == () and len(self.terms) == 1 else None

    @property
    def symbols(self) -> set[str]:
        """The symbols in it."""
        return {symbol for monomial, _ in self.terms for symbol in monomial}

    def __add__(self, other: Size | int) -> Size:
        total = dict(self.terms)
        for monomial, coefficient in (other if isinstance(other, Size) else Size.of(other)).terms:
            total[monomial] = total.get(monomial, 0) + coefficient
        return Size._from(total)

    def __mul__(self, other: Size | int) -> Size:
        total: dict[Monomial, int] = {}
        for left, a in self.terms:
            for right, b in (other if isinstance(other, Size) else Size.of(other)).terms:
                monomial = tuple(sorted(left + right))
                total[monomial] = total.get(monomial, 0) + a * b
        return Size._from(total)

    def __sub__(self, other: Size | int) -> Size:
        return self + (other * -1 if isinstance(other, Size) else -other)

    def __floordiv__(self, divisor: int) -> Size:
        """Floor of the quotient: exact if all coefficients divide, else a symbol that is named by the quotient."""
        if all(c % divisor == 0 for m, c in self.terms if m):
            return Size._from({m: c // divisor for m, c in self.terms})
        return Size.of(f"floor(({self})/{divisor})")

    def divisible(self, divisor: int) -> bool:
        """Whether it is proved to be a multiple of `divisor`."""
        return all(c % divisor == 0 for _, c in self.terms)

    def divided(self, other: Size) -> Size | None:
        """The exact quotient by a single term, or None."""
        if len(other.terms) != 1:
            return None
        (monomial, coefficient) = other.terms[0]
        result: dict[Monomial, int] = {}
        for own, c in self.terms:
            rest = list(own)
            for symbol in monomial:
                if symbol not in rest:
                    return None
                rest.remove(symbol)
            if c % coefficient:
                return None
            result[tuple(rest)] = c // coefficient
        return Size._from(result)

    def evaluate(self, values: Mapping[str, int]) -> int:
        """The number for given values of the symbols.

        Raises:
            KeyError: a symbol has no value.
        """
        return sum(c * math.prod(values[s] for s in m) for m, c in self.terms)

    def __str__(self) -> str:
        if not self.terms:
            return "0"
        return " + ".join("*".join([*([str(c)] if c != 1 or not m else []), *m]) for m, c in self.terms)


def product(sizes: Iterable[Size]) -> Size:
    """Product."""
    total = Size.of(1)
    for size in sizes:
        total = total * size
    return total


Shape = tuple[Size, ...]
Number = Size | Fraction


@dataclass(frozen=True)
class Known:
    """What is known of one value.

    Attributes:
        shape: its dimensions; None if even the rank is unknown.
        data: its elements in C order, for small tensors of sizes and factors; None elsewhere.
    """

    shape: Shape | None = None
    data: tuple[Number, ...] | None = None


_UNKNOWN = Known()
_fresh = itertools.count()


def _scale(value: Number, factor: Fraction) -> Number | None:
    """Value * factor where the result is a size or a plain fraction."""
    if isinstance(value, Fraction):
        return value * factor
    if value.known is not None:
        return Fraction(value.known) * factor
    numerator = value * factor.numerator
    return numerator // factor.denominator if numerator.divisible(factor.denominator) else None


def _as_size(value: Number) -> Size | None:
    if isinstance(value, Size):
        return value
    return Size.of(int(value)) if value.denominator == 1 else None


def _as_fraction(value: Number) -> Fraction | None:
    if isinstance(value, Fraction):
        return value
    return None if value.known is None else Fraction(value.known)


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
        numbers = [_as_fraction(x) for x in data]
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
                self._memory[top] = _UNKNOWN  # what a cycle would find
                self._memory[top] = self._compute(top)
        return self._memory[value]

    def _compute(self, value: ir.Value) -> Known:
        if is_constant(value):
            assert value.const_value is not None
            shape = tuple(Size.of(d) for d in value.const_value.shape.numpy())
            data: tuple[Number, ...] | None = None
            if value.const_value.size <= _SMALL and value.const_value.dtype.is_integer():
                data = tuple(Size.of(int(x)) for x in value.const_value.numpy().ravel())
            elif value.const_value.size <= _SMALL and value.const_value.dtype.is_floating_point():
                array = value.const_value.numpy().astype(np.float64).ravel()
                if np.isfinite(array).all():
                    data = tuple(Fraction(float(x)) for x in array)
            return Known(shape, data)
        node = value.producer()
        if node is None:
            return self._input(value)
        rule = _OPERATORS.get(node.op_type) if node.domain in {"", "ai.onnx"} else None
        found = _UNKNOWN
        if rule is not None:
            results = rule(_Operator(self, node))
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
            return _UNKNOWN
        dims = []
        for axis, dim in enumerate(value.shape):
            if isinstance(dim, int):
                dims.append(Size.of(dim))
                continue
            size = _parse(str(dim.value)) if dim.value is not None else Size.of(f"{value.name}.{axis}")
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


def _parse(text: str) -> Size:
    """A symbol, or a whole number times a symbol, as torch's exporter writes dimensions; else an own symbol."""
    left, star, right = (part.strip() for part in text.partition("*"))
    if star and left.isdigit() and right.isidentifier():
        return Size.of(right) * int(left)
    if star and right.isdigit() and left.isidentifier():
        return Size.of(left) * int(right)
    return Size.of(text)


class _Operator:
    """One node with what is known of its inputs."""

    def __init__(self, sizes: Sizes, node: ir.Node) -> None:
        self.node = node
        self._sizes = sizes

    def known(self, index: int) -> Known:
        if index >= len(self.node.inputs) or self.node.inputs[index] is None:
            return _UNKNOWN
        value = self.node.inputs[index]
        assert value is not None
        return self._sizes.known(value)

    def present(self, index: int) -> bool:
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def shape(self, index: int = 0) -> Shape | None:
        return self.known(index).shape

    def numbers(self, index: int) -> list[int] | None:
        """A constant input as whole numbers."""
        return self._sizes.numbers(self.node.inputs[index]) if self.present(index) else None

    def sizes(self, index: int) -> list[Size] | None:
        data = self.known(index).data
        if data is None:
            return None
        found = [_as_size(x) for x in data]
        return None if any(x is None for x in found) else [x for x in found if x is not None]

    def integer(self, name: str, default: int) -> int:
        return self.node.attributes.get_int(name, default)

    def integers(self, name: str) -> list[int] | None:
        found = self.node.attributes.get_ints(name, None)
        return None if found is None else list(found)

    def text(self, name: str, default: str) -> str:
        return self.node.attributes.get_string(name, default)

    def axes(self, rank: int, index: int = 1) -> list[int] | None:
        """Axes from the attribute of older or the input of newer operator sets, none negative."""
        found = self.integers("axes")
        if found is None and self.present(index):
            found = self.numbers(index)
        return None if found is None else [a % rank for a in found]


Results = Sequence[Known]


def _same(op: _Operator) -> Results:
    return [Known(op.shape(), op.known(0).data)] + [Known(op.shape())] * (len(op.node.outputs) - 1)


def _shape_only(op: _Operator) -> Results:
    return [Known(op.shape())] * len(op.node.outputs)


def _first(op: _Operator) -> Results:
    return [Known(op.shape())]


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    rank = max(map(len, shapes))
    result = []
    for axis in range(rank):
        dims = [s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0]
        others = [d for d in dims if d.known != 1]
        if not others:
            result.append(Size.of(1))
            continue
        numbers = [d for d in others if d.known is not None]
        same = all(d == others[0] for d in others)
        result.append(others[0] if same else numbers[0] if numbers else Size.of(f"?{next(_fresh)}"))
    return tuple(result)


def _elementwise(op: _Operator) -> Results:
    shapes = [op.shape(i) for i in range(len(op.node.inputs)) if op.present(i)]
    if not shapes or any(s is None for s in shapes):
        return [_UNKNOWN]
    return [Known(_broadcast([s for s in shapes if s is not None]), _arithmetic(op))]


def _arithmetic(op: _Operator) -> tuple[Number, ...] | None:
    functions: dict[str, Callable[[Number, Number], Number | None]] = {
        "Add": lambda a, b: _sum(a, b, 1),
        "Sub": lambda a, b: _sum(a, b, -1),
        "Mul": _times,
        "Div": _over,
        "Equal": _equal,
    }
    left, right = op.known(0).data, op.known(1).data
    function = functions.get(op.node.op_type)
    if function is None or left is None or right is None:
        return None
    count = max(len(left), len(right))
    if not {len(left), len(right)} <= {1, count}:
        return None
    pairs = zip(left * (count // len(left)), right * (count // len(right)), strict=True)
    results = [function(a, b) for a, b in pairs]
    return None if any(x is None for x in results) else tuple(x for x in results if x is not None)


def _sum(a: Number, b: Number, sign: int) -> Number | None:
    if isinstance(a, Size) and isinstance(b, Size):
        return a + b * sign
    left, right = _as_fraction(a), _as_fraction(b)
    return None if left is None or right is None else left + right * sign


def _times(a: Number, b: Number) -> Number | None:
    if isinstance(a, Size) and isinstance(b, Size):
        return a * b
    factor = _as_fraction(b)
    if factor is not None:
        return _scale(a, factor)
    factor = _as_fraction(a)
    return None if factor is None else _scale(b, factor)


def _over(a: Number, b: Number) -> Number | None:
    divisor = _as_fraction(b)
    if divisor is None:
        return a.divided(b) if isinstance(a, Size) and isinstance(b, Size) else None
    if divisor == 0:
        return None
    if isinstance(a, Size) and isinstance(b, Size):
        return a // int(divisor)
    return _scale(a, 1 / divisor)


def _equal(a: Number, b: Number) -> Number | None:
    """1 or 0 where the question has one answer for all sizes."""
    left, right = _as_size(a), _as_size(b)
    if left is None or right is None:
        return None
    terms = [coefficient for _, coefficient in (left - right).terms]
    if not terms:
        return Size.of(1)
    # Symbols are positive, so that terms of one sign do not cancel each other.
    one_sign = all(c > 0 for c in terms) or all(c < 0 for c in terms)
    return Size.of(0) if one_sign else None


def _where(op: _Operator) -> Results:
    shapes = [op.shape(i) for i in range(3)]
    if any(s is None for s in shapes):
        return [_UNKNOWN]
    shape = _broadcast([s for s in shapes if s is not None])
    chosen, left, right = (op.known(i).data for i in range(3))
    if chosen is None or left is None or right is None:
        return [Known(shape)]
    count = max(len(chosen), len(left), len(right))
    if not {len(chosen), len(left), len(right)} <= {1, count}:
        return [Known(shape)]
    parts = (data * (count // len(data)) for data in (chosen, left, right))
    return [Known(shape, tuple(a if c != Size() else b for c, a, b in zip(*parts, strict=True)))]


def _rounded(op: _Operator) -> Results:
    """Floor, Ceil, Round and casts to whole numbers (which truncate)."""
    data = op.known(0).data
    if data is None:
        return [Known(op.shape())]
    functions: dict[str, Callable[[Fraction], int]] = {"Ceil": math.ceil, "Round": round}
    function = functions.get(op.node.op_type, math.floor)
    return [Known(op.shape(), tuple(x if isinstance(x, Size) else Fraction(function(x)) for x in data))]


def _cast(op: _Operator) -> Results:
    import onnx_ir as ir

    data = op.known(0).data
    if data is None:
        return [Known(op.shape())]
    target = ir.DataType(op.integer("to", int(ir.DataType.FLOAT)))
    if target.is_integer():
        whole = [x if isinstance(x, Size) else Size.of(math.trunc(x)) for x in data]
        return [Known(op.shape(), tuple(whole))]
    # A size that depends on a symbol stays exact; a plain number becomes a fraction, so that Div does not floor.
    return [
        Known(
            op.shape(), tuple(x if _as_fraction(x) is None else _as_fraction(x) or Fraction() for x in data)
        )
    ]


def _window(op: _Operator) -> Results:
    shape = op.shape()
    if shape is None:
        return [_UNKNOWN]
    spatial = len(shape) - 2
    kernel = op.integers("kernel_shape")
    channels = shape[1]
    if op.node.op_type in {"Conv", "ConvInteger", "QLinearConv"}:
        weight = op.shape(3 if op.node.op_type == "QLinearConv" else 1)
        if weight is None:
            return [_UNKNOWN]
        channels = weight[0]
        if kernel is None:
            found = [d.known for d in weight[2:]]
            if any(d is None for d in found):
                return [_UNKNOWN]
            kernel = [d for d in found if d is not None]
    if kernel is None:
        return [_UNKNOWN]
    strides = op.integers("strides") or [1] * spatial
    dilations = op.integers("dilations") or [1] * spatial
    pads = op.integers("pads") or [0] * (2 * spatial)
    mode = op.text("auto_pad", "NOTSET")
    ceil = op.integer("ceil_mode", 0)
    dims = []
    for i in range(spatial):
        size, stride = shape[2 + i], strides[i]
        extent = dilations[i] * (kernel[i] - 1) + 1
        if mode.startswith("SAME"):
            dims.append((size + (stride - 1)) // stride)
            continue
        padding = 0 if mode == "VALID" else pads[i] + pads[spatial + i]
        span = size + (padding - extent)
        dims.append((span + (stride - 1 if ceil else 0)) // stride + 1)
    return [Known((shape[0], channels, *dims))] * len(op.node.outputs)


def _transposed(op: _Operator) -> Results:
    shape, weight = op.shape(), op.shape(1)
    if shape is None or weight is None or op.integers("output_shape") is not None:
        return [_UNKNOWN]
    if op.text("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
        return [_UNKNOWN]
    spatial = len(shape) - 2
    strides = op.integers("strides") or [1] * spatial
    dilations = op.integers("dilations") or [1] * spatial
    pads = op.integers("pads") or [0] * (2 * spatial)
    extra = op.integers("output_padding") or [0] * spatial
    dims = []
    for i in range(spatial):
        kernel = weight[2 + i].known
        if kernel is None:
            return [_UNKNOWN]
        extent = dilations[i] * (kernel - 1) + 1
        dims.append((shape[2 + i] - 1) * strides[i] + (extent + extra[i] - pads[i] - pads[spatial + i]))
    return [Known((shape[0], weight[1] * op.integer("group", 1), *dims))]


def _unpool(op: _Operator) -> Results:
    shape, kernel = op.shape(), op.integers("kernel_shape")
    if op.present(2):
        sizes = op.sizes(2)
        return [_UNKNOWN if sizes is None else Known(tuple(sizes))]
    if shape is None or kernel is None:
        return [_UNKNOWN]
    strides = op.integers("strides") or [1] * len(kernel)
    pads = op.integers("pads") or [0] * (2 * len(kernel))
    dims = [
        (shape[2 + i] - 1) * strides[i] + (kernel[i] - pads[i] - pads[len(kernel) + i])
        for i in range(len(kernel))
    ]
    return [Known((*shape[:2], *dims))]


def _resize(op: _Operator) -> Results:
    shape = op.shape()
    if shape is None:
        return [_UNKNOWN]
    axes = op.integers("axes")
    chosen = range(len(shape)) if axes is None else [a % len(shape) for a in axes]
    dims = list(shape)
    scales_at = 1 if op.node.op_type == "Upsample" or len(op.node.inputs) == 2 else 2
    sizes, scales = op.sizes(3), op.known(scales_at).data
    if op.present(3):
        policy = op.text("keep_aspect_ratio_policy", "stretch")
        if sizes is not None and policy != "stretch":
            sizes = _keeping_aspect([dims[axis] for axis in chosen], sizes, policy)
        if sizes is None or len(sizes) != len(chosen):
            return [_UNKNOWN]
        for axis, size in zip(chosen, sizes, strict=True):
            dims[axis] = size
        return [Known(tuple(dims))]
    if scales is None:
        floats = op.node.attributes.get_floats("scales", None)
        scales = None if floats is None else tuple(Fraction(x) for x in floats)
    if scales is None or len(scales) != len(chosen):
        return [_UNKNOWN]
    for axis, scale in zip(chosen, scales, strict=True):
        factor = _as_fraction(scale)
        if factor is None:
            return [_UNKNOWN]
        dims[axis] = (dims[axis] * factor.numerator) // factor.denominator
    return [Known(tuple(dims))]


def _keeping_aspect(before: Sequence[Size], wanted: Sequence[Size], policy: str) -> list[Size] | None:
    """Sizes of a `Resize` that scales all axes alike, by the least or the largest of the wanted factors."""
    numbers = [(size.known, goal.known) for size, goal in zip(before, wanted, strict=False)]
    factors = [Fraction(goal, size) for size, goal in numbers if size and goal]
    if len(factors) != len(before):
        return None
    factor = min(factors) if policy == "not_larger" else max(factors)
    # ONNX rounds halves up.
    return [Size.of(math.floor(factor * (size.known or 0) + Fraction(1, 2))) for size in before]


def _concat(op: _Operator) -> Results:
    shapes = [op.shape(i) for i in range(len(op.node.inputs))]
    if any(s is None for s in shapes):
        return [_UNKNOWN]
    present = [s for s in shapes if s is not None]
    axis = op.integer("axis", 0) % max(1, len(present[0]))
    total = Size()
    for shape in present:
        total = total + shape[axis]
    data: tuple[Number, ...] | None = ()
    for i in range(len(present)):
        part = op.known(i).data
        data = None if part is None or data is None or len(present[0]) != 1 else data + part
    return [Known((*present[0][:axis], total, *present[0][axis + 1 :]), data)]


def _split(op: _Operator) -> Results:
    shape, parts = op.shape(), op.integers("split")
    if shape is None:
        return [_UNKNOWN]
    axis = op.integer("axis", 0) % len(shape)
    if parts is None and op.present(1):
        parts = op.numbers(1)
    count = len(op.node.outputs)
    sizes = [shape[axis] // count] * count if parts is None else [Size.of(p) for p in parts]
    return [Known((*shape[:axis], size, *shape[axis + 1 :])) for size in sizes]


def _slice(op: _Operator) -> Results:
    shape = op.shape()
    starts = op.integers("starts") or op.numbers(1)
    ends = op.integers("ends") or op.numbers(2)
    if shape is None or starts is None or ends is None:
        return [_UNKNOWN]
    axes = op.axes(len(shape), 3) or list(range(len(starts)))
    steps = op.numbers(4) or [1] * len(starts)
    dims = list(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = dims[axis]
        if step < 1:
            dims[axis] = Size.of(f"?{next(_fresh)}")
            continue
        low = Size.of(start) if start >= 0 else size + start
        high = size + end if end < 0 else size if end >= 1 << 30 else Size.of(end)
        if end >= 0 and size.known is not None:
            high = Size.of(min(end, size.known))
        elif 0 <= end < 1 << 30:
            # Whether a plain number lies beyond a size that is a symbol is not known.
            high = Size.of(f"min({size}, {end})")
        dims[axis] = (high - low + (step - 1)) // step
    data = op.known(0).data
    if data is not None and len(shape) == 1 and len(starts) == 1:
        data = data[starts[0] : ends[0] : steps[0]]
        return [Known((Size.of(len(data)),), data)]
    return [Known(tuple(dims))]


def _shape_of(op: _Operator) -> Results:
    shape = op.shape()
    if shape is None:
        return [_UNKNOWN]
    start = op.integer("start", 0)
    end = op.integer("end", len(shape))
    chosen = shape[start:end]
    return [Known((Size.of(len(chosen)),), chosen)]


def _gather(op: _Operator) -> Results:
    shape, indices = op.shape(), op.shape(1)
    if shape is None or indices is None:
        return [_UNKNOWN]
    axis = op.integer("axis", 0) % max(1, len(shape))
    data, chosen = op.known(0).data, op.numbers(1)
    picked = None
    if data is not None and chosen is not None and len(shape) == 1:
        picked = tuple(data[i] for i in chosen)
    return [Known((*shape[:axis], *indices, *shape[axis + 1 :]), picked)]


def _unsqueeze(op: _Operator) -> Results:
    shape = op.shape()
    if shape is None:
        return [_UNKNOWN]
    found = op.integers("axes") or op.numbers(1)
    if found is None:
        return [_UNKNOWN]
    rank = len(shape) + len(found)
    axes = {a % rank for a in found}
    rest = iter(shape)
    return [Known(tuple(Size.of(1) if i in axes else next(rest) for i in range(rank)), op.known(0).data)]


def _squeeze(op: _Operator) -> Results:
    shape = op.shape()
    if shape is None:
        return [_UNKNOWN]
    axes = op.axes(max(1, len(shape)))
    if axes is None:
        axes = [i for i, d in enumerate(shape) if d.known == 1]
    return [Known(tuple(d for i, d in enumerate(shape) if i not in axes), op.known(0).data)]


def _reshape(op: _Operator) -> Results:
    shape, target = op.shape(), op.sizes(1)
    if target is None:
        return [_UNKNOWN]
    dims: list[Size | None] = []
    for i, size in enumerate(target):
        if size.known == 0 and not op.integer("allowzero", 0):
            dims.append(None if shape is None or i >= len(shape) else shape[i])
        else:
            dims.append(None if size.known == -1 else size)
    if None in dims and shape is not None:
        known = [d for d in dims if d is not None]
        rest = _quotient(shape, known) if len(known) == len(dims) - 1 else None
        dims = [rest if d is None else d for d in dims]
    if None in dims:
        return [Known(tuple(Size.of(f"?{next(_fresh)}") if d is None else d for d in dims))]
    data = op.known(0).data
    return [Known(tuple(d for d in dims if d is not None), data)]


def _quotient(total: Sequence[Size], parts: Sequence[Size]) -> Size | None:
    """prod(total) / prod(parts) where it is exact."""
    rest: Size | None = product(total)
    for part in parts:
        rest = None if rest is None else rest.divided(part)
    return rest


def _transpose(op: _Operator) -> Results:
    shape = op.shape()
    if shape is None:
        return [_UNKNOWN]
    order = op.integers("perm") or list(range(len(shape)))[::-1]
    return [Known(tuple(shape[i] for i in order))]


def _pad(op: _Operator) -> Results:
    shape = op.shape()
    pads = op.integers("pads") or op.numbers(1)
    if shape is None or pads is None:
        return [_UNKNOWN]
    axes = op.axes(len(shape), 3) or list(range(len(shape)))
    dims = list(shape)
    for i, axis in enumerate(axes):
        dims[axis] = dims[axis] + (pads[i] + pads[len(axes) + i])
    return [Known(tuple(dims))]


def _expand(op: _Operator) -> Results:
    shape, target = op.shape(), op.sizes(1)
    return [_UNKNOWN if shape is None or target is None else Known(_broadcast([shape, tuple(target)]))]


def _tile(op: _Operator) -> Results:
    shape, repeats = op.shape(), op.numbers(1)
    if shape is None or repeats is None:
        return [_UNKNOWN]
    return [Known(tuple(d * r for d, r in zip(shape, repeats, strict=True)))]


def _constant_of_shape(op: _Operator) -> Results:
    target = op.sizes(0)
    if target is None:
        return [_UNKNOWN]
    count, fill = product(target).known, op.node.attributes.get("value")
    if count is None or count > _SMALL or fill is None or not fill.as_tensor().dtype.is_integer():
        return [Known(tuple(target))]
    return [Known(tuple(target), (Size.of(int(fill.as_tensor().numpy().item())),) * count)]


def _blocks(op: _Operator) -> Results:
    shape, block = op.shape(), op.integer("blocksize", 1)
    if shape is None:
        return [_UNKNOWN]
    n, c, h, w = shape
    if op.node.op_type == "DepthToSpace":
        return [Known((n, c // (block * block), h * block, w * block))]
    return [Known((n, c * (block * block), h // block, w // block))]


def _reduce(op: _Operator) -> Results:
    shape = op.shape()
    if shape is None:
        return [_UNKNOWN]
    if op.node.op_type in {"ArgMax", "ArgMin"}:
        axes: list[int] | None = [op.integer("axis", 0) % len(shape)]
    else:
        axes = op.axes(len(shape))
    axes = list(range(len(shape))) if axes is None else axes
    if op.integer("keepdims", 1):
        return [Known(tuple(Size.of(1) if i in axes else d for i, d in enumerate(shape)))]
    return [Known(tuple(d for i, d in enumerate(shape) if i not in axes))]


def _matmul(op: _Operator) -> Results:
    left, right = op.shape(), op.shape(1)
    if left is None or right is None:
        return [_UNKNOWN]
    if op.node.op_type == "Gemm":
        rows = left[1] if op.integer("transA", 0) else left[0]
        return [Known((rows, right[0] if op.integer("transB", 0) else right[1]))]
    if len(left) < 2 or len(right) < 2:
        return [_UNKNOWN]
    batch = _broadcast([left[:-2], right[:-2]]) if len(left) + len(right) > 4 else ()
    return [Known((*batch, left[-2], right[-1]))]


def _global_pool(op: _Operator) -> Results:
    shape = op.shape()
    return [_UNKNOWN if shape is None else Known((*shape[:2], *[Size.of(1)] * (len(shape) - 2)))]


_OPERATORS: dict[str, Callable[[_Operator], Results]] = {
    **dict.fromkeys(
        [
            "Relu",
            "LeakyRelu",
            "PRelu",
            "Sigmoid",
            "Tanh",
            "Clip",
            "Elu",
            "Selu",
            "HardSigmoid",
            "HardSwish",
            "Softmax",
            "LogSoftmax",
            "Exp",
            "Log",
            "Sqrt",
            "Abs",
            "Neg",
            "Erf",
            "Gelu",
            "Mish",
            "Softplus",
            "BatchNormalization",
            "InstanceNormalization",
            "GroupNormalization",
            "Not",
            "QuantizeLinear",
            "DequantizeLinear",
            "Dropout",
            "Reciprocal",
            "Sign",
            "Acos",
            "Acosh",
            "Asin",
            "Asinh",
            "Atan",
            "Atanh",
            "Celu",
            "Cos",
            "Cosh",
            "CumSum",
            "Hardmax",
            "IsInf",
            "IsNaN",
            "LRN",
            "LpNormalization",
            "Shrink",
            "Sin",
            "Sinh",
            "Softsign",
            "Swish",
            "Tan",
            "ThresholdedRelu",
        ],
        _shape_only,
    ),
    **dict.fromkeys(
        [
            "Add",
            "Sub",
            "Mul",
            "Div",
            "Pow",
            "Max",
            "Min",
            "Sum",
            "Mean",
            "Equal",
            "Greater",
            "Less",
            "GreaterOrEqual",
            "LessOrEqual",
            "And",
            "Or",
            "Mod",
        ],
        _elementwise,
    ),
    **dict.fromkeys(["Conv", "ConvInteger", "QLinearConv", "AveragePool", "MaxPool", "LpPool"], _window),
    **dict.fromkeys(["Floor", "Ceil", "Round"], _rounded),
    **dict.fromkeys(["Resize", "Upsample"], _resize),
    **dict.fromkeys(["DepthToSpace", "SpaceToDepth"], _blocks),
    **dict.fromkeys(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ArgMax", "ArgMin"], _reduce),
    **dict.fromkeys(["MatMul", "Gemm", "MatMulInteger"], _matmul),
    **dict.fromkeys(["GlobalAveragePool", "GlobalMaxPool"], _global_pool),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization"], _first),
    "Identity": _same,
    "Where": _where,
    "Cast": _cast,
    "ConvTranspose": _transposed,
    "MaxUnpool": _unpool,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Shape": _shape_of,
    "Gather": _gather,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Pad": _pad,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _constant_of_shape,
}


def describe(shape: Shape | None) -> str:
    """A shape for messages."""
    return "unknown" if shape is None else " x ".join(map(str, shape))


def remedy(*shapes: Shape | None) -> str:
    """What may help where nothing was proved of shapes, as the end of a message; nothing if all are numbers."""
    if all(shape is not None and not any(size.symbols for size in shape) for shape in shapes):
        return ""
    return "; if the graph's height and width are multiples of a number, declare it (--multiple)"


__all__ = ["Known", "Shape", "Size", "Sizes", "describe", "is_constant", "product", "remedy"]
