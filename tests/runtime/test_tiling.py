"""Grids of tiles: they cover a picture once, at any size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oslic.runtime.errors import UsageError
from oslic.runtime.tiling import HALO, ONE_TILE_PIXELS, TILE_SIDE, Box, Grid, choose, single

SIDES = st.integers(1, 4000)


@given(SIDES, SIDES)
def test_the_tiles_cover_the_picture_once(width, height):
    grid = choose(width, height)
    covered = np.zeros((height, width), np.uint8)
    for tile in range(grid.count):
        grid.box(tile).of(covered)[:] += 1
    assert covered.min() == covered.max() == 1
    assert grid.is_tiled == (width * height > ONE_TILE_PIXELS)


@given(st.integers(1, 200_000), st.integers(1, 200_000))
def test_sides_are_multiples_and_the_halo_fits(width, height):
    grid = choose(width, height)
    if not grid.is_tiled:
        assert grid == single(width, height)
        return
    for side in (grid.tile_width, grid.tile_height):
        assert side % 32 == 0
        assert HALO <= side <= TILE_SIDE


@given(SIDES, SIDES)
def test_tiles_of_a_given_side_have_it(width, height):
    """Whatever the picture's size: so tiles of different pictures have few shapes, and a server can batch them."""
    grid = choose(width, height, 256)
    if grid.is_tiled:
        assert (grid.tile_width, grid.tile_height) == (256, 256)
    else:
        assert max(width, height) <= 256


@given(SIDES, SIDES, st.data())
def test_touching_tiles_are_those_that_overlap(width, height, data):
    grid = Grid(width, height, 416, 288, 64)
    left, top = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    box = Box(left, top, data.draw(st.integers(left + 1, width)), data.draw(st.integers(top + 1, height)))
    found = [tile for tile in range(grid.count) if grid.box(tile).overlap(box) is not None]
    assert list(grid.touching(box)) == found


def test_an_input_box_ends_at_the_picture():
    grid = Grid(3000, 2000, 768, 672, 64)
    assert grid.input_box(0) == Box(0, 0, 832, 736)
    assert grid.input_box(5) == Box(704, 608, 1600, 1408)
    assert grid.input_box(11) == Box(2240, 1280, 3000, 2000)


@pytest.mark.parametrize(("side", "halo"), [(100, 32), (0, 0), (64, 33), (64, 96), (64, -32)])
def test_tiles_that_cannot_be_are_refused(side, halo):
    with pytest.raises(UsageError, match="multiples of 32"):
        choose(3000, 2000, side, halo)
