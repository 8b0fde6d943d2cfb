"""Quality by class at equal bytes: what people marked gets better, the rest pays; beside AVIF with offsets by block."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from ...measure import environment
from ...runtime.codec import Codec
from ...runtime.codec.request import Request, make_request
from ...runtime.codec.settings import Tune
from ...runtime.errors import DataError
from ...runtime.image.files import find_images, read_image
from ..coders.registry import avif
from ..report.layer_images import as_rgb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy.typing as npt

    from ...runtime.image.arrays import Pixels
    from ...runtime.limits import Limits

    Mask = npt.NDArray[np.bool_]

FORMAT: Final = "oslic-bench-focus"
VERSION: Final = 1
_BLOCK: Final = 16
_RATES: Final = (4.0, 8.0, 16.0)
"""How much more rate libaom is told to give to the blocks in focus; the best one counts."""


@dataclass(frozen=True)
class Marked:
    """A photograph and what people marked in it.

    Attributes:
        name: of its file.
        image: uint8 (H, W, 3).
        mask: bool (H, W).
    """

    name: str
    image: Pixels
    mask: Mask


def read_marked(
    folders: Sequence[Path], values: Sequence[int], shares: tuple[float, float], limits: Limits
) -> list[Marked]:
    """Photographs in which the marked part has some share of the area.

    Args:
        folders: each with `images/` and, by the same names, label maps in `labels/`.
        values: of the label maps, that are marked.
        shares: least and largest share.
        limits: on the images.

    Raises:
        DataError: a label map is missing or of another size, or no photograph is left.
    """
    found = []
    for folder in folders:
        for path in find_images(folder / "images"):
            annotation = folder / "labels" / f"{path.stem}.png"
            if not annotation.is_file():
                raise DataError(f"{path} has no label map {annotation}")
            image = as_rgb(read_image(path, limits).pixels)
            with Image.open(annotation) as opened:
                mask = np.isin(np.asarray(opened), values)
            if mask.shape != image.shape[:2]:
                raise DataError(f"{annotation} is not of the size of {path}")
            if shares[0] <= float(mask.mean()) <= shares[1]:
                found.append(Marked(f"{folder.name}/{path.stem}", image, mask))
    if not found:
        raise DataError(
            f"no photograph below {folders[0]} has a marked share of {shares[0]:g} to {shares[1]:g}"
        )
    return found


def run(
    bundle: str | None,
    pictures: Sequence[Marked],
    focus: str,
    qualities: Sequence[int],
    progress: Callable[[str], Any],
    *,
    tune: Tune = "psnr",
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Code photographs with and without a focus, at equal bytes.

    Args:
        bundle: folder or name of the networks; None: the shipped ones.
        pictures: photographs and what people marked in them; the codec sees its own label map only.
        focus: a class or a group, with or without its step.
        qualities: at which the files without focus are made.
        progress: gets a line for the user as each row is done.
        tune: what our residual coder aims at; AVIF's is tuned for PSNR.
        limits: on streams; None for the defaults.

    Returns:
        The result file. PSNR inside and outside of the mask, less that without focus, at the bytes of the whole file
        without focus: interpolated between two neighboring qualities in the logarithm of the bytes. AVIF (4:4:4,
        speed 6, tune=psnr) gets a rate for each block of 16x16 by the codec's own label map, the best of some.
    """
    rows = []
    with Codec.open(bundle, threads=1, limits=limits) as codec:
        for picture in pictures:
            for quality in qualities:
                row = _row(codec, picture, focus, make_request(quality, tune=tune))
                rows.append(row)
                progress(
                    f"{picture.name} at {quality}: inside {row['inside']:+.2f} dB, outside {row['outside']:+.2f}; "
                    f"AVIF {row['avif_inside']:+.2f}, {row['avif_outside']:+.2f}"
                )
        fingerprint = codec.bundle.manifest.fingerprint
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment.describe(),
        "settings": {
            "bundle": fingerprint,
            "focus": focus,
            "tune": tune,
            "qualities": list(qualities),
            "avif_rates": _RATES,
        },
        "means": [_mean(rows, quality) for quality in qualities],
        "rows": rows,
    }


def _mean(rows: Sequence[dict[str, Any]], quality: int) -> dict[str, Any]:
    own = [row for row in rows if row["quality"] == quality]
    means = {
        key: fmean(row[key] for row in own) for key in ("inside", "outside", "avif_inside", "avif_outside")
    }
    return {
        "quality": quality,
        "images": len(own),
        **means,
        "least_inside": min(row["inside"] for row in own),
    }


def _row(codec: Codec, picture: Marked, focus: str, request: Request) -> dict[str, Any]:
    plain = codec.encode(picture.image, request)
    size = len(plain.data)
    before = _sides(picture, codec.decompress(plain.data))

    def focused(level: int) -> tuple[int, Pixels]:
        data = codec.encode(picture.image, make_request(level, focus=focus, tune=request.settings.tune)).data
        return len(data), codec.decompress(data)

    inside, outside = _at_size(picture, focused, size)
    blocks = _blocks(codec, plain.data, focus.partition(":")[0], picture.mask.shape)
    guides = [1.0 + (rate - 1.0) * blocks for rate in _RATES]
    theirs = max(_at_size(picture, partial(_avif, picture.image, guide), size) for guide in guides)
    return {
        "image": picture.name,
        "quality": request.settings.quality,
        "bytes": size,
        "share": float(picture.mask.mean()),
        "inside": inside - before[0],
        "outside": outside - before[1],
        "avif_inside": theirs[0] - before[0],
        "avif_outside": theirs[1] - before[1],
    }


def _sides(picture: Marked, other: Pixels) -> tuple[float, float]:
    errors = np.subtract(picture.image, other, dtype=np.float64) ** 2
    inside, outside = (float(errors[mask].mean()) for mask in (picture.mask, ~picture.mask))
    return 10 * math.log10(255**2 / max(inside, 1e-9)), 10 * math.log10(255**2 / max(outside, 1e-9))


def _at_size(picture: Marked, code: Callable[[int], tuple[int, Pixels]], size: int) -> tuple[float, float]:
    """PSNR inside and outside at a number of bytes."""
    low, high = 1, 100
    made: dict[int, tuple[int, Pixels]] = {}

    def coded(level: int) -> tuple[int, Pixels]:
        if level not in made:
            made[level] = code(level)
        return made[level]

    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if coded(middle)[0] <= size else (low, middle)
    (first, one), (second, two) = coded(low), coded(high)
    part = 0.0
    if second > first:
        part = min(max(math.log(size / first) / math.log(second / first), 0.0), 1.0)
    inside, outside = (
        a + part * (b - a) for a, b in zip(_sides(picture, one), _sides(picture, two), strict=True)
    )
    return inside, outside


def _blocks(codec: Codec, stream: bytes, name: str, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """1 for the blocks of 16x16 that the stream's own label map has something in focus in, else 0."""
    mask = codec.decode_labels(stream).mask(name)
    rows, columns = (-(-side // _BLOCK) for side in shape)
    padded = np.pad(mask, ((0, rows * _BLOCK - shape[0]), (0, columns * _BLOCK - shape[1])))
    blocks: npt.NDArray[np.float64] = (
        padded.reshape(rows, _BLOCK, columns, _BLOCK).max((1, 3)).astype(np.float64)
    )
    return blocks


def _avif(image: Pixels, rates: npt.NDArray[np.float64], quality: int) -> tuple[int, Pixels]:
    with tempfile.TemporaryDirectory() as folder:
        guide = Path(folder) / "rates.txt"
        np.savetxt(guide, rates, "%.4f")
        offsets = {
            "tune": "psnr",
            "deltaq-mode": "3",
            "enable-rate-guide-deltaq": "1",
            "rate-distribution-info": str(guide),
        }
        coding = avif(6, advanced=offsets).open().code(image, quality)
    return coding.size, coding.image
