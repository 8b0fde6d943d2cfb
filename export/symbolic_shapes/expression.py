"""Sizes as exact expressions: polynomials in the sizes of a graph's inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

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


UNKNOWN = Known()
fresh_symbol = itertools.count()


def scaled(value: Number, factor: Fraction) -> Number | None:
    """Value * factor where the result is a size or a plain fraction."""
    if isinstance(value, Fraction):
        return value * factor
    if value.known is not None:
        return Fraction(value.known) * factor
    numerator = value * factor.numerator
    return numerator // factor.denominator if numerator.divisible(factor.denominator) else None


def as_size(value: Number) -> Size | None:
    """The number as a size; None for a fraction that is not whole."""
    if isinstance(value, Size):
        return value
    return Size.of(int(value)) if value.denominator == 1 else None


def as_fraction(value: Number) -> Fraction | None:
    """The number as a fraction; None for a size that depends on the inputs."""
    if isinstance(value, Fraction):
        return value
    return None if value.known is None else Fraction(value.known)


def parse_size(text: str) -> Size:
    """A symbol, or a whole number times a symbol, as torch's exporter writes dimensions; else an own symbol."""
    left, star, right = (part.strip() for part in text.partition("*"))
    if star and left.isdigit() and right.isidentifier():
        return Size.of(right) * int(left)
    if star and right.isdigit() and left.isidentifier():
        return Size.of(left) * int(right)
    return Size.of(text)


def added(a: Number, b: Number, sign: int) -> Number | None:
    """Give a + sign * b; None where a size that depends on the inputs meets a fraction."""
    if isinstance(a, Size) and isinstance(b, Size):
        return a + b * sign
    left, right = as_fraction(a), as_fraction(b)
    return None if left is None or right is None else left + right * sign


def multiplied(a: Number, b: Number) -> Number | None:
    """Give a * b; None where the product is not known to be whole."""
    if isinstance(a, Size) and isinstance(b, Size):
        return a * b
    factor = as_fraction(b)
    if factor is not None:
        return scaled(a, factor)
    factor = as_fraction(a)
    return None if factor is None else scaled(b, factor)


def divided(a: Number, b: Number) -> Number | None:
    """Give a / b; None where it is not known, or b is 0."""
    divisor = as_fraction(b)
    if divisor is None:
        return a.divided(b) if isinstance(a, Size) and isinstance(b, Size) else None
    if divisor == 0:
        return None
    if isinstance(a, Size) and isinstance(b, Size):
        return _whole_quotient(a, int(divisor))
    return scaled(a, 1 / divisor)


def _whole_quotient(a: Size, divisor: int) -> Size | None:
    """The quotient rounded toward zero, as ONNX divides whole numbers.

    Sizes that depend on the inputs are taken to be positive, so that to round them down is the same.
    """
    if a.known is not None:
        return Size.of(int(Fraction(a.known, divisor)))
    return a // divisor if divisor > 0 or a.divisible(divisor) else None


def equal(a: Number, b: Number) -> Number | None:
    """1 or 0 where the question has one answer for all sizes."""
    left, right = as_size(a), as_size(b)
    if left is None or right is None:
        return None
    terms = [coefficient for _, coefficient in (left - right).terms]
    if not terms:
        return Size.of(1)
    # Symbols are positive, so that terms of one sign do not cancel each other.
    one_sign = all(c > 0 for c in terms) or all(c < 0 for c in terms)
    return Size.of(0) if one_sign else None


def quotient(total: Sequence[Size], parts: Sequence[Size]) -> Size | None:
    """prod(total) / prod(parts) where it is exact."""
    rest: Size | None = product(total)
    for part in parts:
        rest = None if rest is None else rest.divided(part)
    return rest


def describe(shape: Shape | None) -> str:
    """A shape for messages."""
    return "unknown" if shape is None else " x ".join(map(str, shape))


def remedy(*shapes: Shape | None) -> str:
    """What may help where nothing was proved of shapes, as the end of a message; nothing if all are numbers."""
    if all(shape is not None and not any(size.symbols for size in shape) for shape in shapes):
        return ""
    return "; if the graph's height and width are multiples of a number, declare it (--multiple)"
