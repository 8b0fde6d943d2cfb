"""GNet: the synthesis network, from the compact image and the label map to the estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import nn

from .embedding import LabelEmbedding
from .octconv import Octave, OctConv2d, OctReLU, OctResidualBlock, upsample

if TYPE_CHECKING:
    from torch import Tensor

    from ..runtime.bundle.manifest import Preview
    from .config import LhOrder, ModelConfig


HEAD_GAIN: Final = 0.25
"""Gain behind the head, in units of 256 gray levels, for the reason that ComNet's has."""


class OctUpsample(nn.Module):
    """Nearest x2 upsampling of both rates, then an octave convolution of 3x3 and a ReLU.

    Args:
        channels_in: channels of the input, both rates together.
        channels_out: channels of the output.
        alpha: fraction at the low rate.
        lh_order: as in `OctConv2d`.
    """

    def __init__(self, channels_in: int, channels_out: int, alpha: float, lh_order: LhOrder) -> None:
        super().__init__()
        self.convolution = OctConv2d(
            channels_in, channels_out, alpha_in=alpha, alpha_out=alpha, lh_order=lh_order
        )
        self.activation = OctReLU()

    def forward(self, x: Octave) -> Octave:
        """High N x C x H x W to N x C' x 2H x 2W; low likewise at half of that."""
        y = Octave(upsample(x.high), None if x.low is None else upsample(x.low))
        result: Octave = self.activation(self.convolution(y))
        return result


class GNet(nn.Module):
    """Octave stem, downsamplings, residual blocks, upsamplings, head; adds a correction to the upsampled input.

    Args:
        config: configuration of the whole model.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        own, alpha, order = config.gnet, config.alpha, config.lh_order
        self.levels = config.levels
        self.entry_factor = 8 // own.entry_scale
        self.head_scale = own.head_scale
        self.embedding: LabelEmbedding | None = None
        if config.embedding:
            self.embedding = LabelEmbedding(
                len(config.classes), config.embedding, config.label_scale, own.entry_scale
            )
        self.stem = OctConv2d(
            3 + config.embedding, own.stem, own.stem_kernel, alpha_in=0.0, alpha_out=alpha, lh_order=order
        )
        channels = own.stem
        self.down = nn.ModuleList()
        for width in own.down:
            self.down.append(
                OctConv2d(channels, width, 3, 2, alpha_in=alpha, alpha_out=alpha, lh_order=order)
            )
            channels = width
        self.blocks = nn.ModuleList(OctResidualBlock(channels, alpha, order) for _ in range(own.blocks))
        self.up = nn.ModuleList()
        self.up_blocks = nn.ModuleList()
        for width, count in zip(own.up, own.up_blocks, strict=True):
            self.up.append(OctUpsample(channels, width, alpha, order))
            self.up_blocks.append(
                nn.Sequential(*(OctResidualBlock(width, alpha, order) for _ in range(count)))
            )
            channels = width
        outputs = 3 * own.head_scale**2
        self.head = OctConv2d(
            channels, outputs, own.head_kernel, alpha_in=alpha, alpha_out=0.0, lh_order=order
        )
        self.activation = OctReLU()
        self.mix: nn.Conv2d | None = None
        if own.mix:
            self.mix = nn.Conv2d(3, 3, 1, bias=False)
            with torch.no_grad():
                self.mix.weight.copy_(torch.eye(3)[:, :, None, None])
        # Training starts from the upsampled compact image.
        for convolution in (self.head.hh, self.head.lh):
            if convolution is not None:
                nn.init.zeros_(convolution.weight)
                if convolution.bias is not None:
                    nn.init.zeros_(convolution.bias)

    @torch.no_grad()
    def preview(self) -> Preview:
        """From levels to colors without the network: what the correction is added to, before it is upsampled.

        Returns:
            3 x 4; times the three levels of a position and 1 it gives the color, in gray levels.
        """
        matrix = torch.eye(3) if self.mix is None else self.mix.weight[:, :, 0, 0].detach().cpu().float()
        gain = 256.0 / self.levels
        # As in `forward`: the center of a level, less half a gray level; the mix turns about mid-gray.
        center = torch.full((3,), 0.5 / self.levels - 1.0 / 512.0 - 0.5)
        offset = 256.0 * (matrix @ center + 0.5)
        rows = [[float(gain * matrix[i, j]) for j in range(3)] for i in range(3)]
        return tuple((a, b, c, float(offset[i])) for i, (a, b, c) in enumerate(rows))

    def colors(self, compact: Tensor) -> Tensor:
        """The colors that the correction is added to, before they are upsampled.

        Args:
            compact: float, N x 3 x H/8 x W/8, values 0..L-1.

        Returns:
            float, of the same shape, gray levels / 256.
        """
        # Center of level q: (q + 1/2) / L, minus half a gray level.
        centered = compact * (1.0 / self.levels) + (0.5 / self.levels - 1.0 / 512.0)
        return centered if self.mix is None else self.mix(centered - 0.5) + 0.5

    def correction(self, compact: Tensor, labels: Tensor) -> Tensor:
        """What is added to the upsampled colors; arguments and result as in `forward`."""
        x = compact * (1.0 / self.levels) - 0.5
        if self.entry_factor > 1:
            x = F.interpolate(x, scale_factor=float(self.entry_factor), mode="bilinear", align_corners=False)
        if self.embedding is not None:
            x = torch.cat([x, self.embedding(labels).to(x.dtype)], dim=1)
        features = self.activation(self.stem(Octave(x)))
        for layer in self.down:
            features = self.activation(layer(features))
        for block in self.blocks:
            features = block(features)
        for layer, blocks in zip(self.up, self.up_blocks, strict=True):
            features = blocks(layer(features))
        correction: Tensor = self.head(features).high * HEAD_GAIN
        return F.pixel_shuffle(correction, self.head_scale) if self.head_scale > 1 else correction

    def forward(self, compact: Tensor, labels: Tensor) -> Tensor:
        """The estimate before its rounding.

        Args:
            compact: float, N x 3 x H/8 x W/8, values 0..L-1; H and W multiples of the configuration's `multiple`.
            labels: uint8 or int64, N x H/label_scale x W/label_scale, values 0..K-1.

        Returns:
            float, N x 3 x H x W, gray levels / 256, not clipped.
        """
        base = F.interpolate(self.colors(compact), scale_factor=8.0, mode="bilinear", align_corners=False)
        return base + self.correction(compact, labels)
