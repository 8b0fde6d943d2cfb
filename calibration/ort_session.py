"""ONNX Runtime sessions of this room: what goes wrong inside ONNX Runtime comes out as our own errors."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..runtime.backends.base import LayerTime
from ..runtime.backends.onnxruntime.cpu import open_session
from ..runtime.backends.onnxruntime.sessions import layer_times
from ..runtime.errors import BackendError, BundleError, UsageError, one_line
from ..runtime.model.feeds import is_misfit

if TYPE_CHECKING:
    import numpy.typing as npt


class Session:
    """A model, loaded on the CPU.

    Args:
        data: the serialized model.
        threads: threads per run.
        where: names the model in messages.
        weight_limit: see `open_session`.
        as_written: see `open_session`.

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
        as_written: bool = False,
    ) -> None:
        self._where = where
        self._open = functools.partial(
            open_session, data, threads, weight_limit=weight_limit, as_written=as_written
        )
        try:
            self._session = self._open()
        except (BackendError, BundleError) as error:
            raise type(error)(f"{where}: {error}") from error

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, in order."""
        return [str(value.name) for value in self._session.get_outputs()]

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], names: Sequence[str] | None = None
    ) -> list[npt.NDArray[Any]]:
        """Run once.

        Args:
            feeds: inputs by name.
            names: of the outputs; None: all of them, in the model's order.

        Raises:
            BackendError: ONNX Runtime fails.
            UsageError: the arrays do not fit the graph.
        """
        try:
            outputs: list[npt.NDArray[Any]] = self._session.run(names, dict(feeds))
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            shapes = ", ".join(f"{name} {value.dtype} {value.shape}" for name, value in feeds.items())
            kind = UsageError if is_misfit(str(error)) else BackendError
            raise kind(f"{self._where}: ONNX Runtime cannot run it on {shapes}: {one_line(error)}") from error
        return outputs

    def layer_times(self, feeds: Mapping[str, npt.NDArray[Any]], runs: int) -> list[LayerTime]:
        """Time each node of the optimized graph; see `ModelRunner.layer_times`."""
        return layer_times(lambda profile: self._open(profile=profile), feeds, runs)
