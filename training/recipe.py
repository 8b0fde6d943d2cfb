"""Recipes: what a training run is made of, as TOML."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from ..networks.config import ModelConfig, RefineConfig, preset
from ..runtime.errors import UsageError
from .codec import CodecOptions
from .loop import Schedule
from .refinement import RefinementOptions
from .segmentation import SegmentationOptions

if TYPE_CHECKING:
    from pathlib import Path

    from _typeshed import DataclassInstance

Kind = Literal["segment", "codec", "refine"]
Options = TypeVar("Options", bound="DataclassInstance")

_OPTIONS: Final[dict[str, type[SegmentationOptions | CodecOptions | RefinementOptions]]] = {
    "segment": SegmentationOptions,
    "codec": CodecOptions,
    "refine": RefinementOptions,
}


@dataclass(frozen=True)
class Recipe:
    """One training run.

    Attributes:
        kind: "segment", "codec" or "refine".
        config: configuration of the networks.
        schedule: steps, learning rate and so on.
        options: batch, augmentation, losses, of the recipe's kind.
        folders: sources of labeled pictures that SegNet learns from; for the others, folders of photographs.
    """

    kind: Kind
    config: ModelConfig
    schedule: Schedule
    options: SegmentationOptions | CodecOptions | RefinementOptions
    folders: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain JSON types."""
        return {
            "kind": self.kind,
            "config": self.config.to_dict(),
            "schedule": dataclasses.asdict(self.schedule),
            "options": dataclasses.asdict(self.options),
            "folders": list(self.folders),
        }


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def build(kind: type[Options], table: Mapping[str, Any], where: str) -> Options:
    """A recipe's table as the dataclass that it is of.

    Raises:
        UsageError: an unknown key, or one that is missing.
    """
    known = {f.name for f in dataclasses.fields(kind)}
    unknown = sorted(set(table) - known)
    if unknown:
        raise UsageError(f"{where}: unknown key {unknown[0]!r}; there are {', '.join(sorted(known))}")
    missing = [f.name for f in dataclasses.fields(kind) if _is_required(f) and f.name not in table]
    if missing:
        raise UsageError(f"{where}: {' and '.join(missing)} must be given")
    values: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in table.items()
    }
    try:
        return kind(**values)
    except TypeError as error:
        raise UsageError(f"{where}: {error}") from error


def overridden(config: ModelConfig, changes: Mapping[str, Any]) -> ModelConfig:
    """A configuration with some values changed; keys are names in nested tables, or dotted paths as "gnet.blocks".

    A RefineNet of which only some values are given, where there was none, has the defaults for the others.

    Raises:
        UsageError: there is no such key, or the value does not fit.
    """
    tree = config.to_dict()
    if tree["refine"] is None and any(path.startswith("refine.") for path, _ in _paths(changes)):
        tree["refine"] = dataclasses.asdict(RefineConfig())
    for path, value in _paths(changes):
        node: Any = tree
        *parents, last = path.split(".")
        for parent in parents:
            node = node.get(parent) if isinstance(node, dict) else None
        if not isinstance(node, dict) or last not in node:
            raise UsageError(f"the configuration has no {path!r}")
        node[last] = value
    return ModelConfig.from_dict(tree)


def _paths(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values of nested tables, each with its dotted path."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from ((f"{key}.{rest}", inner) for rest, inner in _paths(value))
        else:
            yield key, value


def read_table(path: Path) -> dict[str, Any]:
    """A recipe's tables as they stand in its file.

    Raises:
        UsageError: the file is missing, not TOML, or has unknown keys.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a readable recipe: {error}") from error
    unknown = sorted(set(table) - {"kind", "network", "folders", "config", "schedule", "options"})
    if unknown:
        raise UsageError(f"{path}: unknown key {unknown[0]!r}")
    return table


def load(path: Path, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: the TOML file: kind, network (name of a preset), folders, and the tables [config] (what differs
            from it), [schedule] and [options].
        overrides: changes to the tables, from the command line.

    Raises:
        UsageError: the file is missing, not TOML, or has unknown keys.
    """
    table = read_table(path)
    kind = table.get("kind")
    if kind not in _OPTIONS:
        raise UsageError(f"{path}: kind is {kind!r}; it must be one of {', '.join(_OPTIONS)}")
    changes = overrides or {}
    schedule = {**table.get("schedule", {}), **changes.get("schedule", {})}
    options = {**table.get("options", {}), **changes.get("options", {})}
    return Recipe(
        kind,
        overridden(preset(table.get("network", "lite")), table.get("config", {})),
        build(Schedule, schedule, f"{path}, [schedule]"),
        build(_OPTIONS[kind], options, f"{path}, [options]"),
        tuple(table.get("folders", ())),
    )
