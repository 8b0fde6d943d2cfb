"""The residual of a tile, with the record that the stream has of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from . import residual
from .bounded import BoundedResidual, encode_bounded
from .container import DIGEST_BYTES, Payload, digest
from .parameters import MAX_WEIGHT, ResidualMode, TileRecord

if TYPE_CHECKING:
    from ..image.arrays import Pixels
    from .class_gains import Gains
    from .refinement import Refinement
    from .residual_plan import ResidualPlan
    from .stage_timer import Stages

AnyResidual: TypeAlias = residual.CodedResidual | BoundedResidual
"""What comes on top of an estimate: by AV1, or by FLIF within a bound."""


@dataclass(frozen=True)
class CodedTile:
    """What a stream gets of a tile's residual.

    Attributes:
        payload: its bytes and its record.
        residual: the coded residual, or the picture itself; None: there is none.
        unrefined: whether the tile is left as it is where the picture is refined.
    """

    payload: Payload
    residual: AnyResidual | None
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
        record = TileRecord(ResidualMode.NONE, 1, MAX_WEIGHT, estimate_digest)
        return CodedTile(Payload(b"", record.to_bytes()), None)
    if plan.settings.max_error is not None:
        with stages.measure("residual"):
            return _encode_bounded(color, estimate, estimate_digest, plan, plan.settings.max_error)
    with stages.measure("residual"):
        coded = _best(color, estimate, plan, gains)
        samples = residual.decode_samples(coded, color.shape)
    unrefined = False
    if doubted is not None:
        found = residual.add(samples, coded, np.zeros_like(color), gains)
        refined = doubted.tile(found, None, gains)
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


def _encode_bounded(
    color: Pixels, estimate: Pixels | None, estimate_digest: bytes, plan: ResidualPlan, max_error: int
) -> CodedTile:
    """Code a tile within a bound."""
    # On other machines the estimate of networks that are not exact may be another one.
    base = estimate if plan.exact else None
    coded, samples = encode_bounded(color, base, max_error, effort=plan.settings.coders.lossless)
    record = TileRecord(
        ResidualMode.FLIF_PICTURE if coded.weight is None else ResidualMode.FLIF_RESIDUAL,
        1,
        coded.weight or 0,
        bytes(DIGEST_BYTES) if estimate is None else estimate_digest,
        digest(samples),
        plain=estimate is None,
    )
    return CodedTile(Payload(coded.payload, record.to_bytes()), coded)


def _best(
    color: Pixels, estimate: Pixels | None, plan: ResidualPlan, gains: Gains | None
) -> residual.CodedResidual:
    """Code a residual with the weights of the estimate that the effort has time for, and keep the best."""
    settings = plan.settings
    weights = {0}
    if estimate is not None:
        usual = residual.default_weight(plan.quality, visual=settings.visual)
        weights = {min(max(usual + change, 1), MAX_WEIGHT) for change in settings.coders.weights}

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


def decode_samples(coded: AnyResidual, shape: tuple[int, ...]) -> Pixels:
    """Decode what of a residual needs no estimate: uint8 of a tile's shape.

    Raises:
        StreamError: it is damaged or has another size.
    """
    if isinstance(coded, BoundedResidual):
        return coded.samples(shape)
    return residual.decode_samples(coded, shape)


def add_samples(samples: Pixels, coded: AnyResidual, estimate: Pixels, gains: Gains | None = None) -> Pixels:
    """Add the decoded samples of a residual to its prediction; see `residual.add`."""
    if isinstance(coded, BoundedResidual):
        return coded.add(samples, estimate)
    return residual.add(samples, coded, estimate, gains)


def decode_tile(
    coded: AnyResidual,
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
    base = np.zeros(shape, np.uint8) if estimate is None else estimate
    return add_samples(decode_samples(coded, shape), coded, base, gains)
