"""Rate-distortion measurements over a folder of images: resumable, parallel, every point kept."""

from __future__ import annotations

import hashlib
import io
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from multiprocessing import active_children, get_context
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from ...measure import environment, metrics
from ...measure.rate_curves import Curve, Point, bd_rate_by_image, mean_curves
from ...runtime.errors import DataError, DependencyError, ImageError
from ...runtime.files import read_file, read_regular_file, write_atomically
from ...runtime.image.files import open_stored, read_image
from ...runtime.limits import Limits
from ..coders.registry import Coder, CoderSpec
from ..report.layer_images import as_rgb
from .feature_distance import feature_closeness
from .rate_bands import BANDS, rate_bands

if TYPE_CHECKING:
    from ...runtime.image.arrays import Pixels

FORMAT: Final = "oslic-bench-rd"
VERSION: Final = 1
BD_RANGE: Final = BANDS["psnr"][0]
"""Range of PSNR-RGB, in dB, over which BD-rates are taken."""


def _ssimulacra2(image: Pixels, other: Pixels) -> float:
    try:
        from ssimulacra2 import compute_ssimulacra2
    except ImportError as error:
        raise DependencyError(
            "SSIMULACRA 2 needs the package ssimulacra2: pip install 'oslic[bench]'"
        ) from error

    def png(pixels: Pixels) -> io.BytesIO:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG", compress_level=0)
        file.seek(0)
        return file

    return float(compute_ssimulacra2(png(image), png(other)))


_MOST_DECIBELS: Final = 100.0
_MOST_PARTIAL_BYTES: Final = 1 << 30
_PARTIAL_START: Final = b'{"key":'
"""Score of a metric in dB where it is infinite, at equal images: curves and JSON have no infinity."""

METRICS: Final[dict[str, Callable[[Pixels, Pixels], float]]] = {
    "psnr": metrics.psnr,
    "psnr_ycbcr": metrics.psnr_ycbcr,
    "ms_ssim": metrics.ms_ssim,
    "ssimulacra2": _ssimulacra2,
    "color_shift": lambda image, other: -metrics.color_shift(image, other),
}


@dataclass(frozen=True)
class Job:
    """One image through one coder, at all its settings.

    Attributes:
        image: its file.
        coder: with its settings.
        metrics: keys of `METRICS`, or "vgg16".
        limits: what to refuse, in each process that works on jobs.
        vgg16: file of the weights that "vgg16" needs.
    """

    image: Path
    coder: CoderSpec
    metrics: tuple[str, ...]
    limits: Limits = field(default_factory=Limits)
    vgg16: str | None = None

    @property
    def measures(self) -> dict[str, Callable[[Pixels, Pixels], float]]:
        """What is measured, by name."""
        more = {} if self.vgg16 is None else {"vgg16": feature_closeness(self.vgg16)}
        known = {**METRICS, **more}
        return {name: known[name] for name in self.metrics}

    @property
    def key(self) -> str:
        """Names the job across runs: the image's content, the coder with its settings, the metrics."""
        content = hashlib.sha256(read_file(self.image, "image", self.limits.image_bytes)).hexdigest()
        parts = [content, asdict(self.coder), self.coder.weights, self.metrics]
        described = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(described.encode()).hexdigest()[:24]


def check_sizes(images: Iterable[Path], names: Iterable[str], limits: Limits) -> None:
    """Refuse images that a metric cannot judge, before hours are spent on the others.

    Raises:
        DataError: an image that is too small for MS-SSIM, and MS-SSIM is wanted.
        LimitError: an image beyond the limits.
    """
    for path in images:
        try:
            with open_stored(path, limits) as picture:
                width, height = picture.size
        except (OSError, SyntaxError, ValueError):
            continue  # the run itself says what is wrong with it
        if "ms_ssim" in names and min(width, height) <= metrics.MS_SSIM_LARGEST_REFUSED:
            raise DataError(
                f"{path} is {width}x{height}, and MS-SSIM needs sides above {metrics.MS_SSIM_LARGEST_REFUSED} "
                "pixels: leave the image out, or ms_ssim (--metrics psnr,psnr_ycbcr)"
            )


_opened: dict[tuple[str, Limits], Coder] = {}
"""Coders that this process has opened, by their description and limits: loading a bundle takes longer than an image."""


def _open(spec: CoderSpec, limits: Limits) -> Coder:
    key = json.dumps(asdict(spec), sort_keys=True), limits
    if key not in _opened:
        _opened[key] = spec.open(limits)
    return _opened[key]


def run_job(job: Job) -> list[Point]:
    """Code one image with one coder at all its settings, and score it."""
    code, measures = _open(job.coder, job.limits).code, job.measures
    image = as_rgb(read_image(job.image, job.limits).pixels)
    pixels = image.shape[0] * image.shape[1]
    points = []
    for quality in job.coder.qualities:
        coding = code(image, quality)
        if coding.image.shape != image.shape:
            raise ImageError(
                f"{job.coder.name} gave an image of shape {coding.image.shape} for {image.shape}"
            )
        scores = {name: min(score(image, coding.image), _MOST_DECIBELS) for name, score in measures.items()}
        bpp = coding.size * 8 / pixels
        points.append(
            Point(job.coder.name, job.image.name, quality, coding.size, bpp, scores, coding.section_bytes)
        )
    return points


def _read_partial(path: Path) -> dict[str, list[Point]]:
    done: dict[str, list[Point]] = {}
    if not path.exists():
        return done
    data = read_regular_file(path, "file of finished jobs", _MOST_PARTIAL_BYTES)
    if data and not data.startswith(_PARTIAL_START):
        raise DataError(f"{path} is not what an earlier run left; move it, or give another name")
    for line in data.decode("utf-8", "replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the line that was being written when the run was stopped
            continue
        done[row["key"]] = [Point(**point) for point in row["points"]]
    return done


def measure(jobs: list[Job], partial: Path, *, processes: int, progress: bool = True) -> list[Point]:
    """Run all jobs, several at a time.

    Args:
        jobs: what to run.
        partial: finished jobs are appended to this file at once; those found in it are not run again.
        processes: how many at a time.
        progress: print a line on stderr now and then.

    Returns:
        The points of all jobs, in the order of the jobs.
    """
    keys = {job.key: job for job in jobs}
    done = {key: points for key, points in _read_partial(partial).items() if key in keys}
    waiting = [key for key in keys if key not in done]
    start, finished = time.monotonic(), 0
    with (
        partial.open("a", encoding="utf-8") as log,
        ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool,
    ):
        running: dict[Future[list[Point]], str] = {pool.submit(run_job, keys[key]): key for key in waiting}
        try:
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    key = running.pop(future)
                    done[key] = future.result()
                    log.write(json.dumps({"key": key, "points": [asdict(p) for p in done[key]]}) + "\n")
                    log.flush()
                    finished += 1
                    if progress:
                        left = (time.monotonic() - start) / finished * len(running)
                        print(
                            f"\r{len(done)}/{len(keys)} {keys[key].coder.name} {keys[key].image.name}, "
                            f"{left / 60:.1f} min left   ",
                            end="",
                            file=sys.stderr,
                        )
        except BaseException:
            # Leaving the pool waits for its processes, which may have minutes to go.
            for process in active_children():
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if progress:
        print(file=sys.stderr)
    return [point for key in keys for point in done[key]]


def summarize(points: list[Point], coder: str, anchors: Iterable[Curve] = ()) -> dict[str, Any]:
    """Return mean curves and BD-rates of `coder` against every other coder and published curve."""
    curves = mean_curves(points)
    comparisons: list[dict[str, Any]] = []
    for anchor in (name for name in curves if name != coder):
        try:
            per_image = bd_rate_by_image(points, coder, anchor, quality_range=BD_RANGE)
        except ValueError as error:
            comparisons.append({"anchor": anchor, "metric": "psnr", "method": "akima", "error": str(error)})
            continue
        comparisons.append(
            {
                "anchor": anchor,
                "metric": "psnr",
                "method": "akima",
                "how": "mean over the images of the BD-rate of each",
                "range": BD_RANGE,
                "bd_rate_percent": fmean(per_image.values()),
                "per_image_percent": per_image,
            }
        )
    published = list(anchors)
    ours = curves[coder]
    for curve in published:
        if "psnr" not in curve.scores:
            continue
        try:
            rate = metrics.bd_rate(
                curve.bpp,
                curve.scores["psnr"],
                ours.bpp,
                ours.scores["psnr"],
                method="akima",
                quality_range=BD_RANGE,
            )
        except ValueError:
            continue
        comparisons.append(
            {
                "anchor": curve.name,
                "source": curve.source,
                "metric": "psnr",
                "method": "akima",
                "how": "BD-rate of the mean curves; published figures, not measured here",
                "range": BD_RANGE,
                "bd_rate_percent": rate,
            }
        )
    return {
        "curves": [asdict(c) for c in curves.values()],
        "published": [asdict(c) for c in published],
        "bd_rates": comparisons,
    }


def write_result(
    path: Path,
    points: list[Point],
    own: Sequence[str],
    settings: dict[str, Any],
    anchors: list[Curve],
) -> list[dict[str, Any]]:
    """Write the result file: environment, settings, every point, mean curves, BD-rates.

    Args:
        path: the file.
        points: of all coders.
        own: names of our coders, the one that is summarized first.
        settings: what was measured.
        anchors: published curves.

    Returns:
        The BD-rates by metric and range of our coders against the others, see `rate_bands`.
    """
    names = dict.fromkeys(point.coder for point in points)
    bands = rate_bands(points, own, [name for name in names if name not in own])
    coder = own[0]
    body = {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment.describe(),
        "settings": settings,
        "coder": coder,
        "summary": {**summarize(points, coder, anchors), "bands": bands},
        "points": [asdict(p) for p in points],
    }
    write_atomically(path, (json.dumps(body, indent=1) + "\n").encode())
    return bands
