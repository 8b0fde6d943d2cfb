"""CompressAI's scale hyperprior (Balle et al., "Variational image compression with a scale hyperprior", ICLR 2018).

The usual learned codec to be compared with, for its time alone: the weights are random, because the trained ones would
have to be downloaded. Networks and entropy coder do the same work with either, but for the number of bits; the
trained networks' rate-distortion curve is among the published anchors.
"""

from __future__ import annotations

import importlib.util
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ...runtime.errors import DependencyError
from .registry import Coded, Coder

if TYPE_CHECKING:
    from ...runtime.image.arrays import Pixels

# The multiple of both sides that the two networks need.
_MULTIPLE: Final = 64
_HEADER: Final = struct.Struct("<4I")


def open_hyperprior(model_quality: int, threads: int | None) -> Coder:
    """Make a coder of `bmshj2018-hyperprior` with random weights, on the CPU.

    Args:
        model_quality: CompressAI's 1..8: 128 and 192 channels up to 5, then 192 and 320.
        threads: of PyTorch; None: as it is.

    Raises:
        DependencyError: CompressAI is not installed.
    """
    if importlib.util.find_spec("compressai") is None:
        raise DependencyError("the peer hyperprior-untrained needs CompressAI: pip install compressai")
    import torch
    from compressai.zoo import bmshj2018_hyperprior

    if threads is not None:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = bmshj2018_hyperprior(model_quality, metric="mse", pretrained=False).eval()
    network.update()

    def encode(image: Pixels, quality: float) -> Coded:
        del quality  # a network for each rate: the one that was opened
        height, width = image.shape[:2]
        rows, columns = (-side % _MULTIPLE for side in (height, width))
        padded = np.pad(image, ((0, rows), (0, columns), (0, 0)), mode="edge")
        x = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            out = network.compress(x)
        main, hyper = (strings[0] for strings in out["strings"])
        return Coded(
            _HEADER.pack(height, width, *_sides(out["shape"])) + struct.pack("<I", len(main)) + main + hyper
        )

    def decode(data: bytes) -> Pixels:
        height, width, *shape = _HEADER.unpack_from(data)
        (length,) = struct.unpack_from("<I", data, _HEADER.size)
        start = _HEADER.size + 4
        strings = [[data[start : start + length]], [data[start + length :]]]
        with torch.inference_mode():
            x = network.decompress(strings, tuple(shape))["x_hat"]
        image = (x[0, :, :height, :width].clamp(0, 1) * 255).round().byte().permute(1, 2, 0)
        return np.ascontiguousarray(image.numpy())

    return Coder(encode, decode)


def _sides(shape: Sequence[Any]) -> tuple[int, int]:
    height, width = shape
    return int(height), int(width)
