"""What values of a graph look like on real images: histograms, extremes, channel means; cached by graph and data."""

from __future__ import annotations

import contextlib
import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import TensorProto, helper

from ..runtime.errors import DataError, OslicError, UsageError
from ..runtime.files import read_regular_file, write_atomically
from .graph import Graph
from .ort_session import Session

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]
    Feeds = Mapping[str, npt.NDArray[Any]]

BINS: Final = 2048
"""Bins of a histogram; even. 16 of them for each step of int8 at the least."""
_VERSION: Final = 1
_MOST_BYTES: Final = 1 << 30
_AT_A_TIME: Final = 96


@dataclass
class Histogram:
    """Magnitudes of a value over many runs.

    Attributes:
        counts: int64 (BINS,), of |x| in equal bins from 0 to `top`.
        top: upper end of the last bin; 0 as long as all values are 0.
        low: smallest value seen.
        high: largest value seen.
    """

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))
    top: float = 0.0
    low: float = 0.0
    high: float = 0.0

    @property
    def largest(self) -> float:
        """Largest magnitude."""
        return max(-self.low, self.high)

    @property
    def centers(self) -> npt.NDArray[np.float64]:
        """The middle of each bin; 0 for the first, most of whose values are exact zeros of a ReLU."""
        middle: npt.NDArray[np.float64] = (np.arange(BINS, dtype=np.float64) + 0.5) * (self.top / BINS)
        middle[0] = 0
        return middle

    def add(self, x: Floats) -> None:
        """Count an array.

        Raises:
            DataError: not all of it is finite.
        """
        low, high = float(x.min()), float(x.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            raise DataError("values that are not finite")
        self.low, self.high = min(self.low, low), max(self.high, high)
        largest = max(-low, high)
        if largest == 0:
            self.counts[0] += x.size
            return
        if self.top == 0:
            self.top = largest
        self._reach(largest)
        # Divided first: BINS / top is beyond float32 where top is tiny.
        places = (np.abs(x).ravel() / np.float32(self.top) * np.float32(BINS)).astype(np.int32)
        self.counts += np.bincount(np.minimum(places, BINS - 1), minlength=BINS)

    def _reach(self, largest: float) -> None:
        while self.top < largest:
            self.top *= 2
            self.counts = np.concatenate(
                [self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2, np.int64)]
            )

    @classmethod
    def union(cls, parts: Sequence[Histogram]) -> Histogram:
        """One histogram of several values; counts move to the nearest bin of the longest range."""
        result = cls(
            top=max(p.top for p in parts), low=min(p.low for p in parts), high=max(p.high for p in parts)
        )
        for part in parts:
            if part.top == 0:
                result.counts[0] += part.counts.sum()
                continue
            places = np.minimum((part.centers * (BINS / result.top)).astype(np.int64), BINS - 1)
            np.add.at(result.counts, places, part.counts)
        return result


@dataclass
class Statistics:
    """What was seen of the values of one graph.

    Attributes:
        histograms: by value name.
        means: float64 (C,), mean of each channel over images and positions, for the inputs of convolutions.
    """

    histograms: dict[str, Histogram] = field(default_factory=dict)
    means: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As an npz file."""
        names, averaged = list(self.histograms), list(self.means)
        found = list(self.histograms.values())
        file = BytesIO()
        arrays: dict[str, Any] = {f"mean{i}": self.means[name] for i, name in enumerate(averaged)}
        np.savez_compressed(
            file,
            names=np.array(json.dumps([names, averaged])),
            counts=np.stack([h.counts for h in found]),
            ends=np.array([(h.top, h.low, h.high) for h in found]),
            **arrays,
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Statistics:
        """Read what `to_bytes` wrote."""
        with np.load(BytesIO(data), allow_pickle=False) as file:
            names, averaged = json.loads(str(file["names"]))
            rows = zip(file["counts"], file["ends"], strict=True)
            found = [Histogram(counts.astype(np.int64), *map(float, ends)) for counts, ends in rows]
            return cls(
                dict(zip(names, found, strict=True)),
                {name: file[f"mean{i}"] for i, name in enumerate(averaged)},
            )


def values_of(
    graph: Graph, names: Sequence[str], feeds: Sequence[Feeds], threads: int, where: str
) -> Iterator[tuple[str, Floats]]:
    """Run a graph and read values inside it, so many at a time that memory stays bounded.

    Args:
        graph: a float graph.
        names: of float values.
        feeds: inputs by name, one set for each run.
        threads: threads per run.
        where: names the graph in messages.

    Yields:
        Each value's name and array, for each set of inputs.
    """
    inputs = [name for name in names if name in set(graph.inputs)]
    for values in feeds:
        yield from ((name, values[name]) for name in inputs)
    names = [name for name in names if name not in inputs]
    for first in range(0, len(names), _AT_A_TIME):
        part = list(names[first : first + _AT_A_TIME])
        model = graph.copy().model
        del model.graph.value_info[:]
        present = {value.name for value in model.graph.output}
        model.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            for name in part
            if name not in present
        )
        session = Session(model.SerializeToString(), threads, where=where)
        for values in feeds:
            yield from zip(part, session.run(values, part), strict=True)


def collect(
    graph: Graph, names: Sequence[str], feeds: Sequence[Feeds], threads: int, where: str
) -> Statistics:
    """Run a graph on all feeds and count its values.

    Args:
        graph: a float graph.
        names: of the values.
        feeds: inputs by name.
        threads: threads per run.
        where: names the graph in messages.

    Raises:
        DataError: a value is not finite.
    """
    result = Statistics({name: Histogram() for name in names})
    totals: dict[str, npt.NDArray[np.float64]] = {}
    convolved = {node.input[0] for node in graph.nodes if node.op_type == "Conv"}
    for name, array in values_of(graph, names, feeds, threads, where):
        try:
            result.histograms[name].add(array)
        except DataError as error:
            raise DataError(f"{where}: the value {name} took {error}") from error
        if name in convolved and array.ndim == 4:
            # Every image counts alike, whatever its size.
            totals[name] = totals.get(name, 0) + array.mean(axis=(0, 2, 3), dtype=np.float64)
    result.means = {name: total / len(feeds) for name, total in totals.items()}
    return result


@dataclass(frozen=True)
class Cache:
    """Statistics kept from earlier runs, by hash of graph and data.

    Attributes:
        folder: of the files; None: nothing is kept.
    """

    folder: Path | None

    def statistics(
        self, graph: Graph, names: Sequence[str], feeds: Sequence[Feeds], *, threads: int, where: str
    ) -> tuple[Statistics, bool]:
        """What `collect` returns, measured now or earlier, and whether it was kept from earlier."""
        if self.folder is None:
            return collect(graph, names, feeds, threads, where), False
        path = self.folder / f"{_key(graph, names, feeds)}.npz"
        # A damaged file is measured again.
        with contextlib.suppress(OslicError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return Statistics.from_bytes(read_regular_file(path, "statistics", _MOST_BYTES)), True
        result = collect(graph, names, feeds, threads, where)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"the cache {self.folder} cannot be made: {error.strerror}") from error
        write_atomically(path, result.to_bytes())
        return result, False


def _key(graph: Graph, names: Sequence[str], feeds: Sequence[Feeds]) -> str:
    key = hashlib.sha256(graph.model.SerializeToString(deterministic=True))
    key.update(json.dumps([_VERSION, BINS, list(names)]).encode())
    for values in feeds:
        for name, array in sorted(values.items()):
            key.update(f"{name} {array.dtype} {array.shape}".encode())
            key.update(np.ascontiguousarray(array).tobytes())
    return key.hexdigest()
