"""Octave residual networks, in the five ways in which their layers are written."""

# ruff: noqa: D102 - what `forward` computes is what its class describes

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[Tensor, Tensor]


def _conv(inputs: int, outputs: int, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


class OctaveLayer(nn.Module):
    """Four convolutions between two rates, half of the channels each.

    Args:
        width: channels of both rates together.
        style: `upsample-first`, `convolve-first` (Chen et al., ICCV 2019), `to-size` (interpolation to the other
            branch's size), `repeated` (rows and columns repeated by reshaping), `branch-norm` (a batch normalization
            for each path).
    """

    def __init__(self, width: int, style: str) -> None:
        super().__init__()
        half = width // 2
        self.style = style
        self.hh, self.hl, self.lh, self.ll = (_conv(half, half) for _ in range(4))
        self.norm_h, self.norm_l = nn.BatchNorm2d(half), nn.BatchNorm2d(half)
        self.norm_up = nn.BatchNorm2d(half) if style == "branch-norm" else nn.Identity()

    def _up(self, low: Tensor, high: Tensor) -> Tensor:
        if self.style == "to-size":
            return F.interpolate(low, size=high.shape[-2:], mode="nearest")
        if self.style == "repeated":
            n, c, h, w = low.shape
            wide = low[:, :, :, None, :, None].expand(n, c, h, 2, w, 2)
            return wide.reshape(n, c, 2 * h, 2 * w)
        return F.interpolate(low, scale_factor=2, mode="nearest")

    def forward(self, x: Pair) -> Pair:
        high, low = x
        own = self.hh(high)
        first = self.style == "convolve-first"
        lifted = self._up(self.lh(low), own) if first else self.lh(self._up(low, own))
        y_low = self.ll(low) + self.hl(F.avg_pool2d(high, 2))
        if self.style == "branch-norm":
            return self.norm_h(own) + self.norm_up(lifted), self.norm_l(y_low)
        return self.norm_h(own + lifted), self.norm_l(y_low)


class OctaveResNet(nn.Module):
    """A stem at half the size, residual blocks of two octave layers, a head.

    Args:
        style: see `OctaveLayer`.
        width: channels of both rates together.
        blocks: number of residual blocks.
    """

    def __init__(self, style: str, width: int = 192, blocks: int = 3) -> None:
        super().__init__()
        half = width // 2
        self.stem = nn.Conv2d(3, width, 5, stride=2, padding=2)
        self.first_h, self.first_l = _conv(width, half), _conv(width, half)
        self.blocks = nn.ModuleList(
            nn.ModuleList([OctaveLayer(width, style), OctaveLayer(width, style)]) for _ in range(blocks)
        )
        self.last = nn.Conv2d(half, 17, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.stem(x))
        high, low = self.first_h(y), self.first_l(F.avg_pool2d(y, 2))
        for pair in self.blocks:
            one, two = list(pair)  # type: ignore[call-overload]
            a, b = one((torch.relu(high), torch.relu(low)))
            a, b = two((torch.relu(a), torch.relu(b)))
            high, low = high + a, low + b
        logits: Tensor = self.last(torch.relu(high))
        return logits


__all__ = ["OctaveLayer", "OctaveResNet"]
