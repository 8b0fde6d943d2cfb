"""Training SegNet on labelled frames."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from ..bench.metrics import confusion_matrix, mean_iou
from ..runtime.errors import DataError, UsageError
from .data import Picture, pad
from .loop import Objective

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from ..networks.config import ModelConfig
    from ..networks.segnet import SegNet


@dataclass(frozen=True)
class SegmentationOptions:
    """What SegNet's training is made of.

    Attributes:
        batch: crops per step.
        crop: height and width of the crops, multiples of the configuration's `multiple`.
        scales: smallest and largest factor by which frames are scaled.
        jitter: largest relative change of brightness, contrast and saturation.
        balance: exponent on the classes' median-frequency weights (SegNet paper: 1; 0: no balancing).
        iou_weight: weight of the soft-IoU term beside the cross-entropy.
        smoothness: weight of the label map's smoothness: neighbouring label vectors that differ cost bits.
        unlabelled: folders of photographs whose label maps shall be smooth as well: a stream pays for the noise
            of labels on pictures that are nothing like the labelled ones.
        unlabelled_batch: crops of such photographs per step, beside `batch`.
        bfloat16: autocast to bfloat16.
    """

    batch: int = 8
    crop: tuple[int, int] = (320, 416)
    scales: tuple[float, float] = (0.7, 1.8)
    jitter: float = 0.3
    balance: float = 0.5
    iou_weight: float = 0.5
    smoothness: float = 0.0
    unlabelled: tuple[str, ...] = ()
    unlabelled_batch: int = 1
    bfloat16: bool = True


class SegmentationBatch(NamedTuple):
    """Crops: images N x 3 x H x W, uint8; labels N x H x W, uint8 with K for void."""

    images: Tensor
    labels: Tensor


def class_weights(maps: Sequence[NDArray[np.uint8]], classes: int, exponent: float) -> NDArray[np.float32]:
    """Median-frequency balancing (Eigen and Fergus, ICCV 2015), to the power of `exponent`.

    A class's frequency is its pixels over all labelled pixels of the images that it occurs in.

    Args:
        maps: uint8 label maps, values 0..classes, the last one void.
        classes: K.
        exponent: 1: the published weights; 0: all weights are 1.

    Returns:
        float32, K.

    Raises:
        DataError: a class does not occur.
    """
    pixels = np.zeros(classes)
    present = np.zeros(classes)
    for labels in maps:
        counts = np.bincount(labels.ravel(), minlength=classes + 1)[:classes]
        pixels += counts
        present += (counts > 0) * counts.sum()
    if not pixels.all():
        raise DataError(f"class {int(np.argmin(pixels))} occurs in no label map: it cannot be balanced")
    frequency = pixels / present
    return np.asarray((np.median(frequency) / frequency) ** exponent, np.float32)


def block_histogram(labels: Tensor, classes: int, scale: int) -> Tensor:
    """How many pixels of each class every block of `scale` x `scale` pixels holds.

    Args:
        labels: N x H x W, values 0..classes, the last one void, which is not counted.
        classes: K.
        scale: side of a block; divides H and W.

    Returns:
        float32, N x K x H/scale x W/scale, values 0..scale^2.
    """
    n, height, width = labels.shape
    blocks = labels.reshape(n, height // scale, scale, width // scale, scale).permute(0, 1, 3, 2, 4)
    blocks = blocks.reshape(n, height // scale, width // scale, scale * scale).to(torch.int64)
    counts = torch.zeros(*blocks.shape[:3], classes + 1, device=labels.device)
    counts.scatter_add_(3, blocks, torch.ones_like(blocks, dtype=torch.float32))
    return counts[..., :classes].permute(0, 3, 1, 2)


def cross_entropy(logits: Tensor, histogram: Tensor, weights: Tensor) -> Tensor:
    """Class-weighted cross-entropy of repeated label vectors against full-size labels.

    Args:
        logits: N x K x h x w.
        histogram: N x K x h x w, pixels of each class per position; see `block_histogram`.
        weights: K, the classes' weights.

    Returns:
        The weighted mean over the labelled pixels, in nats.
    """
    weighted = histogram * weights.view(1, -1, 1, 1)
    return -(weighted * F.log_softmax(logits, dim=1)).sum() / weighted.sum().clamp_min(1.0)


def soft_iou_loss(logits: Tensor, histogram: Tensor) -> Tensor:
    """1 minus the mean over the classes that occur of the soft intersection over union of the batch.

    Args:
        logits: N x K x h x w.
        histogram: N x K x h x w, pixels of each class per position.

    Returns:
        A value in 0..1.
    """
    probability = torch.softmax(logits, dim=1)
    labelled = histogram.sum(1, keepdim=True)
    intersection = (probability * histogram).sum((0, 2, 3))
    union = (probability * labelled + histogram - probability * histogram).sum((0, 2, 3))
    present = (histogram.sum((0, 2, 3)) > 0).to(logits.dtype)
    return 1.0 - (present * intersection / union.clamp_min(1.0)).sum() / present.sum().clamp_min(1.0)


def smoothness_loss(logits: Tensor) -> Tensor:
    """Mean total variation of the label probabilities: what coding the label map costs grows with it.

    Args:
        logits: N x K x h x w.

    Returns:
        The mean over all neighbouring pairs of half the absolute difference of their probabilities, 0..1.
    """
    p = torch.softmax(logits, dim=1)
    rows = (p[:, :, 1:] - p[:, :, :-1]).abs().sum(1).mean()
    columns = (p[:, :, :, 1:] - p[:, :, :, :-1]).abs().sum(1).mean()
    return 0.25 * (rows + columns)


@torch.no_grad()
def predict(segnet: SegNet, pixels: NDArray[np.uint8], multiple: int, scale: int) -> NDArray[np.uint8]:
    """The label map of one image as the codec computes it: padded, labelled, cut.

    Args:
        segnet: in evaluation mode.
        pixels: uint8, H x W x 3.
        multiple: what the padding brings both sides to multiples of.
        scale: label scale.

    Returns:
        uint8, ceil(H/scale) x ceil(W/scale).
    """
    device = next(segnet.parameters()).device
    x = torch.from_numpy(pad(pixels, multiple)).to(device).permute(2, 0, 1)[None].float() / 256.0
    labels: NDArray[np.uint8] = (
        segnet.labels(x.contiguous(memory_format=torch.channels_last))[0].cpu().numpy()
    )
    return labels[: -(-pixels.shape[0] // scale), : -(-pixels.shape[1] // scale)]


def evaluate(segnet: SegNet, pictures: Sequence[Picture], config: ModelConfig) -> NDArray[np.int64]:
    """Confusion matrix of labelled frames, at full size: the label map's pixels are repeated."""
    classes, scale = len(config.classes), config.label_scale
    total = np.zeros((classes, classes), np.int64)
    for picture in pictures:
        assert picture.labels is not None
        small = predict(segnet, picture.pixels, config.multiple, scale)
        height, width = picture.labels.shape
        full = small.repeat(scale, 0).repeat(scale, 1)[:height, :width]
        total += confusion_matrix(picture.labels, full, classes)
    return total


def unsmoothed(segnet: SegNet) -> SegNet:
    """The same network, sharing its weights, without the smoothing that makes its map cheaper to store."""
    sharp = copy.copy(segnet)
    sharp.smoothing = 1
    return sharp


class SegmentationTask:
    """Learn label maps: SegNet's own ones, not what is left of them after smoothing.

    Args:
        segnet: what is trained.
        config: configuration of the whole model.
        training: labelled frames to learn from.
        validation: labelled frames to score.
        options: batch, augmentation, losses.
        seed: of the batches.
        unlabelled: photographs whose label maps shall be smooth.

    Raises:
        UsageError: the crops do not fit the configuration.
        DataError: a class occurs in no label map.
    """

    def __init__(
        self,
        segnet: SegNet,
        config: ModelConfig,
        training: Sequence[Picture],
        validation: Sequence[Picture],
        options: SegmentationOptions,
        *,
        seed: int,
        unlabelled: Sequence[Picture] = (),
    ) -> None:
        height, width = options.crop
        if height % config.multiple or width % config.multiple:
            raise UsageError(
                f"crops of {width}x{height} do not fit: sides must be multiples of {config.multiple}"
            )
        if options.batch * height * width <= config.multiple**2:
            raise UsageError("one crop of the smallest size is too little for batch normalisation: take more")
        self.segnet = unsmoothed(segnet)
        self.config = config
        self.options = options
        self.seed = seed
        self.classes = len(config.classes)
        self.training = [(p.pixels, p.labels) for p in training if p.labels is not None]
        self.unlabelled = [
            (p.pixels, np.full(p.pixels.shape[:2], self.classes, np.uint8)) for p in unlabelled
        ]
        self.validation = validation
        maps = [labels for _, labels in self.training]
        self.weights = torch.from_numpy(class_weights(maps, self.classes, options.balance))

    @property
    def objectives(self) -> Mapping[str, Objective]:
        """One: SegNet."""
        return {"segnet": Objective(self.segnet, self._loss)}

    def sample(self, step: int) -> SegmentationBatch:
        """Random crops of frames, then of photographs without labels: scaled, mirrored, with changed colours."""
        rng = np.random.default_rng((self.seed, step))
        chosen = [self.training[i] for i in rng.integers(0, len(self.training), self.options.batch)]
        if self.unlabelled:
            drawn = rng.integers(0, len(self.unlabelled), self.options.unlabelled_batch)
            chosen += [self.unlabelled[i] for i in drawn]
        crops = [self._crop(pixels, target, rng) for pixels, target in chosen]
        images = np.stack([image for image, _ in crops])
        labels = np.stack([mapped for _, mapped in crops])
        return SegmentationBatch(torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels))

    def _crop(
        self, pixels: NDArray[np.uint8], target: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        height, width = self.options.crop
        image = np.zeros((height, width, 3), np.uint8)
        labels = np.full((height, width), self.classes, np.uint8)
        low, high = self.options.scales
        factor = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        # The window in the frame that the crop shows; what is outside stays void.
        rows, columns = target.shape
        window = min(rows, round(height / factor)), min(columns, round(width / factor))
        top = int(rng.integers(0, rows - window[0] + 1))
        left = int(rng.integers(0, columns - window[1] + 1))
        size = min(height, round(window[0] * factor)), min(width, round(window[1] * factor))
        box = (left, top, left + window[1], top + window[0])
        shape = (size[1], size[0])
        part = Image.fromarray(pixels).resize(shape, Image.Resampling.BILINEAR, box=box)
        mapped = np.asarray(Image.fromarray(target).resize(shape, Image.Resampling.NEAREST, box=box))
        scaled = self._recolour(np.asarray(part, np.float32), rng)
        if rng.random() < 0.5:
            scaled, mapped = scaled[:, ::-1], mapped[:, ::-1]
        image[: size[0], : size[1]] = np.clip(np.rint(scaled), 0, 255)
        labels[: size[0], : size[1]] = mapped
        return image, labels

    def _recolour(self, x: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        jitter = self.options.jitter
        brightness, contrast, saturation = rng.uniform(1 - jitter, 1 + jitter, 3).astype(np.float32)
        gray = x.mean(2, keepdims=True)
        x = gray + (x - gray) * saturation
        mean = x.mean()
        recoloured: NDArray[np.float32] = ((x - mean) * contrast + mean) * brightness
        return recoloured

    def _loss(self, batch: SegmentationBatch, step: int) -> dict[str, Tensor]:
        del step
        device = next(self.segnet.parameters()).device
        images = batch.images.to(device).float() / 256.0
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.options.bfloat16):
            logits = self.segnet(images)
        logits = logits.float()
        histogram = block_histogram(batch.labels.to(device), self.classes, self.config.label_scale)
        terms = {"cross_entropy": cross_entropy(logits, histogram, self.weights.to(device))}
        loss = terms["cross_entropy"]
        if self.options.iou_weight:
            terms["soft_iou"] = soft_iou_loss(logits, histogram)
            loss = loss + self.options.iou_weight * terms["soft_iou"]
        if self.options.smoothness:
            # Where there are photographs without labels, smoothness is asked of them alone.
            first = self.options.batch if self.unlabelled else 0
            terms["smoothness"] = smoothness_loss(logits[first:])
            loss = loss + self.options.smoothness * terms["smoothness"]
        return {"loss": loss, **terms}

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Mean IoU of the validation frames."""
        del module
        matrix = evaluate(self.segnet, self.validation, self.config)
        iou = mean_iou(matrix)
        return {
            "score": iou,
            "miou": iou,
            "pixel_accuracy": float(np.diag(matrix).sum() / matrix.sum()),
        }
