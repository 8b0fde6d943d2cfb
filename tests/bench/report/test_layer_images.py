"""Pictures of the layers: the legend of the label map."""

from __future__ import annotations

import numpy as np
import pytest
from oslic.bench.report.layer_images import color_labels, contact_sheet, legend
from oslic.runtime.bundle.manifest import ClassInfo
from oslic.runtime.codec import LabelMap

COLORS = [(255, 0, 0), (0, 160, 0), (0, 0, 255), (250, 220, 0)]


def _map(counts, names="abcd"):
    array = np.repeat(np.arange(len(counts)), counts).astype(np.uint8)[np.newaxis]
    classes = tuple(ClassInfo(name, color) for name, color in zip(names, COLORS, strict=False))
    return LabelMap(array, 2, 2 * sum(counts), 2, classes)


def _rows_of(drawn, color):
    return np.flatnonzero((np.asarray(drawn) == color).all(axis=2).any(axis=1))


def test_colors_are_those_of_the_classes():
    colored = color_labels(_map([1, 2]))
    assert colored.shape == (2, 6, 3)
    assert colored[1, 1].tolist() == list(COLORS[0])
    assert colored[0, 2].tolist() == list(COLORS[1])


def test_the_largest_class_stands_first():
    drawn = legend(_map([10, 60, 30]), 200)
    firsts = [_rows_of(drawn, color)[0] for color in (COLORS[1], COLORS[2], COLORS[0])]
    assert firsts == sorted(firsts)
    assert not len(_rows_of(drawn, COLORS[3]))


def test_small_classes_are_others_and_have_no_color():
    plain, more = legend(_map([500, 500]), 200), legend(_map([496, 500, 4]), 200)
    assert not len(_rows_of(more, COLORS[2]))
    dark = [np.flatnonzero((np.asarray(d) < 100).all(axis=2).any(axis=1)).max() for d in (plain, more)]
    assert dark[1] > dark[0]


@pytest.mark.parametrize(("height", "colors"), [(1, 1), (44, 1), (66, 2), (88, 4), (400, 4)])
def test_it_fits_beside_the_picture(height, colors):
    drawn = legend(_map([40, 30, 20, 10]), height)
    assert drawn.height == max(height, 22)
    assert sum(len(_rows_of(drawn, color)) > 0 for color in COLORS) == colors


def test_it_stands_at_the_right_of_the_first_row():
    panels = [(str(i), np.full((100, 80, 3), 200, np.uint8)) for i in range(6)]
    drawn = legend(_map([40, 60]), 100)
    plain, sheet = contact_sheet(panels), contact_sheet(panels, drawn)
    assert sheet.height == plain.height
    assert sheet.width == plain.width + drawn.width + 8
    assert np.array_equal(np.asarray(sheet)[:, : plain.width], np.asarray(plain))
    top, left = _rows_of(sheet, COLORS[1])[0], plain.width
    assert 34 <= top < 34 + 22
    assert np.array_equal(np.asarray(sheet)[34:134, left : left + drawn.width], np.asarray(drawn))
