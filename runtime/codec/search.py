"""A search for a better compact image of a picture that is stored as layers alone.

`analyse` answers for every picture at once; a search knows this one. It moves the levels of the compact image along the
gradient of what they cost and of how far the estimate is from the picture, and ends at whole levels again: stochastic
Gumbel annealing (Y. Yang, R. Bamler, S. Mandt, "Improving inference for neural image compression", NeurIPS 2020). Each
level between two whole ones is drawn as a mixture of both, ever closer to one of them. Decoders need not know of it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import numpy as np

from ..bundle.manifest import SEARCH_FILE
from ..errors import BundleError, UsageError
from ..stopping import check_stopped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from ..bundle.manifest import Manifest
    from ..image.arrays import Pixels
    from .settings import Settings

    Floats = npt.NDArray[np.float32]

INPUTS: Final = ("compact", "labels", "image")
OUTPUTS: Final = ("rate", "distortion", "rate_gradient", "distortion_gradient")
DEFAULT_RATE_WEIGHT: Final = 1.0
SMALLEST_SIDE: Final = 256
"""Of pictures that the graph takes: its measures look at them at 1/32 of their size."""

_STEP: Final = 0.1
"""Of the first movement, in levels; it falls to zero."""
_FIRST_MOMENT: Final = 0.9
_SECOND_MOMENT: Final = 0.999
_TINY: Final = 1e-8
_WARM: Final = 0.8
_COOLING: Final = 1.5
"""The temperature starts at `_WARM` and falls by exp(-`_COOLING`)."""
_EDGE: Final = 1e-4
"""The least distance between a level and a whole one: at the whole ones the logarithms end."""
_SPREAD: Final = 0.45
"""The search begins so far from whole levels, at random: there, nothing would move it."""
_SEED: Final = 20


class SearchSettings(NamedTuple):
    """How long a search takes and what it looks for.

    Attributes:
        steps: runs of the graph; 0: there is no search.
        rate_weight: what a bit per pixel is worth, in units of the distortion: more makes smaller files.
    """

    steps: int = 0
    rate_weight: float = DEFAULT_RATE_WEIGHT


def wanted_search(settings: Settings, manifest: Manifest) -> SearchSettings:
    """How to look for a better compact image.

    Args:
        settings: what was asked for.
        manifest: of the networks.

    Raises:
        UsageError: a rate weight was asked for, and the bundle has no graph that could tell what a bit is worth.
    """
    if SEARCH_FILE in manifest.files:
        return settings.search
    if settings.rate_weight != DEFAULT_RATE_WEIGHT:
        raise UsageError(
            f"the bundle {manifest.name} has no graph to search with: the rate weight means nothing to it; "
            "lite-preview has one"
        )
    return SearchSettings()


class Gradients(Protocol):
    """Runs a search graph."""

    def run(
        self, feeds: Mapping[str, npt.NDArray[np.generic]], names: Sequence[str] | None = None
    ) -> dict[str, npt.NDArray[np.generic]]:
        """Outputs by name, see `INPUTS` and `OUTPUTS`."""


class _Asked:
    """What one picture's graph says of compact images."""

    def __init__(self, graph: Gradients, labels: Pixels, image: Pixels, rate_weight: float) -> None:
        self._graph = graph
        self._known: dict[str, npt.NDArray[np.generic]] = {"labels": labels[None], "image": image[None]}
        self._rate_weight = rate_weight

    def loss(self, compact: Pixels) -> float:
        """Of whole levels."""
        rate, distortion = self._run(compact.astype(np.float32), OUTPUTS[:2])
        return float(self._rate_weight * rate.sum() + distortion.sum())

    def gradient(self, compact: Floats) -> Floats:
        """Of the loss, by each level."""
        rate, distortion = self._run(compact, OUTPUTS[2:])
        found: Floats = np.float32(self._rate_weight) * rate[0] + distortion[0]
        if found.shape != compact.shape or not np.isfinite(found).all():
            raise BundleError(
                f"the search graph gave a gradient of the shape {found.shape}, or one that is not finite, for a "
                f"compact image of {compact.shape}; export the bundle again"
            )
        return found

    def _run(self, compact: Floats, names: Sequence[str]) -> list[Floats]:
        made = self._graph.run({"compact": compact[None], **self._known}, names)
        return [made[name].astype(np.float32) for name in names]


def search(
    graph: Gradients, compact: Pixels, labels: Pixels, image: Pixels, *, levels: int, settings: SearchSettings
) -> Pixels:
    """Look for a compact image that costs less or shows more.

    Args:
        graph: of the bundle.
        compact: where it begins, uint8 (H/8, W/8, 3), values 0..levels-1.
        labels: uint8 (H/Q, W/Q).
        image: uint8 (H, W, 3); H and W multiples of what the bundle says, at least `SMALLEST_SIDE`.
        levels: L.
        settings: how long, and for what.

    Returns:
        uint8, in the shape of `compact`: the found one, or `compact` where that is the better one.

    Raises:
        BundleError: the graph does not give what it must.
    """
    asked = _Asked(graph, labels, image, settings.rate_weight)
    random = np.random.default_rng(_SEED)
    place = compact + np.float32(_SPREAD) * (2 * random.random(compact.shape, np.float32) - 1)
    np.clip(place, 0, levels - 1, out=place)
    first, second = np.zeros_like(place), np.zeros_like(place)
    for step in range(settings.steps):
        check_stopped()
        done = step / settings.steps
        temperature = _WARM * math.exp(-_COOLING * done)
        mixed, slope = _draw(place, levels, temperature, random)
        gradient = asked.gradient(mixed) * slope
        # Adam (Kingma and Ba, ICLR 2015).
        first = _FIRST_MOMENT * first + (1 - _FIRST_MOMENT) * gradient
        second = _SECOND_MOMENT * second + (1 - _SECOND_MOMENT) * gradient * gradient
        size = _STEP * (1 - done) / (1 - _FIRST_MOMENT ** (step + 1))
        place -= size * first / (np.sqrt(second / (1 - _SECOND_MOMENT ** (step + 1))) + _TINY)
        np.clip(place, 0, levels - 1, out=place)
    found = np.rint(place).astype(np.uint8)
    return found if asked.loss(found) < asked.loss(compact) else compact


def _draw(
    place: Floats, levels: int, temperature: float, random: np.random.Generator
) -> tuple[Floats, Floats]:
    """Mixtures of the whole levels below and above, and their derivatives by the place between them.

    The logits of both are -atanh of the distance over the temperature; the difference of two Gumbel variables is
    logistic.
    """
    below = np.minimum(np.floor(place), levels - 2)
    over = np.clip(place - below, _EDGE, 1 - _EDGE)
    chance = random.random(place.shape, np.float32).clip(1e-6, 1 - 1e-6)
    logit = (np.arctanh(over) - np.arctanh(1 - over)) / temperature
    noise = np.log(chance) - np.log1p(-chance)
    share = 1 / (1 + np.exp(np.clip(-(logit + noise) / temperature, -80, 80)))
    slope = share * (1 - share) / temperature**2 * (1 / (1 - over**2) + 1 / (1 - (1 - over) ** 2))
    return (below + share).astype(np.float32), slope.astype(np.float32)


__all__ = [
    "DEFAULT_RATE_WEIGHT",
    "INPUTS",
    "OUTPUTS",
    "SMALLEST_SIDE",
    "Gradients",
    "SearchSettings",
    "search",
    "wanted_search",
]
