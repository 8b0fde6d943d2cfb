"""Training ComNet and GNet jointly, through the rounding, closed loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import nn

from ..networks.comnet import quantize
from ..networks.dnet import DNet
from ..networks.ssimulacra2 import Ssimulacra2
from ..runtime.codec.coarseness import Reduction, reduce_compact
from ..runtime.errors import DataError, UsageError
from .data import Picture, pad
from .loop import Objective
from .losses import (
    Adversarial,
    CompactRate,
    Perceptual,
    Reconstruction,
    ResidualRate,
    StreamRate,
    VisualLoss,
    clamp_inwards,
    color_shift,
    l1,
    lattice,
    log_mse,
    ms_ssim,
    mse,
    straight_through,
    whole_blocks,
)
from .scoring import score_codec, score_layers
from .segmentation import network_labels, predict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from ..networks.codec import CodecNetworks
    from ..networks.config import ModelConfig
    from ..networks.segnet import SegNet
    from .losses import Term
    from .vgg import Vgg16Features

TERMS = (
    "l1",
    "mse",
    "log_mse",
    "lattice",
    "color_shift",
    "ms_ssim",
    "ssimulacra2",
    "perceptual",
    "adversarial",
    "feature_matching",
    "compact_rate",
    "residual_rate",
    "stream_rate",
)
_OF_RESIDUAL = frozenset(("residual_rate", "stream_rate"))
_OF_DISCRIMINATOR = frozenset(("adversarial", "feature_matching"))
_SMALLEST_RATE = 0.02
"""Rate in bpp below which a picture counts as one of this rate: nothing is won on an empty one."""


@dataclass(frozen=True)
class CodecOptions:
    """What the codec's training is made of.

    Attributes:
        batch: crops per step.
        crop: side of the square crops, a multiple of the configuration's `multiple`.
        shares: how often crops come from a folder, by its first name ("photos", "bsds500", "camvid").
        terms: weights of the loss terms by their names in `TERMS`; absent or 0: not computed.
        quantizer_steps: of the residual coder's estimate, in gray levels.
        fine_terms: the same for compact images of coarseness 1, of which the estimate alone is looked at; empty: as
            `terms`.
        coarseness: of the compact images, drawn at random for each batch, see `runtime.codec.coarseness`. The quantizer
            steps are dealt out among the different ones, in their order: the coarsest is for the finest steps.
        smoothing: of those of a coarseness above 1, drawn likewise; photographs are validated with the middle one.
        discriminator: widths of the discriminators, for the adversarial terms.
        bfloat16: autocast to bfloat16.
    """

    batch: int = 4
    crop: int = 256
    shares: Mapping[str, float] = field(
        default_factory=lambda: {"photos": 0.5, "bsds500": 0.4, "camvid": 0.1}
    )
    terms: Mapping[str, float] = field(default_factory=lambda: {"compact_rate": 1.0, "residual_rate": 1.0})
    fine_terms: Mapping[str, float] = field(default_factory=dict)
    quantizer_steps: tuple[float, ...] = (50.0, 24.0, 13.0, 6.5)
    coarseness: tuple[int, ...] = (1,)
    smoothing: tuple[float, ...] = (0.0,)
    discriminator: tuple[int, ...] = (64, 128, 256, 512)
    bfloat16: bool = True


class CodecBatch(NamedTuple):
    """Crops: images N x 3 x S x S, uint8; labels N x S/label_scale x S/label_scale, uint8.

    With them what is left out of their compact images, and, where the loss asks for them, N x Q rates in bpp
    of the pictures that they come from, one per quantizer step.
    """

    images: Tensor
    labels: Tensor
    reduction: Reduction
    picture_rates: Tensor | None


class CodecModule(nn.Module):
    """ComNet, GNet and the learned parameters of the rate estimate: what is trained together."""

    def __init__(self, networks: CodecNetworks) -> None:
        super().__init__()
        self.comnet = networks.comnet
        self.gnet = networks.gnet
        self.compact_rate = CompactRate()

    def forward(
        self, image: Tensor, labels: Tensor, reduction: Reduction, *, bfloat16: bool
    ) -> Reconstruction:
        """Through the codec, closed loop.

        Args:
            image: N x 3 x H x W, gray levels / 256.
            labels: N x H/label_scale x W/label_scale, uint8.
            reduction: of the compact images.
            bfloat16: run the networks under autocast.
        """
        device = image.device.type
        levels = self.comnet.levels
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            y = self.comnet(image, labels).float()
            bounded = clamp_inwards(y, 0.0, levels - 1.0)
            compact = straight_through(bounded, reduced(quantize(bounded, levels), reduction, levels))
            estimate = self.gnet(compact, labels).float()
        bounded_estimate = clamp_inwards(estimate, 0.0, 255.0 / 256.0)
        return Reconstruction(image, labels, compact, bounded_estimate, coarseness=reduction.coarseness)


def reduced(compact: Tensor, reduction: Reduction, levels: int) -> Tensor:
    """`reduce_compact` of a batch of compact images, whole levels as floats, N x 3 x h x w."""
    if reduction.coarseness == 1:
        return compact
    pixels = compact.detach().to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
    made = np.stack([reduce_compact(one, reduction, levels) for one in pixels])
    return torch.from_numpy(made).permute(0, 3, 1, 2).to(compact)


def with_labels(segnet: SegNet, pictures: Sequence[Picture], config: ModelConfig) -> list[Picture]:
    """The pictures with the label maps that the codec would compute for them."""
    segnet.eval()
    return [Picture(p.name, p.pixels, predict(segnet, p.pixels, config)) for p in pictures]


def dealt_out(steps: Sequence[float], coarseness: Sequence[int]) -> dict[int, tuple[float, ...]]:
    """The quantizer steps that each coarseness is meant for: the coarsest gets the last ones.

    Raises:
        UsageError: the steps cannot be dealt out evenly.
    """
    different = sorted(set(coarseness))
    each = len(steps) // max(1, len(different))
    if not different or different[0] < 1 or each * len(different) != len(steps):
        raise UsageError(
            f"{len(steps)} quantizer steps cannot be dealt out among {len(different)} degrees of coarseness, "
            "whole numbers from 1"
        )
    return {n: tuple(steps[i * each : (i + 1) * each]) for i, n in enumerate(different)}


class CodecTask:
    """Learn compact images and estimates.

    Args:
        networks: ComNet and GNet are trained, SegNet stays.
        training: pictures with computed label maps.
        validation: photographs with computed label maps.
        options: batch, shares, losses.
        seed: of the batches.
        vgg: features for the perceptual term; needed only by it.

    Raises:
        UsageError: an unknown term, one whose network is missing, or crops that do not fit.
        DataError: pictures are smaller than a crop, or a share names a folder without pictures.
    """

    def __init__(
        self,
        networks: CodecNetworks,
        training: Sequence[Picture],
        validation: Sequence[Picture],
        options: CodecOptions,
        *,
        seed: int,
        vgg: Vgg16Features | None = None,
    ) -> None:
        self.networks = networks
        self.config = networks.config
        if options.crop % self.config.multiple:
            raise UsageError(
                f"crops of {options.crop} do not fit: the side must be a multiple of {self.config.multiple}"
            )
        self.options = options
        self.seed = seed
        self.validation = validation
        self.module = CodecModule(networks)
        self.residual_rate = ResidualRate(options.quantizer_steps)
        self.steps_of = dealt_out(options.quantizer_steps, options.coarseness)
        asked = {
            name for terms in (options.terms, options.fine_terms) for name, weight in terms.items() if weight
        }
        unknown = sorted({*options.terms, *options.fine_terms} - set(TERMS))
        if unknown:
            raise UsageError(f"unknown loss term {unknown[0]!r}; there are {', '.join(TERMS)}")
        self.dnet: DNet | None = None
        available: dict[str, Term] = {
            "l1": l1,
            "mse": mse,
            "log_mse": log_mse,
            "lattice": lattice,
            "color_shift": color_shift,
            "ms_ssim": ms_ssim,
            "compact_rate": self.module.compact_rate,
            "residual_rate": self.residual_rate,
            "stream_rate": StreamRate(self.module.compact_rate, self.residual_rate),
        }
        if vgg is not None:
            available["perceptual"] = Perceptual(vgg.lowered() if options.bfloat16 else vgg)
        if "ssimulacra2" in asked:
            available["ssimulacra2"] = VisualLoss(Ssimulacra2())
        if asked & _OF_DISCRIMINATOR:
            self.dnet = DNet(self.config, options.discriminator)
            self.adversarial = Adversarial(self.dnet, bfloat16=options.bfloat16)
            available["adversarial"] = self.adversarial.generator
            available["feature_matching"] = self.adversarial.feature_matching
        self.asked = frozenset(asked)
        for name in asked - set(available):
            raise UsageError(f"the loss term {name!r} needs the weights of VGG16: give --vgg16")
        self.available = available
        self.groups = self._grouped(training)
        self.rates: dict[str, Tensor] = {}
        if "stream_rate" in asked:
            self.rates = {p.name: self._plain_rates(p) for _, pictures in self.groups for p in pictures}

    def _grouped(self, training: Sequence[Picture]) -> list[tuple[float, list[Picture]]]:
        scale, crop = self.config.label_scale, self.options.crop
        groups: list[tuple[float, list[Picture]]] = []
        for name, share in self.options.shares.items():
            chosen = [p for p in training if p.name.split("/", 1)[0] == name]
            if share and not chosen:
                raise DataError(f"the shares name {name!r}, but there is no training picture in it")
            for picture in chosen:
                if min(picture.pixels.shape[:2]) < crop:
                    height, width = picture.pixels.shape[:2]
                    raise DataError(f"{picture.name} is {width}x{height}, smaller than the crops of {crop}")
            padded = []
            for picture in chosen:
                assert picture.labels is not None
                height, width = picture.pixels.shape[:2]
                labels = network_labels(picture.labels, height, width, self.config)
                padded.append(Picture(picture.name, pad(picture.pixels, scale), labels))
            if share:
                groups.append((share, padded))
        total = sum(share for share, _ in groups)
        return [(share / total, pictures) for share, pictures in groups]

    @torch.no_grad()
    def _plain_rates(self, picture: Picture) -> Tensor:
        image = whole_blocks(picture.pixels)
        rates = self.residual_rate.per_step(image, torch.full_like(image, 0.5))[0]
        return rates.clamp_min(_SMALLEST_RATE)

    @property
    def objectives(self) -> Mapping[str, Objective]:
        """The codec and, with adversarial terms, the discriminators."""
        objectives = {"codec": Objective(self.module, self._loss)}
        if self.dnet is not None:
            objectives["dnet"] = Objective(self.dnet, self._discriminator_loss)
        return objectives

    def sample(self, step: int) -> CodecBatch:
        """Random crops on the label map's grid, mirrored."""
        rng = np.random.default_rng((self.seed, step))
        scale, crop = self.config.label_scale, self.options.crop
        shares = [share for share, _ in self.groups]
        images, maps, rates = [], [], []
        reduction = Reduction(
            int(rng.choice(self.options.coarseness)), float(rng.choice(self.options.smoothing))
        )
        for _ in range(self.options.batch):
            pictures = self.groups[int(rng.choice(len(shares), p=shares))][1]
            picture = pictures[int(rng.integers(len(pictures)))]
            assert picture.labels is not None
            rows, columns = picture.labels.shape
            top = int(rng.integers(0, rows - crop // scale + 1))
            left = int(rng.integers(0, columns - crop // scale + 1))
            pixels: NDArray[np.uint8] = picture.pixels[
                top * scale : top * scale + crop, left * scale : left * scale + crop
            ]
            labels = picture.labels[top : top + crop // scale, left : left + crop // scale]
            if rng.random() < 0.5:
                pixels, labels = pixels[:, ::-1], labels[:, ::-1]
            images.append(pixels)
            maps.append(labels)
            if self.rates:
                rates.append(self.rates[picture.name])
        return CodecBatch(
            torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2),
            torch.from_numpy(np.stack(maps)),
            reduction,
            torch.stack(rates) if rates else None,
        )

    def _reconstruct(self, batch: CodecBatch) -> Reconstruction:
        device = next(self.module.parameters()).device
        image = (batch.images.to(device).float() / 256.0).contiguous(memory_format=torch.channels_last)
        made: Reconstruction = self.module(
            image,
            batch.labels.to(device),
            batch.reduction,
            bfloat16=self.options.bfloat16,
        )
        if batch.picture_rates is None:
            return made
        coarseness = batch.reduction.coarseness
        each, place = len(self.steps_of[coarseness]), list(self.steps_of).index(coarseness)
        return made._replace(
            picture_rates=batch.picture_rates.to(device), steps=slice(place * each, (place + 1) * each)
        )

    def _loss(self, batch: CodecBatch, step: int) -> dict[str, Tensor]:
        del step
        x = self._reconstruct(batch)
        self.residual_rate.to(x.image.device)
        fine = self.options.fine_terms if batch.reduction.coarseness == 1 else {}
        weights = {name: weight for name, weight in (fine or self.options.terms).items() if weight}
        values = {name: self.available[name](x) for name in weights}
        loss = sum((weight * values[name] for name, weight in weights.items()), x.image.new_zeros(()))
        error = (x.image - x.estimate).detach().square().mean((1, 2, 3)) * (256.0 / 255.0) ** 2
        prefix = "fine_" if fine else ""
        shown = {"psnr": (-10.0 * torch.log10(error + 1e-9)).mean(), **values}
        return {"loss": loss, **{f"{prefix}{name}": value for name, value in shown.items()}}

    def _discriminator_loss(self, batch: CodecBatch, step: int) -> dict[str, Tensor]:
        del step
        with torch.no_grad():
            x = self._reconstruct(batch)
        return {"loss": self.adversarial.discriminator(x)}

    def validate(self, module: nn.Module) -> dict[str, float]:
        """Rates and PSNR on the validation photographs; the score is minus the estimated total rate.

        Where the loss knows no residual, the layers are all there is: the score is minus the loss, without the
        discriminators' terms, which are comparable only within a step.
        """
        del module
        if self.asked & _OF_RESIDUAL:
            smoothing = sorted(self.options.smoothing)[len(self.options.smoothing) // 2]
            return score_codec(self.networks, self.validation, self.steps_of, smoothing)
        weights = {k: v for k, v in self.options.terms.items() if v and k not in _OF_DISCRIMINATOR}
        return score_layers(self.networks, self.validation, weights, self.available)
