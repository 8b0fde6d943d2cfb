"""Label maps and masks as image files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

from ..runtime.errors import UsageError
from ..runtime.image.png import repeated_rows
from .codec_arguments import image_name

if TYPE_CHECKING:
    from ..runtime.codec import LabelMap

_PALETTE_KINDS: Final = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}
_MOST_CHARACTERS: Final = 40


def label_image_kind(name: str | Path) -> str:
    """Pillow's name of the format in which a label map is written.

    Raises:
        UsageError: a format that loses values, or has no palette.
    """
    kind = _PALETTE_KINDS.get(image_name(Path(name)).suffix.lower())
    if kind is None:
        raise UsageError(
            f"cannot write {name}: label maps are written with a palette and without loss, in files that end in "
            f"{', '.join(_PALETTE_KINDS)}"
        )
    return kind


def encode_labels(labels: LabelMap, kind: str) -> bytes:
    """An image file of the picture's size: its values are the classes, its palette their colors.

    Args:
        labels: of the picture.
        kind: as `label_image_kind` returns it.
    """
    palette = labels.colors.tobytes()
    widths, heights = np.diff(labels.columns), np.diff(labels.rows)
    if kind == "PNG":
        rows = (row.repeat(widths).tobytes() for row in labels.array)
        return repeated_rows(labels.width, zip(rows, heights.tolist(), strict=True), depth=8, palette=palette)
    picture = Image.fromarray(labels.full())
    picture.putpalette(palette)
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()


def encode_mask(labels: LabelMap, name: str) -> bytes:
    """A PNG file of the picture's size with 1 bit a pixel: white where a class or a group is.

    Args:
        labels: of the picture.
        name: of the class or the group.

    Raises:
        UsageError: there is none of that name.
    """
    widths, heights = np.diff(labels.columns), np.diff(labels.rows)
    rows = (np.packbits(row.repeat(widths)).tobytes() for row in labels.small_mask(name))
    return repeated_rows(labels.width, zip(rows, heights.tolist(), strict=True), depth=1)


def safe_names(names: Sequence[str]) -> dict[str, str]:
    """What stands for each of some names in the name of a file: letters, digits, `-` and `_`, no two the same.

    A bundle calls its classes what it likes, `../x` and `A` beside `a` included.

    Args:
        names: in the order that numbers those which would be the same.
    """
    safe: dict[str, str] = {}
    taken: set[str] = set()
    for number, name in enumerate(names):
        plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:_MOST_CHARACTERS]
        if not plain or plain.casefold() in taken:
            plain = f"{plain}-{number}"
        while plain.casefold() in taken:
            plain += "_"
        taken.add(plain.casefold())
        safe[name] = plain
    return safe
