"""What a compact image costs as FLIF, as a differentiable function."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class CompactBits(nn.Module):
    """Estimate of compact images' bits as FLIF, differentiable.

    As FLIF does: YCoCg planes, each sample predicted from its left, upper and upper left neighbors (the median of
    the two and their gradient), the prediction error coded with an adaptive model. Here: a Laplace distribution,
    integrated over the sample's cell, whose scale is a learned affine function of the errors' magnitudes
    around the sample and, for Co and Cg, of the same sample's errors in the planes before. The parameters learn
    along with the networks, towards the shortest code.
    """

    def __init__(self) -> None:
        super().__init__()
        # Per plane: constant, left, upper, upper right, upper left, first plane, second plane; softplus of ten times
        # these, so that they move faster than the networks whose rate they tell.
        start = torch.full((3, 7), -0.15)
        start[:, 0] = -0.1
        self.scales = nn.Parameter(start)

    def bits(self, compact: Tensor) -> Tensor:
        """Bits of each compact image of a batch.

        Args:
            compact: N x 3 x h x w, whole levels as floats; the first row and column cost as if continued.

        Returns:
            N.
        """
        red, green, blue = compact.unbind(1)
        middle = 0.5 * (red + blue)
        planes = torch.stack([0.5 * (middle + green), red - blue, green - middle], dim=1)
        padded = _continued(planes)
        left, upper, corner = padded[:, :, 1:, :-2], padded[:, :, :-1, 1:-1], padded[:, :, :-1, :-2]
        gradient = left + upper - corner
        predicted = torch.maximum(
            torch.minimum(torch.maximum(left, upper), gradient), torch.minimum(left, upper)
        )
        error = planes - predicted
        magnitude = error.abs()
        around = _continued(magnitude)
        height, width = magnitude.shape[2:]
        weights = F.softplus(10.0 * self.scales)
        total = magnitude.new_zeros(len(compact))
        neighbors = (
            around[:, :, 1:, :width],
            around[:, :, :height, 1:-1],
            around[:, :, :height, 2:],
            around[:, :, :height, :width],
        )
        for plane in range(3):
            scale = weights[plane, 0] + sum(
                weights[plane, 1 + i] * value[:, plane] for i, value in enumerate(neighbors)
            )
            for before in range(plane):
                scale = scale + weights[plane, 5 + before] * magnitude[:, before]
            # The half steps of Y and Cg carry no bits of their own: their parity is known from the other planes.
            total = total + laplace_bits(error[:, plane], scale).sum((1, 2))
        return total


def _continued(planes: Tensor) -> Tensor:
    """One more row above and one more column on either side, equal to those beside them."""
    tall = torch.cat([planes[:, :, :1], planes], dim=2)
    return torch.cat([tall[..., :1], tall, tall[..., -1:]], dim=3)


def laplace_bits(error: Tensor, scale: Tensor) -> Tensor:
    """Bits of a whole number under a Laplace distribution integrated over [error - 1/2, error + 1/2].

    Args:
        error: whole numbers, or any values.
        scale: the distribution's scale, above 0, of the same shape.

    Returns:
        -log2 of the probability, of the same shape, at most about 30.
    """

    def cumulative(value: Tensor) -> Tensor:
        tail = 0.5 * torch.exp(-value.abs() / scale)
        return torch.where(value < 0, tail, 1.0 - tail)

    # By symmetry on the negative side, where the difference of the tails loses no digits.
    low = -error.abs()
    probability = cumulative(low + 0.5) - cumulative(low - 0.5)
    return -torch.log2(probability.clamp_min(1e-9))
