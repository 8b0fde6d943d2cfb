"""Networks with several rates and connections between them: U-Nets, feature pyramids, necks, SegNet."""

# ruff: noqa: D102 - what `forward` computes is what its class describes

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def up(x: Tensor, factor: int = 2) -> Tensor:
    """Nearest upsampling."""
    return F.interpolate(x, scale_factor=factor, mode="nearest")


def conv_norm(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution, batch normalization, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Ronneberger et al., with upsampling in place of transposed convolutions.

    Args:
        width: channels at full size; they double with every halving.
        depth: number of halvings.
        joined: `concat` or `sum`, how skips enter.
    """

    def __init__(self, width: int = 32, depth: int = 3, joined: str = "concat") -> None:
        super().__init__()
        widths = [width * 2**i for i in range(depth + 1)]
        self.joined = joined
        self.stem = nn.Sequential(conv_norm(3, width), conv_norm(width, width))
        self.down = nn.ModuleList(
            nn.Sequential(nn.MaxPool2d(2), conv_norm(a, b), conv_norm(b, b))
            for a, b in itertools.pairwise(widths)
        )
        self.narrow = nn.ModuleList(
            nn.Conv2d(b, a, 1) if joined == "sum" else nn.Identity() for a, b in itertools.pairwise(widths)
        )
        self.ascent = nn.ModuleList(
            nn.Sequential(conv_norm(a if joined == "sum" else a + b, a), conv_norm(a, a))
            for a, b in itertools.pairwise(widths)
        )
        self.head = nn.Conv2d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = [self.stem(x)]
        for layer in self.down:
            skips.append(layer(skips[-1]))
        y = skips.pop()
        for narrow, layer in zip(reversed(self.narrow), reversed(self.ascent), strict=True):
            lifted, skip = up(narrow(y)), skips.pop()
            y = layer(lifted + skip if self.joined == "sum" else torch.cat([lifted, skip], 1))
        logits: Tensor = self.head(y)
        return logits


class NestedUNet(nn.Module):
    """UNet++ (Zhou et al.): every node of a rate reads all before it and the upsampled one below."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        widths = [width, 2 * width, 4 * width]
        self.first = conv_norm(3, widths[0])
        self.down = nn.ModuleList([conv_norm(widths[0], widths[1]), conv_norm(widths[1], widths[2])])
        self.node01 = conv_norm(widths[0] + widths[1], widths[0])
        self.node11 = conv_norm(widths[1] + widths[2], widths[1])
        self.node02 = conv_norm(2 * widths[0] + widths[1], widths[0])
        self.head = nn.Conv2d(widths[0], 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x00 = self.first(x)
        x10 = self.down[0](F.max_pool2d(x00, 2))
        x20 = self.down[1](F.max_pool2d(x10, 2))
        x01 = self.node01(torch.cat([x00, up(x10)], 1))
        x11 = self.node11(torch.cat([x10, up(x20)], 1))
        x02 = self.node02(torch.cat([x00, x01, up(x11)], 1))
        logits: Tensor = self.head(x02)
        return logits


class Backbone(nn.Module):
    """Features at 1/4, 1/8 and 1/16."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, width, stride=2), conv_norm(width, width, stride=2))
        self.next = nn.ModuleList([conv_norm(width, 2 * width, 3, 2), conv_norm(2 * width, 4 * width, 3, 2)])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        c2 = self.stem(x)
        c3 = self.next[0](c2)
        return c2, c3, self.next[1](c3)


class FeaturePyramid(nn.Module):
    """FPN (Lin et al.): lateral 1x1 convolutions, upsampled sums, a 3x3 convolution on each."""

    def __init__(self, width: int = 64, out: int = 96) -> None:
        super().__init__()
        self.body = Backbone(width)
        self.lateral = nn.ModuleList(nn.Conv2d(width * 2**i, out, 1) for i in range(3))
        self.smooth = nn.ModuleList(nn.Conv2d(out, out, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.body(x)
        top = self.lateral[2](features[2])
        found = [top]
        for i in (1, 0):
            top = self.lateral[i](features[i]) + up(top)
            found.append(top)
        return tuple(smooth(y) for smooth, y in zip(self.smooth, found, strict=True))


class PanopticHead(nn.Module):
    """The semantic branch of panoptic FPN (Kirillov et al.): convolution, normalization, ReLU, upsampling, repeated."""

    def __init__(self, width: int = 64, out: int = 64) -> None:
        super().__init__()
        self.body = Backbone(width)
        self.paths = nn.ModuleList(
            nn.ModuleList(conv_norm(width * 2**i if j == 0 else out, out) for j in range(max(1, i)))
            for i in range(3)
        )
        self.mixed = conv_norm(out, out)
        self.head = nn.Conv2d(out, 17, 1)

    def forward(self, x: Tensor) -> Tensor:
        total: Tensor | None = None
        for i, (feature, path) in enumerate(zip(self.body(x), self.paths, strict=True)):
            y = feature
            for layer in path:  # type: ignore[attr-defined]
                y = layer(y)
                y = up(y) if i else y
            total = y if total is None else total + y
        logits: Tensor = self.head(self.mixed(total))
        return logits


class YoloNeck(nn.Module):
    """A path aggregation neck: upsampled features beside lateral ones into 1x1 and 3x3 convolutions with SiLU."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, kernel: int = 3) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
                nn.BatchNorm2d(outputs),
                nn.SiLU(),
            )

        self.body = Backbone(width)
        self.reduce = nn.ModuleList([block(4 * width, 2 * width, 1), block(2 * width, width, 1)])
        self.fuse = nn.ModuleList(
            [
                nn.ModuleList([block(4 * width, 2 * width, 1), block(2 * width, 2 * width)]),
                nn.ModuleList([block(2 * width, width, 1), block(width, width)]),
            ]
        )
        self.heads = nn.ModuleList([nn.Conv2d(2 * width, 24, 1), nn.Conv2d(width, 24, 1)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        c2, c3, c4 = self.body(x)
        y, outputs = c4, []
        for reduce, fuse, head, lateral in zip(self.reduce, self.fuse, self.heads, (c3, c2), strict=True):
            y = torch.cat([up(reduce(y)), lateral], 1)
            for layer in fuse:  # type: ignore[attr-defined]
                y = layer(y)
            outputs.append(head(y))
        return tuple(outputs)


class YoloThree(nn.Module):
    """The neck of YOLOv3: 3x3 convolutions directly on the concatenation, LeakyReLU."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.body = Backbone(width)
        self.reduce = nn.ModuleList([nn.Conv2d(4 * width, width, 1), nn.Conv2d(2 * width, width, 1)])
        self.fuse = nn.ModuleList(
            [nn.Conv2d(3 * width, 2 * width, 3, padding=1), nn.Conv2d(2 * width, 2 * width, 3, padding=1)]
        )
        self.heads = nn.ModuleList([nn.Conv2d(2 * width, 24, 1), nn.Conv2d(2 * width, 24, 1)])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        c2, c3, c4 = self.body(x)
        y, outputs = c4, []
        for reduce, fuse, head, lateral in zip(self.reduce, self.fuse, self.heads, (c3, c2), strict=True):
            y = F.leaky_relu(fuse(torch.cat([up(reduce(y)), lateral], 1)), 0.1)
            outputs.append(head(y))
        return tuple(outputs)


class SegNet(nn.Module):
    """Badrinarayanan et al.: max-unpooling by the pools' own indices."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.one, self.two = conv_norm(3, width), conv_norm(width, 2 * width)
        self.back_two, self.back_one = conv_norm(2 * width, width), conv_norm(width, width)
        self.head = nn.Conv2d(width, 11, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y, first = F.max_pool2d(self.one(x), 2, return_indices=True)
        y, second = F.max_pool2d(self.two(y), 2, return_indices=True)
        y = self.back_two(F.max_unpool2d(y, second, [2, 2]))
        y = self.back_one(F.max_unpool2d(y, first, [2, 2]))
        logits: Tensor = self.head(y)
        return logits


def reflected(inputs: int, outputs: int) -> nn.Sequential:
    """Reflected border, convolution, ELU."""
    return nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3), nn.ELU())


class DepthDecoder(nn.Module):
    """Monodepth2 (Godard et al.), narrow: ELU, reflected borders, upsampled features beside skips, a sigmoid."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.body = Backbone(width)
        self.before = nn.ModuleList([reflected(4 * width, 2 * width), reflected(2 * width, width)])
        self.behind = nn.ModuleList([reflected(4 * width, 2 * width), reflected(2 * width, width)])
        self.last = nn.ModuleList([reflected(width, 32), reflected(32, 16)])
        self.disparity = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(16, 1, 3), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        c2, c3, y = self.body(x)
        for before, behind, skip in zip(self.before, self.behind, (c3, c2), strict=True):
            y = behind(torch.cat([up(before(y)), skip], 1))
        for layer in self.last:
            y = layer(up(y))
        disparity: Tensor = self.disparity(y)
        return disparity


class ScaledDepthDecoder(nn.Module):
    """Monodepth2 with the widths of the field, of the features of a ResNet-18, and a disparity at each scale.

    Args:
        skips: channels of the encoder's features, from those at half the size on.
        widths: channels of the decoder at each scale, from the full size on.
    """

    def __init__(
        self,
        skips: tuple[int, ...] = (64, 64, 128, 256, 512),
        widths: tuple[int, ...] = (16, 32, 64, 128, 256),
    ) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(conv_norm(a, b, 3, 2) for a, b in itertools.pairwise((3, *skips)))
        self.before = nn.ModuleList(
            reflected(a, b) for a, b in zip((*widths[1:], skips[-1]), widths, strict=True)
        )
        self.behind = nn.ModuleList(
            reflected(a + b, a) for a, b in zip(widths, (0, *skips[:-1]), strict=True)
        )
        self.disparity = nn.ModuleList(
            nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(a, 1, 3), nn.Sigmoid()) for a in widths[:-1]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = []
        for layer in self.encoder:
            x = layer(x)
            features.append(x)
        y, disparities = features[-1], []
        for scale in reversed(range(len(self.before))):
            y = up(self.before[scale](y))
            y = self.behind[scale](torch.cat([y, features[scale - 1]], 1) if scale else y)
            if scale < len(self.disparity):
                disparities.append(self.disparity[scale](y))
        return tuple(disparities)


__all__ = [
    "DepthDecoder",
    "FeaturePyramid",
    "NestedUNet",
    "PanopticHead",
    "ScaledDepthDecoder",
    "SegNet",
    "UNet",
    "YoloNeck",
    "YoloThree",
    "conv_norm",
    "up",
]
