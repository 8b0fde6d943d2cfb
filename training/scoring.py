"""Scores of networks on photographs: real FLIF bytes, PSNR of the estimate, the residual coder's estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ..measure.metrics import mse
from ..runtime.codec.coarseness import Reduction, reduce_compact
from .losses import Reconstruction, ResidualRate, whole_blocks
from .segmentation import network_labels, predict
from .torch_graphs import TorchGraphs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ..networks.codec import CodecNetworks
    from .data import Picture
    from .losses import Term


class Layers(NamedTuple):
    """What the codec makes of one image, cut to its size.

    Attributes:
        labels: uint8, ceil(H/S) x ceil(W/S), as it is stored.
        compact: uint8, ceil(H/8) x ceil(W/8) x 3.
        estimate: uint8, H x W x 3.
    """

    labels: NDArray[np.uint8]
    compact: NDArray[np.uint8]
    estimate: NDArray[np.uint8]


@torch.no_grad()
def layers(networks: CodecNetworks, picture: Picture, reduction: Reduction | None = None) -> Layers:
    """Run the deployable modules on one image, as the runtime does: padded, cut, extended again.

    Args:
        networks: in evaluation mode.
        picture: its label map is taken as it is; without one it is computed.
        reduction: of the compact image; None: it stays as it is.
    """
    config = networks.config
    height, width = picture.pixels.shape[:2]
    graphs = TorchGraphs(networks, "")
    labels = predict(networks.segnet, picture.pixels, config) if picture.labels is None else picture.labels
    on_grid = network_labels(labels, height, width, config)
    fine = graphs.analyse(picture.pixels, on_grid)
    compact = reduce_compact(fine, reduction or Reduction(), config.levels)
    return Layers(labels, compact, graphs.synthesise(compact, on_grid, height, width))


def _measured(picture: Picture, result: Layers) -> dict[str, float]:
    """What the layers of a photograph cost as FLIF, in bpp, and the PSNR of the estimate in dB."""
    from ..runtime import flif

    bits = 8.0 / (picture.pixels.shape[0] * picture.pixels.shape[1])
    return {
        "labels_bpp": len(flif.encode(result.labels, crc=False)) * bits,
        "compact_bpp": len(flif.encode(result.compact, crc=False)) * bits,
        "psnr": 10.0 * float(np.log10(255.0**2 / max(mse(picture.pixels, result.estimate), 1e-9))),
    }


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}


def score_codec(
    networks: CodecNetworks,
    photographs: Sequence[Picture],
    steps: Mapping[int, tuple[float, ...]],
    smoothing: float = 0.0,
) -> dict[str, float]:
    """Mean scores over photographs.

    Args:
        networks: in evaluation mode.
        photographs: with label maps, or without (then they are computed).
        steps: the residual's quantizer steps that compact images of each coarseness are meant for.
        smoothing: of compact images of a coarseness above 1.

    Returns:
        labels_bpp (FLIF); for each coarseness compact_bpp (FLIF), psnr of the estimate in dB and residual_bpp
        (estimated), with the coarseness behind the name unless it is 1; and score, minus the sum of the rates, the mean
        over the degrees of coarseness.
    """
    scores: dict[str, float] = {"score": 0.0}
    for coarseness, own in steps.items():
        residual_rate = ResidualRate(own)
        rows = []
        for picture in photographs:
            result = layers(networks, picture, Reduction(coarseness, smoothing))
            estimated = residual_rate.per_step(
                whole_blocks(picture.pixels), whole_blocks(result.estimate)
            ).mean()
            rows.append({**_measured(picture, result), "residual_bpp": float(estimated)})
        means = _means(rows)
        scores["labels_bpp"] = labels = means.pop("labels_bpp")
        scores["score"] -= (labels + means["compact_bpp"] + means["residual_bpp"]) / len(steps)
        suffix = "" if coarseness == 1 else f"_{coarseness}"
        scores |= {f"{name}{suffix}": value for name, value in means.items()}
    return scores


@torch.no_grad()
def score_layers(
    networks: CodecNetworks,
    photographs: Sequence[Picture],
    weights: Mapping[str, float],
    terms: Mapping[str, Term],
) -> dict[str, float]:
    """Mean scores of the layers alone, as they are stored and decoded.

    Args:
        networks: in evaluation mode.
        photographs: with label maps, or without (then they are computed).
        weights: of the loss's terms, by name; "compact_rate" is taken from FLIF.
        terms: how to compute the others, see `losses`.

    Returns:
        labels_bpp and compact_bpp (FLIF), psnr of the estimate in dB, each term by its name, and score, minus their
        weighted sum.
    """
    rows = []
    for picture in photographs:
        result = layers(networks, picture)
        image, estimate, compact = (
            torch.from_numpy(array.copy()).permute(2, 0, 1)[None].float()
            for array in (picture.pixels, result.estimate, result.compact)
        )
        x = Reconstruction(image / 256.0, torch.from_numpy(result.labels)[None], compact, estimate / 256.0)
        values = {name: float(terms[name](x)) for name in weights if name != "compact_rate"}
        rows.append({**_measured(picture, result), **values})
    means = _means(rows)
    costs = {**means, "compact_rate": means["compact_bpp"]}
    score = -sum(weight * costs[name] for name, weight in weights.items())
    return {"score": score, **means}
