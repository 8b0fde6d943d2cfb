"""What `LearnedCodec` is given to run graphs, one for each tile and direction."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..codec.container import DIGEST_BYTES
from ..errors import StreamError, UsageError, VerificationError

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..codec.stage_timer import Stages
    from .graphs import KindGraphs

_NUMBERS: Final = np.dtype("<i8")


def digest_of(values: npt.NDArray[Any]) -> bytes:
    """The 4-byte digest of whole numbers: as 8-byte little-endian integers in C order.

    Raises:
        UsageError: they are no array of integers.
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biu":
        found = values.dtype if isinstance(values, np.ndarray) else type(values).__name__
        raise UsageError(
            f"what is checked is {found}, must be an array of integers: others differ from machine to machine"
        )
    whole = np.ascontiguousarray(values, _NUMBERS)
    return hashlib.blake2b(whole.tobytes(), digest_size=8).digest()[:DIGEST_BYTES]


class TileRun:
    """Runs graphs for one tile.

    Args:
        graphs: of the bundle.
        height: of the tile as the codec sees it.
        width: likewise.
        stages: gets the time, by graph.

    Attributes:
        height, width: as given.
    """

    def __init__(self, graphs: KindGraphs, height: int, width: int, stages: Stages) -> None:
        self.height = height
        self.width = width
        self._graphs = graphs
        self._stages = stages

    def __call__(self, graph: str, **inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run a graph: see `Run`."""
        self._graphs.load(graph)
        with self._stages.measure(graph):
            return self._graphs.run(graph, inputs)


class EncodingRun(TileRun):
    """Collects digests.

    Attributes:
        digests: of what was checked, in order.
    """

    def __init__(self, graphs: KindGraphs, height: int, width: int, stages: Stages) -> None:
        super().__init__(graphs, height, width, stages)
        self.digests = b""

    def check(self, what: str, values: npt.NDArray[Any]) -> None:
        """Note a digest: see `Run`."""
        del what
        self.digests += digest_of(values)


class DecodingRun(TileRun):
    """Compares digests.

    Args:
        graphs, height, width, stages: as for `TileRun`.
        digests: the encoder's.
    """

    def __init__(
        self, graphs: KindGraphs, height: int, width: int, stages: Stages, digests: tuple[bytes, ...]
    ) -> None:
        super().__init__(graphs, height, width, stages)
        self._digests = list(digests)

    def check(self, what: str, values: npt.NDArray[Any]) -> None:
        """Compare with the next digest: see `Run`."""
        if not self._digests:
            raise StreamError(
                f"the stream has no check of the {what}: damaged, or of another version of its kind"
            )
        if self._digests.pop(0) != digest_of(values):
            raise VerificationError(
                f"the {what} that decoding computes here are not the encoder's: the stream is damaged, or "
                f"{self._graphs.selection.backend.name} computes them in another way than the encoder's backend"
            )

    def finish(self) -> None:
        """Raise StreamError unless all of the encoder's digests were compared."""
        if self._digests:
            raise StreamError(f"the stream has {len(self._digests)} checks too many: damaged")
