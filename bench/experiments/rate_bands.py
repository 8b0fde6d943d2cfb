"""BD-rates by metric and by range of quality: where a coder is ahead, and where it is not."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from ...measure.rate_curves import bd_rate_by_image

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ...measure.rate_curves import Point

    Range = tuple[float, float]

BANDS: Final[dict[str, tuple[Range, ...]]] = {
    "psnr": ((28.0, 39.0), (28.0, 31.0), (31.0, 35.0), (35.0, 39.0)),
    "ms_ssim": ((0.9, 0.99),),
    "ssimulacra2": ((10.0, 85.0),),
}
"""Ranges of quality over which BD-rates are taken, by metric; the first one is the whole."""


def rate_bands(
    points: Sequence[Point], coders: Iterable[str], anchors: Iterable[str]
) -> list[dict[str, Any]]:
    """BD-rates of some coders against others, the mean over the images of the BD-rate of each.

    Args:
        points: of all of them, on the same images.
        coders: what is judged.
        anchors: what it is judged against.

    Returns:
        Rows of coder, anchor, metric, range, bd_rate_percent and images, how many of them have both curves within
        the range. A range that no image reaches has no row.
    """
    metrics = [name for name in BANDS if points and name in points[0].scores]
    anchors = list(anchors)
    rows = []
    for coder in coders:
        for anchor in anchors:
            for metric in metrics:
                for low, high in BANDS[metric]:
                    found = _by_image(points, coder, anchor, metric, (low, high))
                    if found:
                        rows.append(
                            {
                                "coder": coder,
                                "anchor": anchor,
                                "metric": metric,
                                "range": (low, high),
                                "bd_rate_percent": fmean(found),
                                "images": len(found),
                            }
                        )
    return rows


def _by_image(points: Sequence[Point], coder: str, anchor: str, metric: str, within: Range) -> list[float]:
    rates: list[float] = []
    for image in dict.fromkeys(point.image for point in points):
        own = [point for point in points if point.image == image]
        try:
            rates += bd_rate_by_image(own, coder, anchor, metric, quality_range=within).values()
        except ValueError:  # its curves do not reach this range
            continue
    return rates


def described(rows: Iterable[dict[str, Any]]) -> str:
    """The rows as lines for a terminal."""
    lines = []
    for row in rows:
        low, high = row["range"]
        lines.append(
            f"{row['coder']:<22} {row['anchor']:<18} {row['metric']:<12} {low:>5g} to {high:<5g} "
            f"{row['bd_rate_percent']:+7.2f} %  {row['images']} images"
        )
    return "\n".join(lines)
