"""What each effort of the encoder costs in time and saves in bytes."""

from __future__ import annotations

import time
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from ...measure import environment, metrics
from ...measure.rate_curves import Point, bd_rate_by_image
from ...runtime.codec import Codec
from ...runtime.codec.effort import DEFAULT_EFFORT, EFFORTS
from ...runtime.codec.request import make_request
from ...runtime.image.files import read_image
from ..report.layer_images import as_rgb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ...runtime.codec.settings import Tune
    from ...runtime.limits import Limits

FORMAT: Final = "oslic-bench-effort"
VERSION: Final = 1


def run(
    bundle: str | None,
    images: Sequence[Path],
    efforts: Sequence[int],
    qualities: Sequence[int],
    progress: Callable[[str], Any],
    *,
    tune: Tune = "psnr",
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Code images at every effort and quality, the efforts in turn within each image and quality.

    Args:
        bundle: folder or name of the networks; None: the shipped ones.
        images: photographs.
        efforts: 0..9; `DEFAULT_EFFORT` is measured in any case.
        qualities: of the residual, at least two.
        progress: gets a line for the user as each image is done.
        tune: what the residual coder aims at; bytes are compared at equal PSNR.
        limits: on the photographs; None for the defaults.

    Returns:
        The result file. `time` is the processor time of compressing, relative to the default effort's, the mean of the
        images and qualities; `bytes_percent` the BD-rate against the default effort, the mean over the images.
    """
    chosen = sorted({*efforts, DEFAULT_EFFORT})
    points: list[Point] = []
    seconds: dict[tuple[str, int, int], tuple[float, float]] = {}
    with Codec.open(bundle, threads=1, limits=limits) as codec:
        fingerprint = codec.bundle.manifest.fingerprint
        for path in images:
            pixels = as_rgb(read_image(path, codec.limits).pixels)
            codec.encode(pixels, make_request(qualities[0], effort=0))  # what the first image costs once
            for quality in qualities:
                for effort in chosen:
                    wall, processor = time.perf_counter(), time.process_time()
                    data = codec.encode(pixels, make_request(quality, effort=effort, tune=tune)).data
                    taken = time.perf_counter() - wall, time.process_time() - processor
                    seconds[path.name, quality, effort] = taken
                    score = metrics.psnr(pixels, codec.decompress(data))
                    bpp = len(data) * 8 / (pixels.shape[0] * pixels.shape[1])
                    points.append(Point(str(effort), path.name, quality, len(data), bpp, {"psnr": score}, {}))
            progress(f"{path.name}: {len(chosen)} efforts at {len(qualities)} qualities")
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment.describe(),
        "settings": {
            "bundle": fingerprint,
            "images": [path.name for path in images],
            "qualities": list(qualities),
            "tune": tune,
        },
        "rows": [_row(effort, points, seconds) for effort in chosen],
    }


def _row(
    effort: int, points: Sequence[Point], seconds: dict[tuple[str, int, int], tuple[float, float]]
) -> dict[str, Any]:
    own = {key[:2]: taken for key, taken in seconds.items() if key[2] == effort}
    usual = {key[:2]: taken for key, taken in seconds.items() if key[2] == DEFAULT_EFFORT}
    rates = bd_rate_by_image(points, str(effort), str(DEFAULT_EFFORT)) if effort != DEFAULT_EFFORT else {}
    meant = EFFORTS[effort]
    return {
        "effort": effort,
        "av1_speed": meant.speed,
        "flif_effort": meant.lossless,
        "weights_tried": len(meant.weights),
        "time": fmean(own[key][1] / usual[key][1] for key in own),
        "seconds": fmean(taken[0] for taken in own.values()),
        "processor_seconds": fmean(taken[1] for taken in own.values()),
        "bytes_percent": fmean(rates.values()) if rates else 0.0,
    }


def described(result: dict[str, Any]) -> str:
    """The rows as a Markdown table."""
    lines = [
        "| effort | AV1 speed | FLIF effort | weights tried | processor time | bytes at equal PSNR |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {row['effort']} | {row['av1_speed']} | {row['flif_effort']} | {row['weights_tried']} | "
        f"{row['time']:.2f}x | {row['bytes_percent']:+.1f} % |"
        for row in result["rows"]
    ]
    return "\n".join(lines)
