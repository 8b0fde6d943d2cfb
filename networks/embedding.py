"""The label embedding: a table with one row per class, read by the label map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from .octconv import upsample

if TYPE_CHECKING:
    from torch import Tensor


class LabelEmbedding(nn.Module):
    """A learned row per class: a 1x1 convolution of the one-hot map, without the one-hot map.

    Args:
        classes: K.
        channels: channels of the embedding.
        label_scale: scale of the label map.
        scale: scale at which the embedding is wanted; coarser: averaged, finer: repeated.
    """

    def __init__(self, classes: int, channels: int, label_scale: int, scale: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(classes, channels) * 0.5)
        self.reduction = max(1, scale // label_scale)
        self.doublings = max(1, label_scale // scale).bit_length() - 1

    def forward(self, labels: Tensor) -> Tensor:
        """Embed.

        Args:
            labels: uint8 or int64, N x H/label_scale x W/label_scale, values 0..K-1.

        Returns:
            float, N x channels x H/scale x W/scale.
        """
        y = F.embedding(labels.to(torch.int64), self.table).permute(0, 3, 1, 2)
        if self.reduction > 1:
            y = F.avg_pool2d(y, self.reduction)
        for _ in range(self.doublings):
            y = upsample(y)
        return y
