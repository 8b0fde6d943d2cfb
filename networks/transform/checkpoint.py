"""Checkpoints of transform codecs: the same files as the codec's own networks have, with another configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...runtime.errors import BundleError, OslicError
from ..checkpoint import read_contents, require_fitting, weights_digest
from .codec import TransformNetworks
from .config import TransformConfig

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


@dataclass(frozen=True)
class TransformCheckpoint:
    """Weights with all that says what they are; written by `networks.checkpoint.write`.

    Attributes:
        config: configuration of the networks.
        state: weights by name, float32.
        provenance: where they come from: data, license, command, revision and the like (plain JSON types).
        scores: what they reached (plain JSON types).
    """

    config: TransformConfig
    state: dict[str, Tensor]
    provenance: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, Any] = field(default_factory=dict)

    def networks(self) -> TransformNetworks:
        """The networks with these weights, in evaluation mode.

        Raises:
            BundleError: the weights do not fit the configuration.
        """
        networks = TransformNetworks(self.config)
        require_fitting(networks, self.state, self.config.name)
        networks.load_state_dict(self.state)
        return networks.eval()


def fingerprint(config: TransformConfig, state: Mapping[str, Tensor]) -> str:
    """SHA-256 of what defines the decoded picture: configuration and weights, as 64 hexadecimal digits.

    Args:
        config: of the networks.
        state: their weights by name.
    """
    return weights_digest(config.to_json(), state)


def is_transform(config: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's configuration is one of a transform codec."""
    return "prior" in config


def read(path: Path) -> TransformCheckpoint:
    """Read a checkpoint.

    Args:
        path: its folder, or its file if there is only one.

    Raises:
        BundleError: it is missing, damaged, or of other networks.
    """
    found = read_contents(path)
    try:
        config = TransformConfig.from_dict(found.config)
    except OslicError as error:
        raise BundleError(f"{found.file}: the checkpoint's description is not readable: {error}") from error
    return TransformCheckpoint(config, found.state, found.provenance, found.scores)
