"""The quality scale as a table: what a quality gives and costs, and which quality of other coders gives the same."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, Final

import numpy as np

OURS: Final = "oslic"
_OTHERS: Final = {"jpeg": "JPEG", "avif-s6": "AVIF"}
_METRIC: Final = "psnr"

Curve = list[tuple[float, float, float]]
"""Quality, mean PSNR in dB and mean bytes, qualities ascending."""


def curve_of(points: Sequence[Mapping[str, Any]], coder: str) -> Curve:
    """Means over the images of a coder's points in a result of `oslic bench rd`."""
    by_quality: dict[float, list[Mapping[str, Any]]] = defaultdict(list)
    for point in points:
        if point["coder"] == coder:
            by_quality[point["quality"]].append(point)
    return [
        (quality, mean(p["scores"][_METRIC] for p in found), mean(p["size"] for p in found))
        for quality, found in sorted(by_quality.items())
    ]


def at_psnr(curve: Curve, psnr: float) -> tuple[float, float] | None:
    """Quality and bytes at which a coder has this PSNR, interpolated; None outside of what was measured."""
    levels = [point[1] for point in curve]
    if not levels or not levels[0] <= psnr <= levels[-1]:
        return None
    quality = float(np.interp(psnr, levels, [point[0] for point in curve]))
    size = float(np.exp(np.interp(psnr, levels, [np.log(point[2]) for point in curve])))
    return quality, size


def quality_table(result: Mapping[str, Any]) -> str:
    """A Markdown table of our qualities.

    Args:
        result: of `oslic bench rd`, with the metric psnr.
    """
    points = result["points"]
    others = {name: title for name, title in _OTHERS.items() if name in result["settings"]["coders"]}
    titles = [part for title in others.values() for part in (f"as {title} quality", f"its bytes, {title}")]
    lines = [
        "| " + " | ".join(["quality", "PSNR, dB", "bytes", *titles]) + " |",
        "|" + "---:|" * (3 + len(titles)),
    ]
    curves = {name: curve_of(points, name) for name in others}
    for quality, psnr, size in curve_of(points, OURS):
        row = [f"{quality:g}", f"{psnr:.1f}", f"{size:,.0f}"]
        for curve in curves.values():
            found = at_psnr(curve, psnr)
            row += ["-", "-"] if found is None else [f"{found[0]:.0f}", f"{found[1]:,.0f}"]
        lines.append("| " + " | ".join(row) + " |")
    count = len(result["settings"]["images"])
    lines += ["", f"Means over {count} photographs; the others' quality at the same mean PSNR, interpolated."]
    return "\n".join(lines) + "\n"
