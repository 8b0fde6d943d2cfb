"""The deployable modules: uint8 NHWC in, uint8 NHWC out, all arithmetic on pixels inside.

TensorRT takes uint8 only at a network's borders beside a cast: the cast comes first on the way in, before the
transposition, and last on the way out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from .comnet import ComNet, quantize

if TYPE_CHECKING:
    from torch import Tensor

    from .codec import CodecNetworks
    from .gnet import GNet
    from .refine import RefineNet
    from .segnet import SegNet


def _planes(image: Tensor) -> Tensor:
    return image.to(torch.float32).permute(0, 3, 1, 2) * (1.0 / 256.0)


def _pixels(planes: Tensor) -> Tensor:
    return planes.permute(0, 2, 3, 1).to(torch.uint8)


class Segment(nn.Module):
    """`segment`: image to label map."""

    def __init__(self, segnet: SegNet) -> None:
        super().__init__()
        self.segnet = segnet

    def forward(self, image: Tensor) -> Tensor:
        """Label the image.

        Args:
            image: uint8, N x H x W x 3; H and W multiples of the configuration's `multiple`.

        Returns:
            uint8, N x H/label_scale x W/label_scale, values 0..K-1.
        """
        return self.segnet.labels(_planes(image))


class Analyse(nn.Module):
    """`analyse`: image and label map to compact image."""

    def __init__(self, comnet: ComNet) -> None:
        super().__init__()
        self.comnet = comnet

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        """Compact the image.

        Args:
            image: uint8, N x H x W x 3; H and W multiples of the configuration's `multiple`.
            labels: uint8, N x H/label_scale x W/label_scale, values 0..K-1.

        Returns:
            uint8, N x H/8 x W/8 x 3, values 0..L-1.
        """
        return _pixels(quantize(self.comnet(_planes(image), labels), self.comnet.levels))


class Synthesise(nn.Module):
    """`synthesise`: compact image and label map to estimate."""

    def __init__(self, gnet: GNet) -> None:
        super().__init__()
        self.gnet = gnet

    def forward(self, compact: Tensor, labels: Tensor) -> Tensor:
        """Estimate the image.

        Args:
            compact: uint8, N x H/8 x W/8 x 3, values 0..L-1; H and W multiples of the configuration's `multiple`.
            labels: uint8, N x H/label_scale x W/label_scale, values 0..K-1.

        Returns:
            uint8, N x H x W x 3.
        """
        estimate = self.gnet(compact.to(torch.float32).permute(0, 3, 1, 2), labels)
        return _pixels(torch.clamp(torch.round(estimate * 256.0), 0.0, 255.0))


class Refine(nn.Module):
    """`refine`: decoded picture, estimate and settings to a better picture."""

    def __init__(self, refine: RefineNet) -> None:
        super().__init__()
        self.refine = refine

    def forward(self, decoded: Tensor, estimate: Tensor, settings: Tensor) -> Tensor:
        """Refine the picture.

        Args:
            decoded: x', uint8, N x H x W x 3; H and W even.
            estimate: e, likewise; x' where the picture was coded without its layers.
            settings: uint8, N x 2: the quality, 0..100, and 1 if the residual was tuned for the eye, else 0.

        Returns:
            uint8, N x H x W x 3.
        """
        refined = self.refine(_planes(decoded), _planes(estimate), settings.to(torch.int64))
        return _pixels(torch.clamp(torch.round(refined * 256.0), 0.0, 255.0))


def deployable(networks: CodecNetworks) -> dict[str, nn.Module]:
    """The modules by the names of their graphs, in evaluation mode; they share `networks`' weights.

    `refine` is among them only where the configuration has it.
    """
    networks.eval()
    optional = {} if networks.refine is None else {"refine": Refine(networks.refine).eval()}
    return optional | {
        "segment": Segment(networks.segnet).eval(),
        "analyse": Analyse(networks.comnet).eval(),
        "synthesise": Synthesise(networks.gnet).eval(),
    }
