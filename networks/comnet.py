"""ComNet: the analysis network, from the image and its label map to the compact image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import nn

from .embedding import LabelEmbedding
from .octconv import Octave, OctConv2d, OctReLU, OctResidualBlock

if TYPE_CHECKING:
    from torch import Tensor

    from .config import ModelConfig


HEAD_GAIN: Final = 0.125
"""Gain behind the head, in units of the full range.

Adam moves every weight by about the learning rate, whatever the gradient; hundreds of weights that move together must
not move the compact image by whole levels in one step.
"""


class ComNet(nn.Module):
    """Three octave convolutions, each halving the resolution, residual blocks, a head of 3 channels.

    Args:
        config: configuration of the whole model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        own, alpha = config.comnet, config.alpha
        self.levels = config.levels
        self.skip = own.skip
        self.embedding: LabelEmbedding | None = None
        inputs, joined = 3, 0
        if config.embedding:
            at_image = own.label_entry == "image"
            self.embedding = LabelEmbedding(
                len(config.classes), config.embedding, config.label_scale, 1 if at_image else 4
            )
            inputs, joined = (3 + config.embedding, 0) if at_image else (3, config.embedding)
        self.joins_low = joined > 0
        w1, w2, w3 = own.widths
        k1, k2, k3 = own.kernels
        order = config.lh_order
        last_alpha = alpha if own.blocks else 0.0
        self.first = OctConv2d(inputs, w1, k1, 2, alpha_in=0.0, alpha_out=alpha, lh_order=order)
        # Channels that join the low rate change the fraction that the second layer sees.
        low = self.first.low_out + joined
        alpha_in = low / (w1 + joined)
        self.second = OctConv2d(w1 + joined, w2, k2, 2, alpha_in=alpha_in, alpha_out=alpha, lh_order=order)
        self.third = OctConv2d(w2, w3, k3, 2, alpha_in=alpha, alpha_out=last_alpha, lh_order=order)
        self.blocks = nn.ModuleList(OctResidualBlock(w3, alpha, order) for _ in range(own.blocks))
        self.head = OctConv2d(w3, 3, 3, alpha_in=last_alpha, alpha_out=0.0, lh_order=order)
        self.activation = OctReLU()
        if own.skip:
            # Training starts from the box average.
            for convolution in (self.head.hh, self.head.lh):
                if convolution is not None:
                    nn.init.zeros_(convolution.weight)
                    if convolution.bias is not None:
                        nn.init.zeros_(convolution.bias)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """The compact image before its rounding.

        Args:
            x: image, N x 3 x H x W, values 0..255/256; H and W multiples of the configuration's `multiple`.
            labels: uint8 or int64, N x H/label_scale x W/label_scale, values 0..K-1.

        Returns:
            float, N x 3 x H/8 x W/8, in units of levels: rounded and clipped to 0..L-1 it is the compact image.
        """
        embedded = None if self.embedding is None else self.embedding(labels)
        y = x - 0.5
        if embedded is not None and not self.joins_low:
            y = torch.cat([y, embedded.to(y.dtype)], dim=1)
        features = self.activation(self.first(Octave(y)))
        if embedded is not None and self.joins_low:
            low = torch.cat([features.low, embedded.to(features.low.dtype)], dim=1)
            features = Octave(features.high, low)
        features = self.activation(self.second(features))
        features = self.activation(self.third(features))
        for block in self.blocks:
            features = block(features)
        correction: Tensor = self.head(features).high * (self.levels * HEAD_GAIN)
        if self.skip:
            # Gray level v stands for [v, v+1)/256; level q for [q, q+1)/L: centers map to centers.
            offset = self.levels / 512 - 0.5
            return correction + (F.avg_pool2d(x, 8) * float(self.levels) + offset)
        return correction + (0.5 * self.levels - 0.5)


def quantize(y: Tensor, levels: int) -> Tensor:
    """Round to the nearest level, halves to even, and clip: float to whole numbers 0..levels-1, still float."""
    return torch.clamp(torch.round(y), 0.0, float(levels - 1))
