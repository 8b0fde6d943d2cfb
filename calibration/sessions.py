"""ONNX Runtime sessions of this room: what goes wrong inside ONNX Runtime comes out as our own errors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..runtime.backends.onnxruntime_cpu import open_session
from ..runtime.errors import BackendError, BundleError

if TYPE_CHECKING:
    import numpy.typing as npt


class Session:
    """A model, loaded on the CPU.

    Args:
        data: the serialised model.
        threads: threads per run.
        where: names the model in messages.
        weight_limit: see `open_session`.
        profile: start of the path of a profile; see `events`.

    Raises:
        BackendError: ONNX Runtime cannot load the model.
        BundleError: it is no valid model.
    """

    def __init__(
        self,
        data: bytes,
        threads: int,
        *,
        where: str,
        weight_limit: int | None = None,
        profile: str | None = None,
    ) -> None:
        self._where = where
        try:
            self._session = open_session(data, threads, weight_limit=weight_limit, profile=profile)
        except (BackendError, BundleError) as error:
            raise type(error)(f"{where}: {error}") from error

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], names: Sequence[str] | None = None
    ) -> list[npt.NDArray[Any]]:
        """Run once.

        Args:
            feeds: inputs by name.
            names: of the outputs; None: all of them, in the model's order.

        Raises:
            BackendError: ONNX Runtime fails.
        """
        try:
            outputs: list[npt.NDArray[Any]] = self._session.run(names, dict(feeds))
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            shapes = ", ".join(f"{name} {value.dtype} {value.shape}" for name, value in feeds.items())
            raise BackendError(f"{self._where}: ONNX Runtime cannot run it on {shapes}: {error}") from error
        return outputs

    def events(self) -> list[dict[str, Any]]:
        """End the profile, and return its events."""
        found: list[dict[str, Any]] = json.loads(
            Path(self._session.end_profiling()).read_text(encoding="utf-8")
        )
        return found
