"""A small U-Net whose decoder upsamples by nearest neighbor before its convolutions."""

import torch
import torch.nn.functional as F
from torch import nn


class UNet(nn.Module):
    def __init__(self, c=8):
        super().__init__()
        self.one = nn.Conv2d(3, c, 3, padding=1)
        self.two = nn.Conv2d(c, 2 * c, 3, padding=1)
        self.deep = nn.Conv2d(2 * c, 2 * c, 3, padding=1)
        self.up = nn.Conv2d(2 * c, c, 3, padding=1)
        self.last = nn.Conv2d(2 * c, 1, 3, padding=1)

    def forward(self, image):
        one = torch.relu(self.one(image))
        deep = torch.relu(self.deep(torch.relu(self.two(F.max_pool2d(one, 2)))))
        up = torch.relu(self.up(F.interpolate(deep, scale_factor=2.0, mode="nearest")))
        return self.last(torch.cat([up, one], 1))


torch.manual_seed(0)
dims = ({2: 2 * torch.export.Dim("h", min=8), 3: 2 * torch.export.Dim("w", min=8)},)
torch.onnx.export(
    UNet().eval(), (torch.rand(1, 3, 64, 96),), "unet.onnx", dynamo=True, dynamic_shapes=dims,
    input_names=["image"], output_names=["mask"], external_data=False,
)  # fmt: skip
