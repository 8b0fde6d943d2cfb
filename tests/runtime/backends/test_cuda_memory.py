"""Device memory: released once, pooled, safe for threads."""

from __future__ import annotations

import gc
import threading

from host_product import Heap
from oslic.runtime.backends.cuda.memory import Buffer, Pool, Resource


def test_a_resource_is_released_once():
    gone = []
    resource = Resource(5, gone.append)
    assert not resource.closed
    resource.close()
    resource.close()
    assert gone == [5]
    del resource
    Resource(6, gone.append)
    gc.collect()
    assert gone == [5, 6]


def test_buffers_grow_and_give_back_what_they_had():
    heap = Heap()
    buffer = Buffer(heap.allocate, heap.free)
    first = buffer.require(100)
    assert buffer.require(50) == first
    buffer.require(1000)
    assert list(heap.live.values()) == [1000]
    owner = buffer.hand_over()
    buffer.close()
    assert len(heap.live) == 1
    owner.close()
    assert not heap.live


def test_pooled_arrays_own_their_memory():
    heap = Heap()
    pool = Pool(heap.allocate, heap.free, most=1)
    one, two = pool.array((4, 5)), pool.array((20,))
    one[:], two[:] = 1, 2
    part = one[1:, 2]  # a view keeps the memory too
    del one
    gc.collect()
    assert (pool.idle, part.tolist()) == (0, [1, 1, 1])
    del part, two
    gc.collect()
    assert pool.idle == 1  # the other piece went back to the heap
    assert len(heap.live) == 1
    again = pool.array((18,))
    assert len(heap.live) == 1
    assert pool.array((1000,)).size == 1000
    pool.close()
    again[:] = 7
    assert again.sum() == 7 * 18  # lent memory outlives the pool
    del again
    gc.collect()
    assert not heap.live


def test_pools_are_safe_for_threads():
    heap = Heap()
    pool = Pool(heap.allocate, heap.free)
    failures = []

    def work(number):
        for i in range(200):
            array = pool.array((100 + i % 7,))
            array[:] = number
            if not (array == number).all():
                failures.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.close()
    gc.collect()
    assert not failures
    assert not heap.live
