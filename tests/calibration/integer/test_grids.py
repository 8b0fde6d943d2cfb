"""What is claimed of grids holds for every value on them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oslic.calibration.integer.grids import Grid, NotExactError, grid_exponent, is_power_of_two, rounded

GRIDS = st.builds(
    lambda exponent, ends: Grid.of(exponent, min(ends), max(ends)),
    st.integers(-12, 12),
    st.tuples(st.integers(-1000, 1000), st.integers(-1000, 1000)),
)


def ends(grid):
    step = 2.0 ** float(grid.exponent)
    return float(grid.low) * step, float(grid.high) * step


def holds(grid, value):
    steps = value / 2.0 ** float(grid.exponent)
    return steps == np.rint(steps) and grid.low <= steps <= grid.high


@given(GRIDS, GRIDS)
def test_sums_products_and_unions_hold_the_values_of_both(one, other):
    for a in ends(one):
        for b in ends(other):
            assert holds(one.plus(other), a + b)
            assert holds(one.plus(other.negated()), a - b)
            assert holds(one.times(other), a * b)
        assert holds(one.joined(other), a)


@given(GRIDS)
def test_a_clip_at_zero_is_a_relu(grid):
    for value in ends(grid):
        assert holds(grid.clipped(0, np.inf), max(0.0, value))


def test_a_clip_off_the_grid_is_refused():
    with pytest.raises(NotExactError, match="is not on the grid"):
        Grid.of(0, -5, 5).clipped(0.5, np.inf)


@given(st.lists(st.integers(-(2**20), 2**20), min_size=1), st.integers(-20, 20))
def test_the_grid_of_a_constant_is_the_coarsest(whole, exponent):
    values = np.array(whole, np.float64) * 2.0**exponent
    found = grid_exponent(values)
    steps = values / 2.0**found
    assert np.array_equal(steps, np.rint(steps))
    if np.any(values):
        assert np.any(steps % 2 == 1)


def test_channels_have_grids_of_their_own():
    values = np.array([[0.5, 1.5], [8.0, -24.0]], np.float32)
    grid = Grid.of_constant(values, axis=0)
    assert grid.exponent.tolist() == [-1, 3]
    assert (grid.low.tolist(), grid.high.tolist()) == ([1, -3], [3, 1])
    merged = grid.merged()
    assert (int(merged.exponent), int(merged.low), int(merged.high)) == (-1, -48, 16)


def test_beyond_24_bits_nothing_is_exact():
    assert Grid.of(-3, -(2**24), 2**24).require_exact()
    with pytest.raises(NotExactError, match="beyond 2\\^24"):
        Grid.of(-3, 0, 2**24 + 1).require_exact()


@given(st.lists(st.floats(-100, 100, width=32), min_size=1), st.integers(4, 11))
def test_rounding_keeps_the_bits_it_is_told(values, bits):
    array = np.array(values, np.float32)
    made = rounded(array, bits)
    largest = np.abs(array).max()
    if largest < 1e-30:
        return
    steps = made.astype(np.float64) / 2.0 ** (np.floor(np.log2(np.float64(largest))) + 1 - bits)
    assert np.array_equal(steps, np.rint(steps))
    assert np.abs(steps).max() <= 2**bits
    assert np.abs(made - array).max() <= 2.0 ** (np.floor(np.log2(np.float64(largest))) - bits) * 1.0001
    assert np.array_equal(rounded(made, bits + 1), made)


def test_powers_of_two():
    assert is_power_of_two(np.array([0.25, 1, 1024]))
    for other in ([0.0], [-1.0], [3.0], [0.25, 0.3]):
        assert not is_power_of_two(np.array(other))
