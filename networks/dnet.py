"""DNet: the discriminator, for training only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from .embedding import LabelEmbedding

if TYPE_CHECKING:
    from torch import Tensor

    from .config import ModelConfig


class PatchDiscriminator(nn.Module):
    """4x4 convolutions with LeakyReLU 0.2, as in pix2pixHD (Wang et al., CVPR 2018), without normalization.

    Args:
        channels_in: channels of the input.
        widths: channels of the convolutions; all but the last stride by 2.
    """

    def __init__(self, channels_in: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for i, width in enumerate(widths):
            stride = 1 if i == len(widths) - 1 else 2
            self.layers.append(nn.Conv2d(channels_in, width, 4, stride, 2))
            channels_in = width
        self.head = nn.Conv2d(channels_in, 1, 4, 1, 2)

    def forward(self, x: Tensor) -> list[Tensor]:
        """N x C x H x W to the features of every layer and, last, the scores N x 1 x h x w."""
        outputs = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            outputs.append(x)
        outputs.append(self.head(x))
        return outputs


class DNet(nn.Module):
    """Discriminators at two scales, conditioned on the label map.

    Args:
        config: configuration of the whole model.
        widths: channels of each discriminator's convolutions.
        scales: number of discriminators; each sees the image at half the size of the one before.
    """

    def __init__(
        self, config: ModelConfig, widths: tuple[int, ...] = (64, 128, 256, 512), scales: int = 2
    ) -> None:
        super().__init__()
        self.embedding: LabelEmbedding | None = None
        if config.embedding:
            self.embedding = LabelEmbedding(len(config.classes), config.embedding, config.label_scale, 1)
        self.discriminators = nn.ModuleList(
            PatchDiscriminator(3 + config.embedding, widths) for _ in range(scales)
        )

    def forward(self, image: Tensor, labels: Tensor) -> list[list[Tensor]]:
        """Judge an image.

        Args:
            image: float, N x 3 x H x W, gray levels / 256.
            labels: uint8 or int64, N x H/label_scale x W/label_scale.

        Returns:
            Per discriminator: its features and, last, its scores (1: real, 0: estimate; LSGAN).
        """
        x = image - 0.5
        if self.embedding is not None:
            x = torch.cat([x, self.embedding(labels).to(x.dtype)], dim=1)
        outputs = []
        for discriminator in self.discriminators:
            outputs.append(discriminator(x))
            x = F.avg_pool2d(x, 2)
        return outputs
