"""Probability tables of a transform codec, as whole numbers."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from ..networks.transform.codec import LEAST_SCALE
from ..runtime.kinds.transform.tables import MOST_SYMBOLS, TOTAL

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..networks.transform.factorized import FactorizedPrior

SCALES: Final = 64
_MOST_SCALE: Final = 256.0
# What is less likely is coded as an escape: an entry of its own would take more than its share.
_TAIL: Final = 2.0**-18


def scale_steps() -> npt.NDArray[np.float64]:
    """The standard deviations that have tables: a geometric series, as published models are coded with."""
    return np.exp(np.linspace(math.log(LEAST_SCALE), math.log(_MOST_SCALE), SCALES))


def counts_of(probabilities: npt.NDArray[np.float64]) -> list[int]:
    """Probabilities of the entries of a table, with the escape's, as whole numbers of at least 1 that sum to `TOTAL`.

    Args:
        probabilities: of all entries but the escape; it gets what is left.
    """
    whole = np.append(probabilities, max(0.0, 1.0 - probabilities.sum()))
    counts = np.maximum(1, np.rint(whole / whole.sum() * TOTAL)).astype(np.int64)
    # The rounding's rest goes where it costs least, the largest first.
    order = np.argsort(-counts, kind="stable")
    rest = TOTAL - int(counts.sum())
    while rest:
        for place in order:
            step = max(-1, min(1, rest)) if counts[place] > 1 or rest > 0 else 0
            counts[place] += step
            rest -= step
            if not rest:
                break
    return [int(count) for count in counts]


def gaussian_tables() -> dict[str, Any]:
    """Tables of normal distributions around 0, with the thresholds between them."""
    first, counts = [], []
    for scale in scale_steps():
        reach = min(math.ceil(6.0 * scale), MOST_SYMBOLS // 2 - 2)
        edges = torch.arange(-reach, reach + 2, dtype=torch.float64) - 0.5
        cumulative = 0.5 * torch.erfc(-edges / (scale * math.sqrt(2.0)))
        probabilities = (cumulative[1:] - cumulative[:-1]).numpy()
        inside = np.flatnonzero(probabilities >= _TAIL)
        first.append(int(inside[0]) - reach)
        counts.append(counts_of(probabilities[inside[0] : inside[-1] + 1]))
    # A scale takes the table whose own is nearest in proportion: a quarter of the loss of always taking the next above.
    steps = scale_steps()
    # As float32 has them: what they are compared with is float32.
    thresholds = [float(np.float32(scale)) for scale in np.sqrt(steps[1:] * steps[:-1])]
    return {"offsets": thresholds, "first": first, "counts": counts}


@torch.no_grad()
def factorized_tables(prior: FactorizedPrior, offsets: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Tables of a factorized prior.

    Args:
        prior: the distributions.
        offsets: one for each channel: what is coded is a whole number, and the value is that and the offset.
    """
    most = MOST_SYMBOLS // 2 - 2
    shifts = torch.from_numpy(offsets.astype(np.float64))
    low = (prior.quantile(_TAIL) - shifts).floor().clamp(-most, most)
    high = (prior.quantile(1.0 - _TAIL) - shifts).ceil().clamp(-most, most)
    reach = int(torch.maximum(low.abs(), high.abs()).max())
    grid = torch.arange(-reach, reach + 1, dtype=torch.float64)
    double = type(prior)(prior.channels).double()
    double.load_state_dict(prior.state_dict())
    values = (grid[None, :] + shifts[:, None])[None, :, :, None]  # 1 x C x n x 1
    likelihood = double.likelihood(values)[0, :, :, 0].numpy()
    first, counts = [], []
    for row in likelihood:
        inside = np.flatnonzero(row >= _TAIL)
        start, end = (int(inside[0]), int(inside[-1]) + 1) if len(inside) else (reach, reach + 1)
        first.append(start - reach)
        counts.append(counts_of(row[start:end] / max(1.0, row[start:end].sum())))
    return {"offsets": [float(x) for x in offsets], "first": first, "counts": counts}


def tables_file(prior: FactorizedPrior, offsets: npt.NDArray[np.float32], *, by_scale: bool) -> bytes:
    """The file of a bundle that `runtime.kinds.transform.tables` reads.

    Args:
        prior: the factorized prior.
        offsets: of its channels.
        by_scale: whether there is a hyperprior.
    """
    none: dict[str, list[Any]] = {"offsets": [], "first": [], "counts": []}
    body = {"apart": factorized_tables(prior, offsets), "by_scale": gaussian_tables() if by_scale else none}
    return (json.dumps(body, separators=(",", ":")) + "\n").encode()
