"""The residual of a tile, with the record that the stream has of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import residual
from .container import Payload, digest
from .parameters import ResidualMode, TileRecord

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..stages import Stages

    Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CodedTile:
    """What a stream gets of a tile's residual.

    Attributes:
        payload: its bytes and its record.
        residual: the coded residual; None: there is none.
    """

    payload: Payload
    residual: residual.CodedResidual | None


def encode_tile(
    color: Pixels, estimate: Pixels, estimate_digest: bytes, *, quality: float, speed: int, stages: Stages
) -> CodedTile:
    """Code the residual of a tile.

    Args:
        color: uint8 (h, w, 3) or (h, w).
        estimate: in the shape of `color`.
        estimate_digest: of it.
        quality: 0..100; 0: no residual.
        speed: 0..10 of the residual coder.
        stages: gets the time as "residual".
    """
    if not quality:
        record = TileRecord(ResidualMode.NONE, 1, residual.MAX_WEIGHT, estimate_digest)
        return CodedTile(Payload(b"", record.to_bytes()), None)
    with stages.measure("residual"):
        coded = residual.encode(color, estimate, quality=round(quality), speed=speed)
        samples = residual.decode_samples(coded, color.shape)
    record = TileRecord(ResidualMode.AV1, coded.scale, coded.weight, estimate_digest, digest(samples))
    return CodedTile(Payload(coded.payload, record.to_bytes()), coded)
