"""What is exported: a checkpoint of ours, or anybody's networks."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..networks.checkpoint import fingerprint, read
from ..networks.codec import CodecNetworks
from ..networks.config import groups_of
from ..networks.deploy import deployable
from ..runtime.bundle.manifest import GRAPH_NAMES, LAYER_GRAPHS, ClassInfo, GraphName, Preview
from ..runtime.errors import BundleError, UsageError
from ..runtime.files import require_regular_file
from .kind_source import KindSource
from .weight_hash import hash_of_state

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Source:
    """Networks ready for export.

    Attributes:
        name: name of the configuration.
        graphs: the modules, uint8 in and out, with the inputs that docs/reference/bundle.md lists.
        classes: the K classes of the label map.
        levels: L.
        label_scale: S.
        alpha: share of the low rate's channels.
        multiple: what the networks' heights and widths must be multiples of.
        fingerprint: what defines the estimate, 64 hexadecimal digits; None: hashed from the state of
            `synthesise`, names, shapes and values.
        license: terms of the weights.
        preview: from levels to colors, see `Manifest`; None: levels are shades.
        groups: names for several classes together.
        coarseness: see `Manifest`.
        provenance: where they come from, plain JSON types.
    """

    name: str
    graphs: Mapping[GraphName, nn.Module]
    classes: tuple[ClassInfo, ...]
    levels: int
    label_scale: int
    alpha: float
    multiple: int
    fingerprint: str | None = None
    license: str = "unknown"
    preview: Preview | None = None
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    coarseness: Sequence[tuple[int, int]] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    def colors(self) -> Preview:
        """The matrix from levels to colors: the given one, or level 0 as black and level L - 1 as white."""
        if self.preview is not None:
            return self.preview
        step = 255.0 / (self.levels - 1)
        return ((step, 0.0, 0.0, 0.0), (0.0, step, 0.0, 0.0), (0.0, 0.0, step, 0.0))

    @property
    def graph_names(self) -> tuple[GraphName, ...]:
        """The graphs that there are, in the order of `GRAPH_NAMES`."""
        return tuple(name for name in GRAPH_NAMES if name in self.graphs)

    def identity(self) -> str:
        """The fingerprint, computed if it was not given."""
        if self.fingerprint is not None:
            return self.fingerprint
        start = f"{self.levels} {self.label_scale} {self.multiple} {len(self.classes)}"
        return hash_of_state(self.graphs["synthesise"].state_dict(), start)

    def refinement(self) -> str | None:
        """What defines `refine`: names, shapes and values of its weights; None: there is no such graph."""
        return hash_of_state(self.graphs["refine"].state_dict()) if "refine" in self.graphs else None


def _ours(networks: CodecNetworks, provenance: dict[str, Any], identity: str) -> Source:
    config = networks.config
    modules = deployable(networks)
    graphs: dict[GraphName, nn.Module] = {name: modules[name] for name in GRAPH_NAMES if name in modules}
    return Source(
        name=config.name,
        graphs=graphs,
        classes=config.classes,
        levels=config.levels,
        label_scale=config.label_scale,
        alpha=config.alpha,
        multiple=config.multiple,
        fingerprint=identity,
        license=str(provenance.get("license", "unknown")),
        preview=networks.gnet.preview(),
        groups=groups_of(config.classes),
        coarseness=config.coarseness,
        provenance=provenance,
    )


def from_checkpoint(path: Path) -> Source:
    """Networks of a checkpoint folder or file.

    Raises:
        BundleError: it is missing, damaged, or does not fit its configuration.
    """
    for file in path.glob("weights*.safetensors"):
        require_regular_file(file, "weights", BundleError)
    checkpoint = read(path)
    provenance = {**checkpoint.provenance, "scores": checkpoint.scores}
    return _ours(checkpoint.networks(), provenance, checkpoint.fingerprint)


def from_factory(spec: str, weights: Path | None) -> Source | KindSource:
    """Networks that a Python function makes.

    Args:
        spec: `module:function`. The function takes no arguments and returns a `Source`, `CodecNetworks`, or the
            `KindSource` of another kind of codec.
        weights: a safetensors file with the state of the modules, keys prefixed by the graph's name and a dot
            (for `CodecNetworks`: its own state); None: the weights that the function gave them.

    Raises:
        UsageError: no such function, or it returns something else.
        BundleError: the weights do not fit.
    """
    module, colon, name = spec.partition(":")
    if not colon:
        raise UsageError(f"{spec!r} is not of the form module:factory")
    try:
        made = getattr(importlib.import_module(module), name)()
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot take the networks from {spec}: {error}") from error
    if not isinstance(made, Source | CodecNetworks | KindSource):
        raise UsageError(
            f"{spec} returned {type(made).__name__}, not an oslic.export.sources.Source, and not an "
            "oslic.export.kind_source.KindSource either, which any other codec is (docs/guides/codecs.md)"
        )
    if weights is not None:
        _load(made, weights)
    if isinstance(made, KindSource):
        return made
    provenance = {"factory": spec, **({} if weights is None else {"weights": weights.name})}
    if isinstance(made, CodecNetworks):
        return _ours(made.eval(), provenance, fingerprint(made.state_dict(), made.config))
    for graph in made.graphs.values():
        graph.eval()
    missing = [graph for graph in LAYER_GRAPHS if graph not in made.graphs]
    if missing:
        raise UsageError(f"the networks of {spec} lack {', '.join(missing)}")
    return made


def _load(made: Source | CodecNetworks | KindSource, weights: Path) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    require_regular_file(weights, "weights", BundleError)
    holder: nn.Module
    if isinstance(made, CodecNetworks):
        holder = made
    elif isinstance(made, KindSource):
        holder = nn.ModuleDict({name: graph.module for name, graph in made.graphs.items()})
    else:
        holder = nn.ModuleDict(dict(made.graphs.items()))
    require_regular_file(weights, "weights", BundleError)
    try:
        holder.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise BundleError(f"the weights {weights} do not fit the networks: {error}") from error
