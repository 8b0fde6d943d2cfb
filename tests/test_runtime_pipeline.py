"""Overlapping the two halves of the work on several items."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from oslic.runtime.codec import Codec
from oslic.runtime.errors import ImageError, StreamError
from oslic.runtime.pipeline import ahead, compress_many, decompress_many, overlap


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


def test_two_items_are_in_work_and_come_in_order():
    both = threading.Barrier(2, timeout=20)

    def work(item):
        both.wait()  # passes only if two run at the same time
        return item * 10

    assert list(ahead(range(6), work)) == [(i, i * 10) for i in range(6)]


def test_an_error_belongs_to_its_item():
    def work(item):
        if item == 1:
            raise ImageError("bad")
        return item

    found = [outcome for _, outcome in ahead(range(3), work)]
    assert (found[0], found[2]) == (0, 2)
    assert isinstance(found[1], ImageError)
    assert list(ahead([], work)) == []


def test_many_images_are_what_single_ones_are(photo):
    images = [photo[:40, :64], photo[:3, :5].astype(np.float32), photo[50:90, 10:80, 0]]
    with Codec.open(threads=1) as codec:
        streams = list(compress_many(codec, iter(images), quality=30, effort=0))
        assert streams[0] == codec.compress(images[0], 30, effort=0)
        assert isinstance(streams[1], ImageError)
        back = list(decompress_many(codec, [streams[0], b"no stream", streams[2]]))
        assert np.array_equal(back[0], codec.decompress(streams[0]))
        assert isinstance(back[1], StreamError)
        assert back[2].shape == images[2].shape
