"""MS-SSIM (Wang et al., Asilomar 2003), differentiable."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from torch import Tensor

_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def ms_ssim_index(a: Tensor, b: Tensor, peak: float, *, skipped: int = 0) -> Tensor:
    """MS-SSIM with the published five scales and an 11x11 Gaussian window of sigma 1.5, without padding.

    Negative contrast terms, which have no real power, count as 0.

    Args:
        a: N x C x H x W, H and W above 160.
        b: the same shape.
        peak: difference between the largest and the smallest value that can occur.
        skipped: so many of the finest scales count as equal, and take no time.

    Returns:
        N, the mean over the channels.
    """
    channels = a.shape[1]
    offsets = torch.arange(11, dtype=a.dtype, device=a.device) - 5
    window = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = window / window.sum()
    rows = window.view(1, 1, 11, 1).expand(channels, 1, 11, 1)
    columns = window.view(1, 1, 1, 11).expand(channels, 1, 1, 11)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, rows, groups=channels), columns, groups=channels)

    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    result = torch.ones(a.shape[:2], dtype=a.dtype, device=a.device)
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        if scale < skipped:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
            continue
        mean_a, mean_b = blur(a), blur(b)
        variance_a = blur(a * a) - mean_a**2
        variance_b = blur(b * b) - mean_b**2
        covariance = blur(a * b) - mean_a * mean_b
        contrast = (2 * covariance + c2) / (variance_a + variance_b + c2)
        if scale == len(_SCALE_WEIGHTS) - 1:
            contrast = contrast * (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
        value = contrast.mean((2, 3)).clamp_min(1e-6)
        result = result * value**weight
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return result.mean(1)
