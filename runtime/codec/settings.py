"""How a picture is coded: what the encoder is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

from ..errors import UsageError
from .effort import DEFAULT_EFFORT, EFFORTS, MAX_EFFORT, Effort
from .parameters import LEAST_QUALITY, MAX_ERROR, MAX_QUALITY
from .search import DEFAULT_RATE_WEIGHT, SearchSettings

DEFAULT_QUALITY: Final = 60
_MOST_RATE_WEIGHT: Final = 1000

LayerMode = Literal["always", "auto", "never"]
LAYER_MODES: Final[tuple[LayerMode, ...]] = get_args(LayerMode)
Tune = Literal["visual", "psnr"]
TUNES: Final[tuple[Tune, ...]] = get_args(Tune)


@dataclass(frozen=True)
class Settings:
    """How a picture is coded.

    Attributes:
        quality: of the residual, 0..100. At 0 there is no residual, and the picture is the estimate; what lies between
            0 and 1 becomes 1, the least that the residual's coder knows.
        effort: 0..9: larger takes longer and saves bytes, or makes better layers where these are all.
        layers: which tiles have layers, that is, a compact image and an estimate: "always": all tiles that are
            photographic; "auto": those whose layers make them smaller at equal distortion; "never": none. The label
            map is always stored.
        tune: what the residual coder optimizes: "visual", for the eye, or "psnr", squared error.
        refine: whether the decoder refines the picture, if the bundle has a network for that.
        class_quality: points, -100..100, to add to the quality of classes or groups of classes: pairs of name and
            points.
        max_error: the largest error of any sample, color under alpha 0 included: 0 is lossless, 1..16 near-lossless.
            The quality is then 100, and tune and refinement have no effect. None: the quality decides.
        rate_weight: of layers alone (quality 0), where the effort searches for better compact images: what a bit per
            pixel is worth. More makes smaller files.

    Raises:
        UsageError: a value out of its range.
    """

    quality: float = DEFAULT_QUALITY
    effort: int = DEFAULT_EFFORT
    layers: LayerMode = "always"
    tune: Tune = "visual"
    refine: bool = True
    class_quality: tuple[tuple[str, float], ...] = ()
    max_error: int | None = None
    rate_weight: float = DEFAULT_RATE_WEIGHT

    def __post_init__(self) -> None:
        if self.max_error is not None:
            object.__setattr__(self, "quality", MAX_QUALITY)
        if not 0 <= self.quality <= MAX_QUALITY:
            raise UsageError(f"quality {self.quality} is out of range 0..{MAX_QUALITY}")
        if 0 < self.quality < LEAST_QUALITY:
            object.__setattr__(self, "quality", LEAST_QUALITY)
        if not 0 <= self.effort <= MAX_EFFORT:
            raise UsageError(f"effort {self.effort} is out of range 0..{MAX_EFFORT}")
        for name, value, known in (("layers", self.layers, LAYER_MODES), ("tune", self.tune, TUNES)):
            if value not in known:
                raise UsageError(f"{name} is {value!r}, must be one of {', '.join(known)}")
        if self.max_error is not None and not 0 <= self.max_error <= MAX_ERROR:
            raise UsageError(
                f"the largest error {self.max_error} is out of range 1..{MAX_ERROR}, or 0 for lossless"
            )
        if self.max_error is not None and self.class_quality:
            raise UsageError(
                "the quality of classes is for lossy coding: a bound holds for all samples alike"
            )
        for name, change in self.class_quality:
            if not -MAX_QUALITY <= change <= MAX_QUALITY:
                raise UsageError(
                    f"the quality of {name} changes by {change:+g}, must be by at most {MAX_QUALITY}"
                )
        if not 0 < self.rate_weight <= _MOST_RATE_WEIGHT:
            raise UsageError(
                f"the rate weight {self.rate_weight:g} is out of range: above 0, up to {_MOST_RATE_WEIGHT}"
            )
        if self.rate_weight != DEFAULT_RATE_WEIGHT and not self.search.steps:
            raise UsageError(
                "the rate weight is for layers alone, which a search makes: give quality 0 and an effort of "
                f"{next(i for i, effort in enumerate(EFFORTS) if effort.search)} or more"
            )
        if self.layers == "never" and not self.quality:
            raise UsageError("quality 0 without layers leaves nothing of the picture: give a quality above 0")

    @property
    def coders(self) -> Effort:
        """What the effort means for the coders."""
        return EFFORTS[self.effort]

    @property
    def search(self) -> SearchSettings:
        """How to look for a better compact image, if the bundle has a graph for that."""
        alone = not self.quality and not self.class_quality
        return SearchSettings(self.coders.search if alone else 0, self.rate_weight)

    @property
    def visual(self) -> bool:
        """Whether the residual coder aims at the eye."""
        return self.tune == "visual" and self.max_error is None

    @property
    def keeps_all(self) -> bool:
        """Whether color that nobody sees, under alpha 0, is coded as it is."""
        return self.max_error is not None
