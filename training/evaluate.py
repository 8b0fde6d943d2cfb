"""Scores of a checkpoint: label maps against people and the teacher, rates and distortion on Kodak, as real streams."""

from __future__ import annotations

import io
import json
import sys
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from PIL import Image

from ..measure.metrics import bd_rate, class_iou, psnr
from ..runtime.codec import Settings, residual
from ..runtime.codec.finishing import finish_layers, reconstruct
from ..runtime.codec.layering import make_layers
from ..runtime.codec.tile_pool import TilePool
from ..runtime.image.arrays import Layout
from ..runtime.tiling import single
from .data import (
    CLOTHES,
    EVERYDAY_SOURCES,
    TESTED,
    TESTED_FOLDER,
    Picture,
    labeled,
    photographs,
    softly_labeled,
)
from .segmentation import agreement, agreement_of_sizes, frequent_classes, unsmoothed
from .segmentation import evaluate as segmentation_confusion
from .torch_graphs import TorchGraphs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ..networks.checkpoint import Checkpoint
    from ..networks.codec import CodecNetworks
    from ..networks.config import ModelConfig
    from ..networks.segnet import SegNet
    from ..runtime.codec.networks import Graphs

QUALITIES: Final = (12, 25, 40, 55, 68, 78, 86)
RANGE: Final = (28.0, 39.0)
SIDES: Final = (400, 800, 3200)
"""Long sides of one picture whose maps are compared."""


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


def score_segmentation(networks: CodecNetworks, pictures: Sequence[Picture]) -> dict[str, Any]:
    """IoU per class, mean IoU and pixel accuracy of labeled pictures, at full size.

    Scored is SegNet itself, without the smoothing that makes its map cheaper to store, and under `stored` the map
    that a stream carries.
    """
    scores = _segmentation_scores(unsmoothed(networks.segnet), pictures, networks.config)
    scores["stored"] = _segmentation_scores(networks.segnet, pictures, networks.config)
    return scores


def _segmentation_scores(segnet: SegNet, pictures: Sequence[Picture], config: ModelConfig) -> dict[str, Any]:
    matrix = segmentation_confusion(segnet, pictures, config)
    per_class, kept = class_iou(matrix), frequent_classes(matrix)
    names = ["person" if index == CLOTHES else entry.name for index, entry in enumerate(config.classes)]
    return {
        "pictures": len(pictures),
        "miou": round(float(np.mean(per_class[kept])), 4),
        "iou": {
            name: {"iou": round(float(value), 4), "counts": bool(frequent)}
            for name, value, frequent in zip(names, per_class, kept, strict=True)
            if not np.isnan(value)
        },
        "pixel_accuracy": round(float(np.diag(matrix).sum() / matrix.sum()), 4),
    }


def score_labels(networks: CodecNetworks, root: Path, soft: Path | None) -> dict[str, Any]:
    """Scores of the label maps.

    Those of `everyday/test` by set and in all, of CamVid's test split in our classes, the agreement with the
    teacher on Kodak, on the pictures of BSDS500 that were left out of training, and on `everyday/pseudo/coco`, and how
    well the maps of one picture of Kodak at different sizes agree.

    Args:
        networks: in evaluation mode.
        root: the data folder.
        soft: soft labels, see `oslic train teach`; None: no agreement.

    Raises:
        DataError: data are missing.
    """
    sets = {source: labeled(root, f"everyday/test/{source}") for source in EVERYDAY_SOURCES}
    scores: dict[str, Any] = {
        "everyday": score_segmentation(networks, [p for pictures in sets.values() for p in pictures]),
        "sets": {name: score_segmentation(networks, pictures) for name, pictures in sets.items()},
        "camvid": score_segmentation(networks, labeled(root, "camvid/test")),
    }
    if soft is not None:
        folders = {"kodak": "kodak", "bsds500": TESTED_FOLDER, "coco": "everyday/pseudo/coco/images"}
        scores["agreement"] = {}
        for name, folder in folders.items():
            pictures = softly_labeled(root, soft, folder)
            if folder == TESTED_FOLDER:
                pictures = pictures[:TESTED]
            scores["agreement"][name] = round(agreement(networks.segnet, pictures, networks.config), 4)
    kodak = photographs(root, ("kodak",))
    found = agreement_of_sizes(networks.segnet, kodak[:: len(kodak) // 8 or 1], SIDES, networks.config)
    scores["agreement_of_sizes"] = {"sides": list(SIDES), "share": round(found, 4)}
    return scores


def score_photograph(graphs: Graphs, picture: Picture) -> dict[str, Any]:
    """Layers, rate-distortion points and BD-rate against plain AVIF of one photograph: one tile, tuned for PSNR."""
    height, width = picture.pixels.shape[:2]
    bits, pool = 8.0 / (height * width), TilePool(1)
    settings = [Settings(quality, tune="psnr") for quality in (0, *QUALITIES)]
    made = make_layers(
        graphs,
        picture.pixels,
        layout=Layout.RGB,
        grid=single(width, height),
        settings=settings[0],
        pool=pool,
    )
    streams = [finish_layers(graphs, made, each, pool) for each in settings]
    alone = streams.pop(0)
    ours = [(each.data, psnr(picture.pixels, reconstruct(graphs, each))) for each in streams]
    theirs = [plain_avif(picture.pixels, quality) for quality in QUALITIES]
    our_rates, our_psnr = [len(data) * bits for data, _ in ours], [value for _, value in ours]
    their_rates, their_psnr = [len(data) * bits for data, _ in theirs], [value for _, value in theirs]
    return {
        "name": picture.name,
        "labels_bpp": round(alone.section_bytes["labels"] * bits, 5),
        "compact_bpp": round(alone.section_bytes["compact"] * bits, 5),
        "estimate_psnr": round(psnr(picture.pixels, made.estimate), 3),
        "bpp": [round(value, 5) for value in our_rates],
        "psnr": [round(value, 3) for value in our_psnr],
        "avif_bpp": [round(value, 5) for value in their_rates],
        "avif_psnr": [round(value, 3) for value in their_psnr],
        "bd_rate": round(bd_rate(their_rates, their_psnr, our_rates, our_psnr, quality_range=RANGE), 3),
    }


@torch.no_grad()
def evaluate(checkpoint: Checkpoint, root: Path, soft: Path | None = None) -> dict[str, Any]:
    """Evaluate a checkpoint at its default settings.

    Args:
        checkpoint: what to evaluate.
        root: the data folder; `everyday/test`, CamVid's test split and Kodak are used.
        soft: soft labels, see `oslic train teach`; None: the agreement with the teacher is not scored.

    Returns:
        Plain JSON types: fingerprint, segmentation, and for Kodak the means and all photographs. BD-rates are in
        percent of plain AVIF's file size over 28 to 39 dB, the mean of the photographs' own.

    Raises:
        DataError: data are missing.
    """
    networks = checkpoint.networks()
    fingerprint = checkpoint.fingerprint
    graphs = TorchGraphs(networks, fingerprint)
    labels = score_labels(networks, root, soft)
    for name in ("everyday", "camvid"):
        found = labels[name]
        print(
            f"{name}: mIoU {found['miou']}, as stored {found['stored']['miou']}", file=sys.stderr, flush=True
        )
    rows = []
    for picture in photographs(root, ("kodak",)):
        rows.append(score_photograph(graphs, picture))
        shown = {key: rows[-1][key] for key in ("labels_bpp", "compact_bpp", "estimate_psnr", "bd_rate")}
        print(f"{picture.name}: {json.dumps(shown)}", file=sys.stderr, flush=True)

    def mean(key: str) -> float:
        return round(float(np.mean([row[key] for row in rows])), 5)

    return {
        "fingerprint": fingerprint,
        "configuration": checkpoint.config.name,
        "labels": labels,
        "kodak": {
            "labels_bpp": mean("labels_bpp"),
            "compact_bpp": mean("compact_bpp"),
            "estimate_psnr": mean("estimate_psnr"),
            "bd_rate": mean("bd_rate"),
            "qualities": list(QUALITIES),
            "photographs": rows,
        },
    }
