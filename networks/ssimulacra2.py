"""SSIMULACRA 2 (Sneyers 2023) in PyTorch, so that networks can be trained by it and compact images searched.

Six scales of an XYB picture; at each the structural difference and the edges gained and lost, as a mean and as a fourth
root of the mean of the fourth powers; a weighted sum of these, and a curve that puts it on a scale on which 100 is
perfect. The weights and constants are those of the package `ssimulacra2`, which is also what the benchmarks use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from ..runtime.errors import DependencyError

if TYPE_CHECKING:
    from torch import Tensor

_RADIUS = 5
_SIGMA = 1.5
_SMALLEST = 8
_TINY = 1e-12


class Ssimulacra2(nn.Module):
    """The score, differentiable.

    Args:
        skipped: so many of the finest scales count as equal, and take no time.

    Raises:
        DependencyError: the package with the weights is not installed.
    """

    def __init__(self, skipped: int = 0) -> None:
        super().__init__()
        self.skipped = skipped
        try:
            from ssimulacra2 import ssimulacra2 as published
        except ImportError as error:
            raise DependencyError(
                "training by SSIMULACRA 2 needs the weights of the package ssimulacra2: pip install 'oslic[train]'"
            ) from error
        self.stability = float(published.kC2)
        self.scales = int(published.kNumScales)
        # channel x scale x norm x (structure, edges gained, edges lost)
        weights = torch.tensor(published.weights, dtype=torch.float32).view(3, self.scales, 2, 3)
        matrix = torch.tensor(published.kOpsinAbsorbanceMatrix, dtype=torch.float32).view(3, 3, 1, 1)
        bias = torch.tensor(published.kOpsinAbsorbanceBias, dtype=torch.float32)
        taps = torch.exp(-0.5 * (torch.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
        for name, value in (
            ("weights", weights),
            ("matrix", matrix),
            ("bias", bias),
            ("taps", taps / taps.sum()),
        ):
            self.register_buffer(name, value, persistent=False)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        """The score of `other` as a copy of `image`.

        Args:
            image: float32, N x 3 x H x W, sRGB values 0..1; H and W at least 8.
            other: the same shape.

        Returns:
            N; 100 for equal pictures, 90 for what cannot be told apart, below 0 for very bad ones. It is not
            cut off anywhere. Scales of fewer than 8 rows or columns count nothing; the package's own score of
            pictures that lack one (a side of 224 pixels or less) is another.
        """
        total = image.new_zeros(len(image))
        a, b = _linear(image), _linear(other)
        weights = self.get_buffer("weights")
        for scale in range(self.scales):
            if min(a.shape[2:]) < _SMALLEST:
                break
            if scale:
                a, b = _halve(a), _halve(b)
                if min(a.shape[2:]) < _SMALLEST:
                    break
            if scale < self.skipped:
                continue
            found = self._differences(self._xyb(a), self._xyb(b))
            total = total + torch.einsum("nctk,ctk->n", found, weights[:, scale])
        s = 0.9562382616834844 * total
        s = 2.326765642916932 * s - 0.020884521182843837 * s**2 + 6.248496625763138e-05 * s**3
        return 100.0 - 10.0 * s.clamp_min(_TINY) ** 0.6276336467831387

    def distance(self, image: Tensor, other: Tensor) -> Tensor:
        """How far the score of `other` is from 100.

        Args:
            image: float32, N x 3 x H x W, gray levels / 256, as the networks take them.
            other: the same shape; what is beyond white or black counts as that.

        Returns:
            N.
        """
        peak = 256.0 / 255.0
        scored: Tensor = self(image * peak, (other * peak).clamp(0.0, 1.0))
        return 100.0 - scored

    def _xyb(self, linear: Tensor) -> Tensor:
        bias = self.get_buffer("bias")
        mixed = F.conv2d(linear, self.get_buffer("matrix"), bias).clamp_min(_TINY)
        roots = mixed.pow(1.0 / 3.0) - bias.pow(1.0 / 3.0).view(1, 3, 1, 1)
        first, second, third = roots.unbind(1)
        x, y = 0.5 * (first - second), 0.5 * (first + second)
        return torch.stack([14.0 * x + 0.42, y + 0.01, third - y + 0.55], dim=1)

    def _blur(self, planes: Tensor) -> Tensor:
        channels = planes.shape[1]
        taps = self.get_buffer("taps")
        # As the package does it: mirrored above and below, dark at the sides.
        above, below = planes[:, :, :_RADIUS].flip(2), planes[:, :, -_RADIUS:].flip(2)
        columns = taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
        tall = F.conv2d(torch.cat([above, planes, below], dim=2), columns, groups=channels)
        rows = taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        return F.conv2d(tall, rows, padding=(0, _RADIUS), groups=channels)

    def _differences(self, a: Tensor, b: Tensor) -> Tensor:
        """N x 3 x 2 x 3: by channel, norm, and kind of difference."""
        blurred = self._blur(torch.cat([a, b, a * a, b * b, a * b], dim=1))
        mean_a, mean_b, square_a, square_b, product = blurred.chunk(5, dim=1)
        structure = 2.0 * (product - mean_a * mean_b) + self.stability
        variances = (square_a - mean_a**2) + (square_b - mean_b**2) + self.stability
        unlike = (1.0 - (1.0 - (mean_a - mean_b) ** 2) * structure / variances).clamp_min(0.0)
        edges = (1.0 + (b - mean_b).abs()) / (1.0 + (a - mean_a).abs()) - 1.0
        maps = torch.stack([unlike, edges.clamp_min(0.0), (-edges).clamp_min(0.0)], dim=2)
        mean = maps.mean((3, 4))
        # The fourth root has no derivative at 0.
        fourth = (maps.pow(4).mean((3, 4)) + _TINY**3).pow(0.25)
        return torch.stack([mean, fourth], dim=2)


def _linear(srgb: Tensor) -> Tensor:
    low = srgb / 12.92
    high = ((srgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(srgb <= 0.04045, low, high)


def _halve(planes: Tensor) -> Tensor:
    """Means of 2x2, of what there is at odd sides."""
    return F.avg_pool2d(planes, 2, ceil_mode=True)
