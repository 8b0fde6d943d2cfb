"""Networks that make images: decoders, generators, super-resolution."""

# ruff: noqa: D102 - what `forward` computes is what its class describes

from __future__ import annotations

import itertools
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .pyramids import up


def _conv(inputs: int, outputs: int, kernel: int = 3, group: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=group)


class Decoder(nn.Module):
    """Upsampling, convolution, activation, repeated, as decoders that avoid checkerboards are built (Odena et al.).

    Args:
        kernel: of all convolutions.
        width: channels at the lowest rate; they halve with every doubling.
        factors: of the upsamplings, along H and W.
        group: number of groups; 0: depthwise and pointwise convolutions in turn.
    """

    def __init__(
        self,
        kernel: int = 3,
        width: int = 128,
        factors: tuple[tuple[int, int], ...] = ((2, 2), (2, 2), (2, 2)),
        group: int = 1,
    ) -> None:
        super().__init__()
        self.factors = factors
        layers: list[nn.Module] = []
        for i in range(len(factors)):
            a, b = width // 2**i, width // 2 ** (i + 1)
            if group:
                layers.append(_conv(a, b, kernel, group))
            else:
                layers.append(nn.Sequential(_conv(a, a, kernel, a), nn.ReLU(), nn.Conv2d(a, b, 1)))
        self.layers = nn.ModuleList(layers)
        self.last = _conv(width // 2 ** len(factors), 3, kernel)

    def forward(self, x: Tensor) -> Tensor:
        for (f, g), layer in zip(self.factors, self.layers, strict=True):
            x = torch.relu(layer(F.interpolate(x, scale_factor=(float(f), float(g)), mode="nearest")))
        image: Tensor = self.last(x)
        return image


class Inverse(nn.Module):
    """Inverse generalized divisive normalization: x * sqrt(b + G x^2) (Balle et al.)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Conv2d(width, width, 1)
        nn.init.uniform_(self.gamma.weight, 0, 0.1 / width)
        nn.init.ones_(self.gamma.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sqrt(self.gamma(x * x))


class CompressionDecoder(nn.Module):
    """A learned image codec's synthesis, with nearest upsampling and IGDN.

    Args:
        width: channels.
        kernel: of the convolutions.
    """

    def __init__(self, width: int = 64, kernel: int = 5) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_conv(width, width, kernel) for _ in range(3))
        self.gains = nn.ModuleList(Inverse(width) for _ in range(3))
        self.last = _conv(width, 3, kernel)

    def forward(self, x: Tensor) -> Tensor:
        for layer, gain in zip(self.layers, self.gains, strict=True):
            x = gain(layer(up(x)))
        image: Tensor = self.last(up(x))
        return image


class _ResBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(8, inputs), _conv(inputs, outputs)
        self.norm2, self.conv2 = nn.GroupNorm(8, outputs), _conv(outputs, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        whole: Tensor = self.skip(x) + self.conv2(F.silu(self.norm2(y)))
        return whole


class VaeDecoder(nn.Module):
    """The decoder of a latent diffusion model (Rombach et al.): residual blocks, upsampling, convolution."""

    def __init__(self, width: int = 32, blocks: int = 2) -> None:
        super().__init__()
        widths = [4 * width, 4 * width, 2 * width, width]
        self.first = _conv(4, widths[0])
        self.blocks = nn.ModuleList(
            nn.ModuleList(_ResBlock(widths[max(0, i - 1)] if j == 0 else b, b) for j in range(blocks))
            for i, b in enumerate(widths)
        )
        self.lift = nn.ModuleList(_conv(b, b) for b in widths[:-1])
        self.norm, self.last = nn.GroupNorm(8, width), _conv(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for i, blocks in enumerate(self.blocks):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x)
            if i < len(self.lift):
                x = self.lift[i](up(x))
        image: Tensor = self.last(F.silu(self.norm(x)))
        return image


class _DenseBlock(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_conv(width + i * growth, growth if i < 4 else width) for i in range(5))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers[:-1]:
            features.append(F.leaky_relu(layer(torch.cat(features, 1)), 0.2))
        last: Tensor = self.layers[-1](torch.cat(features, 1))
        return x + 0.2 * last


class Esrgan(nn.Module):
    """Wang et al.: residual dense blocks at the low rate, two doublings.

    Args:
        width: channels.
        growth: channels that each dense layer adds.
        blocks: number of residual blocks of three dense blocks each; the original has 23.
        factor: of each upsampling.
    """

    def __init__(self, width: int = 32, growth: int = 16, blocks: int = 23, factor: int = 2) -> None:
        super().__init__()
        self.factor = factor
        self.first = _conv(3, width)
        self.trunk = nn.ModuleList(
            nn.ModuleList(_DenseBlock(width, growth) for _ in range(3)) for _ in range(blocks)
        )
        self.mixed = _conv(width, width)
        self.lift = nn.ModuleList(_conv(width, width) for _ in range(2 if factor == 2 else 1))
        self.high, self.last = _conv(width, width), _conv(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        y = first
        for blocks in self.trunk:
            z = y
            for block in blocks:  # type: ignore[attr-defined]
                z = block(z)
            y = y + 0.2 * z
        y = first + self.mixed(y)
        for lift in self.lift:
            y = F.leaky_relu(lift(up(y, self.factor)), 0.2)
        image: Tensor = self.last(F.leaky_relu(self.high(y), 0.2))
        return image


class Dcgan(nn.Module):
    """A generator in the spelling of PyTorch-GAN: upsampling, (normalization, activation,) convolution.

    Args:
        width: channels at the lowest rate.
        norm_first: normalization and activation stand between upsampling and convolution.
    """

    def __init__(self, width: int = 128, *, norm_first: bool = False) -> None:
        super().__init__()
        self.norm_first = norm_first
        widths = [width, width, width // 2, width // 4]
        self.norms = nn.ModuleList(
            nn.BatchNorm2d(a if norm_first else b) for a, b in itertools.pairwise(widths)
        )
        self.layers = nn.ModuleList(_conv(a, b) for a, b in itertools.pairwise(widths))
        self.last = _conv(widths[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        for norm, layer in zip(self.norms, self.layers, strict=True):
            lifted = up(x)
            x = layer(torch.relu(norm(lifted))) if self.norm_first else F.leaky_relu(norm(layer(lifted)), 0.2)
        return torch.tanh(self.last(x))


class StyleTransfer(nn.Module):
    """The network of Johnson et al. with upsampling in place of transposed convolutions, and padded borders.

    Args:
        width: channels of the body.
        mode: how borders are padded.
    """

    def __init__(self, width: int = 64, mode: Literal["reflect", "replicate"] = "reflect") -> None:
        super().__init__()

        def padded(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
            return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, padding_mode=mode)

        self.down = nn.ModuleList([padded(3, width // 2, 9), padded(width // 2, width, 3, 2)])
        self.body = nn.ModuleList(padded(width, width, 3) for _ in range(2))
        self.lift = padded(width, width // 2, 3)
        self.last = padded(width // 2, 3, 9)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.down:
            x = torch.relu(layer(x))
        for layer in self.body:
            x = x + torch.relu(layer(x))
        image: Tensor = self.last(torch.relu(self.lift(up(x))))
        return image


class Synthesis(nn.Module):
    """A generator in the manner of StyleGAN, without styles.

    Features are upsampled into two convolutions at each rate, and images of all rates upsampled and added.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        widths = [width, width // 2, width // 4]
        self.lift = nn.ModuleList(_conv(a, b) for a, b in itertools.pairwise(widths))
        self.own = nn.ModuleList(_conv(b, b) for b in widths[1:])
        self.image = nn.ModuleList(nn.Conv2d(b, 3, 1) for b in widths)

    def forward(self, x: Tensor) -> Tensor:
        image: Tensor = self.image[0](x)
        for lift, own, to_image in zip(self.lift, self.own, self.image[1:], strict=False):
            x = F.leaky_relu(own(F.leaky_relu(lift(up(x)), 0.2)), 0.2)
            image = up(image) + to_image(x)
        return image


class DeconvolutionBehindUpsampling(nn.Module):
    """An upsampling that a transposed convolution of stride 2 follows: fourfold in all."""

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.body = _conv(width, width)
        self.lift = nn.ConvTranspose2d(width, width // 4, 4, 2, 1)
        self.last = _conv(width // 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.lift(up(torch.relu(self.body(x))))
        image: Tensor = self.last(torch.relu(y))
        return image


__all__ = [
    "CompressionDecoder",
    "Dcgan",
    "Decoder",
    "DeconvolutionBehindUpsampling",
    "Esrgan",
    "StyleTransfer",
    "Synthesis",
    "VaeDecoder",
]
