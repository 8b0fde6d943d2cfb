"""Kernels of the fused forms, for any kernel size, padding and dilation; numpy only.

For the odd, symmetrically padded kernels of octave convolutions they equal `networks.kernels`, which the tests
check.

A convolution that reads an image upsampled x2 by repetition reads, for output o and tap k, the upsampled position
stride * o + dilation * k - before, and so the source position floor(that / 2). Zero padding of the upsampled image
falls on source positions outside the source, borders included, so that everything below is exact in real
arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Weight = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Axis:
    """How the taps of one axis fall onto the source.

    Attributes:
        gather: (K, T) matrix of zeros and ones: tap k adds to source tap t.
        before: zero padding before the source.
        after: zero padding after the source; negative if the source is longer than what is read.
    """

    gather: npt.NDArray[np.float32]
    before: int
    after: int


def _gather(positions: list[int], outputs_beyond: int) -> Axis:
    first, last = min(positions), max(positions)
    gather = np.zeros((len(positions), last - first + 1), np.float32)
    for k, position in enumerate(positions):
        gather[k, position - first] = 1
    # out = h + before + after - (T - 1) = h + outputs_beyond
    return Axis(gather, -first, outputs_beyond + last)


def _axis(kernel: int, pads: tuple[int, int], dilation: int, *, stride: int, phase: int = 0) -> Axis | None:
    """Taps of the outputs `phase`, `phase + 2`, ... (stride 1), or of all outputs (even stride).

    Returns:
        None if the number of outputs is not a whole multiple of the source's size plus a constant for
        every phase.
    """
    before, after = pads
    extra = before + after - dilation * (kernel - 1)
    if stride == 1:
        if extra % 2:
            return None
        return _gather([(phase + dilation * k - before) // 2 for k in range(kernel)], extra // 2)
    # out = floor((2h + extra - 1) / stride) + 1 for stride 2: h + floor((extra - 1) / 2) + 1
    return _gather([(dilation * k - before) // 2 for k in range(kernel)], (extra - 1) // 2 + 1)


def _apply(weight: Weight, rows: Axis, columns: Axis) -> Weight:
    small = np.einsum(
        "oiyx,yt,xu->oitu", weight.astype(np.float64), rows.gather, columns.gather, optimize=True
    )
    return np.ascontiguousarray(small.astype(np.float32))


@dataclass(frozen=True)
class Small:
    """A convolution at the source's size.

    Attributes:
        weight: (C_out, C_in, Th, Tw).
        pads: zeros (top, left, bottom, right).
    """

    weight: Weight
    pads: tuple[int, int, int, int]


def strided(
    weight: Weight, pads: tuple[int, int, int, int], dilations: tuple[int, int] = (1, 1)
) -> Small | None:
    """The convolution of stride 1 on the source that equals upsampling x2 and a convolution of stride 2.

    Args:
        weight: (C_out, C_in, Kh, Kw), float32.
        pads: zeros (top, left, bottom, right) of the convolution of stride 2.
        dilations: along H and W.

    Returns:
        The small convolution, or None if its padding would be negative.
    """
    rows = _axis(weight.shape[2], (pads[0], pads[2]), dilations[0], stride=2)
    columns = _axis(weight.shape[3], (pads[1], pads[3]), dilations[1], stride=2)
    return _small(weight, rows, columns)


def phases(
    weight: Weight, pads: tuple[int, int, int, int], dilations: tuple[int, int] = (1, 1)
) -> dict[tuple[int, int], Small] | None:
    """The four convolutions on the source whose outputs, interleaved, equal upsampling x2 and a convolution.

    Args:
        weight: (C_out, C_in, Kh, Kw), float32, of a convolution of stride 1.
        pads: its zeros (top, left, bottom, right).
        dilations: along H and W.

    Returns:
        One for each phase (a, b): output pixels (2i + a, 2j + b). None if the output has an odd size.
    """
    found = {}
    for a in (0, 1):
        for b in (0, 1):
            rows = _axis(weight.shape[2], (pads[0], pads[2]), dilations[0], stride=1, phase=a)
            columns = _axis(weight.shape[3], (pads[1], pads[3]), dilations[1], stride=1, phase=b)
            small = _small(weight, rows, columns)
            if small is None:
                return None
            found[a, b] = small
    return found


def _small(weight: Weight, rows: Axis | None, columns: Axis | None) -> Small | None:
    if rows is None or columns is None:
        return None
    pads = (rows.before, columns.before, rows.after, columns.after)
    return None if min(pads) < 0 else Small(_apply(weight, rows, columns), pads)


def transposed(weight: Weight, pads: tuple[int, int, int, int]) -> Small | None:
    """The transposed convolution of stride 2 that equals upsampling x2 and a convolution of stride 1.

    Args:
        weight: (C_out, C_in, Kh, Kw), float32; dilation 1.
        pads: zeros (top, left, bottom, right).

    Returns:
        The kernel as ConvTranspose has it, (C_in, C_out, Kh + 1, Kw + 1), and its `pads`; None if these would
        be negative.
    """
    height, width = weight.shape[2:]
    cut = (height - 1 - pads[0], width - 1 - pads[1], height - 1 - pads[2], width - 1 - pads[3])
    if min(cut) < 0:
        return None
    # A convolution correlates and a transposed one convolves, hence the flip; the 2x2 box adds the repetitions.
    flipped = np.pad(weight[:, :, ::-1, ::-1].astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    boxed = flipped[:, :, 1:, 1:] + flipped[:, :, :-1, 1:] + flipped[:, :, 1:, :-1] + flipped[:, :, :-1, :-1]
    return Small(np.ascontiguousarray(boxed.transpose(1, 0, 2, 3).astype(np.float32)), cut)


def pooled(weight: Weight, pads: tuple[int, int, int, int]) -> Small | None:
    """The transposed convolution of stride 2 that, averaged over 2x2 pixels, equals upsampling and a convolution.

    Repeating each pixel is putting zeros between the pixels and summing over 2x2; the sum may as well come last:
    conv(up(l)) = sum2x2(conv(stuff(l))), and conv(stuff(l)) is a transposed convolution with the kernel's own taps.
    For 3x3 that is 9 taps per source pixel, where the four phases have 16 and the convolution of the upsampled
    image 36. The kernel is multiplied by 4, because the pool averages.

    Args:
        weight: (C_out, C_in, Kh, Kw), float32; dilation 1.
        pads: zeros (top, left, bottom, right).

    Returns:
        The kernel as ConvTranspose has it, (C_in, C_out, Kh, Kw), and its `pads`, which leave one row and one column
        more than the result has; None if these would be negative.
    """
    height, width = weight.shape[2:]
    cut = (height - 2 - pads[0], width - 2 - pads[1], height - 2 - pads[2], width - 2 - pads[3])
    if min(cut) < 0:
        return None
    return Small(np.ascontiguousarray(4 * weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)), cut)


def embed(
    weight: Weight,
    pads: tuple[int, int, int, int],
    kernel: tuple[int, int],
    target: tuple[int, int, int, int],
) -> Weight | None:
    """A smaller kernel with zero taps around it, for a larger kernel's size and padding.

    Args:
        weight: (C_out, C_in, Kh, Kw), float32.
        pads: zeros (top, left, bottom, right) that belong to it.
        kernel: size of the larger kernel.
        target: padding of the larger kernel.

    Returns:
        (C_out, C_in, *kernel), or None if the larger kernel with that padding does not cover the smaller.
    """
    before = [target[i] - pads[i] for i in (0, 1)]
    after = [target[2 + i] - pads[2 + i] for i in (0, 1)]
    fits = all(weight.shape[2 + i] + before[i] + after[i] == kernel[i] for i in (0, 1))
    if not fits or min(*before, *after) < 0:
        return None
    return np.pad(weight, ((0, 0), (0, 0), (before[0], after[0]), (before[1], after[1])))
