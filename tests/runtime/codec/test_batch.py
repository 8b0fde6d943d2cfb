"""Several items in work at a time."""

from __future__ import annotations

import itertools
import threading

import numpy as np
import pytest
from oslic.runtime.codec import Codec
from oslic.runtime.codec.batch import compress_many, decompress_many
from oslic.runtime.errors import ImageError, StreamError, UsageError
from oslic.runtime.threads import in_order


def test_results_come_in_order_with_their_items():
    assert list(in_order(range(9), lambda i: i * 10, 3)) == [(i, i * 10) for i in range(9)]
    assert list(in_order([], lambda i: i, 2)) == []


def test_other_exceptions_are_raised():
    with pytest.raises(ZeroDivisionError):
        list(in_order([0], lambda i: 1 / i, 2))
    with pytest.raises(UsageError, match="jobs is 0"):
        list(in_order([0], lambda i: i, 0))


def test_items_are_taken_as_they_are_needed():
    """Of an endless source at most twice as many as there are jobs are held, and the rest is left alone."""
    taken = []

    def source():
        for number in itertools.count():
            taken.append(number)
            yield number

    results = in_order(source(), lambda i: i, 2)
    assert [next(results)[1] for _ in range(3)] == [0, 1, 2]
    results.close()
    assert len(taken) <= 3 + 2 * 2


def test_two_items_are_in_work_and_come_in_order():
    both = threading.Barrier(2, timeout=20)

    def work(item):
        both.wait()  # passes only if two run at the same time
        return item * 10

    assert list(in_order(range(6), work, 2)) == [(i, i * 10) for i in range(6)]


def test_an_error_belongs_to_its_item():
    def work(item):
        if item == 1:
            raise ImageError("bad")
        return item

    found = [outcome for _, outcome in in_order(range(3), work, 2)]
    assert (found[0], found[2]) == (0, 2)
    assert isinstance(found[1], ImageError)


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
