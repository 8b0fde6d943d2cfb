"""A hyper-synthesis of integers: the same scales, and so the same tables, on every machine.

Weights are integers of 7 bits and a sign times a power of two for each output channel, activations integers times a
power of two for each layer. Then every partial sum of a convolution is a whole number; where all of them stay below
2^24, which is proved for each output channel from sum(|w|) max|x| + |b|, float32 holds them exactly, in whatever order
they are added. Between layers numbers are multiplied by powers of two, rounded (half to even) and clipped: all of it is
exact.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

import torch
from torch import nn

from ..runtime.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_WEIGHT_MOST: Final = 127
_SUM_MOST: Final = 1 << 24
_ACTIVATION_MOST: Final = 1 << 10
# Other pictures have larger values than those that ranges were measured on.
_MARGIN: Final = 1.5
_LEAST_RANGE: Final = 2.0**-20
_GRIDS: Final = 32
# The slope of a leaky rectifier, as a power of two near the usual hundredth.
_SLOPE: Final = 2.0**-7


@dataclass(frozen=True)
class Proof:
    """How near a layer comes to where float32 is no longer exact.

    Attributes:
        largest: the largest sum that any output channel can have, in steps.
        allowed: 2^24.
    """

    largest: int
    allowed: int = _SUM_MOST


class IntegerLayer(nn.Module):
    """A convolution, plain or transposed, of integers, with what was behind it.

    Args:
        source: the layer, bias included.
        activation: `relu`, `leaky` or `none`.
        given: step of the inputs, a power of two.
        most: largest magnitude of the inputs, in steps.
        signed: whether inputs are of either sign.
    """

    weight: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(
        self,
        source: nn.Conv2d | nn.ConvTranspose2d,
        activation: str,
        given: float,
        most: int,
        *,
        signed: bool,
    ) -> None:
        super().__init__()
        self.transposed = isinstance(source, nn.ConvTranspose2d)
        self.activation = activation
        self.given, self.most, self.low = given, most, -most if signed else 0
        weight = source.weight.detach().double()
        outputs = 1 if self.transposed else 0
        others = tuple(axis for axis in range(4) if axis != outputs)
        peak = weight.abs().amax(others).clamp_min(2.0**-40)
        step = torch.exp2(torch.ceil(torch.log2(peak / _WEIGHT_MOST)))
        shape = tuple(-1 if axis == outputs else 1 for axis in range(4))
        whole = torch.round(weight / step.reshape(shape))
        assert source.bias is not None
        bias = torch.round(source.bias.detach().double() / (step * given))
        self.register_buffer("weight", whole.float())
        self.register_buffer("bias", bias.float())
        self.register_buffer("scale", (step * given).float().reshape(1, -1, 1, 1))
        self.stride = source.stride
        self.padding = cast("tuple[int, ...]", source.padding)
        self.output_padding = source.output_padding
        sums = whole.abs().sum(others) * most + bias.abs()
        self.proof = Proof(int(sums.max()))

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            x: N x C x H x W, float32: values on the grid of outputs before, or any.

        Returns:
            Values, on a grid of the output channel's own.
        """
        steps = torch.clamp(torch.round(x * (1.0 / self.given)), float(self.low), float(self.most))
        if self.transposed:
            sums = nn.functional.conv_transpose2d(
                steps, self.weight, self.bias, self.stride, self.padding, self.output_padding
            )
        else:
            sums = nn.functional.conv2d(steps, self.weight, self.bias, self.stride, self.padding)
        if self.activation == "relu":
            sums = torch.relu(sums)
        elif self.activation == "leaky":
            sums = torch.maximum(sums, sums * _SLOPE)
        return sums * self.scale


class IntegerHyperSynthesis(nn.Module):
    """`hyper_synthesis` of integers.

    Args:
        layers: of the trained one: convolutions with activations between.
        hyper: what it was given on photographs, N x C x h x w each, values as they are decoded.

    Raises:
        VerificationError: a sum may reach 2^24.
    """

    def __init__(self, layers: nn.Sequential, hyper: Sequence[Tensor]) -> None:
        super().__init__()
        made: list[IntegerLayer] = []
        values = [x.float() for x in hyper]
        for layer, behind in _pairs(layers):
            given = _MARGIN * max(float(x.abs().max()) for x in values)
            signed = any(float(x.min()) < 0 for x in values)
            # As fine a grid as the sums allow: where values are small, biases are what fills them.
            finest = math.ceil(math.log2(max(given, _LEAST_RANGE) / _ACTIVATION_MOST))
            for exponent in range(finest, finest + _GRIDS):
                step = 2.0**exponent
                most = max(1, math.ceil(given / step))
                integer = IntegerLayer(layer, behind, step, most, signed=signed)
                if integer.proof.largest < _SUM_MOST:
                    break
            else:
                raise VerificationError(
                    f"a sum of the hyper-synthesis may reach {integer.proof.largest} steps, 2^24 is what is exact"
                )
            made.append(integer)
            with torch.inference_mode():
                values = [integer(x) for x in values]
        self.layers = nn.Sequential(*made)

    @property
    def proofs(self) -> list[Proof]:
        """Of the layers, in order."""
        return [layer.proof for layer in self.layers if isinstance(layer, IntegerLayer)]

    def forward(self, hyper: Tensor) -> Tensor:
        """Tell the distributions of the latents: see `networks.transform.deploy.HyperSynthesis`."""
        parameters: Tensor = self.layers(hyper)
        return parameters


def _pairs(layers: nn.Sequential) -> list[tuple[nn.Conv2d | nn.ConvTranspose2d, str]]:
    names = {nn.ReLU: "relu", nn.LeakyReLU: "leaky"}
    found: list[tuple[nn.Conv2d | nn.ConvTranspose2d, str]] = []
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            found.append((layer, "none"))
        else:
            found[-1] = found[-1][0], names[type(layer)]
    return found


@torch.inference_mode()
def hyper_values(
    analysis: nn.Module, hyper_analysis: nn.Module, images: Sequence[Tensor], offsets: Tensor
) -> list[Tensor]:
    """What a decoder gives the hyper-synthesis on photographs.

    Args:
        analysis: the graph of this name.
        hyper_analysis: likewise.
        images: uint8, N x H x W x 3, sides that the networks take.
        offsets: of the channels, see `runtime.kinds.transform.tables.Tables`.
    """
    shift = offsets.reshape(1, -1, 1, 1)
    return [torch.round(hyper_analysis(analysis(image)) - shift) + shift for image in images]
