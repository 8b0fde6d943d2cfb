"""From a recipe and a data folder to a run, and from a run to a checkpoint."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import torch

from ..networks.checkpoint import Checkpoint, read, write
from ..networks.codec import CodecNetworks
from ..runtime.errors import UsageError
from . import efficientnet
from .codec import CodecTask, with_labels
from .data import EVERYDAY_SOURCES, TESTED, TESTED_FOLDER, VALIDATED, labeled, photographs, softly_labeled
from .loop import Trainer
from .refinement import RefinementOptions, RefinementTask, Setting, decode_pictures, draw_settings
from .segmentation import SegmentationOptions, SegmentationTask
from .vgg import Vgg16Features, initialize_encoder, read_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from ..networks.segnet import SegNet
    from .data import Picture
    from .recipe import Recipe

LICENSE = "research use only: trained on CamVid (CC BY-NC 4.0) and BSDS500 (research use)"


class AnyRecipe(Protocol):
    """A recipe of any kind of networks."""

    @property
    def kind(self) -> str:
        """Which `oslic train` it is for."""

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types."""


def new_networks(recipe: Recipe, initial: Path | None) -> CodecNetworks:
    """Networks to train: fresh ones by the recipe's seed, or those of a checkpoint.

    From a checkpoint come all weights whose names and shapes the recipe's networks share; what changed in the
    configuration starts fresh.

    Raises:
        BundleError: the checkpoint is unreadable.
    """
    torch.manual_seed(recipe.schedule.seed)
    networks = CodecNetworks(recipe.config)
    if initial is not None:
        state = networks.state_dict()
        taken = {k: v for k, v in read(initial).state.items() if k in state and state[k].shape == v.shape}
        networks.load_state_dict(taken, strict=False)
        print(f"{len(taken)} of {len(state)} tensors come from {initial}", file=sys.stderr)
    return networks


def trainer(
    recipe: Recipe,
    networks: CodecNetworks,
    data: Path,
    folder: Path,
    *,
    device: str = "cpu",
    workers: int = 0,
    vgg16: Path | None = None,
    pretrained: Path | None = None,
    soft: Path | None = None,
    initial: Path | None = None,
) -> Trainer:
    """Read the data and make a run.

    Args:
        recipe: what the run is made of.
        networks: what it trains; for the codec, SegNet must be trained.
        data: the data folder.
        folder: where the run's state and logs live.
        device: "cpu" or "cuda".
        workers: threads that prepare batches.
        vgg16: VGG16's weights: the start of a SegNet encoder that has its widths, and the perceptual loss.
        pretrained: EfficientNet-Lite0's weights, the start of SegNet's encoder.
        soft: soft labels of the photographs that a segmentation recipe names, see `oslic train teach`.
        initial: the checkpoint that the networks came from, for the run's description.

    Raises:
        DataError: data are missing or wrong.
        UsageError: no such device, or VGG16 does not fit.
    """
    require_device(device)
    config, options, seed = recipe.config, recipe.options, recipe.schedule.seed
    weights = None if vgg16 is None else read_weights(vgg16)
    task: SegmentationTask | CodecTask | RefinementTask
    if isinstance(options, SegmentationOptions):
        if weights is not None and initial is None:
            initialize_encoder(networks.segnet, weights)
        if pretrained is not None and initial is None:
            efficientnet.initialize_encoder(networks.segnet, efficientnet.read_weights(pretrained))
        task = segmentation_task(networks.segnet, recipe, options, data, soft)
    elif isinstance(options, RefinementOptions):
        task = refinement_task(networks, recipe, options, data, folder / "decoded")
    else:
        features = None
        if weights is not None and options.terms.get("perceptual"):
            features = Vgg16Features(weights).to(device)
        networks.to(device)
        task = CodecTask(
            networks,
            with_labels(networks.segnet, photographs(data, recipe.folders), config),
            with_labels(networks.segnet, photographs(data, ("kodak",)), config),
            options,
            seed=seed,
            vgg=features,
        )
    description = described(recipe, initial)
    return Trainer(task, recipe.schedule, folder, device=device, description=description, workers=workers)


def require_device(device: str) -> None:
    """Raise UsageError where the device is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("there is no CUDA device here; leave --device out to train on the CPU")


def described(recipe: AnyRecipe, initial: Path | None) -> dict[str, Any]:
    """What a run that is resumed must have in common with the one that was saved, as plain JSON types.

    Args:
        recipe: of the run.
        initial: the checkpoint that the networks came from.
    """
    description = {**recipe.to_dict(), "initial": None if initial is None else str(initial)}
    # The length of a schedule may be changed on resuming: it is no part of what the weights are.
    description["schedule"].pop("steps")
    return description


def segmentation_task(
    segnet: SegNet, recipe: Recipe, options: SegmentationOptions, data: Path, soft: Path | None
) -> SegmentationTask:
    """Read the pictures of a segmentation recipe; the first of "bsds500/val" are left out, see `data.TESTED`.

    Raises:
        DataError: data are missing or wrong.
        UsageError: the recipe names photographs with soft labels, and no folder of them was given.
    """
    if options.soft and soft is None:
        raise UsageError(
            "the recipe learns from soft labels: make them with `oslic train teach`, then give --soft"
        )
    training = [p for source in recipe.folders for p in labeled(data, source)]
    agreeing: list[Picture] = []
    for folder in options.soft:
        assert soft is not None
        pictures = softly_labeled(data, soft, folder, parts=True)
        if folder == TESTED_FOLDER:
            whole = softly_labeled(data, soft, folder)[: TESTED + VALIDATED]
            agreeing = whole[TESTED:]
            left_out = {picture.name for picture in whole}
            pictures = [p for p in pictures if p.name.partition("@")[0] not in left_out]
        training += pictures
    validation = [p for source in EVERYDAY_SOURCES for p in labeled(data, f"everyday/val/{source}")]
    return SegmentationTask(
        segnet, recipe.config, training, validation, options, seed=recipe.schedule.seed, agreeing=agreeing
    )


_SCORED: Final = tuple(
    Setting(quality, visual, plain)
    for plain in (False, True)
    for visual in (False, True)
    for quality in (18, 34, 50, 66)
)


def refinement_task(
    networks: CodecNetworks, recipe: Recipe, options: RefinementOptions, data: Path, decoded: Path
) -> RefinementTask:
    """Decode the photographs of a refinement recipe, and every third one of Kodak to score by.

    Args:
        networks: of the codec, trained.
        recipe: of the run.
        options: of the recipe.
        data: the data folder.
        decoded: where decoded pictures are kept.

    Raises:
        UsageError: the configuration has no RefineNet.
        DataError: data are missing or wrong.
    """
    if networks.refine is None:
        raise UsageError("the configuration has no network to train: give its table [config.refine]")
    networks.eval()
    seed = recipe.schedule.seed
    pictures = photographs(data, recipe.folders)
    scored = photographs(data, ("kodak",))[::3]
    settings = draw_settings(len(pictures), options, seed)
    training = list(decode_pictures(networks, pictures, settings, decoded))
    validation = list(decode_pictures(networks, scored, [_SCORED] * len(scored), decoded))
    return RefinementTask(networks.refine, training, validation, options, seed=seed)


def averaged_networks(run: Trainer, networks: CodecNetworks) -> dict[str, Tensor]:
    """All weights of the networks, those that the run trains as their moving average."""
    kind = next(iter(run.task.objectives))
    state = {key: value.detach().cpu() for key, value in networks.state_dict().items()}
    for key, value in run.averaged().items():
        name = key if kind == "codec" else f"{kind}.{key}"
        if name in state:
            state[name] = value.detach().cpu()
    return {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}


def revision() -> str:
    """The git revision of the source tree, with "-dirty" if it has changes; "unknown" outside of git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def write_checkpoint(
    run: Trainer,
    networks: CodecNetworks,
    recipe: Recipe,
    folder: Path,
    *,
    before: Mapping[str, Any],
    command: str,
) -> Checkpoint:
    """Write what a run has reached as a checkpoint; the provenance keeps that of earlier runs.

    Args:
        run: the run.
        networks: its networks.
        recipe: its recipe.
        folder: where to.
        before: provenance of the checkpoint that the run began with; empty: none.
        command: the command line, without paths of the machine.
    """
    provenance = provenance_of(run, recipe, before=before, command=command, license_=LICENSE)
    checkpoint = Checkpoint(recipe.config, averaged_networks(run, networks), provenance)
    write(folder, checkpoint)
    return checkpoint


def provenance_of(
    run: Trainer, recipe: AnyRecipe, *, before: Mapping[str, Any], command: str, license_: str
) -> dict[str, Any]:
    """Where the weights of a run come from, beside what earlier runs said of theirs, as plain JSON types.

    Args:
        run: the run.
        recipe: its recipe.
        before: provenance of the checkpoint that the run began with; empty: none.
        command: the command line, without paths of the machine.
        license_: terms of the weights.
    """
    return {
        **before,
        recipe.kind: {
            "command": command,
            "revision": revision(),
            "steps": run.step,
            "recipe": recipe.to_dict(),
            "torch": str(torch.__version__),
        },
        "license": license_,
    }


def keep_memory() -> None:
    """Ask the C library to keep freed memory and the kernel to leave our pages alone, where they can.

    Training allocates and frees the same large tensors in every step; giving them back to the system each time
    costs more than some of the layers.
    """
    try:
        library = ctypes.CDLL(None)
        library.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
        library.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
    except (OSError, AttributeError):
        print(f"no mallopt on {os.name}: training may be slower", file=sys.stderr)
