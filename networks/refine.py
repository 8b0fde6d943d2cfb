"""RefineNet: takes from a decoded picture what its coding did to it.

A small residual network at half the size behind the residual: x'' = x' + f(x', e, settings). It sees the decoded
picture, how the estimate differs from it, the quality, and what the encoder was tuned for; it adds a correction in
units of the error that is to be expected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from .config import RefineConfig

MAX_QUALITY: Final = 100
# PSNR-RGB in dB of the codec without refinement at some qualities, mean over Kodak: bench/results/rd-kodak-lite.json.
_PSNR: Final = (
    (0, 25.0),
    (10, 26.7),
    (26, 29.1),
    (42, 33.2),
    (58, 37.0),
    (74, 39.9),
    (82, 41.7),
    (100, 50.0),
)


def expected_errors() -> Tensor:
    """Root of the mean squared error that is to be expected at each quality, gray levels / 256: float (101,)."""
    table = []
    for quality in range(MAX_QUALITY + 1):
        right = next(i for i, (at, _) in enumerate(_PSNR) if at >= quality and i > 0)
        (q0, d0), (q1, d1) = _PSNR[right - 1 : right + 1]
        decibels = d0 + (d1 - d0) * (quality - q0) / (q1 - q0)
        table.append(255.0 / 256.0 * 10.0 ** (-decibels / 20.0))
    return torch.tensor(table)


class RefineBlock(nn.Module):
    """Two 3x3 convolutions with a ReLU between them; the input is added.

    Args:
        channels: of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, 1, 1)
        self.second = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W to the same."""
        y: Tensor = self.second(F.relu(self.first(x)))
        return x + y


class RefineNet(nn.Module):
    """Stem, residual blocks, one more convolution, head; all at half the size.

    Args:
        config: width and depth.
    """

    def __init__(self, config: RefineConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(26, config.width, 3, 1, 1)
        self.blocks = nn.ModuleList(RefineBlock(config.width) for _ in range(config.blocks))
        self.last = nn.Conv2d(config.width, config.width, 3, 1, 1)
        self.head = nn.Conv2d(config.width, 12, 3, 1, 1)
        self.register_buffer("errors", expected_errors(), persistent=False)
        # Training starts from the decoded picture.
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    def forward(self, decoded: Tensor, estimate: Tensor, settings: Tensor) -> Tensor:
        """The refined picture before its rounding.

        Args:
            decoded: x', N x 3 x H x W, gray levels / 256; H and W even.
            estimate: e, likewise; x' where the picture was coded without its layers.
            settings: int64, N x 2: the quality, 0..100, and 1 if the residual was tuned for the eye, else 0.

        Returns:
            N x 3 x H x W, gray levels / 256, not clipped.
        """
        parts = [F.pixel_unshuffle(decoded - 0.5, 2), F.pixel_unshuffle(4.0 * (estimate - decoded), 2)]
        n, _, height, width = parts[0].shape
        scales = torch.tensor([1.0 / MAX_QUALITY, 1.0], dtype=decoded.dtype, device=decoded.device)
        levels = (settings.to(decoded.dtype) * scales).view(-1, 2, 1, 1)
        x = torch.cat([*parts, levels.expand(n, 2, height, width)], dim=1)
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        correction = F.pixel_shuffle(self.head(F.relu(self.last(x))), 2)
        errors = F.embedding(settings[:, 0], self.get_buffer("errors")[:, None]).view(-1, 1, 1, 1)
        return decoded + correction * errors.to(correction.dtype)
