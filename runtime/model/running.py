"""Loading what a command was pointed at on a backend that is named, or on the best one that runs ONNX graphs here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..backends import BACKENDS, backend_class
from ..backends.base import ModelRunner, Options
from ..backends.cuda import driver as cuda_driver
from ..bundle.engine_files import PRODUCTS
from ..errors import BackendError, DeviceError, UsageError
from .feeds import Feeds, is_misfit
from .header import Port
from .source import EngineFile, Model

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

AUTO: Final = "auto"


@dataclass(frozen=True)
class Loaded:
    """A graph or engine that is ready to run.

    Attributes:
        name: of the graph or engine.
        backend: which runs it, a key of `BACKENDS`.
        runner: runs it.
        inputs: what it takes; of an engine, from its profiles.
        model: the graph; None for an engine that was named by itself.
    """

    name: str
    backend: str
    runner: ModelRunner
    inputs: tuple[Port, ...]
    model: Model | None

    def run(self, feeds: Feeds, names: Sequence[str] | None = None) -> dict[str, npt.NDArray[Any]]:
        """Run once; see `ModelRunner.run`.

        Raises:
            UsageError: in place of BackendError, where the sizes of the arrays do not fit the graph.
        """
        try:
            return self.runner.run(feeds, names)
        except BackendError as error:
            if is_misfit(str(error.__cause__)):  # not our words, which name the graph
                raise UsageError(f"{error}; give sizes that the graph takes (--shapes, or arrays)") from error
            raise

    def close(self) -> None:
        """Give back what the graph holds."""
        self.runner.close()


def load(subject: Model | EngineFile, backend: str = AUTO, options: Options | None = None) -> Loaded:
    """Load a graph or an engine.

    Args:
        subject: which.
        backend: a key of `BACKENDS`; "auto": that of the engine, or the first usable one of those which run ONNX graphs
            as they are.
        options: how.

    Raises:
        BackendError: unknown, not usable, or it cannot take the graph or the engine.
        UsageError: the graph is no valid model, or an engine was to run on another backend than its own.
        DeviceError: an engine, and there is no GPU.
    """
    options = options or Options()
    if isinstance(subject, EngineFile):
        return _load_engine(subject, backend, options)
    subject.require_tensors()
    name = first_for_graphs(options) if backend == AUTO else backend
    found = backend_class(name).probe(None, options) if backend != AUTO else None
    if found is not None and not found.usable:
        raise BackendError(f"{name} cannot be used: {found.reason}")
    runner = backend_class(name).open(subject, options)
    return Loaded(subject.name, name, runner, subject.inputs, subject)


def _load_engine(engine: EngineFile, backend: str, options: Options) -> Loaded:
    product = engine.info.backend
    if backend not in {AUTO, product}:
        raise UsageError(f"{engine.path} is an engine of {product}; {backend} cannot run it")
    found, reason = cuda_driver.gpus()
    if not found:
        raise DeviceError(f"{engine.path} is an engine, which needs a GPU, and none can be used: {reason}")
    from ..backends.tensorrt.backend import TensorRt, TensorRtRtx

    runner = (TensorRt if product == "tensorrt" else TensorRtRtx).open_engine(engine, options)
    return Loaded(engine.name, product, runner, runner.inputs, None)


def first_for_graphs(options: Options) -> str:
    """The backend that "auto" takes for an ONNX graph: the first usable one that runs graphs as they are.

    Raises:
        BackendError: there is none; the message says why.
    """
    reasons = []
    for name, entry in BACKENDS.items():
        if entry.by_name or name in PRODUCTS:
            continue
        found = backend_class(name).probe(None, options)
        if found.usable:
            return name
        reasons.append(f"{name}: {found.reason}")
    raise BackendError(f"no backend here runs ONNX graphs: {'; '.join(reasons)}")
