"""How far the estimates of other backends and precisions lie from float32 on the CPU."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ...measure import environment
from ...measure.metrics import psnr
from ...runtime.backends import probe_all
from ...runtime.bundle.finder import open_bundle
from ...runtime.bundle.folder import Bundle
from ...runtime.codec import Codec, DriftWarning, Encoded, Settings
from ...runtime.codec.residual import CodedResidual, decode
from ...runtime.errors import BundleError
from ...runtime.image.files import read_image
from ...runtime.limits import Limits
from ...runtime.segmentation_size import labels_on
from ...runtime.tiling import Box
from ..report.layer_images import as_rgb

if TYPE_CHECKING:
    import numpy.typing as npt

    from ...runtime.image.arrays import Pixels

FORMAT: Final = "oslic-bench-drift"
VERSION: Final = 1
_REFERENCE_BACKEND: Final = "onnxruntime-cpu"


def candidates(bundle: Bundle, others: dict[str, Path]) -> dict[str, tuple[Bundle, str]]:
    """Return bundle and backend of everything that can be compared here.

    Args:
        bundle: the reference bundle, with every usable backend but the reference's.
        others: further bundles by name (fused or naive forms, other precisions), each with its usable backends.
    """
    found = {}
    for name, opened in {"": bundle, **{n: open_bundle(p) for n, p in others.items()}}.items():
        for backend, available in probe_all(opened).items():
            if available.usable and (name or backend != _REFERENCE_BACKEND):
                found[f"{name} {backend}".strip()] = (opened, backend)
    return found


def _differences(one: Pixels, other: Pixels) -> npt.NDArray[np.int64]:
    """Counts of absolute differences 0..255."""
    return np.bincount(np.abs(one.astype(np.int16) - other).ravel(), minlength=256)


def run(
    bundle: Bundle,
    others: dict[str, Path],
    images: list[Path],
    *,
    quality: int,
    threads: int | None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Compare the estimates of all candidates with the reference's on the same compact images and labels.

    Args:
        bundle: the reference: run as float32 by ONNX Runtime on the CPU.
        others: further bundles by name.
        images: photographs.
        quality: of the residual, for the effect on the final PSNR.
        threads: CPU threads of the reference; the reference is also compared with itself on one thread.
        limits: what to refuse; None for the defaults.

    Returns:
        The result, ready for JSON.
    """
    rows = []
    with Codec.open(bundle, _REFERENCE_BACKEND, threads, limits) as reference:
        pictures = [as_rgb(read_image(path, reference.limits).pixels) for path in images]
        streams = [reference.finish(reference.layers(picture, Settings(quality))) for picture in pictures]
        everything = {"same, one thread": (bundle, _REFERENCE_BACKEND), **candidates(bundle, others)}
        for name, (opened, backend) in everything.items():
            with Codec.open(opened, backend, 1 if name == "same, one thread" else threads, limits) as codec:
                rows.append(_row(name, codec, streams))
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment.describe(),
        "settings": {"images": [p.name for p in images], "quality": quality, "bundle": bundle.manifest.name},
        "note": (
            f"Reference: {bundle.manifest.name}, float32, ONNX Runtime on the CPU. Same labels and compact image; "
            "final PSNR: the reference's residual added to the candidate's estimate."
        ),
        "rows": rows,
    }


def _row(name: str, codec: Codec, streams: list[Encoded]) -> dict[str, Any]:
    counts = np.zeros(256, dtype=np.int64)
    between, changes, says = [], [], set()
    for stream in streams:
        layers = stream.layers
        height, width = layers.image.shape[:2]
        scale = codec.bundle.manifest.label_scale
        labels = labels_on(layers.labels, layers.label_scale, Box(0, 0, width, height), scale)
        estimate = codec.graphs.synthesise(layers.compact, labels, height, width)
        counts += _differences(estimate, layers.estimate)
        between.append(psnr(layers.estimate, estimate))
        coded = stream.tiles[0].residual
        assert isinstance(coded, CodedResidual), "a lossy stream without FLIF"
        final = decode(coded, estimate)
        wanted = decode(coded, layers.estimate)
        changes.append(psnr(layers.image, final) - psnr(layers.image, wanted))
        says.add(_verdict(codec, stream.data))
    finite = [value for value in between if math.isfinite(value)]
    return {
        "candidate": name,
        "max_difference": int(np.flatnonzero(counts)[-1]),
        "differing_percent": float(100 * (1 - counts[0] / counts.sum())),
        "histogram": counts[: int(np.flatnonzero(counts)[-1]) + 1].tolist(),
        "psnr_between_db": fmean(finite) if finite else None,
        "final_psnr_change_db": fmean(changes),
        "decoder_says": ", ".join(sorted(says)),
    }


def _verdict(codec: Codec, data: bytes) -> str:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            codec.decompress(data)
        except BundleError:
            return "another checkpoint: refused"
    return "digest differs: warning" if any(w.category is DriftWarning for w in caught) else "digest matches"
