"""The layers alone against image coders at a few kilobytes: how many bytes others need to look as good."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ...measure import environment
from ...measure.rate_curves import increasing
from ...runtime.files import write_atomically
from ..coders.registry import PEERS, avif

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from ...measure.rate_curves import Point

FORMAT: Final = "oslic-bench-low-rates"
LOW_METRICS: Final = ("ms_ssim", "ssimulacra2", "vgg16")
"""Measures by which bytes are compared."""
SHOWN_METRICS: Final = (*LOW_METRICS, "color_shift")
"""Measures that are stated of our coders."""
BEST_AVIF: Final = "best AVIF"


_QUALITIES: Final = (0, 1, 3, 5, 8, 12, 16, 20, 26)
LOW_PEERS: Final = {
    spec.name: spec
    for spec in (
        *(
            avif(
                6,
                f"avif-{tune}-{subsampling.replace(':', '')}",
                _QUALITIES,
                subsampling=subsampling,
                advanced={"tune": tune},
            )
            for tune in ("psnr", "ssim", "iq")
            for subsampling in ("4:4:4", "4:2:0")
        ),
        replace(PEERS["webp"], qualities=(0, 1, 2, 4, 8, 14, 22)),
        replace(PEERS["jxl"], qualities=(1, 3, 6, 9, 12, 16)),
    )
}
"""Peers at the low end of their scales; speed 6 and the defaults of Pillow's plug-ins otherwise."""


def bytes_needed(points: Sequence[Point], score: float, metric: str) -> float:
    """Bytes at which a coder reaches a score, interpolated in the logarithm of the bytes.

    Args:
        points: of the coder on one image.
        score: that is wanted.
        metric: its name.

    Returns:
        Those of its smallest or largest file where the score lies outside of what was measured.
    """
    rates, scores = increasing(points, metric)
    pixels = points[0].size * 8 / points[0].bpp
    return float(np.exp(np.interp(score, scores, np.log(rates)))) * pixels / 8


def needs(points: Iterable[Point], own: Sequence[str]) -> list[dict[str, Any]]:
    """How many bytes the peers need for our scores, relative to ours.

    Args:
        points: of our coders, at one setting, and of the peers.
        own: names of our coders.

    Returns:
        Rows of coder, peer, metric, needs (the geometric mean over the images), ahead (images where the peer needs
        more) and images; one peer is the best of all AVIF settings for each image.
    """
    by_image: dict[str, dict[str, list[Point]]] = {}
    for point in points:
        by_image.setdefault(point.image, {}).setdefault(point.coder, []).append(point)
    rows = []
    for coder in own:
        metrics = [m for m in LOW_METRICS if m in next(iter(by_image.values()))[coder][0].scores]
        for metric in metrics:
            ratios: dict[str, list[float]] = {}
            for found in by_image.values():
                (ours,) = found[coder]
                needed = {
                    name: bytes_needed(peer, ours.scores[metric], metric) / ours.size
                    for name, peer in found.items()
                    if name not in own
                }
                avif = [value for name, value in needed.items() if name.startswith("avif")]
                if avif:
                    needed[BEST_AVIF] = min(avif)
                for name, value in needed.items():
                    ratios.setdefault(name, []).append(value)
            rows += [
                {
                    "coder": coder,
                    "peer": name,
                    "metric": metric,
                    "needs": float(np.exp(np.mean(np.log(values)))),
                    "ahead": sum(value > 1 for value in values),
                    "images": len(values),
                }
                for name, values in ratios.items()
            ]
    return rows


def own_scores(points: Sequence[Point], own: Iterable[str]) -> list[dict[str, Any]]:
    """Mean bytes, bits per pixel and scores of our coders."""
    rows = []
    for coder in own:
        found = [point for point in points if point.coder == coder]
        scores = {name: fmean(p.scores[name] for p in found) for name in found[0].scores}
        size, bpp = fmean(p.size for p in found), fmean(p.bpp for p in found)
        rows.append({"coder": coder, "bytes": size, "bpp": bpp, **scores})
    return rows


def write_result(
    path: Path, points: Sequence[Point], own: Sequence[str], settings: dict[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write the result file: environment, settings, every point, and what `own_scores` and `needs` give.

    Returns:
        Those two.
    """
    scores, rows = own_scores(points, own), needs(points, own)
    body = {
        "format": FORMAT,
        "version": 1,
        "environment": environment.describe(),
        "settings": settings,
        "own": scores,
        "needs": rows,
        "points": [asdict(point) for point in points],
    }
    write_atomically(path, (json.dumps(body, indent=1) + "\n").encode())
    return scores, rows


def described(scores: Iterable[dict[str, Any]], rows: Iterable[dict[str, Any]]) -> str:
    """Both tables as lines for a terminal."""
    lines = []
    for row in scores:
        values = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "coder")
        lines.append(f"{row['coder']:<28} {values}")
    lines += [
        f"{row['coder']:<28} {row['peer']:<16} {row['metric']:<12} needs {row['needs']:5.2f} of the bytes, "
        f"behind on {row['ahead']} of {row['images']}"
        for row in rows
    ]
    return "\n".join(lines)
