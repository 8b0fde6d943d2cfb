"""The networks of the zoo by name, and their export by both of PyTorch's exporters."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import onnx
import onnx_ir as ir
import torch
from torch import nn

from ...export.onnx_export import quiet_exporter
from .generators import (
    CompressionDecoder,
    Dcgan,
    Decoder,
    DeconvolutionBehindUpsampling,
    Esrgan,
    StyleTransfer,
    Synthesis,
    VaeDecoder,
)
from .octave import OctaveResNet
from .pyramids import (
    DepthDecoder,
    FeaturePyramid,
    NestedUNet,
    PanopticHead,
    ScaledDepthDecoder,
    SegNet,
    UNet,
    YoloNeck,
    YoloThree,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

Exporter = Literal["dynamo", "torchscript"]

_OPSET: Final = 18


@dataclass(frozen=True)
class Entry:
    """One network.

    Attributes:
        make: makes it.
        shape: of its input, N x C x H x W.
        multiple: what height and width must be multiples of.
        half: weights and input in half precision.
        exporters: that take it; TorchScript's has no max-unpooling.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, int, int, int]
    multiple: int = 1
    half: bool = False
    exporters: tuple[Exporter, ...] = ("dynamo", "torchscript")


ZOO: Final[Mapping[str, Entry]] = {
    "octave, upsample first": Entry(lambda: OctaveResNet("upsample-first"), (1, 3, 96, 96), 4),
    "octave, convolve first": Entry(lambda: OctaveResNet("convolve-first"), (1, 3, 96, 96), 4),
    "octave, to size": Entry(lambda: OctaveResNet("to-size"), (1, 3, 96, 96), 4),
    "octave, repeated": Entry(lambda: OctaveResNet("repeated"), (1, 3, 96, 96), 4),
    "octave, norm by branch": Entry(lambda: OctaveResNet("branch-norm"), (1, 3, 96, 96), 4),
    "U-Net, concat": Entry(UNet, (1, 3, 96, 96), 8),
    "U-Net, sum": Entry(lambda: UNet(joined="sum"), (1, 3, 96, 96), 8),
    "U-Net++": Entry(NestedUNet, (1, 3, 96, 96), 4),
    "FPN": Entry(FeaturePyramid, (1, 3, 192, 192), 16),
    "panoptic FPN head": Entry(PanopticHead, (1, 3, 192, 192), 16),
    "YOLO neck": Entry(YoloNeck, (1, 3, 192, 192), 16),
    "YOLOv3 neck": Entry(YoloThree, (1, 3, 192, 192), 16),
    "SegNet": Entry(SegNet, (1, 3, 96, 96), 4, exporters=("dynamo",)),
    "monodepth decoder": Entry(DepthDecoder, (1, 3, 128, 128), 16),
    "monodepth decoder, four scales": Entry(ScaledDepthDecoder, (1, 3, 128, 256), 32),
    "VAE decoder": Entry(VaeDecoder, (1, 4, 16, 16)),
    "ESRGAN, 23 blocks": Entry(Esrgan, (1, 3, 32, 32)),
    "ESRGAN, x3": Entry(lambda: Esrgan(blocks=2, factor=3), (1, 3, 48, 48)),
    "ESRGAN, x4": Entry(lambda: Esrgan(blocks=2, factor=4), (1, 3, 48, 48)),
    "DCGAN": Entry(Dcgan, (1, 128, 16, 16)),
    "DCGAN, norm before conv": Entry(lambda: Dcgan(norm_first=True), (1, 128, 16, 16)),
    "style generator": Entry(Synthesis, (1, 128, 32, 32)),
    "style transfer, reflected": Entry(StyleTransfer, (1, 3, 96, 96), 2),
    "style transfer, replicated": Entry(lambda: StyleTransfer(mode="replicate"), (1, 3, 96, 96), 2),
    "decoder 3x3": Entry(lambda: Decoder(3, 128), (1, 128, 16, 16)),
    "decoder 5x5": Entry(lambda: Decoder(5, 96), (1, 96, 16, 16)),
    "decoder 7x7": Entry(lambda: Decoder(7, 64), (1, 64, 16, 16)),
    "decoder 3x3, unequal factors": Entry(
        lambda: Decoder(3, 128, ((2, 1), (1, 2), (3, 2))), (1, 128, 24, 24)
    ),
    "decoder 3x3, 4 groups": Entry(lambda: Decoder(3, 128, group=4), (1, 128, 32, 32)),
    "decoder 3x3, depthwise": Entry(lambda: Decoder(3, 128, group=0), (1, 128, 32, 32)),
    "decoder 3x3, float16": Entry(lambda: Decoder(3, 128), (1, 128, 16, 16), half=True),
    "codec synthesis, GDN": Entry(CompressionDecoder, (1, 64, 12, 12)),
    "deconvolution behind upsampling": Entry(DeconvolutionBehindUpsampling, (1, 96, 24, 24)),
}
"""In the order of the table."""


def _settle(module: nn.Module) -> nn.Module:
    """Statistics as training leaves them: no normalization is the identity."""
    generator = torch.Generator().manual_seed(1)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            part.weight.data.uniform_(0.5, 2, generator=generator)
            part.bias.data.normal_(0, 0.1, generator=generator)
    return module.eval()


def export(entry: Entry, exporter: Exporter = "dynamo", seed: int = 0) -> ir.Model:
    """A network of the zoo as a graph.

    Args:
        entry: the network.
        exporter: `dynamo` with the sizes of the entry, `torchscript` with dynamic N, H and W.
        seed: of the weights.
    """
    torch.manual_seed(seed)
    module = _settle(entry.make())
    x = torch.randn(entry.shape)
    if entry.half:
        module, x = module.half(), x.half()
    with quiet_exporter():
        if exporter == "dynamo":
            program = torch.onnx.export(
                module, (x,), dynamo=True, opset_version=_OPSET, input_names=["x"], verbose=False
            )
            assert program is not None
            return program.model
        file = io.BytesIO()
        torch.onnx.export(
            module,
            (x,),
            file,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=_OPSET,
            input_names=["x"],
            dynamic_axes={"x": {0: "N", 2: "H", 3: "W"}},
        )
    return ir.from_proto(onnx.load_model_from_string(file.getvalue()))


__all__ = ["ZOO", "Entry", "Exporter", "export"]
