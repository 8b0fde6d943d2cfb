"""Lossless and near-lossless tiles: FLIF of the picture's samples, or of what they differ from the prediction by.

With a bound E no sample of the decoded picture is off by more than E; 0 is lossless. Steps are 2E + 1 levels wide:

    of the picture:    s = (x + E) div (2E + 1)              x' = min((2E + 1) s, 255)
    of the residual:   s = 128 + round((x - p) / (2E + 1))   x' = clip(p + (2E + 1) (s - 128))

where p is the prediction of `residual`, and with E = 0 the residual is taken modulo 256. A residual has its bound only
where the decoder's estimate is the encoder's: it is left to networks that are exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from ..errors import VerificationError
from .lossless import decode_plane, encode_plane
from .parameters import MAX_WEIGHT
from .residual import prediction

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..image.arrays import Pixels

    Levels = npt.NDArray[np.int16]

_CENTER: Final = 128
_WEIGHTS: Final = (2, 4, 6, MAX_WEIGHT)


@dataclass(frozen=True)
class BoundedResidual:
    """A tile as FLIF.

    Attributes:
        payload: the FLIF file.
        max_error: E, 0 to 16.
        weight: of the estimate in the prediction, in eighths: 0..8; None: the samples are the picture's.
    """

    payload: bytes
    max_error: int
    weight: int | None

    def samples(self, shape: tuple[int, ...]) -> Pixels:
        """Decode the payload: s, uint8 of the shape (h, w, 3) or (h, w).

        Raises:
            StreamError: it is damaged or has another size.
        """
        return decode_plane(self.payload, shape, "residual")

    def add(self, samples: Pixels, estimate: Pixels) -> Pixels:
        """The picture: x', uint8 in the shape of `samples`.

        Args:
            samples: s, from `samples`.
            estimate: e, in the same shape; it counts only where there is a weight.
        """
        step = 2 * self.max_error + 1
        if self.weight is None:
            return samples if step == 1 else _clipped(samples.astype(np.int16) * np.int16(step))
        levels = samples.astype(np.int16) - np.int16(_CENTER)
        found = prediction(estimate, self.weight) + levels * np.int16(step)
        return cast("Pixels", (found & 255).astype(np.uint8)) if step == 1 else _clipped(found)


def _clipped(levels: Levels) -> Pixels:
    return cast("Pixels", np.clip(levels, 0, 255).astype(np.uint8))


def encode_bounded(
    color: Pixels, estimate: Pixels | None, max_error: int, *, effort: int
) -> tuple[BoundedResidual, Pixels]:
    """Code a tile, and decode it again to see that every sample is within the bound.

    Args:
        color: x, uint8 (h, w, 3) or (h, w).
        estimate: e, in the same shape, if the samples may be told from it; None: they may not.
        max_error: E, 0 to 16.
        effort: of FLIF, 0..100.

    Returns:
        The coded tile, and its samples as they were decoded, see `BoundedResidual.samples`.

    Raises:
        VerificationError: what comes back is beyond the bound.
    """
    coded = _encode(color, np.zeros_like(color), max_error, None, effort)
    if estimate is not None:
        weight = _promising_weight(color, estimate, max_error)
        if weight is not None:
            other = _encode(color, estimate, max_error, weight, effort)
            coded = min(coded, other, key=lambda each: len(each.payload))
    base = np.zeros_like(color) if estimate is None else estimate
    samples = coded.samples(color.shape)
    found = coded.add(samples, base)
    if np.abs(found.astype(np.int16) - color).max(initial=0) > max_error:
        raise VerificationError(
            f"a tile comes back with samples that are off by more than {max_error}: please report it"
        )
    return coded, samples


def _encode(
    color: Pixels, estimate: Pixels, max_error: int, weight: int | None, effort: int
) -> BoundedResidual:
    samples = _samples(color, estimate, max_error, weight)
    return BoundedResidual(encode_plane(samples, effort), max_error, weight)


def _samples(color: Pixels, estimate: Pixels, max_error: int, weight: int | None) -> Pixels:
    step = 2 * max_error + 1
    levels = color.astype(np.int16)
    if weight is None:
        return color if step == 1 else cast("Pixels", ((levels + max_error) // step).astype(np.uint8))
    levels = (levels - prediction(estimate, weight) + max_error) // step + _CENTER
    return cast("Pixels", (levels & 255).astype(np.uint8))


def _promising_weight(color: Pixels, estimate: Pixels, max_error: int) -> int | None:
    """The weight of the estimate whose residual looks cheapest; None: the picture itself does."""
    candidates: Sequence[int | None] = (None, *_WEIGHTS)
    return min(candidates, key=lambda weight: _guessed_bits(_samples(color, estimate, max_error, weight)))


def _guessed_bits(samples: Pixels) -> float:
    """Entropy of what a prediction from three neighbors leaves of the samples, in bits: a tenth of FLIF's time."""
    planes = samples[..., np.newaxis] if samples.ndim == 2 else _decorrelated(samples)
    bits = 0.0
    for i in range(planes.shape[2]):
        x = planes[..., i].astype(np.int16)
        left, above, corner = x[1:, :-1], x[:-1, 1:], x[:-1, :-1]
        low, high = np.minimum(left, above), np.maximum(left, above)
        errors = (x[1:, 1:] - np.clip(left + above - corner, low, high)) & 255
        counts = np.bincount(errors.ravel(), minlength=256)
        counts = counts[counts > 0]
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    return bits


def _decorrelated(samples: Pixels) -> Levels:
    red, green, blue = (samples[..., i].astype(np.int16) for i in range(3))
    return np.stack([green, red - green, blue - green], axis=2)
