"""Rate-distortion points, curves, and their comparison."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..runtime.errors import DataError
from .metrics import BdMethod, bd_rate
from .result_files import read_json


@dataclass(frozen=True)
class Point:
    """One image coded once.

    Attributes:
        coder: name of the coder.
        image: name of the image.
        quality: the coder's setting.
        size: bytes of the file.
        bpp: bits per pixel, all bytes counted.
        scores: PSNR-RGB and PSNR-YCbCr in dB, MS-SSIM in 0..1, SSIMULACRA 2 up to 100; those that were asked for.
        section_bytes: bytes by layer, for coders with layers.
    """

    coder: str
    image: str
    quality: float
    size: int
    bpp: float
    scores: dict[str, float]
    section_bytes: dict[str, int]


@dataclass(frozen=True)
class Curve:
    """A curve through the mean points of a set of images.

    Attributes:
        name: of the coder.
        bpp: mean bits per pixel at each setting, ascending.
        scores: mean of each metric at each setting.
        source: where published figures come from; empty for measured ones.
    """

    name: str
    bpp: tuple[float, ...]
    scores: dict[str, tuple[float, ...]]
    source: str = ""


def mean_curves(points: Iterable[Point]) -> dict[str, Curve]:
    """Average over the images at each setting, as published curves do; settings that lack an image are left out."""
    by_coder: dict[str, dict[float, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        by_coder[point.coder][point.quality].append(point)
    curves = {}
    for name, settings in by_coder.items():
        most = max(map(len, settings.values()))
        rows = [
            (
                fmean(p.bpp for p in group),
                {metric: fmean(p.scores[metric] for p in group) for metric in group[0].scores},
            )
            for group in settings.values()
            if len(group) == most
        ]
        rows.sort(key=lambda row: row[0])
        metrics = rows[0][1]
        curves[name] = Curve(
            name, tuple(r for r, _ in rows), {m: tuple(s[m] for _, s in rows) for m in metrics}
        )
    return curves


def bd_rate_by_image(
    points: Iterable[Point],
    coder: str,
    anchor: str,
    metric: str = "psnr",
    *,
    quality_range: tuple[float, float] | None = None,
    method: BdMethod = "akima",
) -> dict[str, float]:
    """Return the BD-rate of `coder` against `anchor` in percent, file for file.

    Raises:
        ValueError: an image whose two curves have no quality in common.
    """
    by_image: dict[str, dict[str, list[Point]]] = defaultdict(lambda: defaultdict(list))
    for point in points:
        if point.coder in (coder, anchor):
            by_image[point.image][point.coder].append(point)
    result = {}
    for image, curves in sorted(by_image.items()):
        if len(curves) < 2:
            continue
        pairs = {name: increasing(group, metric) for name, group in curves.items()}
        result[image] = bd_rate(*pairs[anchor], *pairs[coder], method=method, quality_range=quality_range)
    return result


def increasing(points: Iterable[Point], metric: str) -> tuple[list[float], list[float]]:
    """Rates and qualities in ascending order of rate; points that cost more and give no more are dropped."""
    rates: list[float] = []
    qualities: list[float] = []
    for point in sorted(points, key=lambda p: p.bpp):
        if not qualities or (point.scores[metric] > qualities[-1] and point.bpp > rates[-1]):
            rates.append(point.bpp)
            qualities.append(point.scores[metric])
    return rates, qualities


def read_anchors(folder: Path) -> list[Curve]:
    """Read the published curves of a folder, by name.

    Raises:
        DataError: no such folder, no JSON files in it, or one that is not such a curve.
    """
    files = sorted(folder.glob("*.json"))
    if not files:
        raise DataError(f"the folder of published curves {folder} does not exist, or holds no JSON files")
    return [read_anchor(path) for path in files]


def read_anchor(path: Path) -> Curve:
    """Read a published curve in the schema of CompressAI's results.

    Raises:
        DataError: not such a file.
    """
    try:
        body: dict[str, Any] = read_json(path, "curve")
        results = body["results"]
        rates = [float(x) for x in results["bpp"]]
        names = {"psnr": ("psnr-rgb", "psnr"), "ms_ssim": ("ms-ssim-rgb", "ms-ssim")}
        scores = {}
        for metric, keys in names.items():
            found = next((results[key] for key in keys if key in results), None)
            if found is not None and len(found) == len(rates):
                scores[metric] = [float(x) for x in found]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not a rate-distortion result in CompressAI's schema: {error}") from error
    order = sorted(range(len(rates)), key=rates.__getitem__)
    return Curve(
        path.stem,
        tuple(rates[i] for i in order),
        {metric: tuple(values[i] for i in order) for metric, values in scores.items()},
        source=str(body.get("description") or body.get("name") or path.stem),
    )
