"""Transform codecs as sources of bundles: from our checkpoints, or from anybody's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..networks.transform.checkpoint import fingerprint, read
from ..networks.transform.deploy import deployable
from .kind_source import IMAGE, KindGraph, KindSource, TensorInput
from .transform_tables import tables_file

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from ..networks.transform.codec import TransformNetworks


def transform_source(
    networks: TransformNetworks,
    offsets: npt.NDArray[np.float32] | None = None,
    *,
    license_: str = "unknown",
    provenance: dict[str, Any] | None = None,
) -> KindSource:
    """A source of a bundle of the kind `transform`.

    Args:
        networks: with their weights.
        offsets: of the channels that the factorized prior codes; None: 0, which our own are trained with.
        license_: terms of the weights.
        provenance: where they come from, plain JSON types.
    """
    config, modules = networks.config, deployable(networks)
    latents = TensorInput(16, config.latents)
    graphs = {"analysis": KindGraph(modules["analysis"], {"image": IMAGE}, "latents")}
    if networks.hyper_synthesis is not None:
        graphs["hyper_analysis"] = KindGraph(modules["hyper_analysis"], {"latents": latents}, "hyper")
        graphs["hyper_synthesis"] = KindGraph(
            modules["hyper_synthesis"], {"hyper": TensorInput(64, config.channels)}, "parameters"
        )
    graphs["synthesis"] = KindGraph(modules["synthesis"], {"latents": latents}, "picture")
    hyperprior = "none" if config.prior == "factorized" else config.prior
    if offsets is None:
        offsets = np.zeros(config.coded_apart, np.float32)
    tables = tables_file(networks.prior, offsets, by_scale=hyperprior != "none")
    return KindSource(
        kind="transform",
        name=config.name,
        graphs=graphs,
        multiple=config.multiple,
        settings={"hyperprior": hyperprior, "latents": config.latents},
        files={"tables": tables},
        exact=hyperprior == "none",
        fingerprint=fingerprint(config, networks.state_dict()),
        license=license_,
        provenance=provenance or {},
    )


def from_checkpoint(path: Path) -> KindSource:
    """The networks of a checkpoint of a transform codec.

    Raises:
        BundleError: it is missing, damaged, or does not fit its configuration.
    """
    checkpoint = read(path)
    return transform_source(
        checkpoint.networks(),
        license_=str(checkpoint.provenance.get("license", "unknown")),
        provenance={**checkpoint.provenance, "scores": checkpoint.scores},
    )
