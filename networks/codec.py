"""The networks of one checkpoint together."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from .comnet import ComNet
from .config import ModelConfig, preset
from .gnet import GNet
from .refine import RefineNet
from .segnet import SegNet

if TYPE_CHECKING:
    from pathlib import Path


class CodecNetworks(nn.Module):
    """SegNet, ComNet and GNet of one configuration, with random weights until some are loaded.

    Attributes:
        config: the configuration.
        segnet: image to label map.
        comnet: image and label map to compact image.
        gnet: compact image and label map to estimate.
        refine: decoded picture, estimate and quality to a better picture; None where the configuration has none.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.segnet = SegNet(config.segnet, len(config.classes), config.label_scale)
        self.comnet = ComNet(config)
        self.gnet = GNet(config)
        self.refine = None if config.refine is None else RefineNet(config.refine)


def create(config: ModelConfig | str, seed: int) -> CodecNetworks:
    """Networks with random weights, the same for the same seed; in evaluation mode.

    The heads of ComNet and GNet get small random weights instead of training's zeros, and the batch
    normalizations random statistics, so that every layer matters in a test.

    Args:
        config: a configuration or the name of a preset.
        seed: seed of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = CodecNetworks(preset(config) if isinstance(config, str) else config)
        with torch.no_grad():
            for head in (networks.comnet.head, networks.gnet.head):
                for parameter in head.parameters():
                    parameter.normal_(0.0, 0.02)
            for module in networks.modules():
                if isinstance(module, nn.BatchNorm2d):
                    assert module.running_mean is not None
                    assert module.running_var is not None
                    module.running_mean.normal_(0.0, 0.1)
                    module.running_var.uniform_(0.5, 1.5)
                    module.weight.uniform_(0.5, 1.5)
                    module.bias.normal_(0.0, 0.1)
    return networks.eval()


def load(path: Path) -> CodecNetworks:
    """Networks with the weights of a checkpoint, in evaluation mode.

    Args:
        path: a checkpoint's folder or its single safetensors file.

    Raises:
        BundleError: it is missing, damaged, or does not fit its own configuration.
    """
    from .checkpoint import read

    return read(path).networks()
