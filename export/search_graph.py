"""The graph that a search for better compact images asks: what layers alone cost and miss, and where to go from there.

Its gradients are those of autograd, traced, so that the runtime needs no torch. See `runtime.codec.search`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from ..networks.compact_bits import CompactBits
from ..networks.ms_ssim import ms_ssim_index
from ..networks.ssimulacra2 import Ssimulacra2
from ..runtime.bundle.manifest import COMPACT_SCALE
from ..runtime.codec.search import INPUTS, OUTPUTS, SMALLEST_SIDE
from ..runtime.errors import VerificationError
from .byte_weights import with_byte_weights
from .ir_queries import serialize
from .onnx_export import OPSET, quiet_exporter
from .verify import run

if TYPE_CHECKING:
    from ..networks.gnet import GNet

# What FLIF pays for compact images of `lite-preview`: `CompactBits.scales`, learned in the training of that network.
_SCALES: Final = (
    (-0.2072, -0.1393, -0.1573, -0.1684, -0.1993, -0.1500, -0.1500),
    (-0.1505, -0.2040, -0.2056, -0.2478, -0.2741, -0.0780, -0.1500),
    (-0.2165, -0.1780, -0.1768, -0.2559, -0.2592, -0.0538, -0.2660),
)

_SKIPPED: Final = 1
"""The finest scale is three quarters of the work, and what a compact image of 1/8 of the size can least change."""
_MOST_OFF: Final = 0.02
"""What the graph's results may be off from PyTorch's, as a share of their norm."""
_MOST_UNITS: Final = 64
"""Of `multiple` pixels, in height and in width."""


@dataclass(frozen=True)
class Weights:
    """What counts in the distortion.

    Attributes:
        ms_ssim: weight of 1 - MS-SSIM.
        ssimulacra2: weight of the distance from 100 points, in hundreds.
    """

    ms_ssim: float = 1.8
    ssimulacra2: float = 0.05


class LayersLoss(nn.Module):
    """Rate and distortion of layers alone, as functions of a compact image between the levels.

    Args:
        gnet: makes the estimate.
        weights: of the distortion's parts.
    """

    def __init__(self, gnet: GNet, weights: Weights) -> None:
        super().__init__()
        self.gnet = gnet
        self.weights = weights
        self.score = Ssimulacra2(_SKIPPED)
        self.bits = CompactBits()
        with torch.no_grad():
            self.bits.scales.copy_(torch.tensor(_SCALES))
        self.requires_grad_(requires_grad=False)

    def rate(self, compact: Tensor) -> Tensor:
        """Bits per pixel of the picture.

        Args:
            compact: float32, 1 x H/8 x W/8 x 3, values 0..L-1.
        """
        _, height, width, _ = compact.shape
        return self.bits.bits(compact.permute(0, 3, 1, 2)).sum() / (height * width * COMPACT_SCALE**2)

    def distortion(self, compact: Tensor, labels: Tensor, image: Tensor) -> Tensor:
        """How far the estimate is from the picture, by the weights.

        Args:
            compact: as for `rate`.
            labels: uint8, 1 x H/label_scale x W/label_scale.
            image: uint8, 1 x H x W x 3.
        """
        planes = compact.permute(0, 3, 1, 2)
        wanted = image.permute(0, 3, 1, 2).to(torch.float32) * (1.0 / 256.0)
        made = enlarge(self.gnet.colors(planes)) + self.gnet.correction(planes, labels)
        made = made.clamp_min(0.0).clamp_max(255.0 / 256.0)
        loss = self.weights.ms_ssim * (
            1.0 - ms_ssim_index(wanted, made, 255.0 / 256.0, skipped=_SKIPPED).mean()
        )
        return loss + self.weights.ssimulacra2 * 0.01 * self.score.distance(wanted, made).mean()

    def forward(
        self, compact: Tensor, labels: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rate, distortion, and their gradients by the compact image; arguments as for `distortion`."""
        rate_gradient, rate = torch.func.grad_and_value(self.rate)(compact)
        gradient, distortion = torch.func.grad_and_value(self.distortion)(compact, labels, image)
        return rate.reshape(1), distortion.reshape(1), rate_gradient, gradient


def enlarge(planes: Tensor) -> Tensor:
    """Bilinear x8 upsampling as a transposed convolution, whose gradient is a convolution.

    Args:
        planes: N x C x h x w.

    Returns:
        N x C x 8h x 8w, as `interpolate` with `align_corners=False` makes it.
    """
    factor, channels = COMPACT_SCALE, planes.shape[1]
    taps = 1.0 - (torch.arange(2 * factor, dtype=planes.dtype) + 0.5 - factor).abs() / factor
    kernel = torch.outer(taps, taps).expand(channels, 1, 2 * factor, 2 * factor)
    tall = torch.cat([planes[:, :, :1], planes, planes[:, :, -1:]], dim=2)
    wide = torch.cat([tall[..., :1], tall, tall[..., -1:]], dim=3)
    # The border that was added, and half of what lies around it.
    margin = factor + factor // 2
    return F.conv_transpose2d(wide, kernel, stride=factor, padding=margin, groups=channels)


def search_graph(gnet: GNet, label_scale: int, multiple: int, weights: Weights | None = None) -> ir.Model:
    """The graph of a network, with the inputs and outputs that `runtime.codec.search` names.

    Args:
        gnet: the network, in evaluation mode.
        label_scale: S.
        multiple: what heights and widths are multiples of.
        weights: of the distortion's parts.

    Raises:
        DependencyError: the package with the weights of SSIMULACRA 2 is not installed.
        VerificationError: what the graph gives is not what PyTorch does.
    """
    module = LayersLoss(gnet, weights or Weights()).eval()
    examples = _examples(label_scale, multiple)
    least = -(-SMALLEST_SIDE // multiple)
    h, w = (torch.export.Dim(side, min=least, max=_MOST_UNITS) for side in "hw")
    scales = (COMPACT_SCALE, label_scale, 1)
    sizes = tuple({1: multiple // scale * h, 2: multiple // scale * w} for scale in scales)
    with quiet_exporter(), torch.no_grad(), _NearestByRepeating():
        traced = make_fx(
            module, decomposition_table=_GRADIENTS, tracing_mode="symbolic", _allow_non_fake_inputs=True
        )(*examples)
        program = torch.export.export(traced, examples, dynamic_shapes=sizes, strict=False)
        found = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=list(OUTPUTS),
            optimize=True,
            verbose=False,
        )
    assert found is not None
    model = found.model
    passes.ClearMetadataAndDocStringPass()(model)
    with torch.no_grad():
        expected = module(*examples)
    _require_same(model, dict(zip(INPUTS, examples, strict=True)), expected)
    return model


def _examples(label_scale: int, multiple: int) -> tuple[Tensor, Tensor, Tensor]:
    """A compact image, a label map and a picture of a size that the graph takes, not square."""
    least = -(-SMALLEST_SIDE // multiple)
    height, width = multiple * max(10, least), multiple * max(12, least + 1)
    generator = torch.Generator().manual_seed(0)
    return (
        15.0 * torch.rand(1, height // COMPACT_SCALE, width // COMPACT_SCALE, 3, generator=generator),
        torch.zeros(1, height // label_scale, width // label_scale, dtype=torch.uint8),
        torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8, generator=generator),
    )


def compacted(model: ir.Model) -> bytes:
    """A search graph as bundles have it: weights as bytes, no sizes of what lies between the nodes.

    Args:
        model: from `search_graph`; changed.
    """
    with_byte_weights(model)
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = value.type = None
    return serialize(model)


def _require_same(model: ir.Model, feeds: Mapping[str, Tensor], expected: Sequence[Tensor]) -> None:
    """Compare what the graph gives with PyTorch's gradients, whose kinks a rounding can move.

    Raises:
        VerificationError: they differ.
    """
    found = run(serialize(model), {name: value.numpy() for name, value in feeds.items()})
    for name, wanted in zip(OUTPUTS, expected, strict=True):
        off = float(np.linalg.norm(found[name] - wanted.numpy()) / np.linalg.norm(wanted.numpy()))
        if not off <= _MOST_OFF:
            raise VerificationError(
                f"{name} of the search graph is off from PyTorch's by {off:.2g} of its norm, allowed is {_MOST_OFF:g}"
            )


def _convolution_gradient(  # noqa: PLR0917 - ATen's signature
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Sequence[int] | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
    mask: Sequence[bool],
) -> tuple[Tensor, None, None]:
    """By the input alone; the weights are constants."""
    del bias_sizes, mask, output_padding
    if transposed:
        return F.conv2d(gradient, weight, None, stride, padding, dilation, groups), None, None
    outputs, inputs, *kernel = weight.shape
    if all(step == 1 for step in stride):
        # A plain convolution with the kernel turned around, which runtimes are fastest at.
        parts = weight.reshape(groups, outputs // groups, inputs, *kernel).transpose(1, 2)
        turned = parts.reshape(groups * inputs, outputs // groups, *kernel).flip([2, 3])
        around = [d * (k - 1) - p for k, p, d in zip(kernel, padding, dilation, strict=True)]
        return F.conv2d(gradient, turned, None, 1, around, dilation, groups), None, None
    reached = [
        (gradient.shape[2 + a] - 1) * stride[a] - 2 * padding[a] + dilation[a] * (kernel[a] - 1) + 1
        for a in (0, 1)
    ]
    more = [int(x.shape[2 + a] - reached[a]) for a in (0, 1)]
    return F.conv_transpose2d(gradient, weight, None, stride, padding, more, groups, dilation), None, None


def _repeated(x: Tensor) -> Tensor:
    n, channels, height, width = x.shape
    # No slices, whose gradients would be pads.
    wide = x.reshape(n, channels, height, 1, width, 1).expand(n, channels, height, 2, width, 2)
    return wide.reshape(n, channels, 2 * height, 2 * width)


def _pool_gradient(gradient: Tensor, x: Tensor, kernel: Sequence[int], *others: Any) -> Tensor:
    del x, others
    if list(kernel) != [2, 2]:
        raise NotImplementedError(f"the gradient of a pool of {kernel}")
    return _repeated(gradient * 0.25)


class _Repeating(torch.autograd.Function):
    """`_repeated`, with a gradient that runtimes are faster at than at sums over two axes of six."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return _repeated(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept."""

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        del ctx
        (gradient,) = gradients
        return 4.0 * F.avg_pool2d(gradient, 2)


class _NearestByRepeating(TorchFunctionMode):
    """Makes nearest upsampling a repetition of pixels.

    PyTorch's own tracing makes indices of it, whose gradient is a scatter with sums: with several threads, ONNX
    Runtime gives other results for that one from run to run.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if function is F.interpolate and named.get("mode") == "nearest":
            if named.get("scale_factor") != 2.0 or len(args) != 1:
                raise NotImplementedError(f"nearest upsampling by {named}")
            repeated: Tensor = _Repeating.apply(args[0])  # type: ignore[no-untyped-call]
            return repeated
        return function(*args, **named)


def _slice_gradient(  # noqa: PLR0917 - ATen's signature
    gradient: Tensor, sizes: Sequence[int], axis: int, start: int, end: int, step: int
) -> Tensor:
    """Zeros around it: a pad, where the default is a scatter."""
    del end
    if step != 1:
        raise NotImplementedError(f"the gradient of a slice with the step {step}")
    size = sizes[axis]
    first = start + size if start < 0 else start
    around = [0] * (2 * gradient.dim())
    place = 2 * (gradient.dim() - 1 - axis % gradient.dim())
    around[place] = first
    around[place + 1] = size - first - gradient.shape[axis]
    return F.pad(gradient, around)


def _select_gradient(gradient: Tensor, sizes: Sequence[int], axis: int, index: int) -> Tensor:
    return _slice_gradient(gradient.unsqueeze(axis), sizes, axis, index, index + 1, 1)


_ATEN: Final = torch.ops.aten
_GRADIENTS: Final[dict[Any, Callable[..., Any]]] = {
    _ATEN.convolution_backward.default: _convolution_gradient,
    _ATEN.avg_pool2d_backward.default: _pool_gradient,
    _ATEN.slice_backward.default: _slice_gradient,
    _ATEN.select_backward.default: _select_gradient,
}
"""Gradients in operators that ONNX has, and that runtimes are fast at."""


__all__ = ["LayersLoss", "Weights", "compacted", "enlarge", "search_graph"]
