"""From a transform codec's recipe and a data folder to a run, and from a run to a checkpoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from ..networks.checkpoint import write
from ..networks.transform.checkpoint import TransformCheckpoint, read
from ..networks.transform.codec import TransformNetworks
from ..networks.transform.config import TransformConfig
from ..runtime.errors import UsageError
from .data import photographs
from .loop import Schedule, Trainer
from .recipe import build, read_table
from .runs import described, provenance_of, require_device
from .transform import TransformOptions, TransformTask

if TYPE_CHECKING:
    from collections.abc import Mapping

LICENSE: Final = "research use only: trained on BSDS500 (research use)"
KIND: Final = "transform"
_SCORED: Final = "kodak"


@dataclass(frozen=True)
class TransformRecipe:
    """One training run.

    Attributes:
        config: configuration of the networks.
        schedule: steps, learning rate and so on.
        options: batch, losses.
        folders: of photographs.
    """

    config: TransformConfig
    schedule: Schedule
    options: TransformOptions
    folders: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Which `oslic train` it is for."""
        return KIND

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain JSON types."""
        return {
            "kind": self.kind,
            "config": self.config.to_dict(),
            "schedule": dataclasses.asdict(self.schedule),
            "options": dataclasses.asdict(self.options),
            "folders": list(self.folders),
        }


def load(path: Path, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> TransformRecipe:
    """Read a recipe.

    Args:
        path: the TOML file: kind, folders, and the tables [config], [schedule] and [options].
        overrides: changes to the tables, from the command line.

    Raises:
        UsageError: the file is missing, not TOML, of another kind, or has unknown keys.
    """
    table = read_table(path)
    if table.get("kind") != KIND:
        raise UsageError(f"{path} is a recipe for `oslic train {table.get('kind')}`")
    changes = overrides or {}
    tables = {
        name: {**table.get(name, {}), **changes.get(name, {})} for name in ("config", "schedule", "options")
    }
    return TransformRecipe(
        build(TransformConfig, tables["config"], f"{path}, [config]"),
        build(Schedule, tables["schedule"], f"{path}, [schedule]"),
        build(TransformOptions, tables["options"], f"{path}, [options]"),
        tuple(table.get("folders", ())),
    )


def new_networks(recipe: TransformRecipe, initial: Path | None) -> TransformNetworks:
    """Networks to train: fresh ones by the recipe's seed, or those of a checkpoint.

    Raises:
        BundleError: the checkpoint is unreadable.
        UsageError: it has other networks than the recipe.
    """
    torch.manual_seed(recipe.schedule.seed)
    networks = TransformNetworks(recipe.config)
    if initial is not None:
        state = read(initial).networks().state_dict()
        own = networks.state_dict()
        if {n: v.shape for n, v in state.items()} != {n: v.shape for n, v in own.items()}:
            raise UsageError(f"{initial} has other networks than the recipe")
        networks.load_state_dict(state)
    return networks


def trainer(
    recipe: TransformRecipe,
    networks: TransformNetworks,
    data: Path,
    folder: Path,
    *,
    device: str,
    workers: int,
    initial: Path | None,
) -> Trainer:
    """Read the data and make a run.

    Args:
        recipe: of the run.
        networks: what it trains.
        data: the data folder.
        folder: where the run's state and logs live.
        device: "cpu" or "cuda".
        workers: threads that prepare batches.
        initial: the checkpoint that the networks came from, for the run's description.

    Raises:
        DataError: data are missing or wrong.
        UsageError: no such device, or crops that do not fit.
    """
    require_device(device)
    task = TransformTask(
        networks,
        photographs(data, recipe.folders),
        photographs(data, (_SCORED,))[::3],
        recipe.options,
        seed=recipe.schedule.seed,
    )
    description = described(recipe, initial)
    return Trainer(task, recipe.schedule, folder, device=device, description=description, workers=workers)


def write_checkpoint(
    run: Trainer, recipe: TransformRecipe, folder: Path, *, before: Mapping[str, Any], command: str
) -> None:
    """Write what a run has reached as a checkpoint; see `runs.write_checkpoint`."""
    provenance = provenance_of(run, recipe, before=before, command=command, license_=LICENSE)
    state = {name: value.detach().cpu() for name, value in run.averaged().items()}
    write(folder, TransformCheckpoint(recipe.config, state, provenance))
