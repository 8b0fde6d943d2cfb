"""Your network: here a small one that denoises, exported by torch with open height and width."""

import torch
from torch import nn

torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 3, 1)
).eval()
dims = (
    {0: torch.export.Dim("n", max=8), 2: torch.export.Dim("h", min=16), 3: torch.export.Dim("w", min=16)},
)
torch.onnx.export(
    network, (torch.rand(2, 3, 64, 96),), "network.onnx", dynamo=True, dynamic_shapes=dims,
    input_names=["image"], output_names=["clean"], external_data=False,
)  # fmt: skip
