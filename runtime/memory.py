"""What working on an image takes of memory, and taking it only when it is there.

The figures are of the resident memory of the whole process at its peak. Those of the networks stand in the manifest,
measured at export; those of the arrays and of the AV1 coder are constants here. `oslic bench memory` shows predictions
beside measured peaks.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .bundle import GraphInfo

# The interpreter, NumPy, Pillow with its AVIF library, and ONNX Runtime.
_PROCESS_BYTES: Final = 65 << 20
# Image, colour, estimate and what is made of them, as they stand beside a running network.
_ARRAY_BYTES: Final = 8.0
# libaom's encoder and the arrays that are made for it; dav1d and its output.
_ENCODER_BYTES: Final = 58.0
_DECODER_BYTES: Final = 13.0


@dataclass(frozen=True)
class MemoryUse:
    """A process's memory at its peak, as a line over the size of the image.

    Attributes:
        fixed: bytes that do not depend on the image.
        per_pixel: bytes for each pixel.
    """

    fixed: int
    per_pixel: float

    def at(self, pixels: int) -> int:
        """Bytes for an image of so many pixels."""
        return self.fixed + int(min(pixels * self.per_pixel, 1 << 62))


READING: Final = MemoryUse(48 << 20, 16.0)
"""Decoding an image file: what Pillow holds, its copies, and the array."""


LOSSLESS: Final = MemoryUse(48 << 20, 80.0)
"""Coding or decoding a FLIF file of any kind, its pixels and the image file included."""


def networks_use(graphs: Iterable[GraphInfo]) -> MemoryUse:
    """Memory of running graphs one after the other, their weights and all arrays of the image included."""
    infos = tuple(graphs)
    fixed = _PROCESS_BYTES + sum(info.fixed_bytes for info in infos)
    return MemoryUse(fixed, _ARRAY_BYTES + max(info.working_bytes_per_pixel for info in infos))


def encoding_use(graphs: Iterable[GraphInfo]) -> MemoryUse:
    """Memory of compressing an image: networks first, then the residual."""
    networks = networks_use(graphs)
    return MemoryUse(networks.fixed, max(networks.per_pixel, _ARRAY_BYTES + _ENCODER_BYTES))


def residual_use(graphs: Iterable[GraphInfo]) -> MemoryUse:
    """Memory of coding a residual; the networks are loaded, and do not run."""
    return MemoryUse(networks_use(graphs).fixed, _ARRAY_BYTES + _ENCODER_BYTES)


def decoding_use(graphs: Iterable[GraphInfo]) -> MemoryUse:
    """Memory of decompressing a stream: the residual is decoded beside the network."""
    networks = networks_use(graphs)
    return MemoryUse(networks.fixed, networks.per_pixel + _DECODER_BYTES)


class MemoryBudget:
    """Shares a limit among the images in work: one that does not fit beside the others waits for them.

    Args:
        total: bytes for all of them together.
    """

    def __init__(self, total: int) -> None:
        self._total = total
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserve(self, amount: int) -> Iterator[None]:
        """Hold `amount` bytes of the budget inside the `with` block; wait until they are free.

        An amount above the total is for the caller to refuse: here it waits until it is alone. Blocks must not be
        nested on one thread.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._taken == 0 or self._taken + amount <= self._total)
            self._taken += amount
        try:
            yield
        finally:
            with self._changed:
                self._taken -= amount
                self._changed.notify_all()


def resident_memory() -> tuple[int, int] | None:
    """Bytes of memory that this process holds, and the most that it held; None where the system does not say."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines if line.startswith("Vm")}
    return (sizes["VmRSS"], sizes["VmHWM"]) if {"VmRSS", "VmHWM"} <= sizes.keys() else None
