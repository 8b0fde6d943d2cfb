"""The algebra of sizes agrees with numbers: what is proved of an expression holds for all sizes."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import assume, given
from hypothesis import strategies as st
from oslic.export.symbolic_shapes.expression import (
    Size,
    added,
    divided,
    equal,
    multiplied,
    product,
    quotient,
    scaled,
)

SYMBOLS = ("N", "H", "W")
COEFFICIENTS = st.integers(-12, 12)
VALUES = st.fixed_dictionaries({symbol: st.integers(1, 50) for symbol in SYMBOLS})
MONOMIALS = st.lists(st.sampled_from(SYMBOLS), max_size=3)


@st.composite
def terms(draw) -> Size:
    """A coefficient that is not 0, times symbols."""
    return product(map(Size.of, draw(MONOMIALS))) * draw(COEFFICIENTS.filter(bool))


@st.composite
def sizes(draw) -> Size:
    """A sum of up to four terms."""
    total = Size.of(0)
    for term in draw(st.lists(terms(), max_size=4)):
        total += term
    return total


@given(sizes(), sizes(), VALUES)
def test_operations_are_those_of_numbers(a, b, values):
    x, y = a.evaluate(values), b.evaluate(values)
    assert (a + b).evaluate(values) == x + y
    assert (a - b).evaluate(values) == x - y
    assert (a * b).evaluate(values) == x * y


@given(sizes(), sizes(), sizes())
def test_equal_expressions_have_one_form(a, b, c):
    assert a + b == b + a
    assert a * b == b * a
    assert (a + b) + c == a + (b + c)
    assert a * (b + c) == a * b + a * c
    assert a - a == Size.of(0)
    assert (a + b) - b == a
    assert a * 1 == a + 0 == a
    assert hash(a + b) == hash(b + a)


@given(sizes(), st.integers(1, 12), VALUES)
def test_what_is_proved_divisible_is_divisible(a, divisor, values):
    assert (a * divisor).divisible(divisor)
    assert a * divisor // divisor == a
    if a.divisible(divisor):
        assert a.evaluate(values) % divisor == 0
        assert (a // divisor) * divisor == a


@given(sizes(), st.integers(1, 12), st.integers(0, 11), VALUES)
def test_quotients_are_rounded_down_whatever_is_left(a, divisor, rest, values):
    assert (a * divisor + rest).evaluate(values) // divisor == ((a * divisor + rest) // divisor).evaluate(
        values
    )


@given(sizes(), terms(), VALUES)
def test_quotients_by_a_term_are_exact(a, term, values):
    assert (a * term).divided(term) == a
    found = a.divided(term)
    if found is not None:
        assert found * term == a
        assert found.evaluate(values) * term.evaluate(values) == a.evaluate(values)


@given(st.lists(terms(), max_size=3), st.lists(terms(), max_size=3))
def test_quotients_of_products_are_exact(total, parts):
    assert quotient([*total, *parts], parts) == product(total)
    found = quotient(total, parts)
    if found is not None:
        assert product([found, *parts]) == product(total)


@given(sizes(), sizes(), VALUES)
def test_an_answer_to_a_question_holds_for_all_sizes(a, b, values):
    answer = equal(a, b)
    if answer is not None:
        assert bool(answer.known) == (a.evaluate(values) == b.evaluate(values))
    assert equal(a, a) == Size.of(1)


@given(sizes(), st.fractions(max_denominator=12), VALUES)
def test_fractions_of_sizes_are_whole_or_unknown(a, factor, values):
    for found in (scaled(a, factor), multiplied(a, factor), multiplied(factor, a)):
        if isinstance(found, Size):
            assert found.evaluate(values) == a.evaluate(values) * factor
        elif found is not None:
            assert a.known is not None
            assert found == a.known * factor


@given(sizes(), st.fractions(max_denominator=12), st.sampled_from([1, -1]))
def test_sums_with_fractions_are_exact_or_unknown(a, other, sign):
    found = added(a, other, sign)
    assert found == (None if a.known is None else a.known + sign * other)


@given(st.integers(-50, 50), st.integers(-12, 12))
def test_whole_numbers_are_divided_as_onnx_divides_them(a, b):
    """Rounded toward zero; by 0 not at all."""
    found = divided(Size.of(a), Size.of(b))
    if b == 0:
        assert found is None
    else:
        assert found == Size.of(int(Fraction(a, b)))


@given(sizes(), VALUES)
def test_expressions_can_be_told_apart_by_their_text(a, values):
    b = a + 1
    assume(a.symbols)
    assert str(a) != str(b)
    assert eval(str(a), {}, dict(values)) == a.evaluate(values)
