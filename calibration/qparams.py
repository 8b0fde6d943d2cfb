"""Scale rules: from a range to the scale of a quantization whose zero point is fixed.

x is stored as round(x / scale), half to even, and clipped: to -128..127, or to 0..255 for values that are never
negative and go to a CPU. Weights leave -128 out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from ..runtime.errors import DataError

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]

LARGEST: Final = 127
# Below it, 1 / scale is infinite in float32, and kernels multiply by it.
_SMALLEST_SCALE: Final = 1e-30


class ScaleRule(Protocol):
    """Turns thresholds into scales."""

    @property
    def name(self) -> str:
        """In manifests and reports."""

    def scale(self, threshold: Floats, levels: int) -> Floats:
        """Scales for which `threshold` is stored as about `levels`.

        Args:
            threshold: largest magnitudes to be represented, positive, of any shape.
            levels: the integer they are to become, at most 255.

        Returns:
            float32, of the same shape.
        """


@dataclass(frozen=True)
class AnyScale:
    """threshold / levels: the finest step that covers the range."""

    name: str = "any"

    def scale(self, threshold: Floats, levels: int) -> Floats:
        """See `ScaleRule.scale`."""
        step: Floats = np.asarray(threshold, np.float32) / np.float32(levels)
        return np.maximum(step, np.float32(_SMALLEST_SCALE)).astype(np.float32)


def activation_scale(rule: ScaleRule, threshold: float, levels: int = LARGEST) -> np.float32:
    """The scale of an activation.

    Args:
        rule: the scale rule.
        threshold: largest magnitude to be represented, finite. Of a value that is always 0 (behind a ReLU that never
            opens) nothing is known; it gets the scale of a threshold of 1.
        levels: the integer that the threshold becomes.
    """
    return np.float32(rule.scale(np.asarray(threshold or 1, np.float32), levels))


@dataclass(frozen=True)
class QuantizedWeight:
    """A convolution's weight in int8.

    Attributes:
        values: int8, in the weight's shape.
        scales: float32, one per output channel (axis 0).
    """

    values: npt.NDArray[np.int8]
    scales: Floats

    def dequantized(self) -> Floats:
        """The weight that the integers stand for."""
        shape = (-1, *(1,) * (self.values.ndim - 1))
        weight: Floats = self.values.astype(np.float32) * self.scales.reshape(shape)
        return weight


def quantize_weight(rule: ScaleRule, weight: Floats, limit: int, what: str) -> QuantizedWeight:
    """Quantize a weight symmetrically, with one scale per output channel.

    Args:
        rule: the scale rule.
        weight: (C_out, ...), float32.
        limit: largest magnitude of the integers, at most 127.
        what: names the weight in messages.

    Raises:
        DataError: a value is not finite.
    """
    if not np.all(np.isfinite(weight)):
        raise DataError(f"the weight of {what} holds values that are not finite")
    largest = np.abs(weight).reshape(weight.shape[0], -1).max(axis=1)
    # A channel of zeros stays one, whatever its scale.
    scales = rule.scale(np.where(largest > 0, largest, np.float32(1)).astype(np.float32), limit)
    shape = (-1, *(1,) * (weight.ndim - 1))
    integers = np.clip(np.rint(weight / scales.reshape(shape)), -limit, limit)
    return QuantizedWeight(integers.astype(np.int8), scales)
