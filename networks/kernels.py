"""Exact kernel formulas of octave-convolution fusion, as pure functions on weight tensors.

All hold for odd square kernels K with symmetric zero padding p = (K-1)/2, dilation 1, group 1, nearest x2
upsampling, and even height and width at the high rate; borders included.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from ..runtime.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor


def _check(weight: Tensor) -> int:
    height, width = weight.shape[-2:]
    if height != width or height % 2 == 0:
        raise UsageError(f"a kernel of {height}x{width} cannot be fused: it must be square and odd")
    return int(height)


def upsampled_as_transposed(weight: Tensor) -> Tensor:
    """Kernel of the transposed convolution that equals nearest x2 upsampling and a convolution.

    The KxK kernel convolved with a 2x2 box. A convolution correlates and a transposed one convolves, hence the
    flip.

    Args:
        weight: (C_out, C_in, K, K), float.

    Returns:
        (C_in, C_out, K+1, K+1), for stride 2 and padding (K-1)/2.

    Raises:
        UsageError: the kernel is even or not square.
    """
    _check(weight)
    flipped = weight.flip(-2, -1)
    summed = sum(F.pad(flipped, (dx, 1 - dx, dy, 1 - dy)) for dy in (0, 1) for dx in (0, 1))
    assert isinstance(summed, torch.Tensor)
    return summed.transpose(0, 1).contiguous()


def upsampled_strided(weight: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Kernel of the convolution at the low rate that equals nearest x2 upsampling and a convolution of stride 2.

    Output position i reads the upsampled rows 2i-p .. 2i+p, which repeat the source rows floor((2i+k-p)/2):
    taps of one source row add up.

    Args:
        weight: (C_out, C_in, K, K), float.

    Returns:
        The kernel (C_out, C_in, T, T), T = 1, 2, 3, 4 for K = 1, 3, 5, 7, to be used with
        stride 1; and its zero padding (before, after), equal for both axes.

    Raises:
        UsageError: the kernel is even or not square.
    """
    size = _check(weight)
    p = (size - 1) // 2
    offsets = [(k - p) // 2 for k in range(size)]
    first, last = offsets[0], offsets[-1]
    gather = torch.zeros(size, last - first + 1, dtype=weight.dtype, device=weight.device)
    for k, offset in enumerate(offsets):
        gather[k, offset - first] = 1
    return torch.einsum("oiyx,yt,xu->oitu", weight, gather, gather).contiguous(), (-first, last)
