"""One dial for the time that encoding takes."""

from __future__ import annotations

from typing import Final, NamedTuple


class Effort(NamedTuple):
    """What an effort means for the coders.

    Attributes:
        speed: of the AV1 coder, 0..10: larger is faster and costs bits.
        lossless: effort of FLIF, 0..100.
        weights: what is tried beside the usual weight of the estimate, in eighths more or less of it.
        search: steps of the search for a better compact image, where a picture is stored as layers alone and the
            bundle has a graph for it.
    """

    speed: int
    lossless: int
    weights: tuple[int, ...] = (0,)
    search: int = 0


EFFORTS: Final = (
    Effort(10, 10),
    Effort(9, 20),
    Effort(8, 40),
    Effort(7, 60),
    Effort(6, 60),
    Effort(5, 80, search=15),
    Effort(4, 80, search=30),
    Effort(4, 100, (-1, 0, 1), search=60),
    Effort(3, 100, (-1, 0, 1), search=100),
    Effort(2, 100, (-2, -1, 0, 1, 2), search=160),
)
DEFAULT_EFFORT: Final = 4
MAX_EFFORT: Final = len(EFFORTS) - 1
