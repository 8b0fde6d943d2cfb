"""Kernels of the fused forms, for any factor, kernel size, padding, stride and dilation; numpy only.

For the odd, symmetrically padded kernels of octave convolutions they equal `networks.kernels`, which the tests
check.

A convolution that reads an image upsampled f-fold by repetition reads, for output o and tap k, the upsampled position
stride * o + dilation * k - before, and so the source position floor(that / f). Zero padding of the upsampled image
falls on source positions outside the source, borders included, so that everything below is exact in real
arithmetic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Weight = npt.NDArray[np.float32]

Pads = tuple[int, int, int, int]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Axis:
    """How the taps of one axis fall onto the source.

    Attributes:
        gather: (K, T) matrix of zeros and ones: tap k adds to source tap t.
        before: zero padding before the source.
        after: zero padding after the source; negative if the source is longer than what is read.
        stride: over the source.
    """

    gather: npt.NDArray[np.float32]
    before: int
    after: int
    stride: int


def _axis(kernel: int, pads: Pair, dilation: int, *, stride: int, factor: int) -> list[Axis] | None:
    """Taps of the outputs i, i + n, i + 2 n, ..., one entry for each i below the number n of phases.

    With g = gcd(stride, factor) there are n = factor / g phases, each a convolution of stride / g.

    Returns:
        None if the outputs of one phase are not as many as those of another at every size.
    """
    before, after = pads
    common = math.gcd(stride, factor)
    count, own = factor // common, stride // common
    # Outputs: floor((factor * h + spare) / stride) + 1.
    spare = before + after - dilation * (kernel - 1) - 1
    if count == 1:
        beyond = spare // factor + 1
    elif own == 1 and (spare // stride + 1) % count == 0:
        beyond = (spare // stride + 1) // count
    else:
        return None
    axes = []
    for phase in range(count):
        positions = [(stride * phase + dilation * k - before) // factor for k in range(kernel)]
        first, last = min(positions), max(positions)
        gather = np.zeros((kernel, last - first + 1), np.float32)
        for k, position in enumerate(positions):
            gather[k, position - first] = 1
        axes.append(Axis(gather, -first, beyond + last, own))
    return axes


def _apply(weight: Weight, rows: Axis, columns: Axis) -> Weight:
    small = np.einsum(
        "oiyx,yt,xu->oitu", weight.astype(np.float64), rows.gather, columns.gather, optimize=True
    )
    return np.ascontiguousarray(small.astype(np.float32))


@dataclass(frozen=True)
class Small:
    """A convolution at the source's size.

    Attributes:
        weight: (C_out, C_in / group, Th, Tw).
        pads: zeros (top, left, bottom, right).
        strides: along H and W.
    """

    weight: Weight
    pads: Pads
    strides: Pair = (1, 1)


def phases(
    weight: Weight,
    pads: Pads,
    dilations: Pair = (1, 1),
    *,
    strides: Pair = (1, 1),
    factors: Pair = (2, 2),
) -> dict[Pair, Small] | None:
    """The convolutions of the source whose outputs, interleaved, equal upsampling and a convolution.

    Args:
        weight: (C_out, C_in / group, Kh, Kw), float32.
        pads: its zeros (top, left, bottom, right).
        dilations: along H and W.
        strides: along H and W.
        factors: of the upsampling, along H and W.

    Returns:
        One for each phase (a, b) of m x n: output pixels (m i + a, n j + b). With strides that are multiples of the
        factors there is one. None if the output is not a multiple of m x n at every size, or the padding of the
        source would be negative.
    """
    rows = _axis(weight.shape[2], (pads[0], pads[2]), dilations[0], stride=strides[0], factor=factors[0])
    columns = _axis(weight.shape[3], (pads[1], pads[3]), dilations[1], stride=strides[1], factor=factors[1])
    if rows is None or columns is None:
        return None
    found = {}
    for a, row in enumerate(rows):
        for b, column in enumerate(columns):
            around = (row.before, column.before, row.after, column.after)
            if min(around) < 0:
                return None
            found[a, b] = Small(_apply(weight, row, column), around, (row.stride, column.stride))
    return found


def strided(weight: Weight, pads: Pads, dilations: Pair = (1, 1)) -> Small | None:
    """The convolution of stride 1 on the source that equals upsampling x2 and a convolution of stride 2.

    Args:
        weight: (C_out, C_in / group, Kh, Kw), float32.
        pads: zeros (top, left, bottom, right) of the convolution of stride 2.
        dilations: along H and W.

    Returns:
        The small convolution, or None if its padding would be negative.
    """
    found = phases(weight, pads, dilations, strides=(2, 2))
    return None if found is None else found[0, 0]


def _as_transposed(weight: Weight, group: int) -> Weight:
    """(C_out, C_in / group, Kh, Kw) of a convolution as (C_in, C_out / group, Kh, Kw) of a transposed one, turned."""
    out, inner, height, width = weight.shape
    # A convolution correlates and a transposed one convolves, hence the turn.
    turned = weight[:, :, ::-1, ::-1].reshape(group, out // group, inner, height, width)
    return np.ascontiguousarray(
        turned.transpose(0, 2, 1, 3, 4).reshape(group * inner, out // group, height, width)
    )


def boxed(weight: Weight, factors: Pair, dilations: Pair = (1, 1)) -> Weight:
    """A kernel convolved with a box of ones: what repetition adds to it.

    Args:
        weight: (.., .., Kh, Kw), float32.
        factors: size of the box.
        dilations: distance between its ones.

    Returns:
        (.., .., Kh + dilation * (factor - 1), ...), float32, summed in float64.
    """
    grown = [d * (f - 1) for f, d in zip(factors, dilations, strict=True)]
    height, width = weight.shape[2:]
    total = np.zeros((*weight.shape[:2], height + grown[0], width + grown[1]))
    for a in range(factors[0]):
        for b in range(factors[1]):
            y, x = a * dilations[0], b * dilations[1]
            total[:, :, y : y + height, x : x + width] += weight
    return np.ascontiguousarray(total.astype(np.float32))


def transposed(weight: Weight, pads: Pads, *, factors: Pair = (2, 2), group: int = 1) -> Small | None:
    """The transposed convolution that equals upsampling and a convolution of stride 1; its strides are the factors.

    Args:
        weight: (C_out, C_in / group, Kh, Kw), float32; dilation 1.
        pads: zeros (top, left, bottom, right).
        factors: of the upsampling, along H and W.
        group: number of groups.

    Returns:
        The kernel as ConvTranspose has it, (C_in, C_out / group, Kh + f - 1, Kw + f - 1), and its `pads`; None if
        these would be negative.
    """
    height, width = weight.shape[2:]
    cut = (height - 1 - pads[0], width - 1 - pads[1], height - 1 - pads[2], width - 1 - pads[3])
    if min(cut) < 0:
        return None
    return Small(boxed(_as_transposed(weight, group), factors), cut, factors)


def pooled(
    weight: Weight, pads: Pads, *, factors: Pair = (2, 2), group: int = 1
) -> tuple[Small, Pads] | None:
    """The transposed convolution that, averaged over f x f pixels, equals upsampling and a convolution of stride 1.

    Repeating each pixel is putting zeros between the pixels and summing over f x f; the sum may as well come last:
    conv(up(l)) = sum(conv(stuff(l))), and conv(stuff(l)) is a transposed convolution with the kernel's own taps.
    For 3x3 that is 9 taps per source pixel, where the four phases of a doubling have 16 and the convolution of the
    upsampled image 36. The kernel is multiplied by f x f, because the pool averages.

    Args:
        weight: (C_out, C_in / group, Kh, Kw), float32; dilation 1.
        pads: zeros (top, left, bottom, right).
        factors: of the upsampling, along H and W.
        group: number of groups.

    Returns:
        The kernel as ConvTranspose has it, (C_in, C_out / group, Kh, Kw), with its `pads`, and the zeros that the pool
        pads with and counts; None if those would be as large as its window.
    """
    height, width = weight.shape[2:]
    cut = [
        size - factor - pad
        for size, factor, pad in zip(
            (height, width) * 2, factors * 2, (pads[0], pads[1], pads[2], pads[3]), strict=True
        )
    ]
    around = [max(0, -side) for side in cut]
    if any(side >= factor for side, factor in zip(around, factors * 2, strict=True)):
        return None
    kernel = factors[0] * factors[1] * _as_transposed(weight, group)
    top, left, bottom, right = (max(0, side) for side in cut)
    return Small(kernel, (top, left, bottom, right), factors), (around[0], around[1], around[2], around[3])


def behind(
    weight: Weight, strides: Pair, dilations: Pair = (1, 1), *, factors: Pair
) -> tuple[Weight, Pair] | None:
    """The transposed convolution that equals upsampling and a transposed convolution: one with a larger kernel.

    up(l) is stuff(l) convolved with a box; stuffing that with t - 1 zeros more spreads the box, so its ones lie t
    apart, and stuffing twice is stuffing by the product.

    Args:
        weight: (C_in, C_out / group, Kh, Kw) of the transposed convolution.
        strides: its strides t.
        dilations: of the kernel.
        factors: of the upsampling.

    Returns:
        (C_in, C_out / group, Kh + t (f - 1), ...) and the strides t f; the padding of input and output stay as they
        are. None with dilations.
    """
    if dilations != (1, 1):
        return None
    return boxed(weight, factors, strides), (strides[0] * factors[0], strides[1] * factors[1])


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
