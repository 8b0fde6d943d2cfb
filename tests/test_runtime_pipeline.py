"""Overlapping the two halves of the work on several items."""

from __future__ import annotations

import threading

import pytest
from oslic.runtime.errors import ImageError
from oslic.runtime.pipeline import overlap


def test_results_come_in_order_with_their_items():
    assert list(overlap(range(5), lambda i: i * 10, lambda i, half: (i, half))) == [
        (i, (i, i * 10)) for i in range(5)
    ]


def test_the_halves_of_neighbours_run_at_the_same_time():
    """The second half of item 0 cannot end before the first half of item 1 has begun."""
    begun = threading.Event()

    def first(item):
        if item == 1:
            begun.set()
        return item

    def second(item, half):
        assert begun.wait(20)
        return half

    assert [outcome for _, outcome in overlap(range(2), first, second)] == [0, 1]


def test_errors_of_either_half_belong_to_their_item_and_the_others_go_on():
    def first(item):
        if item == 1:
            raise ImageError("first of 1")
        return item

    def second(item, half):
        if item == 2:
            raise ImageError("second of 2")
        return half

    found = dict(overlap(range(4), first, second))
    assert (found[0], found[3]) == (0, 3)
    assert [str(found[i]) for i in (1, 2)] == ["first of 1", "second of 2"]


def test_other_exceptions_are_raised():
    with pytest.raises(ZeroDivisionError):
        list(overlap([0], lambda i: 1 / i, lambda i, half: half))


def test_nothing_in_nothing_out():
    assert list(overlap([], lambda i: i, lambda i, half: half)) == []
