"""The residual of a tile, with the record that the stream has of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import residual
from .container import DIGEST_BYTES, Payload, digest
from .parameters import ResidualMode, TileRecord

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..stages import Stages
    from .class_gains import Gains
    from .refinement import Refinement
    from .residual_plan import ResidualPlan

    Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class CodedTile:
    """What a stream gets of a tile's residual.

    Attributes:
        payload: its bytes and its record.
        residual: the coded residual; None: there is none.
        unrefined: whether the tile is left as it is where the picture is refined.
    """

    payload: Payload
    residual: residual.CodedResidual | None
    unrefined: bool = False


def encode_tile(
    color: Pixels,
    estimate: Pixels | None,
    estimate_digest: bytes,
    *,
    plan: ResidualPlan,
    gains: Gains | None,
    stages: Stages,
    doubted: Refinement | None = None,
) -> CodedTile:
    """Code the residual of a tile.

    Args:
        color: uint8 (h, w, 3) or (h, w).
        estimate: in the shape of `color`; None: the tile has no layers, and its residual is that to mid-gray.
        estimate_digest: of it.
        plan: how the residual is coded.
        gains: of the tile; None: there are none.
        stages: gets the time as "residual".
        doubted: how the tile would be refined, if it is to be seen whether that helps; only without layers.
    """
    if not plan.quality:
        assert estimate is not None, "a tile needs layers or a residual"
        record = TileRecord(ResidualMode.NONE, 1, residual.MAX_WEIGHT, estimate_digest)
        return CodedTile(Payload(b"", record.to_bytes()), None)
    with stages.measure("residual"):
        coded = _best(color, estimate, plan, gains)
        samples = residual.decode_samples(coded, color.shape)
    unrefined = False
    if doubted is not None:
        found = residual.add(samples, coded, np.zeros_like(color), gains)
        refined = doubted.tile(found, None)
        before, after = (residual.mean_squared_error(each, color) for each in (found, refined))
        unrefined = after >= before
    record = TileRecord(
        ResidualMode.AV1,
        coded.scale,
        coded.weight,
        bytes(DIGEST_BYTES) if estimate is None else estimate_digest,
        digest(samples),
        plain=estimate is None,
        unrefined=unrefined,
    )
    return CodedTile(Payload(coded.payload, record.to_bytes()), coded, unrefined)


def _best(
    color: Pixels, estimate: Pixels | None, plan: ResidualPlan, gains: Gains | None
) -> residual.CodedResidual:
    """Code a residual with the weights of the estimate that the effort has time for, and keep the best."""
    settings = plan.settings
    weights = {0}
    if estimate is not None:
        usual = residual.default_weight(plan.quality)
        weights = {min(max(usual + change, 1), residual.MAX_WEIGHT) for change in settings.coders.weights}

    def code(weight: int) -> residual.CodedResidual:
        return residual.encode(
            color,
            color if estimate is None else estimate,
            quality=plan.quality,
            speed=settings.coders.speed,
            weight=weight,
            visual=settings.visual,
            gains=gains,
        )

    def cost(coded: residual.CodedResidual) -> float:
        error = residual.mean_squared_error(decode_tile(coded, estimate, color.shape, gains), color)
        return residual.coding_cost(error, len(coded.payload))

    found = [code(weight) for weight in sorted(weights)]
    return found[0] if len(found) == 1 else min(found, key=cost)


def decode_tile(
    coded: residual.CodedResidual,
    estimate: Pixels | None,
    shape: tuple[int, ...],
    gains: Gains | None = None,
) -> Pixels:
    """Decode a residual and add it to its prediction.

    Args:
        coded: the residual.
        estimate: uint8 (h, w, 3) or (h, w); None: the tile has no layers.
        shape: of the tile.
        gains: of the tile; None: there are none.
    """
    return residual.decode(coded, np.zeros(shape, np.uint8) if estimate is None else estimate, gains)
