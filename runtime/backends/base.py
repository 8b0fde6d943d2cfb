"""What a backend offers to the codec."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, Protocol

from ..errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..bundle.folder import Bundle
    from ..bundle.manifest import GraphName
    from ..model.source import Model


_MOST_SECONDS: Final = 1_000_000


@dataclass(frozen=True)
class Options:
    """How a backend is to run the graphs.

    Attributes:
        threads: CPU threads that it may use; None leaves it the choice.
        precision: `fp32`, `tf32`, `fp16`, `bf16` or `int8`: of the engines to take, or what the graphs must be in
            where the backend runs them as they are; None takes the fastest that the bundle holds.
        cuda_graphs: whether repeated runs of one shape may be recorded as CUDA graphs.
        optimize: whether ONNX Runtime may rewrite the graph; False is for finding out whether its rewriting is what
            makes a difference. Engines of TensorRT were rewritten when they were built: they do not take False.
        timeout: seconds that loading a graph, or one run of it, may take, for graphs that nobody vouches for; None:
            no limit. Engines cannot be interrupted: they do not take it.
        trust_engines: whether engines may be loaded that this user did not build on this machine (see
            `engine_trust`). Loading an engine can run code.
        keep_memory: whether ONNX Runtime on the CPU keeps the memory of small images for the next one, which is
            some 10 % faster; that of images above 1 megapixel is always given back.
        plain_sums: whether convolutions must be sums of products as they stand, without Winograd's fractions: what
            exact bundles take.
    """

    threads: int | None = None
    precision: str | None = None
    cuda_graphs: bool = True
    optimize: bool = True
    timeout: float | None = None
    trust_engines: bool = False
    keep_memory: bool = True
    plain_sums: bool = False

    def __post_init__(self) -> None:
        if self.timeout is not None and not 0 < self.timeout <= _MOST_SECONDS:
            raise UsageError(
                f"the time limit is {self.timeout} s, must be above 0 and at most {_MOST_SECONDS}"
            )


@dataclass(frozen=True)
class Availability:
    """Whether a backend is usable.

    Attributes:
        usable: it can be opened.
        version: of the library behind it; None where there is none.
        reason: why it is usable, or why not and what to do about it, in one line.
        expected: it is not usable although this machine or bundle looks as if it should be (a GPU without the library
            for it, an engine of another version): `auto` then warns when it passes over it.
    """

    usable: bool
    version: str | None
    reason: str
    expected: bool = False


class Runner(Protocol):
    """One loaded graph. Safe to call from several threads."""

    def __call__(self, *inputs: Any) -> npt.NDArray[np.uint8]:
        """Run the graph.

        Args:
            inputs: in the order of the graph's inputs, uint8, C order, N first (see docs/reference/bundle.md): numpy
                arrays, or whatever has `__cuda_array_interface__` or `__dlpack__`. Backends for GPUs read arrays
                that lie on their device where they lie; the CPU backend takes arrays in host memory only.

        Returns:
            The output, uint8, owned by the caller.

        Raises:
            BackendError: the run failed, or an input is of another type, layout or device.
            LimitError: it took longer than `Options.timeout`.
        """

    def close(self) -> None:
        """Give back what the graph holds; calling it again does nothing."""


@dataclass(frozen=True)
class LayerTime:
    """What one layer of a loaded graph takes, in the product's own division into layers.

    Attributes:
        name: the product's.
        operator: the kernel's kind, as far as the product tells it.
        milliseconds: of the fastest run, or the mean where the product gives no single runs.
    """

    name: str
    operator: str
    milliseconds: float


class ModelRunner(Protocol):
    """A loaded graph with inputs and outputs of any number, type and shape. Safe to call from several threads."""

    def run(
        self, feeds: Mapping[str, npt.NDArray[Any]], names: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[Any]]:
        """Run the graph.

        Args:
            feeds: arrays in host memory by input name.
            names: of the outputs wanted; None: all.

        Returns:
            Outputs by name, owned by the caller.

        Raises:
            BackendError: the run failed, or an input does not fit.
            LimitError: it took longer than `Options.timeout`.
        """

    def layer_times(self, feeds: Mapping[str, npt.NDArray[Any]], runs: int) -> list[LayerTime]:
        """Time each layer of the loaded graph; the sum is more than a plain run takes.

        Args:
            feeds: arrays by input name.
            runs: how often it runs.

        Raises:
            BackendError: the product does not tell.
        """

    @property
    def device_milliseconds(self) -> float | None:
        """Time of the last run on the device alone, without copies; None where nothing tells it apart."""

    def close(self) -> None:
        """Give back what the graph holds; calling it again does nothing."""


class Backend(Protocol):
    """Runs graphs: those of one bundle, or any single one."""

    name: ClassVar[str]

    def __init__(self, bundle: Bundle, options: Options) -> None:
        """Open the backend for a bundle; graphs are loaded later, each when it is first needed."""

    @classmethod
    def probe(cls, bundle: Bundle | None, options: Options) -> Availability:
        """Say whether this backend is usable here, and for `bundle` if given. Raises nothing."""

    def load(self, graph: GraphName) -> Runner:
        """Load one graph.

        Raises:
            BundleError: the file is missing or was altered.
            BackendError: the backend cannot take it.
        """

    @classmethod
    def open(cls, model: Model, options: Options) -> ModelRunner:
        """Load any ONNX graph; backends that run engines take the one that was built from it.

        Raises:
            BackendError: the backend cannot take it, or holds no engine of it.
            UsageError: it is no valid model.
        """
