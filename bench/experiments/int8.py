"""A float bundle and the int8 bundle made from it: time, rate and labels, before and after, in one run."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ...measure import environment
from ...measure.metrics import confusion_matrix, mean_iou, psnr
from ...measure.rate_curves import bd_rate_by_image
from ...measure.timing import TOTAL, Candidate, Settings, Timing, measure, ratio
from ...runtime.bundle.finder import open_bundle
from ...runtime.codec import Codec
from ...runtime.errors import DataError
from ...runtime.files import write_atomically
from ...runtime.image.files import find_images, open_stored, read_image
from ...runtime.image.metadata import Metadata
from ...runtime.image.writing import encode_image
from ...runtime.limits import Limits
from ...runtime.segmentation_size import reduce_image, reduction_for
from ..coders.registry import ours
from ..report.layer_images import as_rgb
from .latency import REFERENCE, Setup, codec_candidates, fit, reference
from .rate_distortion import BD_RANGE, Job
from .rate_distortion import measure as measure_rd

if TYPE_CHECKING:
    from ...runtime.image.arrays import Pixels

FORMAT: Final = "oslic-bench-int8"
VERSION: Final = 1
BEFORE: Final = "float32"
AFTER: Final = "int8"
_VNNI: Final = frozenset({"avx512_vnni", "avx_vnni"})


def _layers_of(codec: Codec, image: Pixels) -> tuple[Pixels, Pixels]:
    labels = codec.graphs.segment(image)
    return labels, codec.graphs.analyse(image, labels)


def graph_candidates(
    codec: Codec, name: str, image: Pixels, labels: Pixels, compact: Pixels
) -> dict[str, Candidate]:
    """Each of the three graphs alone, all on the same inputs."""
    height, width = image.shape[:2]

    def segment() -> None:
        codec.graphs.segment(image)

    def analyse() -> None:
        codec.graphs.analyse(image, labels)

    def synthesise() -> None:
        codec.graphs.synthesise(compact, labels, height, width)

    return {f"{name}/segment": segment, f"{name}/analyse": analyse, f"{name}/synthesise": synthesise}


def latency(
    before: Path,
    after: Path,
    source: Path,
    *,
    size: tuple[int, int],
    threads: int | None,
    rule: Settings,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Time the graphs, and the pipeline from file to file, of both bundles, interleaved.

    Args:
        before: the float bundle.
        after: the int8 bundle.
        source: image file.
        size: width and height, cut from the image, repeated if it is smaller.
        threads: CPU threads of the networks; None: the backend's choice.
        rule: when to stop.
        limits: on the photograph; None for the defaults.

    Returns:
        Timings, and how many times as fast the int8 bundle is.
    """
    limits = limits or Limits()
    setups = {BEFORE: before, AFTER: after}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = fit(as_rgb(read_image(source, limits).pixels), *size)
        file = folder / "input.png"
        write_atomically(file, encode_image(image, Metadata(), file))
        candidates: dict[str, Candidate] = {REFERENCE: reference}
        codecs = {setup: Codec.open(path, threads=threads, limits=limits) for setup, path in setups.items()}
        labels, compact = _layers_of(codecs[BEFORE], image)
        for setup, codec in codecs.items():
            codec.graphs.load(*codec.bundle.manifest.graph_names)
            candidates |= graph_candidates(codec, setup, image, labels, compact)
            candidates |= codec_candidates(codec, Setup(setup), file, folder)
        timings = measure(candidates, rule)
        reasons = {setup: codec.graphs.selection.reason for setup, codec in codecs.items()}
        for codec in codecs.values():
            codec.close()
    parts = [key.partition("/")[2] for key in candidates if key.startswith(f"{BEFORE}/")]
    return {
        "settings": {
            "image": source.name,
            "width": size[0],
            "height": size[1],
            "threads": threads,
            "rule": asdict(rule),
        },
        "backends": reasons,
        "speedup": {part: ratio(timings[f"{BEFORE}/{part}"], timings[f"{AFTER}/{part}"]) for part in parts},
        "stage_speedup": {
            part: _stage_ratios(timings[f"{BEFORE}/{part}"], timings[f"{AFTER}/{part}"])
            for part in ("compress", "decompress")
        },
        "timings": {key: timing.to_json() for key, timing in timings.items()},
    }


def _stage_ratios(before: Timing, after: Timing) -> dict[str, float]:
    return {
        stage: series.median / max(after.wall[stage].median, 1e-9)
        for stage, series in before.wall.items()
        if stage != TOTAL and stage in after.wall
    }


def rate(
    before: Path, after: Path, images: Sequence[Path], *, processes: int, limits: Limits | None = None
) -> dict[str, Any]:
    """BD-rate of the int8 bundle against the float one, and the PSNR of both estimates.

    Args:
        before: the float bundle.
        after: the int8 bundle.
        images: photographs.
        processes: how many images at a time.
        limits: on the photographs; None for the defaults.

    Raises:
        DataError: an image whose two curves have no quality in common.
    """
    coders = [
        ours(str(path), threads=1, variant="psnr-always", name=name)
        for name, path in ((BEFORE, before), (AFTER, after))
    ]
    limits = limits or Limits()
    jobs = [Job(image, coder, ("psnr",), limits) for image in images for coder in coders]
    with tempfile.TemporaryDirectory() as folder:
        points = measure_rd(jobs, Path(folder) / "partial", processes=processes)
    try:
        by_image = bd_rate_by_image(points, AFTER, BEFORE, quality_range=BD_RANGE)
    except ValueError as error:
        raise DataError(f"{before} and {after} have no BD-rate: {error}") from error
    estimates: dict[str, list[float]] = {}
    for when, path in (("before", before), ("after", after)):
        with Codec.open(path, threads=1, limits=limits) as codec:
            for image in images:
                pixels = as_rgb(read_image(image, codec.limits).pixels)
                estimates.setdefault(when, []).append(psnr(pixels, codec.layers(pixels).estimate))
    return {
        "images": [image.name for image in images],
        "range_db": BD_RANGE,
        "bd_rate_percent": fmean(by_image.values()),
        "per_image_percent": by_image,
        "estimate_db": {when: fmean(values) for when, values in estimates.items()},
        "points": [asdict(point) for point in points],
    }


@dataclass(frozen=True)
class Pictures:
    """What int8 is judged on; either may be empty.

    Attributes:
        photographs: files for rate and distortion.
        frames: files of labeled frames, each with the file of its label map.
    """

    photographs: tuple[Path, ...]
    frames: tuple[tuple[Path, Path], ...]


def find_pictures(kodak: Path | None, camvid: Path | None, *, every: int = 1) -> Pictures:
    """Find all pictures before any work is done.

    Args:
        kodak: folder of photographs; None: none.
        camvid: folder with `test/` and the label maps of the same names in `testannot/`; None: no frames.
        every: only each n-th photograph and frame.

    Raises:
        DataError: a folder, its pictures or a label map is missing.
    """
    photographs = [] if kodak is None else find_images(kodak)[::every]
    frames = []
    for frame in [] if camvid is None else find_images(camvid / "test")[::every]:
        annotation = frame.parent.parent / "testannot" / f"{frame.stem}.png"
        if not annotation.is_file():
            raise DataError(f"{frame} has no label map {annotation}")
        frames.append((frame, annotation))
    return Pictures(tuple(photographs), tuple(frames))


def labels(
    before: Path,
    after: Path,
    frames: Sequence[tuple[Path, Path]],
    *,
    threads: int | None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Mean intersection over union of both bundles' labels.

    Args:
        before: the float bundle.
        after: the int8 bundle.
        frames: files of frames and of their label maps, whose values are 0..K-1, others ignored.
        threads: CPU threads of the networks.
        limits: on frames and label maps; None for the defaults.

    Raises:
        DataError: a label map does not fit its frame.
    """
    miou = {}
    agree = []
    kept: dict[str, Pixels] = {}
    for when, path in (("before", before), ("after", after)):
        with Codec.open(path, threads=threads, limits=limits) as codec:
            manifest = codec.bundle.manifest
            classes, scale = len(manifest.classes), manifest.label_scale
            total = np.zeros((classes, classes), np.int64)
            for frame, annotation in frames:
                with open_stored(annotation, codec.limits) as opened:
                    truth = np.asarray(opened)
                pixels = as_rgb(read_image(frame, codec.limits).pixels)
                factor = reduction_for(*pixels.shape[:2])
                small = codec.graphs.segment(reduce_image(pixels, factor))
                full = small.repeat(scale * factor, 0).repeat(scale * factor, 1)
                found = full[: truth.shape[0], : truth.shape[1]]
                if truth.ndim != 2 or found.shape != truth.shape:
                    raise DataError(
                        f"the label map {annotation} has shape {truth.shape}, the frame {found.shape}"
                    )
                total += confusion_matrix(truth, found, classes)
                if frame.name in kept:
                    agree.append(float(np.mean(kept[frame.name] == small)))
                kept[frame.name] = small
            miou[when] = mean_iou(total)
    return {**miou, "frames": len(frames), "labels_equal": fmean(agree)}


def evaluate(
    before: Path,
    after: Path,
    pictures: Pictures,
    *,
    threads: int | None,
    processes: int = 1,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """What int8 costs: `rate` on the photographs, `labels` on the frames.

    Args:
        before: the float bundle.
        after: the int8 bundle.
        pictures: from `find_pictures`.
        threads: CPU threads of the networks.
        processes: how many photographs at a time.
        limits: on the pictures; None for the defaults.
    """
    result: dict[str, Any] = {}
    if pictures.photographs:
        result["rd"] = rate(before, after, pictures.photographs, processes=processes, limits=limits)
    if pictures.frames:
        result["miou"] = labels(before, after, pictures.frames, threads=threads, limits=limits)
    return result


def describe() -> dict[str, Any]:
    """The machine, and whether it has the instructions that int8 is meant for."""
    found = environment.describe()
    return {**found, "vnni": bool(_VNNI & set(found["cpu"]["features"]))}


def fingerprints(before: Path, after: Path) -> dict[str, Any]:
    """Fingerprints of both bundles.

    Raises:
        DataError: the second was not made from the first.
    """
    one, two = open_bundle(before).manifest, open_bundle(after).manifest
    origin = (two.quantization or {}).get("float_fingerprint")
    if origin != one.fingerprint:
        raise DataError(
            f"{after} was not calibrated from {before}: "
            + (
                "it is not quantized"
                if origin is None
                else f"it comes from {origin[:16]}, not {one.fingerprint[:16]}"
            )
        )
    return {BEFORE: one.fingerprint, AFTER: two.fingerprint}


def lines(result: dict[str, Any]) -> list[str]:
    """The result for people."""
    out = []
    if "latency" in result:
        for part, speedup in result["latency"]["speedup"].items():
            medians = (
                result["latency"]["timings"][f"{when}/{part}"]["wall"][TOTAL]["p50_ms"]
                for when in (BEFORE, AFTER)
            )
            out.append(
                f"{part:<12} {next(medians):8.2f} ms -> {next(medians):8.2f} ms, {speedup:.2f}x as fast"
            )
        if not result["environment"]["vnni"]:
            out.append("this processor has no VNNI: these are not the ratios that int8 is meant for")
    if "rd" in result:
        found = result["rd"]
        change = found["estimate_db"]["after"] - found["estimate_db"]["before"]
        out.append(f"BD-rate {found['bd_rate_percent']:+.3f} % on {len(found['images'])} photographs, "
                   f"estimate {change:+.4f} dB")  # fmt: skip
    if "miou" in result:
        found = result["miou"]
        out.append(
            f"mIoU {found['before']:.4f} -> {found['after']:.4f} on {found['frames']} frames, "
            f"{100 * found['labels_equal']:.2f} % of the labels equal"
        )
    return out
