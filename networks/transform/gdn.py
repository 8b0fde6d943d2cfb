"""Generalized divisive normalization and its approximate inverse.

Balle et al., "Density modeling of images using a generalized normalization transformation", ICLR 2016:

    y_i = x_i / sqrt(beta_i + sum_j gamma_ij x_j^2)

As a graph it is a 1x1 convolution of squares, a square root, and a division (the inverse multiplies).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

# Parameters are stored as the root of their value plus this, so that steps near 0 stay small but are not lost.
_PEDESTAL: Final = 2.0**-36
_LEAST_BETA: Final = 1e-6


class _AtLeast(torch.autograd.Function):
    """max(x, bound) whose gradient also passes where it would raise an x that is below the bound."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bound: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.bound = bound
        return x.clamp_min(bound)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return gradient * ((x >= ctx.bound) | (gradient < 0)), None


def at_least(x: Tensor, bound: float) -> Tensor:
    """max(x, bound), in training with a gradient that can leave the bound again.

    Args:
        x: of any shape.
        bound: the least value.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return _AtLeast.apply(x, bound)  # type: ignore[no-any-return, no-untyped-call]
    return x.clamp_min(bound)


def effective(stored: Tensor, least: float) -> Tensor:
    """A parameter's value of its stored form, at least `least`."""
    return at_least(stored, (least + _PEDESTAL) ** 0.5) ** 2 - _PEDESTAL


class GDN(nn.Module):
    """Normalizes, or with `inverse` multiplies what normalization divided by.

    Args:
        channels: of input and output.
        inverse: whether it multiplies.
    """

    def __init__(self, channels: int, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        self.beta = nn.Parameter(torch.full((channels,), 1.0 + _PEDESTAL).sqrt())
        self.gamma = nn.Parameter((0.1 * torch.eye(channels) + _PEDESTAL).sqrt())

    def forward(self, x: Tensor) -> Tensor:
        """Normalize.

        Args:
            x: N x C x H x W, float.
        """
        beta, gamma = effective(self.beta, _LEAST_BETA), effective(self.gamma, 0.0)
        norm = F.conv2d(x * x, gamma[:, :, None, None], beta).sqrt()
        return x * norm if self.inverse else x / norm
