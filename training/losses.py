"""Terms of the codec's loss: each one a function of an image and what the codec made of it.

Gray levels are in units of 1/256, as the networks take them; rates are in bits per pixel, so that their sum is
what a stream costs and needs no weighting.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from ..networks.compact_bits import CompactBits
from ..networks.ms_ssim import ms_ssim_index
from ..runtime.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from ..networks.dnet import DNet
    from ..networks.ssimulacra2 import Ssimulacra2
    from .vgg import Vgg16Features


_BLOCK: Final = 64
"""Side in pixels of the blocks that `lattice` and `color_shift` look at."""
_LATTICE_PERIOD: Final = 4
"""Pixels: networks of two upsamplings leave patterns of two and of four."""


class Reconstruction(NamedTuple):
    """An image and what the codec made of it.

    Attributes:
        image: N x 3 x H x W, gray levels / 256.
        labels: N x H/label_scale x W/label_scale, uint8.
        compact: N x 3 x H/8 x W/8, whole levels as floats, rounded with straight-through gradient and clipped.
        estimate: N x 3 x H x W, gray levels / 256, clipped.
        picture_rates: N x Q, what a plain image coder pays, in bpp, for the whole pictures that the images are
            crops of, at the Q quantizer steps of `ResidualRate`; None: not known.
        coarseness: of the compact images, see `runtime.codec.coarseness`.
        steps: the range of quantizer steps that the coarseness is meant for, as indices.
    """

    image: Tensor
    labels: Tensor
    compact: Tensor
    estimate: Tensor
    picture_rates: Tensor | None = None
    coarseness: int = 1
    steps: slice = slice(None)


class _ClampInwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(value)
        ctx.bounds = (low, high)
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (value,) = ctx.saved_tensors
        low, high = ctx.bounds
        (gradient,) = gradients
        outwards = ((value < low) & (gradient > 0)) | ((value > high) & (gradient < 0))
        return gradient.masked_fill(outwards, 0.0), None, None


def clamp_inwards(value: Tensor, low: float, high: float) -> Tensor:
    """`value` clipped to low..high; its gradient passes wherever a step against it does not lead further outside.

    A plain straight-through gradient would push a value that is outside ever further: nothing it does there changes
    the loss. The gradient of a plain clip would never bring it back.
    """
    result: Tensor = _ClampInwards.apply(value, low, high)  # type: ignore[no-untyped-call]
    return result


class Term(Protocol):
    """One term of a loss."""

    def __call__(self, x: Reconstruction) -> Tensor:
        """The term's value, a scalar to be lowered."""


def straight_through(value: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` forwards, the gradient of `value` backwards."""
    return value + (rounded - value).detach()


def l1(x: Reconstruction) -> Tensor:
    """Mean absolute error of the estimate, in gray levels."""
    return 256.0 * (x.image - x.estimate).abs().mean()


def mse(x: Reconstruction) -> Tensor:
    """Mean squared error of the estimate, in squared gray levels, over 100."""
    return 655.36 * (x.image - x.estimate).square().mean()


def log_mse(x: Reconstruction) -> Tensor:
    """What the residual coder saves, in bpp: 0.18 log10 of each image's mean squared error in gray levels.

    The factor is measured: about 0.018 bpp per dB of the estimate, AVIF residuals on Kodak.
    """
    errors = 65536.0 * (x.image - x.estimate).square().mean((1, 2, 3))
    return 0.18 * torch.log10(errors + 1.0).mean()


def lattice(x: Reconstruction) -> Tensor:
    """Patterns of two and four pixels that stand still over blocks of 64x64, in gray levels.

    They are what upsampling leaves (Odena et al., Distill 2016), in adversarial networks before all. The means of the
    estimate's error over the pixels of a block that lie alike in cells of 4x4 differ by such a pattern; texture, which
    changes its phase, vanishes from them.

    Raises:
        UsageError: the images are smaller than a block.
    """
    error = 256.0 * (x.image - x.estimate)
    _require_blocks(error, "lattice")
    phases = F.pixel_unshuffle(error, _LATTICE_PERIOD)
    cells = _BLOCK // _LATTICE_PERIOD
    means = F.avg_pool2d(phases, cells, cells // 2)
    means = means.view(len(error), error.shape[1], -1, *means.shape[2:])
    return (means - means.mean(2, keepdim=True)).abs().mean()


def color_shift(x: Reconstruction) -> Tensor:
    """Mean absolute difference of the mean colors of 64x64 blocks, in gray levels: what features do not see.

    Raises:
        UsageError: the images are smaller than a block.
    """
    error = 256.0 * (x.image - x.estimate)
    _require_blocks(error, "color_shift")
    return F.avg_pool2d(error, _BLOCK, _BLOCK // 2).abs().mean()


def _require_blocks(error: Tensor, term: str) -> None:
    if min(error.shape[2:]) < _BLOCK:
        raise UsageError(f"the loss term {term} needs crops of {_BLOCK} or more")


def ms_ssim(x: Reconstruction) -> Tensor:
    """1 - MS-SSIM (Wang et al., Asilomar 2003) of the estimate; see `ms_ssim_index`."""
    return 1.0 - ms_ssim_index(x.image, x.estimate, 255.0 / 256.0).mean()


class CompactRate(CompactBits):
    """What the compact image costs as FLIF, estimated, in bpp; its parameters learn along with the networks."""

    def forward(self, x: Reconstruction) -> Tensor:
        """Bits per pixel of the image, the mean of the batch."""
        return self.per_image(x).mean()

    def per_image(self, x: Reconstruction) -> Tensor:
        """Bits per pixel of each image: N."""
        return self.bits(x.compact / x.coarseness) / (x.image.shape[2] * x.image.shape[3])


class VisualLoss(nn.Module):
    """How far estimates are from perfect by `Ssimulacra2`, in hundreds of points.

    Args:
        score: the measure.
    """

    def __init__(self, score: Ssimulacra2) -> None:
        super().__init__()
        self.score = score

    def forward(self, x: Reconstruction) -> Tensor:
        """The mean over the batch; 0 for equal pictures, 1 at a score of 0."""
        return self.score.distance(x.image, x.estimate).mean() / 100.0


def dct_matrix(size: int) -> Tensor:
    """The orthonormal DCT-II as a matrix, float32, size x size: coefficients = matrix @ samples."""
    k = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(math.pi / size * torch.outer(k, k + 0.5)) * math.sqrt(2.0 / size)
    matrix[0] /= math.sqrt(2.0)
    return matrix.float()


def _band_factors() -> Tensor:
    """Bits that AVIF pays per estimated bit, 3 x 16 x 16: by color plane and by u + v of a 16x16 DCT.

    Fitted by non-negative least squares to AVIF files (4:4:4, speed 6, tune=psnr) of the residuals of photographs
    from estimates between a constant and a 4x4 box average, smoothed; see EXPERIMENTS.md.
    """
    ends = (1, 2, 4, 7, 11, 16, 31)
    luma = (1.2, 2.0, 1.8, 2.8, 3.4, 1.5, 0.5)
    chroma = (0.6, 1.2, 2.0, 1.0, 0.3, 0.0, 0.0)
    index = torch.arange(16)[:, None] + torch.arange(16)[None]
    planes = []
    for factors in (luma, chroma, chroma):
        table = torch.zeros(16, 16)
        for end, factor in sorted(zip(ends, factors, strict=True), reverse=True):
            table[index < end] = factor
        planes.append(table)
    return torch.stack(planes)


class ResidualRate(nn.Module):
    """Estimate of what AVIF pays for the residual, differentiable, in bpp.

    The residual is turned into YCbCr and into orthonormal DCTs of 16x16; a coefficient d costs log2(1 + (d/q)^2) / 2
    bits at quantizer step q, times a factor that depends on its frequency.

    Args:
        steps: the quantizer steps, in gray levels.
    """

    def __init__(self, steps: tuple[float, ...] = (50.0, 24.0, 13.0, 6.5)) -> None:
        super().__init__()
        self.steps = steps
        self.register_buffer("dct", dct_matrix(16), persistent=False)
        self.register_buffer("factors", _band_factors(), persistent=False)
        self.register_buffer(
            "color",
            torch.tensor([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]),
            persistent=False,
        )

    def forward(self, x: Reconstruction) -> Tensor:
        """Mean over batch and steps, in bpp; H and W are multiples of 16."""
        return self.per_step(x.image, x.estimate).mean()

    def per_step(self, image: Tensor, estimate: Tensor) -> Tensor:
        """Bits per pixel of each image at each quantizer step.

        Args:
            image: N x 3 x H x W, gray levels / 256; H and W multiples of 16.
            estimate: the same shape.

        Returns:
            N x Q.
        """
        planes = torch.einsum("kc,nchw->nkhw", self.get_buffer("color"), 256.0 * (image - estimate))
        n, k, height, width = planes.shape
        matrix = self.get_buffer("dct")
        blocks = planes.reshape(n, k, height // 16, 16, width // 16, 16)
        rows = torch.einsum("us,nkasbt->nkaubt", matrix, blocks)
        power = torch.einsum("vt,nkaubt->nkaubv", matrix, rows).square()
        # Half a bit per doubling of 1 + (d/q)^2, whose natural logarithm is cheaper.
        factors = self.get_buffer("factors") * (0.5 / (math.log(2.0) * height * width))
        costs = [torch.einsum("nkaubv,kuv->n", torch.log1p(power * step**-2), factors) for step in self.steps]
        return torch.stack(costs, dim=1)


def whole_blocks(pixels: NDArray[np.uint8]) -> Tensor:
    """An image cut to the whole blocks that `ResidualRate` takes.

    Args:
        pixels: uint8, H x W x 3.

    Returns:
        float32, 1 x 3 x H' x W' with H' and W' the next lower multiples of 16, gray levels / 256.
    """
    height, width = (side // 16 * 16 for side in pixels.shape[:2])
    return torch.from_numpy(pixels[:height, :width].copy()).permute(2, 0, 1)[None].float() / 256.0


class StreamRate(nn.Module):
    """What the stream costs beside a plain image coder, the mean over the qualities: BD-rate's logarithm, linearized.

    At each quantizer step the bits of the compact image and of the residual are divided by what the plain coder
    pays for the whole picture, so that a bit weighs as much as it does in a mean of relative rates: more in
    smooth pictures and at low qualities.

    Args:
        compact: the rate of the compact image.
        residual: the rate of the residual.
    """

    def __init__(self, compact: CompactRate, residual: ResidualRate) -> None:
        super().__init__()
        self.compact = compact
        self.residual = residual

    def forward(self, x: Reconstruction) -> Tensor:
        """A ratio: below 1 where the stream is the smaller one."""
        if x.picture_rates is None:
            raise UsageError("the loss term stream_rate needs the rates of the whole pictures")
        total = self.compact.per_image(x)[:, None] + self.residual.per_step(x.image, x.estimate)
        return (total / x.picture_rates)[:, x.steps].mean()


class _MeanAbsoluteDifference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, wanted: Tensor, found: Tensor) -> Tensor:
        difference = found - wanted
        ctx.save_for_backward(difference)
        return difference.abs().mean(dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (difference,) = ctx.saved_tensors
        (gradient,) = gradients
        return None, difference.sign().mul_(gradient / difference.numel())


def mean_absolute_difference(wanted: Tensor, found: Tensor) -> Tensor:
    """Of two tensors of one shape, float32; its gradient is `found`'s alone.

    One pass each way over the features of VGG16, whose first stage has 64 channels at the size of the image: what
    autograd makes of the plain formula takes as long as the convolutions.
    """
    result: Tensor = _MeanAbsoluteDifference.apply(wanted, found)  # type: ignore[no-untyped-call]
    return result


class Perceptual(nn.Module):
    """Relative difference of VGG16 features (Johnson et al., ECCV 2016; stages weighted as in pix2pixHD).

    Args:
        features: the network, frozen.
    """

    def __init__(self, features: Vgg16Features) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Reconstruction) -> Tensor:
        """The distance of the estimate from the image, see `distance`."""
        with torch.no_grad():
            wanted = self.features(x.image)
        return self.distance(wanted, x.estimate)

    def distance(self, wanted: Sequence[Tensor], estimate: Tensor) -> Tensor:
        """Per stage the mean absolute difference over the image's mean feature; deeper stages count double.

        Args:
            wanted: the image's features.
            estimate: N x 3 x H x W, gray levels / 256.
        """
        found = self.features(estimate)
        total = estimate.new_zeros(())
        for i, (a, b) in enumerate(zip(wanted, found, strict=True)):
            size = a.mean(dtype=torch.float32) + 1e-6
            total = total + mean_absolute_difference(a, b) / size / 2.0 ** (len(wanted) - 1 - i)
        return total


class Adversarial:
    """LSGAN (Mao et al., ICCV 2017) with feature matching (Wang et al., CVPR 2018).

    Args:
        dnet: the discriminators.
        bfloat16: run them under autocast.
    """

    def __init__(self, dnet: DNet, *, bfloat16: bool = False) -> None:
        self.dnet = dnet
        self.bfloat16 = bfloat16

    def _judged(self, image: Tensor, labels: Tensor) -> list[list[Tensor]]:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=self.bfloat16):
            judged: list[list[Tensor]] = self.dnet(image, labels)
        return judged

    def generator(self, x: Reconstruction) -> Tensor:
        """How far the discriminators are from taking the estimate for real."""
        scores = [outputs[-1].float() for outputs in self._judged(x.estimate, x.labels)]
        return sum(((s - 1.0).square().mean() for s in scores), x.estimate.new_zeros(())) / len(scores)

    def feature_matching(self, x: Reconstruction) -> Tensor:
        """Mean absolute difference of the discriminators' features of image and estimate."""
        with torch.no_grad():
            real = self._judged(x.image, x.labels)
        fake = self._judged(x.estimate, x.labels)
        total, count = x.estimate.new_zeros(()), 0
        for a, b in zip(real, fake, strict=True):
            for wanted, found in zip(a[:-1], b[:-1], strict=True):
                total = total + mean_absolute_difference(wanted, found)
                count += 1
        return total / count

    def discriminator(self, x: Reconstruction) -> Tensor:
        """How badly the discriminators tell the image (1) from the estimate (0)."""
        real = self._judged(x.image, x.labels)
        fake = self._judged(x.estimate.detach(), x.labels)
        total = x.estimate.new_zeros(())
        for a, b in zip(real, fake, strict=True):
            total = total + 0.5 * ((a[-1].float() - 1.0).square().mean() + b[-1].float().square().mean())
        return total / len(real)
