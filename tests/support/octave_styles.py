"""Octave convolutions in the structures of public implementations, written anew for the tests of fusion."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, outputs, kernel=3, stride=1, bias=False):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=bias)


class ConvolveFirstPoolStride(nn.Module):
    """The structure of d-li14/octconv.pytorch: convolve, then upsample; stride by pooling first; BN behind the sum."""

    def __init__(self, kernel=3):
        super().__init__()
        self.first_h, self.first_l = conv(3, 8, kernel), conv(3, 8, kernel)
        self.paths = nn.ModuleList(
            nn.ModuleDict({path: conv(8, 8, kernel) for path in ("hh", "hl", "lh", "ll")}) for _ in range(2)
        )
        self.norms = nn.ModuleList(
            nn.ModuleDict({rate: nn.BatchNorm2d(8) for rate in "hl"}) for _ in range(2)
        )
        self.last_h, self.last_l = conv(8, 4, kernel), conv(8, 4, kernel)

    def forward(self, x):
        h, low = self.first_h(x), self.first_l(F.avg_pool2d(x, 2))
        for stride, paths, norms in zip((1, 2), self.paths, self.norms, strict=True):
            if stride == 2:
                h = F.avg_pool2d(h, 2)
            y_h, lifted = paths["hh"](h), paths["lh"](low)
            pooled = paths["hl"](F.avg_pool2d(h, 2))
            y_h = y_h + (F.interpolate(lifted, scale_factor=2, mode="nearest") if stride == 1 else lifted)
            y_l = pooled + paths["ll"](F.avg_pool2d(low, 2) if stride == 2 else low)
            h, low = F.relu(norms["h"](y_h)), F.relu(norms["l"](y_l))
        return self.last_h(h) + F.interpolate(self.last_l(low), scale_factor=2, mode="nearest")


class InterpolateToSize(nn.Module):
    """The structure of braincreators/octconv: interpolate(size=...) of the other branch's shape; BN behind the sum."""

    def __init__(self, kernel=3, alpha=0.25):
        super().__init__()
        low = int(16 * alpha)
        self.first_h, self.first_l = conv(3, 16 - low, kernel), conv(3, low, kernel)
        self.hh, self.hl = conv(16 - low, 16 - low, kernel, bias=True), conv(16 - low, low, kernel, bias=True)
        self.lh, self.ll = conv(low, 16 - low, kernel, bias=True), conv(low, low, kernel, bias=True)
        self.norm_h, self.norm_l = nn.BatchNorm2d(16 - low), nn.BatchNorm2d(low)
        self.last_h, self.last_l = conv(16 - low, 4, kernel), conv(low, 4, kernel)

    def forward(self, x):
        h, low = self.first_h(x), self.first_l(F.avg_pool2d(x, 2))
        y_h = self.hh(h)
        y_h = y_h + F.interpolate(self.lh(low), size=y_h.shape[-2:])
        y_l = self.ll(low) + self.hl(F.avg_pool2d(h, 2))
        h, low = F.relu(self.norm_h(y_h)), F.relu(self.norm_l(y_l))
        # Upsampling to a size before the convolution, as its users write it.
        return self.last_h(h) + self.last_l(F.interpolate(low, size=h.shape[-2:]))


class SlicedWeight(nn.Module):
    """The structure of lxtGH/OctaveConv_pytorch, nn/OctaveConv.py: one weight, sliced; upsample, then convolve."""

    def __init__(self, kernel=3, stride=1, mode="nearest"):
        super().__init__()
        self.first = nn.Parameter(torch.randn(16, 3, kernel, kernel) * 0.2)
        self.weight = nn.Parameter(torch.randn(16, 16, kernel, kernel) * 0.1)
        self.bias = nn.Parameter(torch.randn(16))
        self.stride, self.mode, self.padding = stride, mode, kernel // 2

    def forward(self, x):
        h, low = (
            F.conv2d(x, self.first[:8], None, 1, self.padding),
            F.conv2d(F.avg_pool2d(x, 2), self.first[8:], None, 1, self.padding),
        )
        if self.stride == 2:
            h, low = F.avg_pool2d(h, 2), F.avg_pool2d(low, 2)
        up = F.interpolate(low, scale_factor=2, mode=self.mode)
        p = self.padding
        y_h = F.conv2d(h, self.weight[:8, :8], self.bias[:8], 1, p) + F.conv2d(
            up, self.weight[:8, 8:], self.bias[:8], 1, p
        )
        y_l = F.conv2d(low, self.weight[8:, 8:], self.bias[8:], 1, p) + F.conv2d(
            F.avg_pool2d(h, 2), self.weight[8:, :8], self.bias[8:], 1, p
        )
        return torch.cat([F.relu(y_h), F.relu(F.interpolate(y_l, scale_factor=2, mode="nearest"))], 1)


class BranchNorm(nn.Module):
    """The structure of lxtGH/OctaveConv_pytorch, nn/OctaveConv2.py: strided kernels, nn.Upsample behind, a BN each."""

    def __init__(self, kernel=3):
        super().__init__()
        self.first_h, self.first_l = conv(3, 8, kernel), conv(3, 8, kernel)
        self.hh, self.hl = conv(8, 8, kernel, 2), conv(8, 8, kernel, 2)
        self.lh, self.ll = conv(8, 8, kernel, 2), conv(8, 8, kernel, 2)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.norm_up, self.norm_h, self.norm_l = (nn.BatchNorm2d(8) for _ in range(3))

    def forward(self, x):
        h, low = self.first_h(x), self.first_l(F.avg_pool2d(x, 2))
        y_h = self.norm_h(self.hh(h)) + self.norm_up(self.up(self.lh(low)))
        y_l = self.norm_l(self.ll(low) + self.hl(F.avg_pool2d(h, 2)))
        return torch.cat([F.relu(y_h), self.up(F.relu(y_l))], 1)


class PackedTensor(nn.Module):
    """The structure of iacolippo/octconv-pytorch: both rates in one tensor, the high one reshaped to 4 C channels."""

    def __init__(self, kernel=3):
        super().__init__()
        self.first_h, self.first_l = conv(3, 8, kernel), conv(3, 4, kernel)
        self.hh, self.hl = conv(8, 4, kernel), conv(8, 8, kernel)
        self.lh, self.ll = conv(4, 4, kernel), conv(4, 8, kernel)

    def forward(self, x):
        side = x.shape[-1]
        h, low = self.first_h(x), self.first_l(F.avg_pool2d(x, 2))
        packed = torch.cat([h.reshape(-1, 32, side // 2, side // 2), low], 1)
        h, low = packed[:, :32].reshape(-1, 8, side, side), packed[:, 32:]
        y_h = self.hh(h) + F.interpolate(self.lh(low), scale_factor=2, mode="nearest")
        y_l = self.ll(low) + self.hl(F.avg_pool2d(h, 2))
        return torch.cat([y_h.reshape(-1, 16, side // 2, side // 2), y_l], 1)


class PlainTensor(nn.Module):
    """The structure of fkodom/octconv-pytorch: a plain tensor in and out, pooled and upsampled inside, times ones."""

    def __init__(self, kernel=3):
        super().__init__()
        self.stem = conv(3, 16, kernel)
        self.hh, self.hl, self.lh, self.ll = (conv(8, 8, kernel) for _ in range(4))
        self.bias = nn.Parameter(torch.randn(1, 16, 1, 1))

    def forward(self, x):
        y = self.stem(x)
        h, low = y[:, :8], F.avg_pool2d(y[:, 8:], 2)
        y_h = self.hh(h) + F.interpolate(self.lh(low), scale_factor=2, mode="nearest")
        y_l = self.hl(h) + F.interpolate(self.ll(low), scale_factor=2, mode="nearest")
        ones = torch.ones((x.shape[0], 8, *x.shape[2:]))
        return torch.cat([y_h * ones, y_l * ones], 1) + self.bias


class WeightNorm(nn.Module):
    """The structure of zdyshine/OctConv_attention-pytorch: convolve, then upsample; kernels under a weight norm."""

    def __init__(self, width=16, alpha=0.125):
        super().__init__()
        low = int(width * alpha)

        def normed(inputs, outputs):
            return nn.utils.parametrizations.weight_norm(conv(inputs, outputs))

        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.first_h, self.first_l = normed(width, width - low), normed(width, low)
        self.hh, self.hl = normed(width - low, width - low), normed(width - low, low)
        self.lh, self.ll = normed(low, width - low), normed(low, low)
        self.last_h, self.last_l = normed(width - low, width), normed(low, width)
        self.weights = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 8, 1), nn.ReLU(), nn.Conv2d(8, width, 1), nn.Sigmoid()
        )

    def forward(self, x):
        x = self.stem(x)
        h, low = self.first_h(x), self.first_l(F.avg_pool2d(x, 2))
        y_h = self.hh(h) + F.interpolate(self.lh(low), scale_factor=2, mode="nearest")
        h, low = F.relu(y_h), F.relu(self.ll(low) + self.hl(F.avg_pool2d(h, 2)))
        y = self.last_h(h) + F.interpolate(self.last_l(low), scale_factor=2, mode="nearest")
        return y * self.weights(y)


class ReflectionPadded(nn.Module):
    """The structure of Sooyyoungg/AesFA: upsample, then convolve; borders by reflection, in 1x1 convolutions too."""

    def __init__(self, mode="reflect", alpha=0.5):
        super().__init__()
        low = int(16 * alpha)

        def padded(inputs, outputs, kernel):
            return nn.Conv2d(
                inputs, outputs, kernel, padding=kernel // 2, padding_mode=mode, bias=kernel == 3
            )

        self.first_h, self.first_l = padded(3, 16 - low, 3), padded(3, low, 3)
        self.paths = nn.ModuleList(
            nn.ModuleDict(
                {
                    "hh": padded(16 - low, 16 - low, kernel),
                    "hl": padded(16 - low, low, kernel),
                    "lh": padded(low, 16 - low, kernel),
                    "ll": padded(low, low, kernel),
                }
            )
            for kernel in (1, 3)
        )
        self.last_h, self.last_l = padded(16 - low, 4, 1), padded(low, 4, 1)

    def forward(self, x):
        h, low = self.first_h(x), self.first_l(F.avg_pool2d(x, 2))
        for paths in self.paths:
            up = F.interpolate(low, scale_factor=2)
            h, low = paths["hh"](h) + paths["lh"](up), paths["ll"](low) + paths["hl"](F.avg_pool2d(h, 2))
            h, low = F.leaky_relu(h, 0.2), F.leaky_relu(low, 0.2)
        return self.last_h(h) + self.last_l(F.interpolate(low, scale_factor=2))


class RepeatedRows(nn.Module):
    """Upsampling without a resampling operator, in one of the ways in which it is written."""

    def __init__(self, spelling):
        super().__init__()
        self.spelling = spelling
        self.first_h, self.first_l = conv(3, 8), conv(3, 8)
        self.hh, self.lh = conv(8, 4), conv(8, 4)

    def double(self, x):
        n, c, h, w = x.shape
        if self.spelling == "repeat_interleave":
            return x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if self.spelling == "expand":
            return x[:, :, :, None, :, None].expand(n, c, h, 2, w, 2).reshape(n, c, 2 * h, 2 * w)
        rows = torch.stack([x, x], 3).reshape(n, c, 2 * h, w)
        return torch.stack([rows, rows], -1).reshape(n, c, 2 * h, 2 * w)

    def forward(self, x):
        h, low = F.relu(self.first_h(x)), F.relu(self.first_l(F.avg_pool2d(x, 2)))
        return self.hh(h) + self.lh(self.double(low))


class Ours(nn.Module):
    """`networks.octconv`: upsample, then convolve; all four kernels stride; first, middle, last."""

    def __init__(self, kernel=3, stride=1, order="upsample_first"):
        super().__init__()
        from oslic.networks.octconv import OctConv2d

        self.first = OctConv2d(3, 16, kernel, alpha_in=0, alpha_out=0.5, lh_order=order)
        self.middle = OctConv2d(16, 24, kernel, stride, alpha_in=0.5, alpha_out=0.25, lh_order=order)
        self.last = OctConv2d(24, 4, kernel, alpha_in=0.25, alpha_out=0, lh_order=order)

    def forward(self, x):
        from oslic.networks.octconv import Octave

        return self.last(self.middle(self.first(Octave(x)))).high
