"""Work in threads that is called off."""

from __future__ import annotations

import threading

import pytest
from oslic.runtime.codec.tile_pool import TilePool
from oslic.runtime.files import write_atomically
from oslic.runtime.stopping import StoppedError, check_stopped, may_be_stopped_by
from oslic.runtime.threads import Workers, in_order


def test_what_is_in_work_leaves_no_file(tmp_path):
    """Its bytes are ready when the one who asked for them goes away."""
    (tmp_path / "second").write_bytes(b"old")
    go_on, in_work = threading.Event(), threading.Event()

    def work(name):
        if name == "second":
            in_work.set()
            assert go_on.wait(60)
        write_atomically(tmp_path / name, b"new")

    results = in_order(["first", "second"], work, 1)
    next(results)
    assert in_work.wait(60)
    threading.Timer(0.2, go_on.set).start()
    results.close()
    assert go_on.is_set()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "first": b"new",
        "second": b"old",
    }


def test_tiles_are_called_off_with_their_picture():
    begun = []

    def picture(stop):
        may_be_stopped_by(stop)

        def tile(number):
            begun.append(number)
            if number == 2:
                stop.set()

        return list(TilePool(1).run(tile, range(100)))

    with Workers(1) as pool, pytest.raises(StoppedError):
        pool.submit(picture, threading.Event()).result()
    assert 3 <= len(begun) <= 5


def test_threads_of_threads_are_called_off():
    def inner():
        check_stopped()

    def outer(stop):
        may_be_stopped_by(stop)
        with Workers(1) as pool:
            pool.submit(inner).result()
            stop.set()
            pool.submit(inner).result()

    with Workers(1) as pool, pytest.raises(StoppedError):
        pool.submit(outer, threading.Event()).result()
    check_stopped()  # another thread's work goes on
