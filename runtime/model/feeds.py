"""Arrays for a graph's inputs: checked against what it states, read from files, or drawn at random."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..errors import UsageError
from ..files import require_regular_file
from .header import Port, bounds, shape_text

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

Feeds = dict[str, "npt.NDArray[Any]"]
"""Arrays by input name."""

_MISFIT: Final = re.compile(
    r"dimension|shape|broadcast|out of data bounds|kernel channels|non concat axis", re.IGNORECASE
)
_WHOLE_BYTES: Final = {"uint8": (0, 255), "int8": (-128, 127)}


def expectation(ports: Sequence[Port]) -> str:
    """What a graph takes, in words."""
    return f"the graph takes {', '.join(map(str, ports)) or 'no inputs'}"


def is_misfit(message: str) -> bool:
    """Whether a runtime says that a graph failed at the sizes, or at the values, of its inputs."""
    return _MISFIT.search(message) is not None


def require_names(names: Sequence[str], ports: Sequence[Port], where: str) -> None:
    """Refuse names that no input has.

    Args:
        names: that were given.
        ports: the graph's inputs.
        where: what gave them, for messages: `--shapes`.

    Raises:
        UsageError: naming the input, and those that there are.
    """
    known = {port.name for port in ports}
    for name in names:
        if name not in known:
            raise UsageError(f"{where}: no input {name!r}; {expectation(ports)}")


def check_feeds(feeds: Mapping[str, Array], ports: Sequence[Port], where: str) -> None:
    """Refuse arrays that do not fit the inputs.

    Dimensions of one symbolic name must be equal in all inputs.

    Args:
        feeds: arrays by name.
        ports: the graph's inputs.
        where: where the arrays come from, for messages.

    Raises:
        UsageError: naming the input and what it expects.
    """
    require_names(list(feeds), ports, where)
    sizes: dict[str, tuple[int, str]] = {}
    for port in ports:
        if port.name not in feeds:
            raise UsageError(f"{where}: no array for the input {port}")
        array = feeds[port.name]
        found = f"{array.dtype} {shape_text(array.shape)}"
        if array.dtype != port.numpy or not port.takes(array.shape):
            raise UsageError(
                f"{where}: the input {port.name} is {found}, the graph expects {port.dtype} {shape_text(port.shape)}"
            )
        for size, own in zip(array.shape, port.shape or (), strict=True) if port.shape is not None else ():
            if isinstance(own, str) and bounds(own) is None:
                before, name = sizes.setdefault(own, (size, port.name))
                if before != size:
                    raise UsageError(
                        f"{where}: the input {port.name} is {found}, but {own} is {before} in {name}; "
                        f"{expectation(ports)}"
                    )


def sized(port: Port, shape: Sequence[int] | None, *, more: str = "") -> tuple[int, ...]:
    """The shape of an array for an input.

    A first dimension that is not fixed is 1 unless a shape is given; all others must be known.

    Args:
        port: the input.
        shape: as the user gave it; None: nothing was given.
        more: another way to give it, for messages.

    Raises:
        UsageError: the shape does not fit the input, or is needed.
    """
    if shape is not None:
        if not port.takes(shape):
            raise UsageError(f"--shapes {port.name}={shape_text(tuple(shape))} does not fit the input {port}")
        return tuple(shape)
    if port.shape is None or any(not isinstance(size, int) for size in port.shape[1:]):
        rank = len(port.shape) if port.shape is not None else 4
        example = "x".join(
            str(size) if isinstance(size, int) else "1" if i == 0 else "256"
            for i, size in enumerate(port.shape if port.shape is not None else (None,) * rank)
        )
        raise UsageError(
            f"the input {port} has no fixed size: give one, such as --shapes {port.name}={example}{more}"
        )
    return tuple(size if isinstance(size, int) else 1 for size in port.shape)


def random_feeds(
    ports: Sequence[Port],
    shapes: Mapping[str, Sequence[int]] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    seed: int = 0,
) -> Feeds:
    """Random arrays for the inputs of a graph.

    Args:
        ports: the inputs.
        shapes: sizes by input, see `sized`.
        ranges: lowest and highest value by input. By default floats are uniform in [0, 1), uint8 and int8 take all
            their values, other integers are 0 or 1, and booleans are tossed.
        seed: of the generator.

    Raises:
        UsageError: a name that no input has, a size that is needed or does not fit, or a range that the type lacks.
    """
    shapes, ranges = shapes or {}, ranges or {}
    require_names(list(shapes), ports, "--shapes")
    require_names(list(ranges), ports, "--range")
    random = np.random.default_rng(seed)
    return {
        port.name: _draw(
            random,
            port,
            sized(port, shapes.get(port.name), more=" (or arrays: --inputs FILE.npz)"),
            ranges.get(port.name),
        )
        for port in ports
    }


def _draw(
    random: np.random.Generator, port: Port, shape: tuple[int, ...], limits: tuple[float, float] | None
) -> Array:
    dtype = port.numpy
    if dtype.kind == "f":
        low, high = limits or (0.0, 1.0)
        return (low + (high - low) * random.random(shape)).astype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    low, high = limits or _WHOLE_BYTES.get(port.dtype, (0, 1))
    info = np.iinfo(dtype)
    if low != int(low) or high != int(high) or low < info.min or high > info.max:
        raise UsageError(
            f"--range {port.name}={low:g},{high:g}: the input is {port.dtype}, whole numbers from {info.min} to "
            f"{info.max}"
        )
    return random.integers(int(low), int(high), shape, dtype=dtype, endpoint=True)


def read_arrays(path: Path, ports: Sequence[Port]) -> Feeds:
    """Read arrays by input name.

    Args:
        path: a file of `numpy.savez`; a single array (`numpy.save`) does for a graph of one input.
        ports: the graph's inputs.

    Raises:
        UsageError: it is no such file.
    """
    require_regular_file(path, "arrays")
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            if len(ports) != 1:
                raise UsageError(
                    f"{path} holds a single array; {expectation(ports)}: save them by name (numpy.savez)"
                )
            return {ports[0].name: np.asarray(file)}
        with file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} holds no arrays by input name (numpy.savez): {error}") from error


def write_arrays(path: Path, arrays: Mapping[str, Array]) -> None:
    """Write arrays by name, as `numpy.savez` does; the file appears whole or not at all."""
    from ..files import atomic_file

    with atomic_file(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
