"""Robustness of the whole decoder: mutates valid streams whose checksums always match, and decodes them.

    python tests/fuzz/decoder_fuzz.py EXECUTIONS SEED [transform]

With a third word the streams are of that kind of codec.

Any outcome but an image or an error of the library is a failure: other exceptions escape and end the program, as does
an execution of more than `SECONDS`. The input that was running then lies in the file named by FUZZ_LAST.

A wrong checksum would hide everything behind it, so the checksum of this process is always 0, in what is written and in
what is read: a mutation of any byte is as good as one with its checksum computed again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

import kind_bundles
import small_bundle
import stream_tools
from oslic.runtime.bundle.manifest import OSLIC
from oslic.runtime.codec import Codec
from oslic.runtime.codec.container import Payload
from oslic.runtime.codec.request import make_request
from oslic.runtime.errors import OslicError
from oslic.runtime.image.metadata import Metadata
from oslic.runtime.kinds.codec import KindCodec
from oslic.runtime.kinds.opening import open_codec
from oslic.runtime.limits import Limits

SECONDS = 5
LIMITS = Limits(pixels=1 << 14, memory=1 << 28)
# Height, width, channels (0: gray without a third axis), quality, side of a tile (None: one tile).
SHAPES = (
    (8, 8, 3, 40, None),
    (32, 32, 3, 0, None),
    (40, 24, 3, 80, None),
    (17, 33, 0, 30, None),
    (9, 40, 2, 60, None),
    (24, 31, 4, 20, None),
    (1, 1, 3, 50, None),
    (40, 70, 3, 30, 32),
    (33, 40, 4, 60, 32),
)


def corpus(codec: Codec) -> list[bytes]:
    """Small streams of every layout, with and without residual and metadata."""
    generator = np.random.default_rng(1)
    streams = []
    for height, width, channels, quality, tile in SHAPES:
        size = (height, width, channels) if channels else (height, width)
        coarse = generator.integers(0, 256, (height // 4 + 1, width // 4 + 1, *size[2:]))
        image = coarse.repeat(4, 0).repeat(4, 1)[:height, :width] + generator.integers(-9, 10, size)
        metadata = Metadata(b"profile" * 3, b"Exif" * 4) if quality > 50 else None
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        layers = codec.layers(pixels, tile=tile, halo=32)
        streams.append(codec.finish(layers, quality=quality, effort=0, metadata=metadata).data)
        if tile is None:
            streams.append(codec.compress(pixels, max_error=1 + quality % 16, effort=0))
            streams.append(codec.compress(pixels, lossless=True, effort=0))
    return streams


def pictures() -> list[Any]:
    """Small pictures of every layout, uint8, beside the sides of their tiles (None: one tile)."""
    generator = np.random.default_rng(1)
    found = []
    for height, width, channels, _, tile in SHAPES:
        size = (height, width, channels) if channels else (height, width)
        found.append((generator.integers(0, 256, size, dtype=np.uint8), tile))
    return found


def kind_corpus(codec: KindCodec) -> list[bytes]:
    """Small streams of every layout, with and without tiles and metadata."""
    metadata = Metadata(b"profile" * 3, b"Exif" * 4)
    return [
        codec.encode(image, dataclasses.replace(make_request(metadata=metadata), tile=tile)).data
        for image, tile in pictures()
    ]


def take_apart(data: bytes) -> tuple[Any, dict[Any, bytes]]:
    """The header and the payloads and records of a valid stream, by section and tile."""
    header, sections = stream_tools.take_apart(data, LIMITS)
    parts = {}
    for kind, payloads in sections.items():
        for tile, payload in enumerate(payloads):
            parts[kind, tile, "data"] = payload.data
            if payload.record:
                parts[kind, tile, "record"] = payload.record
    return header, parts


def put_together(header: Any, parts: dict[Any, bytes]) -> bytes:
    """A stream of a header and payloads, whatever they are.

    Raises:
        ValueError, ArithmeticError: that cannot be written.
    """
    sections: dict[Any, list[Payload]] = {}
    for kind, tile, part in sorted(parts, key=str):
        if part == "data":
            record = parts.get((kind, tile, "record"), b"")
            sections.setdefault(kind, []).append(Payload(parts[kind, tile, part], record))
    return stream_tools.put_together(header, sections)


class Mutator:
    """Makes streams from streams."""

    def __init__(self, streams: list[bytes], seed: int) -> None:
        self._streams = streams
        self._parsed = [take_apart(data) for data in streams]
        self._random = random.Random(seed)

    def next(self) -> bytes:
        """Return the next stream."""
        while True:
            if self._random.random() < 0.3:
                data = bytearray(self._random.choice(self._streams))
                for _ in range(self._random.randint(1, 3)):
                    self._change(data)
                return bytes(data)
            try:
                return self._rebuilt()
            except (ValueError, ArithmeticError, OslicError):  # what cannot be written is no input
                continue

    def _rebuilt(self) -> bytes:
        """A stream put together again from a changed header or changed sections."""
        header, parts = self._random.choice(self._parsed)
        parts = dict(parts)
        for _ in range(self._random.randint(1, 2)):
            if self._random.random() < 0.25:
                header = self._changed_fields(header)
                continue
            kind = self._random.choice(list(parts))
            match self._random.randrange(12):
                case 0:
                    parts[kind] = self._random.choice(self._parsed)[1].get(kind, b"")
                case 1:
                    parts[kind] = parts[self._random.choice(list(parts))]
                case 2 if len(parts) > 1:
                    del parts[kind]
                case _:
                    payload = bytearray(parts[kind])
                    self._change(payload)
                    parts[kind] = bytes(payload)
        return put_together(header, parts)

    def _changed_fields(self, header: Any) -> Any:
        """A dataclass with one field changed, or a field of a field."""
        name = self._random.choice([f.name for f in dataclasses.fields(header)])
        value = getattr(header, name)
        if dataclasses.is_dataclass(value):
            value = self._changed_fields(value)
        elif isinstance(value, enum.Enum):
            value = self._random.choice(list(type(value)))
        elif isinstance(value, int):
            value = max(
                0, self._random.choice((value + self._random.randint(-9, 9), self._random.getrandbits(9)))
            )
        elif isinstance(value, bytes):
            changed = bytearray(value)
            self._change(changed)
            value = bytes(changed).ljust(len(value), b"\0")[: len(value)]
        return dataclasses.replace(header, **{name: value})

    def _change(self, data: bytearray) -> None:
        if not data:
            data.append(self._random.randrange(256))
            return
        at = self._random.randrange(len(data))
        match self._random.randrange(8):
            case 0:
                del data[at : at + self._random.randint(1, 4)]
            case 1:
                data[at:at] = self._random.randbytes(self._random.randint(1, 4))
            case 2:
                del data[at:]
            case 3 | 4:
                data[at] = self._random.randrange(256)
            case _:
                data[at] ^= 1 << self._random.randrange(8)


def without_checksums() -> None:
    """Make every checksum of streams 0, in all modules that took the function over."""
    for name, module in list(sys.modules.items()):
        if name.startswith("oslic.runtime.") and hasattr(module, "crc32c") and not name.endswith("._native"):
            module.crc32c = lambda _: 0


def opened(kind: str, folder: Path) -> tuple[Any, list[bytes]]:
    """A codec of a kind, and streams of it."""
    if kind == OSLIC:
        small_bundle.write(folder / "bundle")
        codec = Codec.open(folder / "bundle", "onnxruntime-cpu", 1, LIMITS)
        return codec, corpus(codec)
    kind_bundles.write_transform(folder / "bundle")
    other = open_codec(folder / "bundle", "onnxruntime-cpu", 1, LIMITS)
    assert isinstance(other, KindCodec)
    assert other.kind.kind == kind
    return other, kind_corpus(other)


def run(executions: int, seed: int, folder: Path, kind: str = OSLIC) -> tuple[int, float]:
    """Decode mutations.

    Returns:
        How many were images, and the seconds of the slowest.
    """
    without_checksums()
    last = os.environ.get("FUZZ_LAST")
    images, slowest = 0, 0.0
    codec, streams = opened(kind, folder)
    with contextlib.closing(codec):
        mutator = Mutator(streams, seed)
        for _ in range(executions):
            data = mutator.next()
            if last:
                Path(last).write_bytes(data)
            signal.alarm(SECONDS)
            start = time.perf_counter()
            try:
                codec.decode(data)
                images += 1
            except OslicError:
                pass
            finally:
                signal.alarm(0)
            slowest = max(slowest, time.perf_counter() - start)
    return images, slowest


def peak_memory() -> int:
    """The most memory that this process had, in kB; what `getrusage` says holds that of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0])


def main() -> int:
    """Run; return the exit code."""
    if len(sys.argv) not in {3, 4}:
        print("usage: decoder_fuzz.py EXECUTIONS SEED [KIND]", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    executions = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as folder:
        images, slowest = run(executions, int(sys.argv[2]), Path(folder), *sys.argv[3:])
    print(
        f"executed {executions} mutations: {images} pictures, slowest {slowest * 1e3:.1f} ms, peak {peak_memory()} kB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
