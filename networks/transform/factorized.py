"""The factorized prior: a distribution of each channel, learned as its cumulative (Balle et al. 2018, appendix 6.1)."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F
from torch import nn

from .gdn import at_least

if TYPE_CHECKING:
    from torch import Tensor

_WIDTHS: Final = (1, 3, 3, 3, 3, 1)
_SPREAD: Final = 10.0
LEAST_LIKELIHOOD: Final = 1e-9


class FactorizedPrior(nn.Module):
    """Cumulatives of C channels, each a small monotone network: layers with positive weights and gates.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.gates = nn.ParameterList()
        scale = _SPREAD ** (1 / (len(_WIDTHS) - 1))
        for inputs, outputs in itertools.pairwise(_WIDTHS):
            start = math.log(math.expm1(1 / scale / outputs))
            self.weights.append(nn.Parameter(torch.full((channels, outputs, inputs), start)))
            self.biases.append(nn.Parameter(torch.rand(channels, outputs, 1) - 0.5))
        for outputs in _WIDTHS[1:-1]:
            self.gates.append(nn.Parameter(torch.zeros(channels, outputs, 1)))

    def logits(self, x: Tensor) -> Tensor:
        """The cumulatives before their sigmoid.

        Args:
            x: C x 1 x n, float.
        """
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.matmul(F.softplus(weight), x) + bias
            if layer < len(self.gates):
                x = x + torch.tanh(self.gates[layer]) * torch.tanh(x)
        return x

    def likelihood(self, x: Tensor) -> Tensor:
        """Probability of the interval of width 1 around each value, at least `LEAST_LIKELIHOOD`.

        Args:
            x: N x C x H x W, float32.

        Returns:
            In the shape of `x`.
        """
        flat = x.permute(1, 0, 2, 3).reshape(self.channels, 1, -1)
        lower, upper = self.logits(flat - 0.5), self.logits(flat + 0.5)
        # On the side where both sigmoids are small: their difference keeps its digits.
        sign = -torch.sign(lower + upper).detach()
        found = (torch.sigmoid(sign * upper) - torch.sigmoid(sign * lower)).abs()
        shape = (self.channels, x.shape[0], *x.shape[2:])
        return at_least(found, LEAST_LIKELIHOOD).reshape(shape).permute(1, 0, 2, 3)

    @torch.no_grad()
    def quantile(self, probability: float) -> Tensor:
        """Where the cumulative of each channel is `probability`, by bisection: C values, float64."""
        wanted = math.log(probability / (1 - probability))
        prior = FactorizedPrior(self.channels).double()
        prior.load_state_dict(self.state_dict())
        low = torch.full((self.channels, 1, 1), -1e5, dtype=torch.float64)
        high = -low
        for _ in range(100):
            middle = (low + high) / 2
            above = prior.logits(middle) > wanted
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return ((low + high) / 2).reshape(-1)
