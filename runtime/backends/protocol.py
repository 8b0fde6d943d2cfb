"""What a backend offers to the codec."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..bundle import Bundle, GraphName


@dataclass(frozen=True)
class Availability:
    """Whether a backend is usable.

    Attributes:
        usable: it can be opened.
        version: of the library behind it; None where there is none.
        reason: why it is usable, or why not and what to do about it, in one line.
    """

    usable: bool
    version: str | None
    reason: str


class Runner(Protocol):
    """One loaded graph."""

    def __call__(self, *inputs: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Run the graph.

        Args:
            inputs: in the order of the graph's inputs, uint8, C order, N first (see `docs/CONTRIBUTING.md`).

        Returns:
            The output, uint8, owned by the caller.

        Raises:
            BackendError: the run failed.
        """

    def close(self) -> None:
        """Give back what the graph holds; calling it again does nothing."""


class Backend(Protocol):
    """Runs the graphs of one bundle."""

    name: ClassVar[str]

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        """Open the backend for a bundle; graphs are loaded later, each when it is first needed."""

    @classmethod
    def probe(cls, bundle: Bundle | None) -> Availability:
        """Say whether this backend is usable here, and for `bundle` if given. Raises nothing."""

    def load(self, graph: GraphName) -> Runner:
        """Load one graph.

        Raises:
            BundleError: the file is missing or was altered.
            BackendError: the backend cannot take it.
        """
