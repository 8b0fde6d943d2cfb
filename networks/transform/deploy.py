"""The deployable graphs of a transform codec: pictures as uint8 NHWC, latents as float32 NCHW."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

    from .codec import TransformNetworks


class SubpixelConv(nn.Module):
    """A transposed convolution of 5x5 with stride 2 as a convolution of 3x3 at the low resolution, and a rearrangement.

    Each of the four output phases reads 3x3 inputs at most, with zeros where the 5x5 kernel has no tap: exact, borders
    included. On CPUs plain convolutions run so much nearer to the peak that the taps of zero are worth it.

    Args:
        source: kernel 5, stride 2, padding 2, output padding 1.
    """

    def __init__(self, source: nn.ConvTranspose2d) -> None:
        super().__init__()
        inputs, outputs = source.weight.shape[:2]
        weight = source.weight.detach()
        kernel = weight.new_zeros(outputs, 2, 2, inputs, 3, 3)
        for phase in range(4):
            rows, columns = divmod(phase, 2)
            # Output 2 i + p takes input i + d by the tap p + 2 - 2 d.
            for down in (-1, 0, 1):
                for right in (-1, 0, 1):
                    tap = rows + 2 - 2 * down, columns + 2 - 2 * right
                    if 0 <= tap[0] < 5 and 0 <= tap[1] < 5:
                        kernel[:, rows, columns, :, down + 1, right + 1] = weight[:, :, tap[0], tap[1]].T
        assert source.bias is not None
        self.weight = nn.Parameter(kernel.reshape(4 * outputs, inputs, 3, 3), requires_grad=False)
        self.bias = nn.Parameter(source.bias.detach().repeat_interleave(4), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Double the resolution.

        Args:
            x: N x C x H x W.
        """
        return F.pixel_shuffle(F.conv2d(x, self.weight, self.bias, padding=1), 2)


def _for_inference(layers: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(
        *(SubpixelConv(layer) if isinstance(layer, nn.ConvTranspose2d) else layer for layer in layers)
    )


class Analysis(nn.Module):
    """`analysis`: picture to latents."""

    def __init__(self, networks: TransformNetworks) -> None:
        super().__init__()
        self.analysis = networks.analysis

    def forward(self, image: Tensor) -> Tensor:
        """Analyse the picture.

        Args:
            image: uint8, N x H x W x 3; sides multiples of the configuration's.

        Returns:
            float32, N x M x H/16 x W/16.
        """
        latents: Tensor = self.analysis(image.to(torch.float32).permute(0, 3, 1, 2) * (1.0 / 255.0))
        return latents


class Synthesis(nn.Module):
    """`synthesis`: latents to picture."""

    def __init__(self, networks: TransformNetworks) -> None:
        super().__init__()
        self.synthesis = _for_inference(networks.synthesis)

    def forward(self, latents: Tensor) -> Tensor:
        """Synthesize the picture.

        Args:
            latents: float32, N x M x H/16 x W/16.

        Returns:
            uint8, N x H x W x 3.
        """
        picture = torch.clamp(torch.round(self.synthesis(latents) * 255.0), 0.0, 255.0)
        return picture.permute(0, 2, 3, 1).to(torch.uint8)


class HyperAnalysis(nn.Module):
    """`hyper_analysis`: latents to what the hyperprior codes of them."""

    def __init__(self, networks: TransformNetworks) -> None:
        super().__init__()
        self.networks = networks

    def forward(self, latents: Tensor) -> Tensor:
        """Analyse the latents.

        Args:
            latents: float32, N x M x H/16 x W/16.

        Returns:
            float32, N x C x H/64 x W/64.
        """
        return self.networks.hyper_latents(latents)


class HyperSynthesis(nn.Module):
    """`hyper_synthesis`: what the hyperprior coded to scales, or to scales and means."""

    def __init__(self, networks: TransformNetworks) -> None:
        super().__init__()
        assert networks.hyper_synthesis is not None
        # So small that its transposed convolutions are as fast as they stand.
        self.layers = networks.hyper_synthesis

    def forward(self, hyper: Tensor) -> Tensor:
        """Tell the distributions of the latents.

        Args:
            hyper: float32, N x C x H/64 x W/64.

        Returns:
            float32, N x M (or 2M) x H/16 x W/16.
        """
        parameters: Tensor = self.layers(hyper)
        return parameters


def deployable(networks: TransformNetworks) -> dict[str, nn.Module]:
    """The modules by the names of their graphs, in evaluation mode."""
    networks.eval()
    modules: dict[str, nn.Module] = {"analysis": Analysis(networks), "synthesis": Synthesis(networks)}
    if networks.hyper_synthesis is not None:
        modules |= {"hyper_analysis": HyperAnalysis(networks), "hyper_synthesis": HyperSynthesis(networks)}
    return {name: module.eval() for name, module in modules.items()}
