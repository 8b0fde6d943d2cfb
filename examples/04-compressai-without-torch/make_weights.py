"""Weights under CompressAI's names: random ones, in place of a state dict of yours."""

import torch
from oslic.export.compressai import untranslated
from oslic.networks.transform.codec import TransformNetworks
from oslic.networks.transform.config import TransformConfig

torch.manual_seed(0)
networks = TransformNetworks(TransformConfig("small", "scale", channels=16, latents=24))
torch.save(untranslated(networks), "weights.pth")
