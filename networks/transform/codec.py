"""Transform codecs: analysis, synthesis, and what tells the distribution of the latents.

Balle, Minnen, Singh, Hwang, Johnston: "Variational image compression with a scale hyperprior", ICLR 2018.
Minnen, Balle, Toderici: "Joint autoregressive and hierarchical priors for learned image compression", NeurIPS 2018;
of it the mean and scale hyperprior, without the context model.

Layers stand at the positions at which published weights have them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import torch
from torch import nn

from .factorized import LEAST_LIKELIHOOD, FactorizedPrior
from .gdn import GDN, at_least

if TYPE_CHECKING:
    from torch import Tensor

    from .config import TransformConfig

LEAST_SCALE: Final = 0.11
"""The least standard deviation of a latent: below it nothing is gained, and its code needs a bit for 100 of them."""


def _down(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 5, stride=2, padding=2)


def _up(inputs: int, outputs: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(inputs, outputs, 5, stride=2, padding=2, output_padding=1)


def _analysis(channels: int, latents: int) -> nn.Sequential:
    return nn.Sequential(
        _down(3, channels),
        GDN(channels),
        _down(channels, channels),
        GDN(channels),
        _down(channels, channels),
        GDN(channels),
        _down(channels, latents),
    )


def _synthesis(channels: int, latents: int) -> nn.Sequential:
    return nn.Sequential(
        _up(latents, channels),
        GDN(channels, inverse=True),
        _up(channels, channels),
        GDN(channels, inverse=True),
        _up(channels, channels),
        GDN(channels, inverse=True),
        _up(channels, 3),
    )


def _hyper_analysis(channels: int, latents: int, activation: type[nn.Module]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(latents, channels, 3, padding=1),
        activation(),
        _down(channels, channels),
        activation(),
        _down(channels, channels),
    )


def _hyper_scales(channels: int, latents: int) -> nn.Sequential:
    return nn.Sequential(
        _up(channels, channels),
        nn.ReLU(),
        _up(channels, channels),
        nn.ReLU(),
        nn.Conv2d(channels, latents, 3, padding=1),
        nn.ReLU(),
    )


def _hyper_means_and_scales(channels: int, latents: int) -> nn.Sequential:
    between = latents * 3 // 2
    return nn.Sequential(
        _up(channels, latents),
        nn.LeakyReLU(),
        _up(latents, between),
        nn.LeakyReLU(),
        nn.Conv2d(between, 2 * latents, 3, padding=1),
    )


class Coded(NamedTuple):
    """What training makes of a batch.

    Attributes:
        picture: the reconstruction, N x 3 x H x W, not clipped.
        bits: of all that is coded, a sum over the batch.
    """

    picture: Tensor
    bits: Tensor


class TransformNetworks(nn.Module):
    """The networks of one configuration, with random weights until some are loaded.

    Attributes:
        config: the configuration.
        analysis: picture, N x 3 x H x W in 0..1, to latents, N x M x H/16 x W/16.
        synthesis: quantized latents to picture.
        hyper_analysis: latents (their magnitudes with the prior `scale`) to N x C x H/64 x W/64; None with
            `factorized`.
        hyper_synthesis: of what is quantized of it the scales of the latents, with `mean_scale` scales and means, in
            this order: N x 2M x H/16 x W/16.
        prior: the factorized prior.
    """

    def __init__(self, config: TransformConfig) -> None:
        super().__init__()
        self.config = config
        channels, latents = config.channels, config.latents
        self.analysis = _analysis(channels, latents)
        self.synthesis = _synthesis(channels, latents)
        self.hyper_analysis: nn.Sequential | None = None
        self.hyper_synthesis: nn.Sequential | None = None
        if config.prior == "scale":
            self.hyper_analysis = _hyper_analysis(channels, latents, nn.ReLU)
            self.hyper_synthesis = _hyper_scales(channels, latents)
        elif config.prior == "mean_scale":
            self.hyper_analysis = _hyper_analysis(channels, latents, nn.LeakyReLU)
            self.hyper_synthesis = _hyper_means_and_scales(channels, latents)
        self.prior = FactorizedPrior(config.coded_apart)

    def hyper_latents(self, latents: Tensor) -> Tensor:
        """What the hyperprior codes of the latents, not quantized."""
        assert self.hyper_analysis is not None
        found: Tensor = self.hyper_analysis(latents.abs() if self.config.prior == "scale" else latents)
        return found

    def scales_and_means(self, hyper: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scale and, with `mean_scale`, mean of each latent; scales are not yet bounded."""
        assert self.hyper_synthesis is not None
        found: Tensor = self.hyper_synthesis(hyper)
        if self.config.prior == "scale":
            return found, None
        scales, means = found.chunk(2, 1)
        return scales, means

    def forward(self, picture: Tensor) -> Coded:
        """Code a batch as training does: rates of noisy values, pictures of rounded ones, through which gradients pass.

        Args:
            picture: N x 3 x H x W, 0..1; sides multiples of the configuration's.
        """
        latents = self.analysis(picture).float()
        if self.config.prior == "factorized":
            bits = _bits(self.prior.likelihood(_noisy(latents)))
            return Coded(self.synthesis(rounded(latents)).float(), bits)
        hyper = self.hyper_latents(latents).float()
        bits = _bits(self.prior.likelihood(_noisy(hyper)))
        scales, means = self.scales_and_means(rounded(hyper))
        centered = latents if means is None else latents - means.float()
        bits = bits + _bits(gaussian_likelihood(_noisy(centered), scales.float()))
        quantized = rounded(centered) if means is None else rounded(centered) + means.float()
        return Coded(self.synthesis(quantized).float(), bits)


def _noisy(x: Tensor) -> Tensor:
    return x + torch.rand_like(x) - 0.5


def rounded(x: Tensor) -> Tensor:
    """Rounded to whole numbers; gradients pass as if nothing had been done."""
    return x + (torch.round(x) - x).detach()


def gaussian_likelihood(centered: Tensor, scales: Tensor) -> Tensor:
    """Probability of the interval of width 1 around each value, of a normal distribution around 0.

    Args:
        centered: of any shape, float32.
        scales: standard deviations, likewise; below `LEAST_SCALE` they count as that.
    """
    scales = at_least(scales, LEAST_SCALE)
    size, root = centered.abs(), math.sqrt(0.5)
    upper = torch.erfc(-root * (0.5 - size) / scales)
    lower = torch.erfc(root * (0.5 + size) / scales)
    return at_least(0.5 * (upper - lower), LEAST_LIKELIHOOD)


def _bits(likelihood: Tensor) -> Tensor:
    return -torch.log2(likelihood).sum()
