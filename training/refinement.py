"""Training RefineNet on decoded pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from torch import nn

from ..measure.metrics import mse
from ..networks.ssimulacra2 import Ssimulacra2
from ..runtime.codec import residual
from ..runtime.codec.coarseness import Reduction, compact_reduction_for
from ..runtime.errors import DataError, UsageError
from .loop import Objective
from .quantization import IntegerForm
from .scoring import layers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

    from ..networks.codec import CodecNetworks
    from ..networks.refine import RefineNet
    from .data import Picture

_STEPS_BETWEEN_RANGES: Final = 500
"""After so many steps of training, the ranges of the activations are looked at again."""


@dataclass(frozen=True)
class RefinementOptions:
    """What RefineNet's training is made of.

    Attributes:
        batch: crops per step.
        crop: side of the square crops, even.
        qualities: lowest and highest quality of the decoded pictures.
        versions: at how many random settings each picture is decoded.
        plain: share of the versions that are coded without the layers, 0..1.
        visual: share of the versions whose residual is tuned for the eye, 0..1.
        visual_weight: for those, weight of what SSIMULACRA 2 finds wrong beside the squared error, both relative to
            what they are without refinement; 0: the squared error alone.
        integers: train for integers: round weights and activations as the exact bundle will.
        bfloat16: autocast to bfloat16.
    """

    batch: int = 8
    crop: int = 96
    qualities: tuple[int, int] = (12, 86)
    versions: int = 6
    plain: float = 0.35
    visual: float = 0.4
    visual_weight: float = 0.0
    integers: bool = False
    bfloat16: bool = True


class Setting(NamedTuple):
    """How a picture is coded.

    Attributes:
        quality: of the residual.
        visual: whether the residual is tuned for the eye.
        plain: whether the layers are left out.
    """

    quality: int
    visual: bool = False
    plain: bool = False


class DecodedPicture(NamedTuple):
    """A picture as the codec gives it back at some setting.

    Attributes:
        image: x, uint8, H x W x 3.
        estimate: e, uint8, H x W x 3; x' where the layers are left out.
        decoded: x', uint8, H x W x 3.
        setting: how it was coded.
        error: mean squared error of x', gray levels squared.
    """

    image: NDArray[np.uint8]
    estimate: NDArray[np.uint8]
    decoded: NDArray[np.uint8]
    setting: Setting
    error: float


class RefinementBatch(NamedTuple):
    """Crops, N x 3 x S x S, uint8; settings, int64 (N, 2); errors of the pictures that they come from, (N,)."""

    image: Tensor
    estimate: Tensor
    decoded: Tensor
    settings: Tensor
    error: Tensor


def decode_pictures(
    networks: CodecNetworks, pictures: Sequence[Picture], settings: Sequence[Sequence[Setting]], folder: Path
) -> Iterator[DecodedPicture]:
    """Code pictures and decode them again; what was made once is read from a folder.

    Args:
        networks: of the codec, in evaluation mode.
        pictures: photographs.
        settings: those at which each of them is coded.
        folder: of what was made; one file for each picture. It belongs to these networks and settings.

    Raises:
        DataError: a file in the folder is damaged, or was made at other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = networks.config.coarseness
    for picture, wanted in zip(pictures, settings, strict=True):
        file = folder / f"{picture.name.replace('/', '_')}.npz"
        if not file.exists():
            _write(file, networks, picture, wanted)
        try:
            with np.load(file, allow_pickle=False) as stored:
                estimates, decoded, found = stored["estimates"], stored["decoded"], stored["settings"]
        except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
            raise DataError(f"{file} does not hold decoded pictures: {error}; remove it") from error
        if found.tolist() != [list(map(int, setting)) for setting in wanted]:
            raise DataError(f"{file} holds pictures that were decoded at other settings: remove {folder}")
        reductions = _reductions(wanted, table)
        for setting, version in zip(wanted, decoded, strict=True):
            estimate = version
            if not setting.plain:
                estimate = estimates[reductions.index(compact_reduction_for(setting.quality, table))]
            yield DecodedPicture(picture.pixels, estimate, version, setting, mse(picture.pixels, version))


def _reductions(settings: Sequence[Setting], table: Sequence[tuple[int, int]]) -> list[Reduction]:
    """The reductions for which a picture needs an estimate, ascending."""
    return sorted(
        {compact_reduction_for(setting.quality, table) for setting in settings if not setting.plain}
    )


def _write(file: Path, networks: CodecNetworks, picture: Picture, settings: Sequence[Setting]) -> None:
    table = networks.config.coarseness
    reductions = _reductions(settings, table)
    estimates = {n: np.ascontiguousarray(layers(networks, picture, n).estimate) for n in reductions}
    decoded = []
    for setting in settings:
        usual = residual.default_weight(setting.quality, visual=setting.visual)
        weight = 0 if setting.plain else usual
        estimate = (
            picture.pixels if setting.plain else estimates[compact_reduction_for(setting.quality, table)]
        )
        coded = residual.encode(
            picture.pixels, estimate, quality=setting.quality, weight=weight, visual=setting.visual
        )
        decoded.append(residual.decode(coded, estimate))
    part = file.with_suffix(".part")
    with part.open("wb") as target:
        np.savez(
            target,
            estimates=np.array([estimates[n] for n in reductions], np.uint8),
            decoded=np.stack(decoded),
            settings=np.array(settings, np.int64),
        )
    part.replace(file)


def draw_settings(count: int, options: RefinementOptions, seed: int) -> list[list[Setting]]:
    """Random settings for each of `count` pictures, one quality from each part of the range."""
    rng = np.random.default_rng((seed, 1))
    low, high = options.qualities
    edges = np.linspace(low, high + 1, options.versions + 1)
    return [
        [
            Setting(
                int(rng.uniform(edges[i], edges[i + 1])),
                bool(rng.random() < options.visual),
                bool(rng.random() < options.plain),
            )
            for i in range(options.versions)
        ]
        for _ in range(count)
    ]


class RefinementTask:
    """Learn to refine decoded pictures.

    Args:
        refine: what is trained.
        training: decoded pictures to learn from.
        validation: decoded pictures to score.
        options: batch and crops.
        seed: of the batches.

    Raises:
        UsageError: crops of an odd size.
        DataError: pictures smaller than a crop.
    """

    def __init__(
        self,
        refine: RefineNet,
        training: Sequence[DecodedPicture],
        validation: Sequence[DecodedPicture],
        options: RefinementOptions,
        *,
        seed: int,
    ) -> None:
        if options.crop % 2:
            raise UsageError(f"crops of {options.crop} do not fit: the side must be even")
        for picture in training:
            if min(picture.image.shape[:2]) < options.crop:
                height, width = picture.image.shape[:2]
                raise DataError(f"a picture of {width}x{height} is smaller than the crops of {options.crop}")
        self.refine = refine
        self.training = training
        self.validation = validation
        self.options = options
        self.seed = seed
        self.visual_score = Ssimulacra2() if options.visual_weight else None
        self._integers = integer_form(refine) if options.integers else None

    @property
    def _network(self) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
        """RefineNet as it is trained: of integers, or as it is."""
        return self.refine if self._integers is None else self._integers

    @property
    def objectives(self) -> Mapping[str, Objective]:
        """One: RefineNet."""
        return {"refine": Objective(self.refine, self._loss)}

    def sample(self, step: int) -> RefinementBatch:
        """Random crops, mirrored and turned."""
        rng = np.random.default_rng((self.seed, step))
        crop = self.options.crop
        rows: list[tuple[Any, ...]] = []
        for index in rng.integers(0, len(self.training), self.options.batch):
            picture = self.training[int(index)]
            height, width = picture.image.shape[:2]
            top, left = int(rng.integers(0, height - crop + 1)), int(rng.integers(0, width - crop + 1))
            turns, mirrored = int(rng.integers(4)), bool(rng.random() < 0.5)

            def cut(
                pixels: NDArray[np.uint8],
                top: int = top,
                left: int = left,
                turns: int = turns,
                mirrored: bool = mirrored,
            ) -> NDArray[np.uint8]:
                part = np.rot90(pixels[top : top + crop, left : left + crop], turns)
                return part[:, ::-1] if mirrored else part

            rows.append(
                (
                    cut(picture.image),
                    cut(picture.estimate),
                    cut(picture.decoded),
                    network_settings(picture.setting),
                    picture.error,
                )
            )

        def planes(column: int) -> Tensor:
            return torch.from_numpy(np.stack([row[column] for row in rows])).permute(0, 3, 1, 2)

        return RefinementBatch(
            planes(0),
            planes(1),
            planes(2),
            torch.tensor([row[3] for row in rows]),
            torch.tensor([row[4] for row in rows], dtype=torch.float32),
        )

    def _loss(self, batch: RefinementBatch, step: int) -> dict[str, Tensor]:
        device = next(self.refine.parameters()).device

        def scaled(pixels: Tensor) -> Tensor:
            return (pixels.to(device).float() / 256.0).contiguous(memory_format=torch.channels_last)

        image, estimate, decoded = scaled(batch.image), scaled(batch.estimate), scaled(batch.decoded)
        settings = batch.settings.to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.options.bfloat16):
            if self._integers is not None and (
                step % _STEPS_BETWEEN_RANGES == 0 or not self._integers.calibrated
            ):
                self._integers.calibrate(decoded, estimate, settings)
            refined = self._network(decoded, estimate, settings).float()
        own = batch.error.to(device).clamp_min(0.5)
        errors = 65536.0 * (image - refined).square().mean((1, 2, 3))
        before = 65536.0 * (image - decoded).square().mean((1, 2, 3))
        loss = (errors / own).mean()
        seen = settings[:, 1] == 1
        if self.visual_score is not None and bool(seen.any()):
            wrong = self._visual_loss(image[seen], decoded[seen], refined[seen])
            loss = loss + self.options.visual_weight * wrong.sum() / len(image)
        return {"loss": loss, "gain_db": 10.0 * torch.log10(before.mean() / errors.mean())}

    def _visual_loss(self, image: Tensor, decoded: Tensor, refined: Tensor) -> Tensor:
        """What SSIMULACRA 2 finds wrong with refined crops, relative to what it finds without refinement: N."""
        assert self.visual_score is not None
        score = self.visual_score.to(image.device)
        with torch.no_grad():
            before = score.distance(image, decoded)
        # Crops that have nearly no fault would count for the most.
        return score.distance(image, refined) / before.clamp_min(10.0)

    @torch.no_grad()
    def validate(self, module: nn.Module) -> dict[str, float]:
        """Mean gain in PSNR, by setting and in all.

        With `visual_weight`, the gain in SSIMULACRA 2 as well, at settings for the eye; the score counts a point as
        a tenth of a decibel.
        """
        del module
        gains: dict[str, list[float]] = {}
        points: dict[str, list[float]] = {}
        for picture in self.validation:
            refined = refine_picture(self._network, picture.decoded, picture.estimate, picture.setting)
            gain = 10.0 * float(np.log10(picture.error / max(mse(picture.image, refined), 1e-3)))
            setting = picture.setting
            kind = ("_plain" if setting.plain else "") + ("_visual" if setting.visual else "")
            gains.setdefault(f"gain{kind}_{setting.quality}", []).append(gain)
            if self.visual_score is not None and setting.visual:
                found = _points_gained(self.visual_score, picture, refined)
                points.setdefault(f"points{kind}_{setting.quality}", []).append(found)
        by_setting = {name: float(np.mean(values)) for name, values in sorted({**gains, **points}.items())}
        score = float(np.mean([by_setting[name] for name in gains]))
        if points:
            score += 0.1 * float(np.mean([by_setting[name] for name in points]))
        return {"score": score, **by_setting}


def _points_gained(score: Ssimulacra2, picture: DecodedPicture, refined: NDArray[np.uint8]) -> float:
    image, before, after = (
        torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None] / 256.0
        for pixels in (picture.image, picture.decoded, refined)
    )
    return float(score.distance(image, before) - score.distance(image, after))


def integer_form(refine: RefineNet) -> IntegerForm:
    """RefineNet as `oslic calibrate --integer` writes it: what feeds convolutions and sums is stored as integers."""
    convolutions = [name for name, module in refine.named_modules() if isinstance(module, nn.Conv2d)]
    blocks = [f"blocks.{number}" for number in range(len(refine.blocks))]
    return IntegerForm(
        refine,
        inputs=[*convolutions, *blocks],
        outputs=[*(f"{block}.second" for block in blocks), "head"],
        parts={"stem": (12, 12, 2)},
    )


def network_settings(setting: Setting) -> tuple[int, int]:
    """A setting as RefineNet takes it: whether there are layers it sees from the estimate."""
    return setting.quality, int(setting.visual)


@torch.no_grad()
def refine_picture(
    refine: Callable[[Tensor, Tensor, Tensor], Tensor],
    decoded: NDArray[np.uint8],
    estimate: NDArray[np.uint8],
    setting: Setting,
) -> NDArray[np.uint8]:
    """Refine a picture as the runtime does: extended to even sides, rounded, cut.

    Args:
        refine: RefineNet in evaluation mode, or its integer form.
        decoded: x', uint8, H x W x 3.
        estimate: e, likewise.
        setting: how the picture was coded.
    """
    height, width = decoded.shape[:2]
    extra = ((0, height % 2), (0, width % 2), (0, 0))

    def tensor(pixels: NDArray[np.uint8]) -> Tensor:
        padded = np.ascontiguousarray(np.pad(pixels, extra, mode="edge"))
        planes = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 256.0
        return planes.contiguous(memory_format=torch.channels_last)

    refined = refine(tensor(decoded), tensor(estimate), torch.tensor([network_settings(setting)]))
    levels = torch.clamp(torch.round(refined[0] * 256.0), 0.0, 255.0).to(torch.uint8).permute(1, 2, 0)
    whole: NDArray[np.uint8] = levels.numpy()
    return whole[:height, :width]
