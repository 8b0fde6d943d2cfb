"""Numeric comparison."""

from __future__ import annotations

import numpy as np
import pytest
from oslic.export.verify import Tolerance, compare, require, run
from oslic.runtime.errors import VerificationError

REFERENCE = np.array([0.0, 1.0, -100.0, 1e-3], np.float32)


@pytest.mark.parametrize(
    ("offset", "tolerance", "ok"),
    [
        ([0, 0, 0, 0], Tolerance(0, 0), True),
        ([0, 0, 0.5, 0], Tolerance(0, 1e-2), True),
        ([0, 0.5, 0, 0], Tolerance(0, 1e-2), False),
        ([1e-3, 0, 0, 0], Tolerance(0, 1e-2), False),
        ([1e-3, 0, 0, 0], Tolerance(2e-3, 0), True),
        ([1, 0, 0, 0], Tolerance(0, 0, share=0.25), True),
        ([1, 1, 0, 0], Tolerance(0, 0, share=0.25), False),
        ([2, 0, 0, 0], Tolerance(0, 0, share=0.25, limit=1), False),
    ],
)
def test_both_parts_of_the_tolerance_add_up(offset, tolerance, ok):
    assert compare("y", REFERENCE + np.array(offset, np.float32), REFERENCE, tolerance).ok is ok


def test_differences_stand_beside_what_they_are_differences_of():
    found = compare("y", REFERENCE + np.float32(0.5), REFERENCE, Tolerance())
    assert (found.magnitude, found.maximum) == (100.0, 0.5)
    assert "maximum 0.5, mean 0.5 of values up to 100" in str(found)
    assert compare("y", REFERENCE, np.array([np.inf, 1, -2, np.nan], np.float32), Tolerance()).magnitude == 2


def test_nan_and_infinity_are_named_and_never_pass():
    bad = REFERENCE.copy()
    bad[1] = np.nan
    found = compare("y", bad, REFERENCE, Tolerance(1e9, 1e9, share=1.0))
    assert (found.ok, found.nans) == (False, 1)
    assert "1 NaN or infinite" in str(found)
    same = np.array([np.inf, 1], np.float32)
    assert compare("y", same, same, Tolerance(0, 0)).ok
    assert not compare("y", -same, same, Tolerance(1e9, 1e9)).ok


def test_another_shape_is_a_mismatch_and_an_error_says_by_how_much():
    found = compare("y", REFERENCE[:2], REFERENCE, Tolerance())
    with pytest.raises(VerificationError, match="the graph does not match its reference"):
        require([found], "the graph", Tolerance())


def test_a_graph_that_does_not_load_is_an_error():
    with pytest.raises(VerificationError, match="ONNX Runtime cannot run"):
        run(b"none", {})
