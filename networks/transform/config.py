"""Configurations of transform codecs: frozen, validated, to and from JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from ...runtime.errors import BundleError, UsageError

Prior = Literal["factorized", "scale", "mean_scale"]
PRIORS: Final[tuple[Prior, ...]] = get_args(Prior)
_MOST_CHANNELS: Final = 1024


@dataclass(frozen=True)
class TransformConfig:
    """A transform codec.

    Attributes:
        name: of the configuration.
        prior: of the latents: `factorized` (Balle et al. 2018, the first of its two models), `scale` (the other one: a
            hyperprior gives the scale of each latent), `mean_scale` (Minnen et al. 2018, without context model).
        channels: of all layers but the last of the analysis, and of the hyperprior's latents.
        latents: channels of the latents.
    """

    name: str
    prior: Prior
    channels: int
    latents: int

    def __post_init__(self) -> None:
        if self.prior not in PRIORS:
            raise UsageError(f"prior is {self.prior!r}; it must be one of {', '.join(PRIORS)}")
        for key in ("channels", "latents"):
            value = getattr(self, key)
            if type(value) is not int or not 1 <= value <= _MOST_CHANNELS:
                raise UsageError(f"{key} is {value!r}, must be 1 to {_MOST_CHANNELS}")
        if self.prior == "mean_scale" and self.latents % 2:
            raise UsageError(f"latents is {self.latents}, must be even with the prior mean_scale")

    @property
    def multiple(self) -> int:
        """What the height and the width of a picture must be multiples of."""
        return 16 if self.prior == "factorized" else 64

    @property
    def coded_apart(self) -> int:
        """Channels of what is coded by the factorized prior: the latents, or those of the hyperprior."""
        return self.latents if self.prior == "factorized" else self.channels

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON types."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The configuration as canonical JSON: sorted keys, no spaces."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> TransformConfig:
        """Inverse of `to_dict`.

        Raises:
            BundleError: a key is missing, unknown, or of the wrong kind.
            UsageError: a value is out of its range.
        """
        try:
            return cls(**value)
        except TypeError as error:
            raise BundleError(f"not a configuration of a transform codec: {error}") from error
