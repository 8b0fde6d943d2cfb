"""Limits on what the runtime accepts, on by default and checked before memory is taken."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

from .errors import LimitError


def available_memory() -> int:
    """Return the bytes that this process may still take: the machine's, or its control group's if less.

    Falls back to 4 GiB where neither `/proc/meminfo` nor a control group can be read.
    """
    amounts = []
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        amounts += [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    except (OSError, ValueError, IndexError):
        pass
    group = Path("/sys/fs/cgroup")
    try:
        most = (group / "memory.max").read_text(encoding="ascii").strip()
        if most != "max":
            used = int((group / "memory.current").read_text(encoding="ascii"))
            amounts.append(max(0, int(most) - used))
    except (OSError, ValueError):
        pass
    return min(amounts, default=4 << 30)


@dataclass(frozen=True)
class Limits:
    """What is refused before it costs anything.

    Attributes:
        pixels: width times height of an image.
        stream_bytes: length of a stream, and of each of its sections.
        sections: number of sections of a stream.
        tiles: number of tiles of a stream.
        metadata_bytes: length of an ICC profile or EXIF block.
        memory: bytes that the networks may take; 90 % of what is available when the limits are made.
    """

    pixels: int = 1 << 28
    stream_bytes: int = 1 << 31
    sections: int = 16
    tiles: int = 1 << 12
    metadata_bytes: int = 1 << 24
    memory: int = field(default_factory=lambda: available_memory() * 9 // 10)

    @property
    def image_bytes(self) -> int:
        """Bytes of an image file: 4 samples of 16 bits a pixel, uncompressed, and metadata."""
        return self.pixels * 8 + 4 * self.metadata_bytes

    def check_pixels(self, width: int, height: int) -> None:
        """Raise LimitError if an image of this size has too many pixels."""
        if width * height > self.pixels:
            raise LimitError(
                f"the image is {width}x{height} = {width * height} pixels, more than the limit of {self.pixels}"
            )

    def check_memory(self, width: int, height: int, bytes_per_pixel: float) -> None:
        """Raise LimitError if the networks would need more memory than the limit, naming a size that fits."""
        need = int(width * height * bytes_per_pixel)
        if need > self.memory:
            shrink = math.sqrt(self.memory / need)
            raise LimitError(
                f"the image is {width}x{height}: the networks would need {need >> 20} MiB, the limit is "
                f"{self.memory >> 20} MiB; {int(width * shrink)}x{int(height * shrink)} would fit"
            )
