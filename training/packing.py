"""Packing the data folder small enough to travel to a machine with a GPU: same layout, same names."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image
from safetensors.torch import save_file

from ..runtime.errors import DataError, LimitError
from .data import PHOTOGRAPHS, files, read_pixels
from .vgg import read_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

LABELLED = ("camvid/train", "camvid/val")
VALIDATION = ("kodak",)
MEBIBYTE = 1 << 20


def _jpeg(path: Path, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(read_pixels(path)).save(
        buffer, "JPEG", quality=quality, subsampling="4:4:4", optimize=True
    )
    return buffer.getvalue()


def pack(
    root: Path, target: Path, *, limit_mebibytes: float, vgg16: Path | None = None, quality: int = 72
) -> int:
    """Write a smaller copy of the data folder: photographs as JPEG 4:4:4, label maps as they are.

    Args:
        root: the data folder.
        target: the copy; must not exist, or be empty.
        limit_mebibytes: what all of it may take.
        vgg16: VGG16's weights, packed as float16 into vgg16.safetensors.
        quality: of the JPEG files.

    Returns:
        Bytes written.

    Raises:
        DataError: data are missing, or the target is not empty.
        LimitError: the copy would be larger than the limit; the message says by how much.
    """
    if target.exists() and any(target.iterdir()):
        raise DataError(f"{target} is not empty; give a new folder")
    content: dict[Path, bytes] = {}
    for folder in dict.fromkeys((*PHOTOGRAPHS, *LABELLED, *VALIDATION)):
        for path in files(root / folder):
            content[target / folder / f"{path.stem}.jpg"] = _jpeg(path, quality)
    for folder in LABELLED:
        for path in files(root / f"{folder}annot"):
            content[target / f"{folder}annot" / path.name] = path.read_bytes()
    weights: dict[str, Tensor] = {}
    if vgg16 is not None:
        weights = {name: value.half().contiguous() for name, value in read_weights(vgg16).items()}
    total = sum(map(len, content.values())) + sum(2 * value.numel() for value in weights.values())
    if total > limit_mebibytes * MEBIBYTE:
        raise LimitError(
            f"the packed data take {total / MEBIBYTE:.1f} MiB, more than {limit_mebibytes:g}; lower --quality "
            f"(now {quality})"
        )
    for path, data in content.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    if weights:
        target.mkdir(parents=True, exist_ok=True)
        save_file(weights, target / "vgg16.safetensors")
    return total
