"""How the residual of a picture is coded: what the settings mean for these networks and this label map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .class_gains import GainMap, class_quality
from .coarseness import Reduction, compact_reduction_for
from .parameters import QUARTERS

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..bundle.manifest import Manifest
    from ..tiling import Box
    from .class_gains import ClassQuality, Gains
    from .settings import Settings


@dataclass(frozen=True)
class ResidualPlan:
    """How the residual of a picture is coded.

    Attributes:
        settings: what was asked for.
        quality: of the residual coder, 0..100; 0: there is no residual.
        table: gains in sixteenths by class.
        gains: of the picture; None: there are none.
        exact: whether every decoder has the same estimates.
    """

    settings: Settings
    quality: int
    table: tuple[tuple[int, int], ...] = ()
    gains: GainMap | None = None
    exact: bool = False

    @property
    def stored_quality(self) -> float:
        """That the stream tells, in quarters: what was asked for, or that of the classes whose gain is 1."""
        return float(self.quality) if self.table else round(QUARTERS * self.settings.quality) / QUARTERS

    def gains_of(self, box: Box) -> Gains | None:
        """The gains of a rectangle; None: there are none."""
        return None if self.gains is None else self.gains.of(box)


def wanted_reduction(settings: Settings, manifest: Manifest) -> Reduction:
    """What the compact image can do without: by the quality of the classes that get the most, where classes differ.

    Args:
        settings: what was asked for.
        manifest: of the networks.

    Raises:
        UsageError: the networks know no such class.
    """
    choice = _by_class(settings, manifest)
    quality = settings.quality if choice is None else choice.quality
    return compact_reduction_for(quality, manifest.coarseness)


def plan_residual(
    settings: Settings, labels: npt.NDArray[np.uint8], label_scale: int, manifest: Manifest
) -> ResidualPlan:
    """Work out how the residual of a picture is coded.

    Args:
        settings: what was asked for.
        labels: of the picture, uint8 (ceil(H/S), ceil(W/S)).
        label_scale: S.
        manifest: of the networks.

    Raises:
        UsageError: the networks know no such class.
    """
    choice = _by_class(settings, manifest)
    if choice is None:
        return ResidualPlan(settings, round(settings.quality), exact=manifest.exact)
    gains = GainMap(labels, label_scale, choice.table) if choice.table else None
    return ResidualPlan(settings, choice.quality, tuple(choice.table.items()), gains, manifest.exact)


def _by_class(settings: Settings, manifest: Manifest) -> ClassQuality | None:
    """What qualities by class come to; None: all classes have the same."""
    if not settings.class_quality or not settings.quality:
        return None
    return class_quality(settings.quality, dict(settings.class_quality), manifest)
