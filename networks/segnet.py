"""SegNet (Badrinarayanan, Kendall, Cipolla, TPAMI 2017): semantic segmentation by pooling indices.

Its encoder is a chain of 3x3 convolutions as published, or of inverted residual blocks (Sandler et al., CVPR 2018), for
which ImageNet weights of a few million parameters exist (EfficientNet-Lite).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from .config import MobileSegNetConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from .config import SegNetConfig

_EFFICIENTNET_EPSILON = 1e-3


class ConvUnit(nn.Module):
    """3x3 convolution, batch normalization, ReLU; optionally the input is added before the ReLU.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        stride: stride of the convolution.
        residual: add the input where the widths are equal and the stride is 1.
    """

    def __init__(
        self, channels_in: int, channels_out: int, stride: int = 1, *, residual: bool = False
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels_out)
        self.residual = residual and channels_in == channels_out and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        """N x C_in x H x W to N x C_out x H/stride x W/stride."""
        y = self.norm(self.convolution(x))
        return F.relu(x + y if self.residual else y)


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection; the input is added where the widths are equal.

    Batch normalization behind each, ReLU6 behind the first two (Sandler et al., CVPR 2018). The stride is always 1: the
    encoder pools behind the block, so that there are indices.

    Args:
        channels_in: channels of the input.
        channels_out: channels of the output.
        expansion: factor of the width between the 1x1 convolutions; 1 leaves the expansion out.
        kernel: kernel size of the depthwise convolution, odd.
    """

    def __init__(self, channels_in: int, channels_out: int, expansion: int, kernel: int) -> None:
        super().__init__()
        inner = channels_in * expansion
        layers: list[nn.Module] = []
        if expansion > 1:
            layers += [
                nn.Conv2d(channels_in, inner, 1, bias=False),
                nn.BatchNorm2d(inner, _EFFICIENTNET_EPSILON),
                nn.ReLU6(),
            ]
        layers += [
            nn.Conv2d(inner, inner, kernel, 1, kernel // 2, groups=inner, bias=False),
            nn.BatchNorm2d(inner, _EFFICIENTNET_EPSILON),
            nn.ReLU6(),
            nn.Conv2d(inner, channels_out, 1, bias=False),
            nn.BatchNorm2d(channels_out, _EFFICIENTNET_EPSILON),
        ]
        self.layers = nn.Sequential(*layers)
        self.residual = channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        """N x C_in x H x W to N x C_out x H x W."""
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


def _inverted(channels_in: int, blocks: Sequence[tuple[int, int, int]]) -> nn.Sequential:
    units = nn.Sequential()
    for expansion, channels, kernel in blocks:
        units.append(InvertedResidual(channels_in, channels, expansion, kernel))
        channels_in = channels
    return units


def _chain(channels_in: int, channels_out: Sequence[int], *, residual: bool) -> nn.Sequential:
    units = nn.Sequential()
    for channels in channels_out:
        units.append(ConvUnit(channels_in, channels, residual=residual))
        channels_in = channels
    return units


class SegNet(nn.Module):
    """Encoder with 2x2 max-poolings that keep their indices; decoder that unpools by them.

    Args:
        config: widths and depths.
        classes: K, the number of classes.
        label_scale: scale of the logits and so of the label map; finer logits are averaged down to it.
    """

    def __init__(self, config: SegNetConfig | MobileSegNetConfig, classes: int, label_scale: int) -> None:
        super().__init__()
        self.reduction = label_scale // config.scale
        self.smoothing = config.smoothing
        self.least = config.least if isinstance(config, MobileSegNetConfig) else 0.0
        self.skip = config.skip
        self.stem: nn.Module | None = None
        self.encoder = nn.ModuleList()
        self.decoder = nn.ModuleList()
        channels = (
            self._build_mobile(config)
            if isinstance(config, MobileSegNetConfig)
            else self._build_plain(config)
        )
        self.classifier = nn.Conv2d(channels, classes, 3, 1, 1)

    def _build_plain(self, config: SegNetConfig) -> int:
        """Encoder, bottom and decoder of 3x3 convolutions; returns the channels of the decoder's output."""
        if config.stem:
            self.stem = ConvUnit(3, config.stem, stride=2)
        channels = config.stem or 3
        pooled = []
        for width, depth in zip(config.widths, config.depths, strict=True):
            self.encoder.append(_chain(channels, [width] * depth, residual=config.residual))
            channels = width if depth else channels
            pooled.append(channels)
        bottom = [config.bottom] * (config.bottom_depth - 1) + [channels] if config.bottom_depth else []
        self.bottom = _chain(channels, bottom, residual=config.residual)
        for depth in config.decoder_depths:
            inner = pooled.pop()
            # The last convolution of a stage gives the next unpooling the channels that its indices have.
            outer = pooled[-1] if pooled else inner
            self.decoder.append(_chain(inner, [inner] * (depth - 1) + [outer], residual=config.residual))
            channels = outer
        return channels

    def _build_mobile(self, config: MobileSegNetConfig) -> int:
        """The same with an encoder and a bottom of inverted residual blocks."""
        channels = config.stem
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels, 3, 2, 1, bias=False),
            nn.BatchNorm2d(channels, _EFFICIENTNET_EPSILON),
            nn.ReLU6(),
        )
        pooled = []
        for stage in config.stages:
            self.encoder.append(_inverted(channels, stage))
            channels = stage[-1][1]
            pooled.append(channels)
        self.bottom = _inverted(channels, config.bottom)
        if config.bottom:
            self.bottom.append(
                nn.Sequential(
                    nn.Conv2d(config.bottom[-1][1], channels, 1, bias=False),
                    nn.BatchNorm2d(channels),
                    nn.ReLU(),
                )
            )
        for widths in config.decoder:
            self.decoder.append(_chain(pooled.pop(), widths, residual=True))
            channels = widths[-1]
        return channels

    def forward(self, x: Tensor) -> Tensor:
        """Logits.

        Args:
            x: image, N x 3 x H x W, values 0..255/256; H and W multiples of the configuration's `multiple`.

        Returns:
            N x K x H/label_scale x W/label_scale, before the softmax.
        """
        x = x - 0.5
        if self.stem is not None:
            x = self.stem(x)
        kept: list[tuple[Tensor, Tensor]] = []
        for stage in self.encoder:
            before = stage(x)
            x, indices = F.max_pool2d(before, 2, return_indices=True)
            kept.append((before, indices))
        x = self.bottom(x)
        for stage in self.decoder:
            before, indices = kept.pop()
            x = F.max_unpool2d(x, indices, [2, 2])
            if self.skip:
                x = x + before
            x = stage(x)
        logits: Tensor = self.classifier(x)
        if self.reduction > 1:
            logits = F.avg_pool2d(logits, self.reduction)
        if self.smoothing > 1:
            logits = F.avg_pool2d(logits, self.smoothing, 1, self.smoothing // 2, count_include_pad=False)
        return logits

    def labels(self, x: Tensor) -> Tensor:
        """Label map: the class of the highest logit; the lowest class wins ties.

        Where its probability is below the configuration's `least`, it is the last class: what cannot be told.

        Args:
            x: as in `forward`.

        Returns:
            uint8, N x H/label_scale x W/label_scale, values 0..K-1.
        """
        logits = self(x)
        labels = torch.argmax(logits, dim=1)
        if self.least > 0.0:
            # One over the probability of the best class.
            odds = torch.exp(logits - logits.amax(1, keepdim=True)).sum(1)
            labels = torch.where(odds * self.least > 1.0, logits.shape[1] - 1, labels)
        return labels.to(torch.uint8)
