"""Scores of a checkpoint: segmentation on CamVid, rates and distortion on Kodak, as real streams."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from PIL import Image

from ..bench.metrics import bd_rate, class_iou, mean_iou, psnr
from ..runtime import flif, residual
from ..runtime.codec import stream_header
from ..runtime.stream import Layout, SectionType, estimate_digest, write_stream
from .data import Picture, labelled, photographs
from .scoring import Layers, layers
from .segmentation import evaluate as segmentation_confusion
from .segmentation import unsmoothed

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ..networks.checkpoint import Checkpoint
    from ..networks.codec import CodecNetworks
    from ..networks.config import ModelConfig
    from ..networks.segnet import SegNet

QUALITIES: Final = (12, 25, 40, 55, 68, 78, 86)
RANGE: Final = (28.0, 39.0)


def stream(image: NDArray[np.uint8], made: Layers, fingerprint: str, quality: int) -> tuple[bytes, float]:
    """The `.oslic` file of an image, and the PSNR of what it decodes to.

    Args:
        image: uint8, H x W x 3.
        made: what the networks make of it.
        fingerprint: of the checkpoint.
        quality: 1..100 of the residual.
    """
    coded = residual.encode(image, made.estimate, quality=quality)
    digest = estimate_digest(np.ascontiguousarray(made.estimate))
    header = stream_header(image.shape, Layout.RGB, fingerprint, coded, digest)
    sections = {
        SectionType.LABELS: flif.encode(made.labels, crc=False),
        SectionType.COMPACT: flif.encode(made.compact, crc=False),
        SectionType.RESIDUAL: coded.payload,
    }
    return write_stream(header, sections), psnr(image, residual.decode(coded, made.estimate))


def plain_avif(image: NDArray[np.uint8], quality: int) -> tuple[bytes, float]:
    """The anchor: an AVIF file, 4:4:4, speed 6, tune=psnr; and the PSNR of what it decodes to."""
    file = io.BytesIO()
    Image.fromarray(image).save(
        file,
        "AVIF",
        quality=quality,
        speed=residual.DEFAULT_SPEED,
        subsampling="4:4:4",
        max_threads=2,
        autotiling=False,
        advanced={"tune": "psnr"},
    )
    with Image.open(io.BytesIO(file.getvalue())) as decoded:
        return file.getvalue(), psnr(image, np.asarray(decoded.convert("RGB")))


def score_segmentation(networks: CodecNetworks, frames: Sequence[Picture]) -> dict[str, Any]:
    """IoU per class, mean IoU and pixel accuracy of labelled frames, at full size.

    Scored is SegNet itself, without the smoothing that makes its map cheaper to store, and under `stored` the map
    that a stream carries.
    """
    scores = _segmentation_scores(unsmoothed(networks.segnet), frames, networks.config)
    scores["stored"] = _segmentation_scores(networks.segnet, frames, networks.config)
    return scores


def _segmentation_scores(segnet: SegNet, frames: Sequence[Picture], config: ModelConfig) -> dict[str, Any]:
    matrix = segmentation_confusion(segnet, frames, config)
    per_class = class_iou(matrix)
    return {
        "frames": len(frames),
        "miou": round(mean_iou(matrix), 4),
        "iou": {
            entry.name: None if np.isnan(value) else round(float(value), 4)
            for entry, value in zip(config.classes, per_class, strict=True)
        },
        "pixel_accuracy": round(float(np.diag(matrix).sum() / matrix.sum()), 4),
    }


def score_photograph(networks: CodecNetworks, picture: Picture, fingerprint: str) -> dict[str, Any]:
    """Layers, rate-distortion points and BD-rate against plain AVIF of one photograph."""
    made = layers(networks, picture)
    bits = 8.0 / (picture.pixels.shape[0] * picture.pixels.shape[1])
    ours = [stream(picture.pixels, made, fingerprint, quality) for quality in QUALITIES]
    theirs = [plain_avif(picture.pixels, quality) for quality in QUALITIES]
    our_rates, our_psnr = [len(data) * bits for data, _ in ours], [value for _, value in ours]
    their_rates, their_psnr = [len(data) * bits for data, _ in theirs], [value for _, value in theirs]
    return {
        "name": picture.name,
        "labels_bpp": round(len(flif.encode(made.labels, crc=False)) * bits, 5),
        "compact_bpp": round(len(flif.encode(made.compact, crc=False)) * bits, 5),
        "estimate_psnr": round(psnr(picture.pixels, made.estimate), 3),
        "bpp": [round(value, 5) for value in our_rates],
        "psnr": [round(value, 3) for value in our_psnr],
        "avif_bpp": [round(value, 5) for value in their_rates],
        "avif_psnr": [round(value, 3) for value in their_psnr],
        "bd_rate": round(bd_rate(their_rates, their_psnr, our_rates, our_psnr, quality_range=RANGE), 3),
    }


@torch.no_grad()
def evaluate(checkpoint: Checkpoint, root: Path) -> dict[str, Any]:
    """Evaluate a checkpoint at its default settings.

    Args:
        checkpoint: what to evaluate.
        root: the data folder; CamVid's test split and Kodak are used.

    Returns:
        Plain JSON types: fingerprint, segmentation, and for Kodak the means and all photographs. BD-rates are in
        percent of plain AVIF's file size over 28 to 39 dB, the mean of the photographs' own.

    Raises:
        DataError: data are missing.
    """
    networks = checkpoint.networks()
    fingerprint = checkpoint.fingerprint
    segmentation = score_segmentation(networks, labelled(root, "test", len(networks.config.classes)))
    stored = segmentation["stored"]["miou"]
    print(f"CamVid test: mIoU {segmentation['miou']}, as stored {stored}", file=sys.stderr, flush=True)
    rows = []
    for picture in photographs(root, ("kodak",)):
        rows.append(score_photograph(networks, picture, fingerprint))
        shown = {key: rows[-1][key] for key in ("labels_bpp", "compact_bpp", "estimate_psnr", "bd_rate")}
        print(f"{picture.name}: {json.dumps(shown)}", file=sys.stderr, flush=True)

    def mean(key: str) -> float:
        return round(float(np.mean([row[key] for row in rows])), 5)

    return {
        "fingerprint": fingerprint,
        "configuration": checkpoint.config.name,
        "segmentation": segmentation,
        "kodak": {
            "labels_bpp": mean("labels_bpp"),
            "compact_bpp": mean("compact_bpp"),
            "estimate_psnr": mean("estimate_psnr"),
            "bd_rate": mean("bd_rate"),
            "qualities": list(QUALITIES),
            "photographs": rows,
        },
    }
