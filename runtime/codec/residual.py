"""The lossy residual coder: AVIF (AV1 intra) by Pillow.

The residual r = x - p in [-255, 255] becomes 8-bit samples round(r / scale) + 128, clipped to 0..255, with scale
1 or 2. Scale 1 loses what lies beyond -128..127, scale 2 the last bit; `encode` chooses per image.

The prediction p is the estimate drawn towards mid-gray, p = 128 + w (e - 128), as in the weighted prediction of video
coders. At the lowest qualities w is 1. The finer the quality, the less an estimate saves and the more its faults
disturb AV1's own intra prediction, which follows edges of the image but not of a difference: w falls to 1/8.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, cast

import numpy as np
from PIL import AvifImagePlugin, Image, features

from ..errors import BackendError, StreamError, UsageError
from . import av1
from .parameters import LEAST_QUALITY, MAX_QUALITY, MAX_WEIGHT
from .yuv import compensate_rounding

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..image.arrays import Pixels

    Levels = npt.NDArray[np.int16]

DEFAULT_SPEED: Final = 6
MAX_SPEED: Final = 10

# The encoder's bits depend on whether it runs in rows (more than one thread), not on how many threads there are:
# with a fixed number the same image gives the same file on any number of cores.
_ENCODER_THREADS: Final = 2
# Superblocks of 64x64 suit residuals: 0.8 points of BD-rate over the encoder's choice (training/EXPERIMENTS.md).
_SUPERBLOCKS: Final = {"sb-size": "64"}
# Weights of the estimate in eighths that cost least at some qualities; see `default_weight`: by PSNR on training
# photographs, by SSIMULACRA 2 on two of Kodak (docs/guides/quality.md).
_WEIGHTS: Final = ((15, 8), (16, 5), (20, 4), (28, 3), (36, 2), (44, 1))
_VISUAL_WEIGHTS: Final = ((15, 8), (16, 4), (20, 3), (28, 2))
# Mean squared clipping error (per sample) from which scale 2 is tried as well: 55 dB.
_CLIPPING_MATTERS: Final = 0.2


@dataclass(frozen=True)
class CodedResidual:
    """A coded residual.

    Attributes:
        payload: AV1 data without container.
        scale: 1 or 2.
        weight: of the estimate in the prediction, in eighths: 0..8.
    """

    payload: bytes
    scale: int
    weight: int


def check_available() -> None:
    """Raise BackendError if this Pillow was built without AVIF."""
    if not features.check("avif"):
        raise BackendError(
            "this Pillow has no AVIF support: pip install --upgrade pillow (12 or newer, from a wheel)"
        )


def default_weight(quality: int, *, visual: bool = False) -> int:
    """The estimate's weight at a quality, in eighths: measured at some qualities, linear between them.

    It suits estimates from coarse compact images; see training/EXPERIMENTS.md.

    Args:
        quality: of the residual coder, 1..100.
        visual: whether the coder aims at the eye.
    """
    qualities, weights = zip(*(_VISUAL_WEIGHTS if visual else _WEIGHTS), strict=True)
    return round(float(np.interp(quality, qualities, weights)))


def prediction(estimate: Pixels, weight: int) -> Levels:
    """128 + weight/8 (e - 128), halves upwards, of every sample; in whole numbers, the same on every machine."""
    levels = estimate.astype(np.int16)
    if weight != MAX_WEIGHT:
        levels -= 128
        levels *= weight
        levels += MAX_WEIGHT // 2
        levels //= MAX_WEIGHT
        levels += 128
    return levels


class Gains(Protocol):
    """What the residual is multiplied by before it is coded; see `codec.class_gains`."""

    def shrink(self, residual: Levels) -> Levels:
        """The residual times the gains."""

    def enlarge(self, residual: Levels) -> Levels:
        """The residual over the gains."""


def _difference(image: Pixels, prediction: Levels, gains: Gains | None) -> Levels:
    residual = image - prediction
    return residual if gains is None else gains.shrink(residual)


def _samples(residual: Levels, scale: int) -> Pixels:
    if scale == 2:
        # Halves go to the even neighbor, so that both signs are treated alike.
        residual = np.rint(residual * np.float32(0.5)).astype(np.int16)
    return cast("Pixels", np.clip(residual + np.int16(128), 0, 255).astype(np.uint8))


def _clipping_error(residual: Levels) -> float:
    beyond = residual[(residual > 127) | (residual < -128)].astype(np.int64)
    excess = np.where(beyond > 0, beyond - 127, beyond + 128)
    return float((excess * excess).sum()) / residual.size


def _encode(residual: Levels, scale: int, *, quality: int, speed: int, visual: bool) -> bytes:
    file = io.BytesIO()
    try:
        samples = _samples(residual, scale)
        if samples.ndim == 3:
            samples = compensate_rounding(samples)
        Image.fromarray(samples).save(
            file,
            "AVIF",
            quality=quality,
            speed=speed,
            subsampling="4:0:0" if residual.ndim == 2 else "4:4:4",
            max_threads=_ENCODER_THREADS,
            autotiling=False,
            # libaom has no tune=iq where libavif asks for its finest quantizer.
            advanced={"tune": "iq" if visual and quality < MAX_QUALITY else "psnr", **_SUPERBLOCKS},
        )
    except (OSError, ValueError, RuntimeError) as error:
        # libaom does not say why it gives up on sound samples: for want of memory.
        if any(words in str(error).lower() for words in ("memory", "planes failed")):
            raise MemoryError(f"the residual's encoder: {error}") from error
        raise BackendError(f"Pillow could not encode the residual as AVIF: {error}") from error
    return av1.unwrap(file.getvalue())


def encode(
    image: Pixels,
    estimate: Pixels,
    *,
    quality: int,
    speed: int = DEFAULT_SPEED,
    weight: int | None = None,
    visual: bool = False,
    gains: Gains | None = None,
) -> CodedResidual:
    """Code image - prediction.

    Args:
        image: uint8, (H, W, 3) or (H, W).
        estimate: uint8, the shape of `image`.
        quality: 1..100, as Pillow's AVIF quality: larger is better.
        speed: 0..10, as Pillow's AVIF speed: larger is faster and costs bits.
        weight: of the estimate in the prediction, in eighths: 0..8; None: `default_weight`.
        visual: whether the encoder aims at the eye (libaom's tune=iq) instead of the squared error.
        gains: what the residual is multiplied by before it is coded; None: nothing.

    Returns:
        The payload, its scale and the estimate's weight. Where scale 1 clips visibly, both scales
        are coded, and the one with the lower `coding_cost` is taken.

    Raises:
        UsageError: quality or speed out of range.
        BackendError: Pillow cannot encode.
    """
    if not LEAST_QUALITY <= quality <= MAX_QUALITY:
        raise UsageError(f"residual quality {quality} is out of range {LEAST_QUALITY}..{MAX_QUALITY}")
    if not 0 <= speed <= MAX_SPEED:
        raise UsageError(f"residual speed {speed} is out of range 0..{MAX_SPEED}")
    check_available()
    if weight is None:
        weight = default_weight(quality, visual=visual)
    residual = _difference(image, prediction(estimate, weight), gains)

    def code(scale: int) -> CodedResidual:
        payload = _encode(residual, scale, quality=quality, speed=speed, visual=visual)
        return CodedResidual(payload, scale, weight)

    coded = code(1)
    if _clipping_error(residual) <= _CLIPPING_MATTERS:
        return coded
    halved = code(2)

    def cost(candidate: CodedResidual) -> float:
        return coding_cost(
            mean_squared_error(decode(candidate, estimate, gains), image), len(candidate.payload)
        )

    return min((coded, halved), key=cost)


def mean_squared_error(one: Pixels, other: Pixels) -> float:
    """Of two arrays of the same shape, in gray levels squared."""
    error = np.subtract(one, other, dtype=np.float32)
    return float(np.mean(error * error))


def coding_cost(squared_error: float, size: int) -> float:
    """What two codings of a picture are compared by: lower is better.

    Near the rates of photographs a decibel is worth some 20 % of the bytes, which makes the product of squared error
    and bytes a fair figure; this is its logarithm.

    Args:
        squared_error: mean, in gray levels squared.
        size: in bytes.
    """
    return math.log(squared_error + 1e-3) + math.log(max(1, size))


def decode_samples(coded: CodedResidual, shape: tuple[int, ...]) -> Pixels:
    """Decode the payload alone: what `add` needs beside the estimate, and what needs no estimate.

    Args:
        coded: payload, scale and weight.
        shape: (H, W, 3) or (H, W), that of the estimate.

    Returns:
        round(r' / scale) + 128, uint8, of that shape.

    Raises:
        StreamError: the payload is damaged or has another size.
    """
    check_available()
    gray = len(shape) == 2
    file = av1.wrap(coded.payload, shape[1], shape[0], monochrome=gray)
    try:
        with AvifImagePlugin.AvifImageFile(io.BytesIO(file)) as picture:
            return np.asarray(picture.convert("L" if gray else "RGB"))
    except (OSError, SyntaxError, ValueError, RuntimeError) as error:
        raise StreamError(f"the residual cannot be decoded: {error}") from error


def add(samples: Pixels, coded: CodedResidual, estimate: Pixels, gains: Gains | None = None) -> Pixels:
    """Add the decoded samples of a residual to its prediction.

    Args:
        samples: from `decode_samples`.
        coded: what they were decoded from.
        estimate: uint8, (H, W, 3) or (H, W).
        gains: what the residual was multiplied by; None: nothing.

    Returns:
        clip(p + r'), uint8, the shape of `estimate`.
    """
    image = prediction(estimate, coded.weight)
    if gains is not None:
        found = (samples.astype(np.int16) - np.int16(128)) * np.int16(coded.scale)
        image = np.clip(image.astype(np.int32) + gains.enlarge(found), 0, 255)
        return cast("Pixels", image.astype(np.uint8))
    image += samples
    image -= 128
    if coded.scale == 2:
        image += samples
        image -= 128
    return cast("Pixels", np.clip(image, 0, 255, out=image).astype(np.uint8))


def decode(coded: CodedResidual, estimate: Pixels, gains: Gains | None = None) -> Pixels:
    """Decode a residual and add it to its prediction: `decode_samples`, then `add`."""
    return add(decode_samples(coded, estimate.shape), coded, estimate, gains)
