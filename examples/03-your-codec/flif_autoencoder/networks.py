"""The networks, in PyTorch: what training and `oslic export` see."""

import torch
from oslic.export.kind_source import IMAGE, KindGraph, KindSource, TensorInput
from torch import nn

SCALE, CHANNELS = 8, 4


class Encoder(nn.Module):
    """Picture to latent, uint8 (N, H/8, W/8, 4)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, CHANNELS, 2, stride=2),
        )

    def forward(self, image):
        latent = self.layers(image.permute(0, 3, 1, 2).float() / 255)
        return torch.clamp(torch.round(latent * 32 + 128), 0, 255).permute(0, 2, 3, 1).to(torch.uint8)


class Decoder(nn.Module):
    """Latent to picture, uint8 (N, H, W, 3)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(CHANNELS, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 3 * SCALE**2, 1),
            nn.PixelShuffle(SCALE),
        )

    def forward(self, latent):
        picture = self.layers((latent.permute(0, 3, 1, 2).float() - 128) / 32)
        return torch.clamp(torch.round(picture * 255), 0, 255).permute(0, 2, 3, 1).to(torch.uint8)


def source():
    """What `oslic export flif_autoencoder.networks:source` takes: here with the box average and the colors' mean."""
    torch.manual_seed(0)
    encoder, decoder = Encoder(), Decoder()
    _as_averages(encoder, decoder)
    return KindSource(
        kind="flif_autoencoder",
        name="averages",
        package="flif-autoencoder",
        multiple=SCALE,
        graphs={
            "encode": KindGraph(encoder, {"image": IMAGE}, "latent"),
            "decode": KindGraph(
                decoder, {"latent": TensorInput(SCALE, CHANNELS, "uint8", "NHWC")}, "picture"
            ),
        },
        license="CC0",
    )


def _as_averages(encoder, decoder):
    """Weights that need no training: the latent is the mean color of 8x8 pixels, and 0."""
    with torch.no_grad():
        for module in (encoder, decoder):
            for parameter in module.parameters():
                parameter.zero_()
        for color in range(3):
            encoder.layers[1].weight[color, 16 * color : 16 * (color + 1), 1, 1] = 1 / 16  # mean of 4x4
            encoder.layers[3].weight[color, color] = 1  # sum of 2x2 of them: 0..4
            encoder.layers[3].bias[color] = -2
            decoder.layers[0].weight[color, color, 1, 1] = 1
            decoder.layers[0].bias[color] = 2
            decoder.layers[2].weight[64 * color : 64 * (color + 1), color, 0, 0] = 1 / 4
