"""Quality by class: the residual is coded smaller where it matters less, and made larger again by the decoder.

A class has a gain of at most 1. The encoder multiplies the residual by it, so that the AV1 coder's fixed quantization
is coarser there, and the decoder divides. Luma and chroma have gains of their own: chroma's is the square root of
luma's, or colored blotches show. Gains change smoothly, and outwards of the classes that have the larger one: a step
would ring inside. All arithmetic of the decoder is in whole numbers, the same on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from ..errors import UsageError
from ..image.arrays import luma_levels
from .parameters import LEAST_QUALITY, MAX_QUALITY

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from ..bundle.manifest import Manifest
    from ..image.arrays import Pixels
    from ..tiling import Box

    Whole = npt.NDArray[np.int32]

SIXTEENTHS: Final = 16
"""Gains are stated in sixteenths; this one is 1."""
_UNIT: Final = 4096
QUALITIES_PER_HALF: Final = 17.7
"""A quality lower by this has a quantizer step twice as large (between 15 and 74, training/EXPERIMENTS.md)."""


@dataclass(frozen=True)
class Gains:
    """The gains of a rectangle of a picture.

    Attributes:
        luma: int32 (h, w), 1..4096, 4096 for 1.
        chroma: likewise.
    """

    luma: Whole
    chroma: Whole

    def qualities(self, quality: float) -> npt.NDArray[np.float32]:
        """The quality of each pixel, float32 (h, w), where that of the gain 1 is `quality`; it may be below 0."""
        steps = np.log2(self.luma.astype(np.float32) * np.float32(1 / _UNIT))
        found: npt.NDArray[np.float32] = np.float32(quality) + np.float32(QUALITIES_PER_HALF) * steps
        return found

    def shrink(self, residual: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        """Multiply a residual, int16 (h, w, 3) or (h, w), by the gains."""
        luma_gain = self.luma.astype(np.float32) * np.float32(1 / _UNIT)
        if residual.ndim == 2:
            return np.rint(residual * luma_gain).astype(np.int16)
        chroma_gain = (self.chroma.astype(np.float32) * np.float32(1 / _UNIT))[:, :, np.newaxis]
        gray = luma_levels(residual).astype(np.float32)[:, :, np.newaxis]
        shrunk = chroma_gain * (residual - gray) + luma_gain[:, :, np.newaxis] * gray
        levels: npt.NDArray[np.int16] = np.rint(shrunk).astype(np.int16)
        return levels

    def enlarge(self, residual: npt.NDArray[np.int16]) -> npt.NDArray[np.int16]:
        """Inverse of `shrink`, but for roundings: luma and the rest, times 4096 over the gain, halves upwards."""
        whole = residual.astype(np.int32)
        if whole.ndim == 2:
            return _divided(whole, self.luma).astype(np.int16)
        gray = luma_levels(whole)
        enlarged = _divided(whole - gray[:, :, np.newaxis], self.chroma[:, :, np.newaxis])
        enlarged += _divided(gray, self.luma)[:, :, np.newaxis]
        return np.clip(enlarged, -(1 << 15), (1 << 15) - 1).astype(np.int16)


def _divided(value: Whole, gain: Whole) -> Whole:
    quotient: Whole = (value * _UNIT + (gain >> 1)) // gain
    return quotient


class GainMap:
    """The gains of a picture, by its label map.

    Each position of the label map has the largest gain of itself and its eight neighbors, so that a class keeps its
    gain up to its border; between the centers of the positions gains are interpolated bilinearly.

    Args:
        labels: uint8 (ceil(H/S), ceil(W/S)).
        label_scale: S.
        table: gains in sixteenths, 1..255, by class; other classes have 16.
    """

    def __init__(self, labels: Pixels, label_scale: int, table: Mapping[int, int]) -> None:
        lookup = np.full(256, SIXTEENTHS, np.int32)
        for index, gain in table.items():
            lookup[index] = gain
        gains = lookup[labels]
        padded = np.pad(gains, 1, mode="edge")
        rows, columns = gains.shape
        self._gains: Whole = np.maximum.reduce(
            [padded[i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
        )
        self._scale = label_scale

    def of(self, box: Box) -> Gains:
        """The gains of a rectangle."""
        top, lower, below = self._between(box.top, box.bottom, self._gains.shape[0])
        left, right, beside = self._between(box.left, box.right, self._gains.shape[1])
        whole = 2 * self._scale
        # Rows first: of the few columns that the rectangle touches.
        first, last = int(left.min()), int(right.max()) + 1
        part = self._gains[:, first:last]
        columns = part[top] * (whole - below)[:, np.newaxis] + part[lower] * below[:, np.newaxis]
        mixed = columns[:, left - first] * (whole - beside) + columns[:, right - first] * beside
        luma = np.maximum(1, (mixed.astype(np.int64) * (_UNIT // SIXTEENTHS)) // (whole * whole)).astype(
            np.int32
        )
        # The square root of IEEE 754 is exactly rounded, so its whole part is the same everywhere.
        chroma = np.sqrt(luma.astype(np.float64) * _UNIT).astype(np.int32)
        return Gains(luma, chroma)

    def _between(self, start: int, end: int, count: int) -> tuple[Whole, Whole, Whole]:
        """The positions before and behind each pixel's center, and the weight of the one behind in 2S-ths."""
        # Twice the distance of a pixel's center from the first position's center.
        at = 2 * np.arange(start, end, dtype=np.int32) + 1 - self._scale
        before = at // (2 * self._scale)
        weight = at - before * 2 * self._scale
        return np.clip(before, 0, count - 1), np.clip(before + 1, 0, count - 1), weight


@dataclass(frozen=True)
class ClassQuality:
    """What the encoder makes of qualities by class.

    Attributes:
        quality: that the residual coder is given, 1..100.
        table: gains in sixteenths by class; those of 16 are left out.
    """

    quality: int
    table: dict[int, int]


FOCUS: Final = {"mild": (18.0, -12.0), "strong": (35.0, -22.0)}
"""Steps of focus: what is added to the quality of what is in focus, relative to the rest, and to that of all.

On photographs of people who fill a tenth to a third of them, files stay about as large as without focus.
"""


def focused(quality: float, focus: str) -> tuple[float, tuple[tuple[str, float], ...]]:
    """What a focus makes of a quality.

    Args:
        quality: that was asked for; at 0 there is no residual to give more to, and nothing changes.
        focus: the name of a class or a group, and, behind a colon, "mild" or "strong"; without it "strong".

    Returns:
        The quality of all but what is in focus, and what that has more, as in `Settings.class_quality`.

    Raises:
        UsageError: another step.
    """
    name, _, step = focus.partition(":")
    if (step or "strong") not in FOCUS:
        raise UsageError(f"a focus is {' or '.join(FOCUS)}, not {step!r}: NAME, NAME:mild or NAME:strong")
    if not quality:
        return quality, ()
    more, shift = FOCUS[step or "strong"]
    return max(float(LEAST_QUALITY), quality + shift), ((name, more),)


def classes_named(name: str, manifest: Manifest) -> tuple[int, ...]:
    """The numbers of the classes that a name stands for: a class, or a group of the manifest.

    Raises:
        UsageError: there is neither; the message lists what there is.
    """
    names = [entry.name for entry in manifest.classes]
    members = manifest.groups.get(name, (name,))
    if not set(members) <= set(names):
        known = ", ".join([*manifest.groups, *names])
        raise UsageError(f"the networks know no class {name!r}; there are {known}")
    return tuple(names.index(member) for member in members)


def class_quality(quality: float, changes: Mapping[str, float], manifest: Manifest) -> ClassQuality:
    """Turn qualities by class into the residual coder's quality and gains.

    The class of the highest quality has gain 1; a quality lower by `QUALITIES_PER_HALF` has half of it.

    Args:
        quality: of all other classes, above 0.
        changes: what is added to it, by the name of a class or a group; a class's own name counts before a group's.
        manifest: of the networks.

    Raises:
        UsageError: an unknown name.
    """
    by_class = dict.fromkeys(range(len(manifest.classes)), 0.0)
    for name in sorted(changes, key=lambda name: name not in manifest.groups):
        for index in classes_named(name, manifest):
            by_class[index] = changes[name]
    wanted = {
        index: min(max(quality + change, float(LEAST_QUALITY)), float(MAX_QUALITY))
        for index, change in by_class.items()
    }
    highest = max(wanted.values())
    gains = {
        index: max(1, round(SIXTEENTHS * 2.0 ** ((value - highest) / QUALITIES_PER_HALF)))
        for index, value in wanted.items()
    }
    return ClassQuality(round(highest), {k: gain for k, gain in sorted(gains.items()) if gain != SIXTEENTHS})
