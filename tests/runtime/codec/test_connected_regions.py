"""Connected regions against scikit-image, and shapes that are hard to join."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from oslic.runtime.codec.connected_regions import find_regions
from skimage.measure import label, regionprops


def _edges(lengths):
    return np.r_[0, np.cumsum(lengths)].astype(np.int64)


def _found(values, rows, columns):
    found = find_regions(values, rows, columns)
    fields = (found.values, found.top, found.left, found.bottom, found.right, found.areas)
    return sorted(zip(*(field.tolist() for field in fields), strict=True))


def _expected(full):
    """By scikit-image, at the size of the picture; it takes 0 for the background."""
    whole = label(full.astype(int) + 1, connectivity=1, background=0)
    return sorted(
        (int(full[tuple(region.coords[0])]), *map(int, region.bbox), int(region.area))
        for region in regionprops(whole)
    )


@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    most=st.integers(0, 3),
)
def test_random_maps(data, height, width, most):
    values = data.draw(arrays(np.uint8, (height, width), elements=st.integers(0, most)))
    tall = data.draw(st.lists(st.integers(1, 3), min_size=height, max_size=height))
    wide = data.draw(st.lists(st.integers(1, 3), min_size=width, max_size=width))
    full = values.repeat(tall, axis=0).repeat(wide, axis=1)
    assert _found(values, _edges(tall), _edges(wide)) == _expected(full)


def _spiral(side):
    """A line of 1 that winds inwards, one position wide, with 0 between its turns."""
    values = np.zeros((side, side), np.uint8)
    row, column, step = 0, -1, (0, 1)
    length, turns = side, 0
    while length > 0:
        for _ in range(length):
            row, column = row + step[0], column + step[1]
            values[row, column] = 1
        step = step[1], -step[0]
        turns += 1
        if turns == 1 or turns % 2 == 1:
            length -= 1 if turns == 1 else 2
    return values


def _snake(side):
    values = np.ones((side, side), np.uint8)
    values[1::4, :-1] = 0
    values[3::4, 1:] = 0
    return values


def _comb(side):
    values = np.zeros((side, side), np.uint8)
    values[:, ::2] = 1
    values[-1] = 1
    return values


@pytest.mark.parametrize(
    "values",
    [
        _spiral(41),
        _snake(64),
        _snake(64).T.copy(),
        _comb(65),
        _comb(65)[::-1].copy(),
        np.indices((30, 31)).sum(0).astype(np.uint8) % 2,  # no two neighbors are equal
        np.zeros((1, 1), np.uint8),
        np.full((7, 9), 255, np.uint8),
    ],
    ids=["spiral", "snake", "snake across", "comb", "comb upside down", "checkers", "one", "constant"],
)
def test_shapes_that_are_hard_to_join(values):
    height, width = values.shape
    assert _found(values, np.arange(height + 1), np.arange(width + 1)) == _expected(values)


def test_regions_stand_in_the_order_of_their_first_pixels():
    values = np.array([[3, 0, 3], [3, 0, 1], [2, 2, 2]], np.uint8)
    found = find_regions(values, np.arange(4), np.arange(4))
    assert found.values.tolist() == [3, 0, 3, 1, 2]
    own = found.of(3)
    assert (len(own), own.areas.tolist(), own.left.tolist()) == (2, [2, 1], [0, 2])


def test_areas_of_large_pictures_are_exact():
    side = 1 << 31
    found = find_regions(np.zeros((1, 1), np.uint8), np.array([0, side]), np.array([0, side]))
    assert found.areas.tolist() == [1 << 62]
