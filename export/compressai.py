"""CompressAI's transform codecs as sources of bundles, from a state dict of theirs.

Its weights are read without it: names are translated to those of our own networks, which compute the same. What it
derives from its weights (`_quantized_cdf` and the like) is left out and derived anew.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from ..networks.transform.codec import TransformNetworks
from ..networks.transform.config import Prior, TransformConfig
from ..runtime.errors import BundleError, UsageError, one_line
from ..runtime.files import require_regular_file
from .transform import transform_source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from .kind_source import KindSource

PREFIX: Final = "compressai:"


@dataclass(frozen=True)
class Architecture:
    """One of CompressAI's architectures.

    Attributes:
        prior: of its latents.
        small: channels and latents channels of the lower qualities.
        large: of the higher ones.
        large_from: the first quality that has the larger ones.
    """

    prior: Prior
    small: tuple[int, int]
    large: tuple[int, int]
    large_from: int


ARCHITECTURES: Final = {
    "bmshj2018-factorized": Architecture("factorized", (128, 192), (192, 320), 6),
    "bmshj2018-hyperprior": Architecture("scale", (128, 192), (192, 320), 6),
    "mbt2018-mean": Architecture("mean_scale", (128, 192), (192, 320), 5),
}
_MOST_QUALITY: Final = 8
_PARTS: Final = {
    "g_a": "analysis",
    "g_s": "synthesis",
    "h_a": "hyper_analysis",
    "h_s": "hyper_synthesis",
}
# Of the factorized prior, as newer and as older versions call them.
_PRIOR: Final = (
    (re.compile(r"entropy_bottleneck\.(?:matrices\.|_matrix)(\d+)"), "prior.weights."),
    (re.compile(r"entropy_bottleneck\.(?:biases\.|_bias)(\d+)"), "prior.biases."),
    (re.compile(r"entropy_bottleneck\.(?:factors\.|_factor)(\d+)"), "prior.gates."),
)
_DERIVED: Final = re.compile(
    r"(entropy_bottleneck|gaussian_conditional)\.(_offset|_quantized_cdf|_cdf_length|target|scale_table|scale_bound|"
    r"likelihood_lower_bound\..*|lower_bound_scale\..*)|.*\.(beta|gamma)_reparam\..*"
)
_QUANTILES: Final = "entropy_bottleneck.quantiles"
_TAIL: Final = 5e-10


def config_of(name: str, quality: int | None, state: dict[str, Tensor]) -> TransformConfig:
    """The configuration of an architecture.

    Args:
        name: a key of `ARCHITECTURES`.
        quality: CompressAI's, 1 to 8; None: channels are read from the weights.
        state: the weights, with their own names.

    Raises:
        UsageError: no such architecture or quality.
        BundleError: the weights are not those of the quality.
    """
    if name not in ARCHITECTURES:
        raise UsageError(f"no architecture {name!r}; known are {', '.join(ARCHITECTURES)}")
    architecture = ARCHITECTURES[name]
    first, last = state.get("g_a.0.weight"), state.get("g_a.6.weight")
    if first is None or last is None or first.ndim != 4 or last.ndim != 4:
        raise BundleError(f"the weights are not those of {name}: they have no convolutions g_a.0 and g_a.6")
    found = int(first.shape[0]), int(last.shape[0])
    if quality is not None:
        if not 1 <= quality <= _MOST_QUALITY:
            raise UsageError(f"the quality is {quality}, must be 1 to {_MOST_QUALITY}")
        wanted = architecture.large if quality >= architecture.large_from else architecture.small
        if found != wanted:
            raise BundleError(
                f"the weights have {found[0]} and {found[1]} channels, {name} at quality {quality} has {wanted[0]} and "
                f"{wanted[1]}: leave --quality out for channels of your own"
            )
    return TransformConfig(name if quality is None else f"{name}-{quality}", architecture.prior, *found)


def translated(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """CompressAI's weights under the names of our networks; what is derived from others is left out.

    Raises:
        BundleError: a weight that none of the architectures has.
    """
    ours = {}
    for name, value in state.items():
        if name == _QUANTILES or _DERIVED.fullmatch(name):
            continue
        part, _, rest = name.partition(".")
        found = next(
            (f"{target}{match[1]}" for pattern, target in _PRIOR if (match := pattern.fullmatch(name))), None
        )
        if part in _PARTS:
            found = f"{_PARTS[part]}.{rest}"
        if found is None:
            raise BundleError(f"the weights have {name!r}, which no architecture that is known has")
        ours[found] = value.detach().to(torch.float32)
    return ours


def untranslated(networks: TransformNetworks) -> dict[str, Tensor]:
    """Inverse of `translated`: our weights under CompressAI's names, with the quantiles that it derives tables from.

    Args:
        networks: whose latents of the factorized prior have no offsets.
    """
    parts = {ours: theirs for theirs, ours in _PARTS.items()}
    lists = {"weights": "matrices", "biases": "biases", "gates": "factors"}
    theirs = {}
    for name, value in networks.state_dict().items():
        part, _, rest = name.partition(".")
        if part == "prior":
            kind, _, number = rest.partition(".")
            theirs[f"entropy_bottleneck.{lists[kind]}.{number}"] = value.clone()
        else:
            theirs[f"{parts[part]}.{rest}"] = value.clone()
    low, high = (networks.prior.quantile(p).float() for p in (_TAIL, 1.0 - _TAIL))
    theirs[_QUANTILES] = torch.stack([low, torch.zeros_like(low), high], 1)[:, None, :]
    return theirs


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict: a safetensors file, or one of `torch.save` that holds tensors alone.

    Raises:
        BundleError: it is neither.
    """
    require_regular_file(path, "weights", BundleError)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch and safetensors raise of damaged files has no common base
        raise BundleError(f"{path} is no state dict that can be read: {one_line(error, 200)}") from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise BundleError(f"{path} is no state dict: it must hold tensors by name")
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def from_compressai(
    spec: str,
    path: Path,
    quality: int | None,
    calibration: Sequence[npt.NDArray[np.uint8]] | None = None,
) -> KindSource:
    """A source of a bundle.

    Args:
        spec: `compressai:` and a key of `ARCHITECTURES`.
        path: the weights.
        quality: CompressAI's, 1 to 8; None: channels are read from the weights.
        calibration: as for `transform_source`.

    Raises:
        UsageError: no such architecture or quality.
        BundleError: the weights cannot be read, or do not fit.
        VerificationError: as `transform_source`.
    """
    name = spec.removeprefix(PREFIX)
    state = read_state(path)
    config = config_of(name, quality, state)
    networks = TransformNetworks(config)
    try:
        networks.load_state_dict(translated(state))
    except RuntimeError as error:
        raise BundleError(f"the weights {path} do not fit {name}: {one_line(error, 300)}") from error
    quantiles = state.get(_QUANTILES)
    if quantiles is None or quantiles.shape != (config.coded_apart, 1, 3):
        raise BundleError(
            f"the weights {path} have no medians of {config.coded_apart} channels ({_QUANTILES})"
        )
    return transform_source(
        networks,
        quantiles[:, 0, 1].detach().float().numpy(),
        provenance={"architecture": name, "weights": path.name, "quality": quality},
        calibration=calibration,
    )
