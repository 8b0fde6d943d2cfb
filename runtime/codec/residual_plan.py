"""How the residual of a picture is coded: what the settings mean for these networks and this label map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .class_gains import GainMap, class_quality

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ..bundle import Manifest
    from ..tiling import Box
    from .class_gains import Gains
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
        return float(self.quality) if self.table else round(4 * self.settings.quality) / 4

    def gains_of(self, box: Box) -> Gains | None:
        """The gains of a rectangle; None: there are none."""
        return None if self.gains is None else self.gains.of(box)


def coder_quality(settings: Settings, manifest: Manifest) -> float:
    """The quality of the residual coder: of the classes that get the most, where classes differ.

    Args:
        settings: what was asked for.
        manifest: of the networks.

    Raises:
        UsageError: the networks know no such class.
    """
    if not settings.class_quality or not settings.quality:
        return settings.quality
    return class_quality(settings.quality, dict(settings.class_quality), manifest).quality


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
    if not settings.class_quality or not settings.quality:
        return ResidualPlan(settings, round(settings.quality), exact=manifest.exact)
    choice = class_quality(settings.quality, dict(settings.class_quality), manifest)
    if not choice.table:
        return ResidualPlan(settings, choice.quality, exact=manifest.exact)
    gains = GainMap(labels, label_scale, choice.table)
    return ResidualPlan(settings, choice.quality, tuple(choice.table.items()), gains, manifest.exact)
