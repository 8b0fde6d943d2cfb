"""Data for a graph: arrays in files, or photographs with a stated preprocessing, one set of inputs after the other."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import DataError, UsageError
from ..image.files import ENDINGS, read_image
from ..limits import Limits
from .feeds import Feeds, check_feeds, expectation, read_arrays, require_names
from .header import Port
from .pictures import Preprocessing, spread

if TYPE_CHECKING:
    import numpy.typing as npt

_ARRAYS: Final = frozenset({".npz", ".npy"})


@dataclass(frozen=True)
class Sample:
    """One set of inputs.

    Attributes:
        name: of its file, with its place in it.
        feeds: arrays by input name.
    """

    name: str
    feeds: Feeds


def read_samples(
    place: Path,
    ports: tuple[Port, ...],
    count: int,
    preprocessing: Preprocessing | None = None,
    limits: Limits | None = None,
) -> list[Sample]:
    """Read data for a graph, evenly spread over what is there.

    A file of arrays holds samples along the first axis of each array; a folder holds such files, or photographs, which
    go to a graph of one image input. Samples are cut into batches of the graph's size; where that is open, of one.

    Args:
        place: a file of `numpy.savez` or `numpy.save`, or a folder.
        ports: the graph's inputs.
        count: samples to read at the most.
        preprocessing: of photographs; None: the defaults.
        limits: on photographs; None for the defaults.

    Returns:
        At least one sample.

    Raises:
        DataError: there is nothing there, or less than a batch.
        UsageError: data that do not fit the inputs.
        ImageError: a file that is no image.
    """
    if not place.exists():
        raise DataError(
            f"{place} does not exist: name a folder of photographs or arrays, or a file of arrays (.npz)"
        )
    if not place.is_dir():
        return _of_file(place, ports, count)
    files = sorted(path for path in place.iterdir() if path.is_file())
    arrays = [path for path in files if path.suffix.lower() in _ARRAYS]
    pictures = [path for path in files if path.suffix.lower() in ENDINGS]
    if arrays:
        each = -(-count // len(arrays))
        return [sample for path in spread(arrays, count) for sample in _of_file(path, ports, each)][:count]
    if not pictures:
        raise DataError(
            f"the folder {place} holds no arrays (.npz, .npy) and no images ({', '.join(sorted(ENDINGS))})"
        )
    if len(ports) != 1:
        raise UsageError(f"photographs feed one input, {expectation(ports)}: give arrays by name (.npz)")
    (port,) = ports
    if port.shape is not None and port.shape and isinstance(port.shape[0], int) and port.shape[0] != 1:
        raise UsageError(
            f"photographs come one by one, the input {port} takes {port.shape[0]}: give arrays (.npz)"
        )
    chosen = preprocessing or Preprocessing()
    return [
        Sample(
            path.name, {port.name: chosen.array(read_image(path, limits or Limits()).pixels, port, str(path))}
        )
        for path in spread(pictures, count)
    ]


def _of_file(path: Path, ports: tuple[Port, ...], count: int) -> list[Sample]:
    if path.suffix.lower() not in _ARRAYS:
        raise UsageError(f"{path} is no file of arrays (.npz, .npy): name one, or a folder of photographs")
    arrays = read_arrays(path, ports)
    require_names(list(arrays), ports, str(path))
    found = list(_batches(path, arrays, ports))
    if not found:
        raise DataError(f"{path} holds no samples: its arrays are empty, or shorter than a batch")
    return [found[i * len(found) // count] for i in range(count)] if len(found) > count else found


def _batches(path: Path, arrays: dict[str, npt.NDArray[Any]], ports: tuple[Port, ...]) -> Iterator[Sample]:
    """The arrays cut along their first axis; a dimension that is open takes one sample."""
    for port in ports:
        if port.name not in arrays:
            raise UsageError(f"{path}: no array for the input {port}")
    size = 1
    for port in ports:
        if port.shape and isinstance(port.shape[0], int):
            size = port.shape[0]
    batched = [port.name for port in ports if port.shape != () and arrays[port.name].ndim]
    lengths = {name: len(arrays[name]) for name in batched}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UsageError(f"{path}: the arrays hold different numbers of samples: {listed}")
    total = next(iter(lengths.values()), size)
    for start in range(0, total - size + 1, size):
        feeds = {
            port.name: np.ascontiguousarray(arrays[port.name][start : start + size])
            if port.name in lengths
            else arrays[port.name]
            for port in ports
        }
        check_feeds(feeds, ports, str(path))
        yield Sample(f"{path.name}[{start // size}]", feeds)


def digest(samples: list[Sample]) -> str:
    """SHA-256 of all arrays, their names, types and shapes, 64 hexadecimal digits."""
    found = hashlib.sha256()
    for sample in samples:
        for name, array in sorted(sample.feeds.items()):
            found.update(f"{name} {array.dtype} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()
