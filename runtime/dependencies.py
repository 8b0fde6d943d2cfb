"""Installed packages: their versions, and what to say of those that are missing."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from .errors import DependencyError

NAMESPACE: Final = __name__.split(".", maxsplit=1)[0]
"""What the rooms are installed under."""
_NO_TELEMETRY: Final = "ORT_DISABLE_TELEMETRY"
_MATRIX_THREADS: Final = "OPENBLAS_NUM_THREADS"


def installed(*names: str) -> dict[str, str]:
    """Versions by name of those of the packages that are installed.

    Args:
        names: of distributions; `onnxruntime` stands for all of its, such as onnxruntime-gpu, which hold one module.
    """
    import importlib.metadata  # a tenth of the time that a command takes to start

    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            if name != "onnxruntime":
                continue
            try:
                with without_telemetry():
                    import onnxruntime
            except ImportError:
                continue
            found[name] = str(onnxruntime.__version__)
    return found


@contextlib.contextmanager
def without_telemetry() -> Iterator[None]:
    """While entered, ONNX Runtime starts without telemetry, which it does when it is imported.

    From version 1.29 on it else writes an identifier and a database of events below the user's home, and sends them.
    Nothing but this variable of the environment prevents it, and only before the start. One that is set already stays.
    """
    with _environment(_NO_TELEMETRY):
        yield


@contextlib.contextmanager
def without_matrix_threads() -> Iterator[None]:
    """While entered, NumPy starts without threads for products of matrices, which it does when it is imported.

    There is one for each core, and the start of a short command waits for them. A number that is set already stays.
    """
    with _environment(_MATRIX_THREADS):
        yield


@contextlib.contextmanager
def _environment(name: str) -> Iterator[None]:
    """While entered, a variable of the environment is 1, unless it is set already."""
    if name in os.environ:
        yield
        return
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name, None)


@contextlib.contextmanager
def naming_missing(command: str, extra: str | None) -> Iterator[None]:
    """Turn the error of a package that is not installed into one that says what installs it.

    Args:
        command: what needs it, in words.
        extra: of this distribution, or several with commas between them, that bring it; None: none does.

    Raises:
        DependencyError: in place of ModuleNotFoundError, unless a part of this distribution is missing; and of the
            ImportError of a package whose libraries do not load.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".", maxsplit=1)[0] == NAMESPACE:
            raise
        remedy = f"pip install 'oslic[{extra}]'" if extra else f"pip install {error.name}"
        raise DependencyError(f"`{command}` needs the package {error.name}: {remedy}") from error
    except ImportError as error:
        if error.path is None or not error.path.endswith(
            ".so"
        ):  # of a module that lacks a name: a fault of ours
            raise
        raise DependencyError(
            f"`{command}` needs the package {error.name}, which does not load: {error}"
        ) from error
