"""Octave convolution (Chen et al., "Drop an Octave", ICCV 2019) as naive and as fused PyTorch modules.

Features live at two rates: `high`, N x Ch x H x W, and `low`, N x Cl x H/2 x W/2, with Cl = alpha * C. An `Octave`
is the pair; an absent rate is None.

    y_high = HH * high + LH * up(low)          up:   nearest, x2
    y_low  = LL * low  + HL * pool(high)       pool: average, 2x2, stride 2
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..runtime.errors import UsageError
from .kernels import upsampled_as_transposed, upsampled_strided

if TYPE_CHECKING:
    from torch import Tensor

    from .config import LhOrder


class Octave(NamedTuple):
    """Features at two rates.

    Attributes:
        high: N x Ch x H x W.
        low: N x Cl x H/2 x W/2, or None.
    """

    high: Tensor
    low: Tensor | None = None


def split(channels: int, alpha: float) -> tuple[int, int]:
    """Channels at the high and at the low rate: the low rate takes `alpha` of them, rounded to the nearest.

    Raises:
        UsageError: alpha is not in [0, 1), or leaves one of the rates without channels.
    """
    if not 0.0 <= alpha < 1.0:
        raise UsageError(f"alpha is {alpha}; it must be at least 0 and below 1")
    low = round(alpha * channels)
    if low == channels or (alpha > 0 and low == 0):
        raise UsageError(f"alpha {alpha} leaves one rate of {channels} channels empty; take more channels")
    return channels - low, low


def upsample(x: Tensor) -> Tensor:
    """Nearest x2 upsampling: N x C x H x W to N x C x 2H x 2W."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def pool(x: Tensor) -> Tensor:
    """Average of 2x2 pixels: N x C x H x W (both even) to N x C x H/2 x W/2."""
    return F.avg_pool2d(x, 2)


class OctConv2d(nn.Module):
    """Octave convolution, written out: up to four convolutions, a pool, an upsampling, two additions.

    First layer: alpha_in = 0. Last layer: alpha_out = 0. With stride 2 all four kernels stride by 2.

    Args:
        channels_in: channels of the input, both rates together.
        channels_out: channels of the output, both rates together.
        kernel: kernel size, odd; the padding is (kernel - 1) / 2, zeros.
        stride: 1 or 2.
        alpha_in: fraction of the input's channels at the low rate.
        alpha_out: fraction of the output's channels at the low rate.
        lh_order: "upsample_first": LH * up(low); "convolve_first": up(LH * low), as in the paper.
        bias: add a bias, one per output channel.

    Raises:
        UsageError: an even kernel, another stride, or an alpha that leaves a rate empty.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        alpha_in: float = 0.5,
        alpha_out: float = 0.5,
        lh_order: LhOrder = "upsample_first",
        bias: bool = True,
    ) -> None:
        super().__init__()
        if kernel % 2 == 0:
            raise UsageError(f"the kernel size is {kernel}; it must be odd")
        if stride not in {1, 2}:
            raise UsageError(f"the stride is {stride}; it must be 1 or 2")
        if lh_order not in {"upsample_first", "convolve_first"}:
            raise UsageError(f"lh_order is {lh_order!r}; it must be upsample_first or convolve_first")
        self.high_in, self.low_in = split(channels_in, alpha_in)
        self.high_out, self.low_out = split(channels_out, alpha_out)
        self.kernel = kernel
        self.stride = stride
        self.lh_order: LhOrder = lh_order

        def convolution(inputs: int, outputs: int, *, with_bias: bool) -> nn.Conv2d | None:
            if inputs == 0 or outputs == 0:
                return None
            return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=with_bias)

        # Each output has one bias: the high rate's sits at HH, the low rate's at HL; both always exist with
        # their output.
        self.hh = convolution(self.high_in, self.high_out, with_bias=bias)
        self.hl = convolution(self.high_in, self.low_out, with_bias=bias)
        self.lh = convolution(self.low_in, self.high_out, with_bias=False)
        self.ll = convolution(self.low_in, self.low_out, with_bias=False)
        self._initialize()

    def _initialize(self) -> None:
        # He et al., ICCV 2015, for the sum: both paths into an output count as one convolution.
        for paths in ((self.hh, self.lh), (self.hl, self.ll)):
            present = [path for path in paths if path is not None]
            inputs = sum(path.in_channels for path in present) * self.kernel**2
            for path in present:
                nn.init.normal_(path.weight, std=(2.0 / inputs) ** 0.5)
                if path.bias is not None:
                    nn.init.zeros_(path.bias)

    def forward(self, x: Octave) -> Octave:
        """Convolve.

        Args:
            x: high N x Ch x H x W, low N x Cl x H/2 x W/2 or None; H and W multiples of 2 * stride.

        Returns:
            high N x Ch' x H/stride x W/stride; low at half of that, or None if alpha_out is 0.
        """
        assert self.hh is not None
        high = self.hh(x.high)
        if self.lh is not None:
            assert x.low is not None
            # With stride 2 the convolved low rate is at H/4, the output at H/2: upsampled in either case.
            lifted = (
                self.lh(upsample(x.low)) if self.lh_order == "upsample_first" else upsample(self.lh(x.low))
            )
            high = high + lifted
        if self.hl is None:
            return Octave(high)
        low = self.hl(pool(x.high))
        if self.ll is not None:
            low = self.ll(x.low) + low
        return Octave(high, low)


class FusedOctConv2d(nn.Module):
    """An `OctConv2d` by the exact identities: fewer convolutions, none at a needlessly high rate.

    The low output is one convolution of concat(low, pool(high)). The low-to-high path is, with stride 1, a
    transposed convolution, with stride 2 a small convolution at the low rate; with "convolve_first" it shares
    one convolution with LL where both exist.

    Args:
        source: the trained module; its weights are copied. H and W of the inputs must be even (stride 2:
            multiples of 4).
    """

    def __init__(self, source: OctConv2d) -> None:
        super().__init__()
        self.stride = source.stride
        self.padding = source.kernel // 2
        self.low_out = source.low_out
        self.lh_order = source.lh_order
        self.lh_padding = (self.padding, self.padding)
        assert source.hh is not None
        self._store("hh", source.hh.weight)
        self._store("high_bias", source.hh.bias)
        self._store("low_bias", None if source.hl is None else source.hl.bias)
        hl = None if source.hl is None else source.hl.weight
        ll = None if source.ll is None else source.ll.weight
        lh = None if source.lh is None else source.lh.weight
        # Paths that share the input `low` stay together in `shared`; the others go into the low output's sum.
        self.shared_low = 0
        if lh is not None and self.lh_order == "convolve_first":
            self._store("lh", lh if ll is None else torch.cat([lh, ll]))
            self.shared_low = 0 if ll is None else ll.shape[0]
            self._store("low", hl)
        else:
            if lh is None:
                self._store("lh", None)
            elif self.stride == 1:
                self._store("lh", upsampled_as_transposed(lh))
            else:
                fused, self.lh_padding = upsampled_strided(lh)
                self._store("lh", fused)
            self._store("low", hl if hl is None or ll is None else torch.cat([ll, hl], dim=1))

    def _store(self, name: str, value: Tensor | None) -> None:
        self.register_buffer(name, None if value is None else value.detach().clone())

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def forward(self, x: Octave) -> Octave:
        """Convolve; shapes as in `OctConv2d.forward`, H and W multiples of 2 * stride."""
        high = self._convolve(x.high, self.get_buffer("hh"), self._optional("high_bias"))
        lh = self._optional("lh")
        low_part: Tensor | None = None
        if lh is not None:
            assert x.low is not None
            if self.lh_order == "convolve_first":
                both = self._convolve(x.low, lh, None)
                high = high + upsample(both[:, : both.shape[1] - self.shared_low])
                low_part = both[:, both.shape[1] - self.shared_low :] if self.shared_low else None
            elif self.stride == 1:
                high = high + F.conv_transpose2d(x.low, lh, stride=2, padding=self.padding)
            else:
                before, after = self.lh_padding
                high = high + F.conv2d(F.pad(x.low, (before, after, before, after)), lh)
        weight = self._optional("low")
        if weight is None:
            return Octave(high)
        pooled = pool(x.high)
        if weight.shape[1] != pooled.shape[1]:
            assert x.low is not None
            pooled = torch.cat([x.low, pooled], dim=1)
        low = self._convolve(pooled, weight, self._optional("low_bias"))
        return Octave(high, low if low_part is None else low_part + low)

    def _optional(self, name: str) -> Tensor | None:
        value = getattr(self, name)
        assert value is None or isinstance(value, torch.Tensor)
        return value


class OctBatchNorm2d(nn.Module):
    """Batch normalization of both rates, each with its own statistics.

    Args:
        channels: channels of both rates together.
        alpha: fraction of them at the low rate.
    """

    def __init__(self, channels: int, alpha: float) -> None:
        super().__init__()
        high, low = split(channels, alpha)
        self.high = nn.BatchNorm2d(high)
        self.low = nn.BatchNorm2d(low) if low else None

    def forward(self, x: Octave) -> Octave:
        """Normalize; shapes stay as they are."""
        if self.low is None or x.low is None:
            return Octave(self.high(x.high), x.low)
        return Octave(self.high(x.high), self.low(x.low))


class OctReLU(nn.Module):
    """max(x, 0) at both rates."""

    def forward(self, x: Octave) -> Octave:
        """Rectify; shapes stay as they are."""
        return Octave(F.relu(x.high), None if x.low is None else F.relu(x.low))


class OctResidualBlock(nn.Module):
    """x + conv(relu(conv(x))) with octave convolutions of 3x3, as in EDSR (Lim et al., CVPRW 2017).

    Args:
        channels: channels of input and output, both rates together.
        alpha: fraction of them at the low rate.
        lh_order: as in `OctConv2d`.
    """

    def __init__(self, channels: int, alpha: float, lh_order: LhOrder) -> None:
        super().__init__()
        self.first = OctConv2d(channels, channels, alpha_in=alpha, alpha_out=alpha, lh_order=lh_order)
        self.second = OctConv2d(channels, channels, alpha_in=alpha, alpha_out=alpha, lh_order=lh_order)
        self.activation = OctReLU()
        # Without normalization a stack of blocks must start close to the identity, or its features grow with depth.
        for path in (self.second.hh, self.second.lh, self.second.hl, self.second.ll):
            if path is not None:
                with torch.no_grad():
                    path.weight.mul_(0.1)

    def forward(self, x: Octave) -> Octave:
        """Shapes stay as they are; H and W must be even."""
        y = self.second(self.activation(self.first(x)))
        if x.low is None:
            return Octave(x.high + y.high)
        return Octave(x.high + y.high, x.low + y.low)


def fuse(module: nn.Module) -> nn.Module:
    """Replace every `OctConv2d` inside `module` by its fused form, in place; returns `module`."""
    for name, child in module.named_children():
        if isinstance(child, OctConv2d):
            setattr(module, name, FusedOctConv2d(child))
        else:
            fuse(child)
    return module
