"""Packing the data folder small enough to travel to a machine with a GPU: same layout, same names."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image
from safetensors.torch import save

from ..runtime.errors import DataError, LimitError
from ..runtime.files import write_atomically
from .data import EVERYDAY_SOURCES, files, label_folder, picture_folder, read_pixels
from .segmentation import SegmentationOptions
from .vgg import read_weights

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from .recipe import Recipe

MEBIBYTE = 1 << 20


def _jpeg(path: Path, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(read_pixels(path)).save(
        buffer, "JPEG", quality=quality, subsampling="4:4:4", optimize=True
    )
    return buffer.getvalue()


def _sources(recipe: Recipe) -> tuple[list[str], list[str]]:
    """What a recipe reads: its sources of labeled pictures, and its folders of photographs."""
    if not isinstance(recipe.options, SegmentationOptions):
        return [], [*recipe.folders, "kodak"]
    return [*recipe.folders, *(f"everyday/val/{source}" for source in EVERYDAY_SOURCES)], list(
        recipe.options.soft
    )


def pack(
    root: Path,
    target: Path,
    recipes: Sequence[Recipe],
    *,
    limit_mebibytes: float,
    vgg16: Path | None = None,
    quality: int = 72,
) -> int:
    """Write a smaller copy of what recipes need of a data folder: photographs as JPEG 4:4:4, label maps as they are.

    Soft labels are no part of the data folder: they are their own folder (`--soft`), and travel as it is.

    Args:
        root: the data folder.
        target: the copy; must not exist, or be empty.
        recipes: those that are to be run from the copy.
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
    sources = {source for recipe in recipes for source in _sources(recipe)[0]}
    folders = {folder for recipe in recipes for folder in _sources(recipe)[1]}
    for source in sorted(sources):
        folders.add(str(picture_folder(root, source).relative_to(root)))
        for path in files(label_folder(root, source)):
            content[target / path.relative_to(root)] = path.read_bytes()
    for folder in sorted(folders):
        for path in files(root / folder):
            content[target / folder / f"{path.stem}.jpg"] = _jpeg(path, quality)
    weights: dict[str, Tensor] = {}
    if vgg16 is not None:
        weights = {name: value.half().contiguous() for name, value in read_weights(vgg16).items()}
    total = sum(map(len, content.values())) + sum(2 * value.numel() for value in weights.values())
    if total > limit_mebibytes * MEBIBYTE:
        raise LimitError(
            f"the packed data take {total / MEBIBYTE:.1f} MiB, more than {limit_mebibytes:g}; lower --quality "
            f"(now {quality}) or pack for fewer recipes"
        )
    for path, data in content.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, data)
    if weights:
        target.mkdir(parents=True, exist_ok=True)
        write_atomically(target / "vgg16.safetensors", save(weights))
    return total
