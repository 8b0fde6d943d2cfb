"""Memory of a GPU, owned by objects with one way to give it back."""

from __future__ import annotations

import ctypes
import math
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from .arrays import as_bytes

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]


class Resource:
    """A handle and the one way to give it back: `close`, or the end of the last reference, whichever comes first.

    Args:
        handle: address or number.
        release: gives it back; called once.
    """

    def __init__(self, handle: int, release: Callable[[int], object]) -> None:
        self.handle: Final = handle
        self._finalizer = weakref.finalize(self, release, handle)

    def close(self) -> None:
        """Give it back; calling this again does nothing."""
        self._finalizer()

    @property
    def closed(self) -> bool:
        """Whether it was given back."""
        return not self._finalizer.alive


class Buffer:
    """Memory that grows when more is asked for, and never shrinks.

    Args:
        allocate: size to address.
        free: gives an address back.
    """

    def __init__(self, allocate: Callable[[int], int], free: Callable[[int], object]) -> None:
        self._allocate, self._free = allocate, free
        self._memory: Resource | None = None
        self.size = 0

    def require(self, size: int) -> int:
        """The address of at least `size` bytes; what was there before is lost if it had to grow."""
        if self._memory is None or size > self.size:
            self.close()
            self._memory, self.size = Resource(self._allocate(max(size, 1)), self._free), size
        return self._memory.handle

    def hand_over(self) -> Resource:
        """The memory, whose owner is now the caller; the buffer is empty afterwards."""
        assert self._memory is not None
        memory, self._memory, self.size = self._memory, None, 0
        return memory

    def close(self) -> None:
        """Give the memory back."""
        if self._memory is not None:
            self._memory.close()
        self._memory, self.size = None, 0


class Pool:
    """Host memory that is lent out as arrays, and comes back when they are gone.

    Args:
        allocate: size to address.
        free: gives an address back.
        most: pieces that are kept for later.
    """

    def __init__(self, allocate: Callable[[int], int], free: Callable[[int], object], most: int = 4) -> None:
        self._allocate, self._free, self._most = allocate, free, most
        self._idle: list[tuple[int, Resource]] = []
        self._lock = threading.RLock()  # an array can go while this lock is held, by garbage collection
        self._open = True

    def array(self, shape: tuple[int, ...]) -> Bytes:
        """An array of undefined contents, uint8; the memory is its own until it is gone."""
        size = math.prod(shape)
        with self._lock:
            fitting = [entry for entry in self._idle if size <= entry[0] <= 2 * size]
            found = min(fitting, key=lambda entry: entry[0], default=None)
            if found is not None:
                self._idle.remove(found)
        room, memory = found or (size, Resource(self._allocate(max(size, 1)), self._free))
        raw = (ctypes.c_uint8 * size).from_address(memory.handle)
        # The array keeps `raw` alive as its base, and the memory goes back when `raw` goes.
        weakref.finalize(raw, self._return, room, memory)
        return as_bytes(raw).reshape(shape)

    def _return(self, room: int, memory: Resource) -> None:
        with self._lock:
            if self._open and len(self._idle) < self._most:
                self._idle.append((room, memory))
                return
        memory.close()

    @property
    def idle(self) -> int:
        """Pieces that wait to be lent out again."""
        return len(self._idle)

    def close(self) -> None:
        """Give back what is idle now, and what is lent out as soon as its arrays are gone."""
        with self._lock:
            self._open = False
            idle, self._idle = self._idle, []
        for _, memory in idle:
            memory.close()
