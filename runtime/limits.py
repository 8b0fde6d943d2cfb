"""Limits on what the runtime accepts, on by default and checked before memory is taken."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .errors import LimitError

if TYPE_CHECKING:
    from .memory import MemoryUse

_NO_PROC: Final = 4 << 30
# Version 1 of control groups writes "no limit" as the largest number of whole pages.
_UNLIMITED: Final = 1 << 60


def available_memory(root: str | Path = "/") -> int:
    """Return the bytes that this process may still take: the machine's, or those of a control group that has less.

    All groups above the process's own count, of version 1 and 2. Pages that a group only caches files in are free.
    Falls back to 4 GiB where neither `/proc/meminfo` nor a control group can be read.

    Args:
        root: where `proc` and `sys` are.
    """
    base = Path(root)
    amounts = [_number_behind(base / "proc/meminfo", "MemAvailable:", 1024)]
    for folder, most, used, cached in _groups(base):
        limit, usage = _number(folder / most), _number(folder / used)
        if limit is not None and usage is not None and limit < _UNLIMITED:
            reclaimable = _number_behind(folder / "memory.stat", cached, 1) or 0
            amounts.append(max(0, limit - max(0, usage - reclaimable)))
    return min((amount for amount in amounts if amount is not None), default=_NO_PROC)


def _groups(base: Path) -> Iterator[tuple[Path, str, str, str]]:
    """Folders of the control groups that hold the process, and the names of their limit, usage and file cache."""
    mount = base / "sys/fs/cgroup"
    for version, path in _memberships(base):
        if version == 2:
            names = ("memory.max", "memory.current", "inactive_file")
            # Beside controllers of version 1 the tree of version 2 stands in a folder of its own.
            top = mount / "unified" if (mount / "unified").is_dir() else mount
        else:
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            top = mount / "memory"
        # A container often sees its own group as the top, under a path that is valid outside only.
        inner = [top.joinpath(*path.parts[: i + 1]) for i in range(len(path.parts))]
        for folder in (top, *inner):
            yield folder, *names


def _memberships(base: Path) -> Iterator[tuple[int, Path]]:
    """Version and path, relative to the top, of the process's memory groups."""
    try:
        lines = (base / "proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = ["0::/", "1:memory:/"]
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        relative = Path(*(part for part in path.split("/") if part not in {"", ".", ".."}))
        if number == "0" and not controllers:
            yield 2, relative
        elif "memory" in controllers.split(","):
            yield 1, relative


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _number_behind(file: Path, word: str, unit: int) -> int | None:
    """The number behind a word at the start of a line, times `unit`."""
    try:
        for line in file.read_text(encoding="ascii").splitlines():
            parts = line.split()
            if parts and parts[0] == word:
                return int(parts[1]) * unit
    except (OSError, ValueError, IndexError):
        pass
    return None


@dataclass(frozen=True)
class Limits:
    """Sizes beyond which input is refused, before memory is allocated for it.

    Attributes:
        pixels: most pixels of an image, width times height.
        stream_bytes: most bytes of a stream, and of each of its sections.
        sections: most sections of a stream.
        tiles: most tiles of a stream.
        metadata_bytes: most bytes of a profile or another block of metadata.
        memory: most bytes that the process may use; by default half of what is free when the limits are made.
    """

    pixels: int = 64_000_000
    stream_bytes: int = 1 << 31
    sections: int = 16
    tiles: int = 1 << 12
    metadata_bytes: int = 1 << 24
    memory: int = field(default_factory=lambda: available_memory() // 2)

    @property
    def image_bytes(self) -> int:
        """Most bytes of an image file: 4 samples of 16 bits per pixel, uncompressed, and metadata."""
        return self.pixels * 8 + 4 * self.metadata_bytes

    def check_pixels(self, width: int, height: int) -> None:
        """Raise LimitError if an image of this size has too many pixels."""
        if width * height > self.pixels:
            raise LimitError(
                f"the image is {width}x{height} = {width * height} pixels, more than the limit of {self.pixels} "
                "(--max-pixels)"
            )

    def check_memory(self, width: int, height: int, use: MemoryUse, multiple: int = 1) -> None:
        """Raise LimitError if an image would need more memory than the limit, naming a size that fits.

        Args:
            width: of the image, in pixels.
            height: of the image, in pixels.
            use: memory that the work takes by size.
            multiple: number that sides are extended to multiples of.
        """
        padded = [-(-side // multiple) * multiple for side in (width, height)]
        need = use.for_picture(padded[0], padded[1])
        if need <= self.memory:
            return
        fits = _fitting(padded[0], padded[1], use.most_pixels(self.memory), multiple)
        remedy = "no image would fit" if fits is None else f"{fits[0]}x{fits[1]} would fit"
        raise LimitError(
            f"the image is {width}x{height}: it would need {-(-need >> 20)} MiB of memory, the limit is "
            f"{self.memory >> 20} MiB (--max-memory); {remedy}"
        )


def _fitting(width: int, height: int, pixels: int, multiple: int) -> tuple[int, int] | None:
    """A size of about the same proportions, in whole multiples, of at most so many pixels; None if there is none."""
    if pixels < multiple * multiple:
        return None
    shrink = math.sqrt(pixels / (width * height))
    long, short = max(width, height), min(width, height)
    short = max(multiple, int(short * shrink) // multiple * multiple)
    short, long = sorted((short, min(long, pixels // short // multiple * multiple)))
    return (long, short) if width >= height else (short, long)
