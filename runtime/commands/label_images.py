"""Label maps as image files with a palette."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import Image

from ..errors import UsageError
from ._common import image_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from ..bundle import ClassInfo
    from ..codec.container import Header

_PALETTE_KINDS: Final = {".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}


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


def encode_labels(
    labels: npt.NDArray[np.uint8], scale: int, header: Header, classes: Sequence[ClassInfo], kind: str
) -> bytes:
    """An image file of the picture's size: its values are the classes, its palette their colors.

    Args:
        labels: uint8 (ceil(H/scale), ceil(W/scale)).
        scale: how often each of its pixels is repeated.
        header: of the stream.
        classes: of the bundle.
        kind: as `label_image_kind` returns it.
    """
    # Pillow repeats the pixels; a picture of the whole size is made once, by it.
    small = Image.fromarray(labels)
    picture = small.resize((labels.shape[1] * scale, labels.shape[0] * scale), Image.Resampling.NEAREST)
    picture = picture.crop((0, 0, header.width, header.height))
    picture.putpalette([value for entry in classes for value in entry.color])
    file = io.BytesIO()
    picture.save(file, kind)
    return file.getvalue()
