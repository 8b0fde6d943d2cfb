"""Training transform codecs: rate and squared error together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from ..networks.transform.codec import TransformNetworks
from ..runtime.errors import DataError, UsageError
from .data import Picture
from .loop import Objective

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor, nn

_LEAST_ERROR: Final = 1e-9
_STEP_SEEDS: Final = 1 << 32


@dataclass(frozen=True)
class TransformOptions:
    """What a transform codec's training is made of.

    Attributes:
        trade: lambda: the loss is lambda 255^2 MSE + bits per pixel, samples in 0..1. Published models have 0.0018,
            0.0035, 0.0067, 0.0130, 0.0250, 0.0483, 0.0932 and 0.1800.
        batch: crops per step.
        crop: side of the square crops, a multiple of the configuration's.
        shares: how often crops come from a folder, by its first name ("photos", "bsds500").
        bfloat16: autocast to bfloat16.
    """

    trade: float
    batch: int = 8
    crop: int = 256
    shares: Mapping[str, float] = field(default_factory=lambda: {"photos": 0.5, "bsds500": 0.5})
    bfloat16: bool = True


class TransformTask:
    """Learn all networks of a transform codec.

    Args:
        networks: what is trained.
        training: photographs.
        validation: photographs to score by.
        options: batch, shares, losses.
        seed: of the batches and their noise.

    Raises:
        UsageError: crops that do not fit.
        DataError: pictures are smaller than a crop, or a share names a folder without pictures.
    """

    def __init__(
        self,
        networks: TransformNetworks,
        training: Sequence[Picture],
        validation: Sequence[Picture],
        options: TransformOptions,
        *,
        seed: int,
    ) -> None:
        multiple = networks.config.multiple
        if options.crop < multiple or options.crop % multiple:
            raise UsageError(f"crops of {options.crop} do not fit: the side must be a multiple of {multiple}")
        self.networks = networks
        self.options = options
        self.seed = seed
        self.validation = validation
        self.groups = _grouped(training, options)

    @property
    def objectives(self) -> Mapping[str, Objective]:
        """The codec alone."""
        return {"transform": Objective(self.networks, self._loss)}

    def sample(self, step: int) -> Tensor:
        """Random crops, mirrored: uint8, N x 3 x S x S."""
        rng = np.random.default_rng((self.seed, step))
        shares, crop = [share for share, _ in self.groups], self.options.crop
        crops = []
        for _ in range(self.options.batch):
            pictures = self.groups[int(rng.choice(len(shares), p=shares))][1]
            pixels = pictures[int(rng.integers(len(pictures)))].pixels
            top = int(rng.integers(0, pixels.shape[0] - crop + 1))
            left = int(rng.integers(0, pixels.shape[1] - crop + 1))
            part = pixels[top : top + crop, left : left + crop]
            crops.append(part[:, ::-1] if rng.random() < 0.5 else part)
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)

    def _loss(self, batch: Tensor, step: int) -> dict[str, Tensor]:
        device = next(self.networks.parameters()).device
        torch.manual_seed((self.seed * 1_000_003 + step) % _STEP_SEEDS)  # the noise, too, is the step's own
        picture = (batch.to(device).float() / 255.0).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.options.bfloat16):
            made = self.networks(picture)
        error = (made.picture - picture).square().mean()
        bpp = made.bits / (picture.shape[0] * picture.shape[2] * picture.shape[3])
        return {
            "loss": self.options.trade * 255.0**2 * error + bpp,
            "bpp": bpp,
            "psnr": -10.0 * torch.log10(error.detach() + _LEAST_ERROR),
        }

    @torch.no_grad()
    def validate(self, module: nn.Module) -> dict[str, float]:
        """Estimated rate and PSNR of the validation photographs; the score is minus the mean loss."""
        multiple = self.networks.config.multiple
        device = next(module.parameters()).device
        rows = []
        for picture in self.validation:
            height, width = (side // multiple * multiple for side in picture.pixels.shape[:2])
            part = picture.pixels[:height, :width].copy()
            x = torch.from_numpy(part).to(device).permute(2, 0, 1)[None].float() / 255.0
            torch.manual_seed(0)
            made = module(x.contiguous(memory_format=torch.channels_last))
            error = float((made.picture.clamp(0.0, 1.0) - x).square().mean())
            rows.append((float(made.bits) / (height * width), error))
        bpp, error = np.mean(rows, axis=0)
        psnr = float(np.mean([-10.0 * np.log10(e + _LEAST_ERROR) for _, e in rows]))
        return {
            "score": -(self.options.trade * 255.0**2 * float(error) + float(bpp)),
            "bpp": float(bpp),
            "psnr": psnr,
        }


def _grouped(training: Sequence[Picture], options: TransformOptions) -> list[tuple[float, list[Picture]]]:
    groups: list[tuple[float, list[Picture]]] = []
    for name, share in options.shares.items():
        chosen = [p for p in training if p.name.split("/", 1)[0] == name]
        if share and not chosen:
            raise DataError(f"the shares name {name!r}, but there is no training picture in it")
        for picture in chosen:
            if min(picture.pixels.shape[:2]) < options.crop:
                height, width = picture.pixels.shape[:2]
                raise DataError(
                    f"{picture.name} is {width}x{height}, smaller than the crops of {options.crop}"
                )
        if share:
            groups.append((share, chosen))
    total = sum(share for share, _ in groups)
    return [(share / total, pictures) for share, pictures in groups]
