"""Training SegNet on label maps by people and soft labels by a teacher."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import nn

from ..measure.metrics import class_iou, confusion_matrix
from ..runtime.errors import DataError, UsageError
from ..runtime.image.arrays import mirror
from ..runtime.segmentation_size import labels_on, reduce_image, reduction_for
from ..runtime.tiling import Box
from .data import CLOTHES, PERSON, SKIN_HAIR, VOID, Picture
from .loop import Objective
from .teacher import FULL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from ..networks.config import ModelConfig
    from ..networks.segnet import SegNet


@dataclass(frozen=True)
class SegmentationOptions:
    """What SegNet's training is made of.

    Attributes:
        batch: crops per step.
        crop: height and width of the crops, multiples of the configuration's `multiple`.
        scales: smallest and largest factor by which pictures are scaled; 1 is the size at which the runtime shows
            them to the network.
        jitter: largest relative change of brightness, contrast and saturation.
        blur: how many of the crops are blurred, 0..1, by a Gaussian of up to 1.5 pixels.
        balance: exponent on the classes' median-frequency weights (SegNet paper: 1; 0: no balancing).
        iou_weight: weight of the soft-IoU term beside the cross-entropy.
        smoothness: weight of the label map's smoothness: neighboring label vectors that differ cost bits.
        soft: folders of photographs with soft labels, see `oslic train teach`; one that stands twice counts twice.
        frozen_stages: the stem and so many stages of the encoder keep their weights and statistics.
        frozen_depthwise: depthwise kernels keep their weights; their gradients are most of the time of a step.
        bfloat16: autocast to bfloat16.
    """

    batch: int = 8
    crop: tuple[int, int] = (256, 256)
    scales: tuple[float, float] = (0.6, 1.6)
    jitter: float = 0.3
    blur: float = 0.2
    balance: float = 0.4
    iou_weight: float = 0.5
    smoothness: float = 0.0
    soft: tuple[str, ...] = ()
    frozen_stages: int = 0
    frozen_depthwise: bool = False
    bfloat16: bool = True


class SegmentationBatch(NamedTuple):
    """Crops: images N x 3 x H x W, uint8; targets N x (K+1) x h x w, float32.

    A target is the share of each class in a position of the label map; the last one is of people of whom skin and
    clothes were not told apart. What is missing to 1 has no label.
    """

    images: Tensor
    targets: Tensor


def class_weights(shares: NDArray[np.float64], exponent: float) -> NDArray[np.float32]:
    """Median-frequency balancing (Eigen and Fergus, ICCV 2015), to the power of `exponent`.

    Args:
        shares: (pictures, K), the share of each class in the labeled area of each picture. A class's frequency is its
            mean share in the pictures that it occurs in.
        exponent: 1: the published weights; 0: all weights are 1.

    Returns:
        float32, K.

    Raises:
        DataError: a class does not occur.
    """
    present = (shares > 1e-3).sum(0)
    if not present.all():
        raise DataError(f"class {int(np.argmin(present))} occurs in no label map: it cannot be balanced")
    frequency = shares.sum(0) / present
    return np.asarray((np.median(frequency) / frequency) ** exponent, np.float32)


def block_shares(labels: Tensor, classes: int, scale: int) -> Tensor:
    """The share of each class in every block of `scale` x `scale` pixels.

    Args:
        labels: H x W, values 0..classes-1, `PERSON`, `VOID`.
        classes: K.
        scale: side of a block; divides H and W.

    Returns:
        float32, (K+1) x H/scale x W/scale; the last plane is of `PERSON`.
    """
    height, width = labels.shape
    planes = labels.to(torch.int64)
    planes = torch.where(planes == PERSON, classes, torch.where(planes == VOID, classes + 1, planes))
    blocks = planes.reshape(height // scale, scale, width // scale, scale).permute(0, 2, 1, 3).flatten(2)
    shares = torch.zeros(*blocks.shape[:2], classes + 2)
    shares.scatter_add_(2, blocks, torch.full(blocks.shape, 1.0 / scale**2))
    return shares[..., : classes + 1].permute(2, 0, 1)


def with_person(values: Tensor) -> Tensor:
    """Append the class of a whole person, skin_hair or clothes: N x K x h x w probabilities to N x (K+1) x h x w."""
    person = values[:, SKIN_HAIR : SKIN_HAIR + 1] + values[:, CLOTHES : CLOTHES + 1]
    return torch.cat([values, person], dim=1)


def cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Class-weighted cross-entropy; a person of unknown parts asks for the sum of both.

    Args:
        logits: N x K x h x w.
        targets: N x (K+1) x h x w, shares; see `SegmentationBatch`.
        weights: K+1, the classes' weights.

    Returns:
        The weighted mean over the labeled area, in nats.
    """
    weighted = targets * weights.view(1, -1, 1, 1)
    log_p = F.log_softmax(logits, dim=1)
    person = torch.logaddexp(log_p[:, SKIN_HAIR : SKIN_HAIR + 1], log_p[:, CLOTHES : CLOTHES + 1])
    return -(weighted * torch.cat([log_p, person], dim=1)).sum() / weighted.sum().clamp_min(1.0)


def soft_iou_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 minus the mean over the classes that occur of the soft intersection over union of the batch.

    Args:
        logits: N x K x h x w.
        targets: N x (K+1) x h x w. Skin and clothes count as one class, a person.

    Returns:
        A value in 0..1.
    """
    probability = with_person(torch.softmax(logits, dim=1))
    truth = targets.clone()
    truth[:, -1] += truth[:, SKIN_HAIR] + truth[:, CLOTHES]
    kept = [k for k in range(truth.shape[1]) if k not in {SKIN_HAIR, CLOTHES}]
    probability, truth = probability[:, kept], truth[:, kept]
    labeled = truth.sum(1, keepdim=True)
    intersection = (probability * truth).sum((0, 2, 3))
    union = (probability * labeled + truth - probability * truth).sum((0, 2, 3))
    present = (truth.sum((0, 2, 3)) > 1.0).to(logits.dtype)
    return 1.0 - (present * intersection / union.clamp_min(1.0)).sum() / present.sum().clamp_min(1.0)


def smoothness_loss(logits: Tensor) -> Tensor:
    """Mean total variation of the label probabilities: what coding the label map costs grows with it.

    Args:
        logits: N x K x h x w.

    Returns:
        The mean over all neighboring pairs of half the absolute difference of their probabilities, 0..1.
    """
    p = torch.softmax(logits, dim=1)
    rows = (p[:, :, 1:] - p[:, :, :-1]).abs().sum(1).mean()
    columns = (p[:, :, :, 1:] - p[:, :, :, :-1]).abs().sum(1).mean()
    return 0.25 * (rows + columns)


@torch.no_grad()
def predict(segnet: SegNet, pixels: NDArray[np.uint8], config: ModelConfig) -> NDArray[np.uint8]:
    """The label map of one image as the codec computes it: reduced, padded, labeled, cut.

    Args:
        segnet: in evaluation mode.
        pixels: uint8, H x W x 3.
        config: of the whole model.

    Returns:
        uint8, (ceil(H/S), ceil(W/S)), S the scale of SegNet's logits times the image's reduction.
    """
    device = next(segnet.parameters()).device
    small = reduce_image(pixels, reduction_for(*pixels.shape[:2]))
    height, width = (-(-side // config.multiple) * config.multiple for side in small.shape[:2])
    padded = mirror(small, height, width)
    x = torch.from_numpy(padded.copy()).to(device).permute(2, 0, 1)[None].float() / 256.0
    labels: NDArray[np.uint8] = (
        segnet.labels(x.contiguous(memory_format=torch.channels_last))[0].cpu().numpy()
    )
    scale = config.segnet.scale
    return labels[: -(-small.shape[0] // scale), : -(-small.shape[1] // scale)]


def network_labels(
    labels: NDArray[np.uint8], height: int, width: int, config: ModelConfig
) -> NDArray[np.uint8]:
    """A picture's label map, as `predict` gives it, on the grid on which ComNet and GNet take it.

    Args:
        labels: uint8, (ceil(H/S), ceil(W/S)).
        height: H.
        width: W.
        config: of the whole model.

    Returns:
        uint8, (ceil(H/Q), ceil(W/Q)), Q the label scale of the configuration.
    """
    scale = config.segnet.scale * reduction_for(height, width)
    return labels_on(labels, scale, Box(0, 0, width, height), config.label_scale)


def enlarge(labels: NDArray[np.uint8], height: int, width: int, scale: int) -> NDArray[np.uint8]:
    """A label map at full size: each of its pixels is repeated `scale` x `scale` times, cut to `height` x `width`."""
    return labels.repeat(scale, 0).repeat(scale, 1)[:height, :width]


def merge_person(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Skin, hair, clothes and unknown parts of people as one class, `CLOTHES`."""
    return np.where(np.isin(labels, (SKIN_HAIR, PERSON)), np.uint8(CLOTHES), labels)


def evaluate(segnet: SegNet, pictures: Sequence[Picture], config: ModelConfig) -> NDArray[np.int64]:
    """Confusion matrix of labeled pictures at full size, people as one class (`CLOTHES`)."""
    classes = len(config.classes)
    total = np.zeros((classes, classes), np.int64)
    for picture in pictures:
        assert picture.labels is not None
        height, width = picture.labels.shape
        scale = config.segnet.scale * reduction_for(height, width)
        full = enlarge(predict(segnet, picture.pixels, config), height, width, scale)
        total += confusion_matrix(merge_person(picture.labels), merge_person(full), classes)
    return total


def frequent_classes(confusion: NDArray[np.int64], least: float = 0.01) -> NDArray[np.bool_]:
    """Which classes have at least a share of `least` of the labeled pixels, bool (K,)."""
    truth = confusion.sum(1)
    kept: NDArray[np.bool_] = truth >= least * truth.sum()
    return kept


def hard_labels(soft: NDArray[np.uint8], least: float) -> NDArray[np.uint8]:
    """The classes of soft labels, `VOID` where the highest probability is below `least`: uint8, h x w."""
    return np.where(soft.max(2) >= least * FULL, soft.argmax(2), VOID).astype(np.uint8)


def agreement(segnet: SegNet, pictures: Sequence[Picture], config: ModelConfig, least: float = 0.6) -> float:
    """The share of the pixels on which the teacher is sure where SegNet says the same, people as one class.

    Args:
        segnet: in evaluation mode.
        pictures: with soft labels.
        config: of the whole model.
        least: the probability from which the teacher counts as sure.
    """
    same = counted = 0
    for picture in pictures:
        assert picture.soft is not None
        height, width = picture.pixels.shape[:2]
        scale = config.segnet.scale * reduction_for(height, width)
        found = merge_person(enlarge(predict(segnet, picture.pixels, config), height, width, scale))
        said = merge_person(hard_labels(picture.soft, least))
        full = np.asarray(Image.fromarray(said).resize((width, height), Image.Resampling.NEAREST))
        same += int(((full == found) & (full != VOID)).sum())
        counted += int((full != VOID).sum())
    return same / max(1, counted)


def agreement_of_sizes(
    segnet: SegNet, pictures: Sequence[Picture], sides: Sequence[int], config: ModelConfig
) -> float:
    """The share of the pixels on which the maps of one picture at two sizes agree, people as one class.

    Args:
        segnet: in evaluation mode.
        pictures: photographs.
        sides: long sides, in pixels, to which each of them is scaled; all pairs are compared.
        config: of the whole model.
    """
    shares = []
    for picture in pictures:
        height, width = picture.pixels.shape[:2]
        maps = []
        for side in sides:
            size = tuple(round(length * side / max(height, width)) for length in (width, height))
            scaled = np.asarray(Image.fromarray(picture.pixels).resize(size, Image.Resampling.LANCZOS))
            scale = config.segnet.scale * reduction_for(*scaled.shape[:2])
            found = merge_person(enlarge(predict(segnet, scaled, config), size[1], size[0], scale))
            maps.append(np.asarray(Image.fromarray(found).resize((width, height), Image.Resampling.NEAREST)))
        shares += [float((a == b).mean()) for a, b in itertools.combinations(maps, 2)]
    return float(np.mean(shares))


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
        training: pictures to learn from, with labels or soft labels.
        validation: labeled pictures to score.
        options: batch, augmentation, losses.
        seed: of the batches.
        agreeing: pictures with soft labels, whose agreement is scored.

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
        agreeing: Sequence[Picture] = (),
    ) -> None:
        height, width = options.crop
        multiple = config.segnet.multiple
        if height % multiple or width % multiple:
            raise UsageError(f"crops of {width}x{height} do not fit: sides must be multiples of {multiple}")
        if options.batch * height * width <= multiple**2:
            raise UsageError("one crop of the smallest size is too little for batch normalization: take more")
        self.segnet = unsmoothed(segnet)
        self.config = config
        self.options = options
        self.seed = seed
        self.classes = len(config.classes)
        self.training = training
        self.validation = validation
        self.agreeing = agreeing
        shares = np.stack([self._shares(picture) for picture in training])
        weights = class_weights(shares, options.balance)
        self.weights = torch.from_numpy(np.append(weights, weights[CLOTHES]))
        self.frozen: list[nn.Module] = []
        if options.frozen_stages:
            assert self.segnet.stem is not None
            self.frozen = [self.segnet.stem, *self.segnet.encoder[: options.frozen_stages]]
        for module in self.frozen:
            module.requires_grad_(requires_grad=False)
        if options.frozen_depthwise:
            for module in self.segnet.modules():
                if isinstance(module, nn.Conv2d) and module.groups > 1:
                    module.requires_grad_(requires_grad=False)

    def _shares(self, picture: Picture) -> NDArray[np.float64]:
        if picture.labels is not None:
            labels = merge_person(picture.labels)
            counts = np.bincount(labels.ravel(), minlength=256)[: self.classes].astype(np.float64)
            # Skin counts as clothes here; people are what is balanced.
            counts[SKIN_HAIR] = counts[CLOTHES]
        else:
            assert picture.soft is not None
            counts = picture.soft.sum((0, 1)).astype(np.float64)
            counts[SKIN_HAIR] = counts[CLOTHES]
        shares: NDArray[np.float64] = counts / max(1.0, counts.sum())
        return shares

    @property
    def objectives(self) -> Mapping[str, Objective]:
        """One: SegNet."""
        return {"segnet": Objective(self.segnet, self._loss)}

    def sample(self, step: int) -> SegmentationBatch:
        """Random crops: scaled, mirrored, some blurred, with changed colors."""
        rng = np.random.default_rng((self.seed, step))
        chosen = [self.training[i] for i in rng.integers(0, len(self.training), self.options.batch)]
        crops = [self._crop(picture, rng) for picture in chosen]
        images = np.stack([image for image, _ in crops])
        return SegmentationBatch(
            torch.from_numpy(images).permute(0, 3, 1, 2), torch.stack([target for _, target in crops])
        )

    def _crop(self, picture: Picture, rng: np.random.Generator) -> tuple[NDArray[np.uint8], Tensor]:
        height, width = self.options.crop
        rows, columns = picture.pixels.shape[:2]
        low, high = self.options.scales
        factor = float(np.exp(rng.uniform(np.log(low), np.log(high)))) / reduction_for(rows, columns)
        # The window in the picture that the crop shows; what is outside stays void.
        window = min(rows, round(height / factor)), min(columns, round(width / factor))
        top = int(rng.integers(0, rows - window[0] + 1))
        left = int(rng.integers(0, columns - window[1] + 1))
        size = min(height, round(window[0] * factor)), min(width, round(window[1] * factor))
        box = (left, top, left + window[1], top + window[0])
        shape = (size[1], size[0])
        part = Image.fromarray(picture.pixels).resize(shape, Image.Resampling.BILINEAR, box=box)
        if rng.random() < self.options.blur:
            part = part.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.5)))
        recolored = self._recolor(np.asarray(part, np.float32), rng)
        image = np.full((height, width, 3), 128, np.uint8)
        image[: size[0], : size[1]] = np.clip(np.rint(recolored), 0, 255)
        target = (
            self._hard_target(picture, box, size)
            if picture.labels is not None
            else self._soft_target(picture, box, size)
        )
        if rng.random() < 0.5:
            image, target = image[:, ::-1], target.flip(2)
        return image, target

    def _hard_target(self, picture: Picture, box: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
        assert picture.labels is not None
        labels = np.full(self.options.crop, VOID, np.uint8)
        part = Image.fromarray(picture.labels).resize((size[1], size[0]), Image.Resampling.NEAREST, box=box)
        labels[: size[0], : size[1]] = np.asarray(part)
        return block_shares(torch.from_numpy(labels), self.classes, self.config.segnet.scale)

    def _soft_target(self, picture: Picture, box: tuple[int, int, int, int], size: tuple[int, int]) -> Tensor:
        assert picture.soft is not None
        scale = self.config.segnet.scale
        rows, columns = picture.pixels.shape[:2]
        height, width = (side // scale for side in self.options.crop)
        left, top, right, bottom = box
        # Centers of the target's positions, in the picture's units of -1..1.
        y = (top + (torch.arange(height) + 0.5) * scale * (bottom - top) / size[0]) * (2.0 / rows) - 1.0
        x = (left + (torch.arange(width) + 0.5) * scale * (right - left) / size[1]) * (2.0 / columns) - 1.0
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=2)[None]
        soft = torch.from_numpy(picture.soft).permute(2, 0, 1)[None].float() / FULL
        target = F.grid_sample(soft, grid, padding_mode="border", align_corners=False)[0]
        target[:, -(-size[0] // scale) :] = 0.0
        target[:, :, -(-size[1] // scale) :] = 0.0
        # The teacher does not tell skin from clothes: its "clothes" are the person.
        person = target[CLOTHES : CLOTHES + 1].clone()
        target[CLOTHES] = 0.0
        return torch.cat([target, person])

    def _recolor(self, x: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
        jitter = self.options.jitter
        brightness, contrast, saturation = rng.uniform(1 - jitter, 1 + jitter, 3).astype(np.float32)
        tint = rng.uniform(1 - jitter / 4, 1 + jitter / 4, 3).astype(np.float32)
        gray = x.mean(2, keepdims=True)
        x = (gray + (x - gray) * saturation) * tint
        mean = x.mean()
        recolored: NDArray[np.float32] = ((x - mean) * contrast + mean) * brightness
        return recolored

    def _loss(self, batch: SegmentationBatch, step: int) -> dict[str, Tensor]:
        del step
        for module in self.frozen:
            module.eval()
        device = next(self.segnet.parameters()).device
        images = batch.images.to(device).float() / 256.0
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.options.bfloat16):
            logits = self.segnet(images)
        logits, targets = logits.float(), batch.targets.to(device)
        terms = {"cross_entropy": cross_entropy(logits, targets, self.weights.to(device))}
        loss = terms["cross_entropy"]
        if self.options.iou_weight:
            terms["soft_iou"] = soft_iou_loss(logits, targets)
            loss = loss + self.options.iou_weight * terms["soft_iou"]
        if self.options.smoothness:
            terms["smoothness"] = smoothness_loss(logits)
            loss = loss + self.options.smoothness * terms["smoothness"]
        return {"loss": loss, **terms}

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Mean IoU and pixel accuracy of the labeled pictures, agreement with the teacher; the score is their mean."""
        del module
        matrix = evaluate(self.segnet, self.validation, self.config)
        kept = frequent_classes(matrix)
        scores = {
            "miou": float(np.mean(class_iou(matrix)[kept])),
            "pixel_accuracy": float(np.diag(matrix).sum() / matrix.sum()),
        }
        if self.agreeing:
            scores["agreement"] = agreement(self.segnet, self.agreeing, self.config)
        return {"score": (scores["miou"] + scores.get("agreement", scores["miou"])) / 2, **scores}
