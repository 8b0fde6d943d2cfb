"""What tiles cost: errors along their borders and bytes, beside the same pictures undivided."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ...measure import environment
from ...runtime.bundle.folder import Bundle
from ...runtime.codec import Codec
from ...runtime.errors import DataError
from ...runtime.image.files import read_image
from ...runtime.limits import Limits
from ..report.layer_images import as_rgb

if TYPE_CHECKING:
    import numpy.typing as npt

    from ...runtime.image.arrays import Pixels

FORMAT: Final = "oslic-bench-seams"
VERSION: Final = 1
_BAND: Final = 16
_UNDIVIDED: Final = 1 << 20


def _errors(image: Pixels, other: Pixels) -> npt.NDArray[np.float32]:
    difference = np.subtract(image, other, dtype=np.float32)
    squares: npt.NDArray[np.float32] = np.mean(difference * difference, axis=2)
    return squares


def run(
    bundle: Bundle,
    images: Sequence[Path],
    settings: Sequence[tuple[int, int]],
    qualities: Sequence[int],
    progress: Callable[[str], Any],
    *,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Measure tiles on photographs.

    Args:
        bundle: the networks.
        images: photographs that two tiles and a third fit into side by side.
        settings: side of a tile and halo.
        qualities: of the residual; 0: the estimate alone.
        progress: gets a line for the user as each row is done.
        limits: on the photographs, which are also coded undivided; None for the defaults.

    Returns:
        The result file. Each photograph is coded twice, the second time without its first third of a tile, so that
        what lay at a border lies inside a tile. `seam` is the quotient of the squared errors of the same pixels, within
        16 of a border, at the border and inside; 1 where a border cannot be told.

    Raises:
        DataError: a photograph is too small.
    """
    rows: list[dict[str, Any]] = []
    with Codec.open(bundle, threads=1, limits=limits) as codec:
        for path in images:
            image = as_rgb(read_image(path, codec.limits).pixels)
            for side, halo in settings:
                for quality, row in _rows(codec, image, side, halo, qualities):
                    rows.append({"image": path.name, "quality": quality, **row})
                    progress(describe(rows[-1]))
    return {
        "format": FORMAT,
        "version": VERSION,
        "bundle": {"name": bundle.manifest.name, "fingerprint": bundle.manifest.fingerprint},
        "environment": environment.describe(),
        "rows": rows,
    }


def _rows(
    codec: Codec, image: Pixels, side: int, halo: int, qualities: Sequence[int]
) -> Iterator[tuple[int, dict[str, Any]]]:
    shift = side // 3 // 32 * 32
    columns = (image.shape[1] - shift) // side
    height = min(image.shape[0], side)
    if columns < 2:
        raise DataError(f"tiles of {side} need a photograph of more than {2 * side + shift} pixels across")
    parts = [np.ascontiguousarray(image[:height, left : left + columns * side]) for left in (0, shift)]
    made = [codec.layers(part, tile=side, halo=halo) for part in parts]
    whole = codec.layers(parts[0], tile=_UNDIVIDED)
    for quality in qualities:
        coded = [codec.finish(each, quality=quality) for each in made]
        errors = [
            _errors(each.image, codec.reconstruct(data)) for each, data in zip(made, coded, strict=True)
        ]
        at, inside = [], []
        for border in range(side, columns * side, side):
            band = slice(border - _BAND, border + _BAND)
            at.append(errors[0][:, band])
            inside.append(errors[1][:, border - shift - _BAND : border - shift + _BAND])
        undivided = codec.finish(whole, quality=quality)
        yield (
            quality,
            {
                "tile": side,
                "halo": halo,
                "tiles": made[0].grid.count,
                "width": columns * side,
                "height": height,
                "seam": float(np.mean(at) / np.mean(inside)),
                "bytes": len(coded[0].data),
                "bytes_whole": len(undivided.data),
                "compact_bytes": coded[0].section_bytes["compact"],
                "compact_bytes_whole": undivided.section_bytes["compact"],
            },
        )


def describe(row: dict[str, Any]) -> str:
    """A row as a line."""
    return (
        f"{row['image']} quality {row['quality']}, {row['tiles']} tiles of {row['tile']}, halo {row['halo']}: "
        f"seam {100 * (row['seam'] - 1):+.2f} %, bytes {100 * (row['bytes'] / row['bytes_whole'] - 1):+.2f} %"
    )
