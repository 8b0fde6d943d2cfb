"""What a kind of codec has to offer, and what the toolkit gives it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..bundle.folder import Bundle
    from ..image.arrays import Pixels


class Run(Protocol):
    """The toolkit's side of one tile's coding."""

    @property
    def height(self) -> int:
        """Of the tile as the codec sees it, a multiple of the bundle's number."""

    @property
    def width(self) -> int:
        """Likewise."""

    def __call__(self, graph: str, **inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run a graph of the bundle.

        Args:
            graph: its name.
            inputs: arrays by the names of the graph's inputs, N first.

        Returns:
            Its output, which the caller owns.

        Raises:
            BackendError: the run failed, or an input does not fit.
            LimitError: it took longer than it may.
        """

    def check(self, what: str, values: npt.NDArray[Any]) -> None:
        """Have the decoder find out where it computes something else than the encoder did.

        Called with the same values in the same order by `encode` and `decode`: a digest of them goes into the stream.

        Args:
            what: names the values in a message, a plural: "scales".
            values: whole numbers of any integer type, of any shape.

        Raises:
            VerificationError: decoding, and they are not the encoder's.
        """


class LearnedCodec(ABC):
    """A kind of codec. One object serves many pictures, from several threads at a time.

    Attributes:
        kind: its name in manifests and streams: 1 to 32 ASCII letters, digits and underscores, no digit first.
        graphs: names of the graphs that a bundle must have.
        decoding_graphs: those of them that decoding runs.
        entropy_graphs: graphs whose outputs decide how symbols are coded: `oslic calibrate` leaves them as they are.
        sections: its sections by name, each with its number in streams, 1 to 0x7D.
    """

    kind: ClassVar[str]
    graphs: ClassVar[tuple[str, ...]]
    decoding_graphs: ClassVar[tuple[str, ...]]
    entropy_graphs: ClassVar[tuple[str, ...]] = ()
    sections: ClassVar[Mapping[str, int]]

    @abstractmethod
    def __init__(self, bundle: Bundle) -> None:
        """Open the codec for a bundle of its kind: read what it needs of `bundle.manifest.settings` and its files.

        Raises:
            BundleError: something is missing or impossible.
        """

    @abstractmethod
    def encode(self, image: Pixels, run: Run) -> Mapping[str, bytes]:
        """Code a picture.

        Args:
            image: uint8 (H, W, 3), sides that are multiples of the bundle's number.
            run: runs graphs.

        Returns:
            The content of every section, by its name.
        """

    @abstractmethod
    def decode(self, sections: Mapping[str, bytes], run: Run) -> Pixels:
        """Inverse of `encode`.

        Args:
            sections: as `encode` returned them, or whatever somebody has written in their place: nothing may be taken
                on trust but that their checksums are right.
            run: runs graphs, and knows the size.

        Returns:
            uint8 (run.height, run.width, 3).

        Raises:
            StreamError: a section is damaged.
        """
