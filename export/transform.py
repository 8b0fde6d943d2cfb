"""Transform codecs as sources of bundles: from our checkpoints, or from anybody's weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from ..networks.transform.checkpoint import fingerprint, read
from ..networks.transform.deploy import deployable
from .integer_hyper import IntegerHyperSynthesis, hyper_values
from .kind_source import IMAGE, KindGraph, KindSource, TensorInput
from .transform_tables import tables_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from ..networks.transform.codec import TransformNetworks

_OFFSET_STEPS: Final = 16


def transform_source(
    networks: TransformNetworks,
    offsets: npt.NDArray[np.float32] | None = None,
    *,
    license_: str = "unknown",
    provenance: dict[str, Any] | None = None,
    calibration: Sequence[npt.NDArray[np.uint8]] | None = None,
) -> KindSource:
    """A source of a bundle of the kind `transform`.

    Args:
        networks: with their weights.
        offsets: of the channels that the factorized prior codes; None: 0, which our own are trained with.
        license_: terms of the weights.
        provenance: where they come from, plain JSON types.
        calibration: photographs, uint8 (N, H, W, 3), of sides that the networks take: the hyper-synthesis becomes one
            of integers, whose ranges are measured on them. None: it stays as it was trained.

    Raises:
        VerificationError: a hyper-synthesis of integers cannot be proved to be exact.
    """
    config, modules = networks.config, deployable(networks)
    if offsets is None:
        offsets = np.zeros(config.coded_apart, np.float32)
    settings: dict[str, Any] = {}
    if calibration is not None and networks.hyper_synthesis is not None:
        # On the grid of the first layer's inputs, or finer than it needs.
        offsets = (np.round(offsets * _OFFSET_STEPS) / _OFFSET_STEPS).astype(np.float32)
        images = [torch.from_numpy(image) for image in calibration]
        values = hyper_values(
            modules["analysis"], modules["hyper_analysis"], images, torch.from_numpy(offsets)
        )
        integer = IntegerHyperSynthesis(networks.hyper_synthesis, values).eval()
        modules["hyper_synthesis"] = integer
        settings["certificate"] = [{"largest": p.largest, "allowed": p.allowed} for p in integer.proofs]
    latents = TensorInput(16, config.latents)
    graphs = {"analysis": KindGraph(modules["analysis"], {"image": IMAGE}, "latents")}
    if networks.hyper_synthesis is not None:
        graphs["hyper_analysis"] = KindGraph(modules["hyper_analysis"], {"latents": latents}, "hyper")
        graphs["hyper_synthesis"] = KindGraph(
            modules["hyper_synthesis"], {"hyper": TensorInput(64, config.channels)}, "parameters"
        )
    graphs["synthesis"] = KindGraph(modules["synthesis"], {"latents": latents}, "picture")
    hyperprior = "none" if config.prior == "factorized" else config.prior
    tables = tables_file(networks.prior, offsets, by_scale=hyperprior != "none")
    source = KindSource(
        kind="transform",
        name=config.name,
        graphs=graphs,
        multiple=config.multiple,
        settings={"hyperprior": hyperprior, "latents": config.latents, **settings},
        files={"tables": tables},
        exact=hyperprior == "none" or bool(settings),
        # Of integers it gives other tables: streams are not those of the float form.
        fingerprint=None if settings else fingerprint(config, networks.state_dict()),
        license=license_,
        provenance=provenance or {},
    )
    # The networks' own code is ours: weights and tables name them, whatever exports them.
    return replace(source, fingerprint=source.identity())


def from_checkpoint(path: Path, calibration: Sequence[npt.NDArray[np.uint8]] | None = None) -> KindSource:
    """The networks of a checkpoint of a transform codec.

    Args:
        path: of the checkpoint.
        calibration: as for `transform_source`.

    Raises:
        BundleError: it is missing, damaged, or does not fit its configuration.
        VerificationError: as `transform_source`.
    """
    checkpoint = read(path)
    return transform_source(
        checkpoint.networks(),
        license_=str(checkpoint.provenance.get("license", "unknown")),
        provenance={**checkpoint.provenance, "scores": checkpoint.scores},
        calibration=calibration,
    )
