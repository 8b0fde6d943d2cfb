"""Training data: photographs and labelled frames in the layout of `--data`.

camvid/{train,val,test}        frames
camvid/{train,val,test}annot   their label maps, 8-bit, values 0..K (K: void)
photos, bsds500/{train,val}    photographs for training
kodak                          photographs for validation
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..runtime.errors import DataError
from ..runtime.images import find_images

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PHOTOGRAPHS = ("photos", "bsds500/train", "bsds500/val", "camvid/train")


@dataclass(frozen=True)
class Picture:
    """One image with, where it has one, its label map.

    Attributes:
        name: folder and file name without extension.
        pixels: uint8, H x W x 3.
        labels: uint8; H x W as annotated (K: void), or at the label scale as computed; None: none yet.
    """

    name: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None = None


def files(folder: Path) -> list[Path]:
    """The images of a folder, by name.

    Raises:
        DataError: the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}; --data must have the layout that training/data.py lists"
        )
    return find_images(folder)


def read_pixels(path: Path) -> NDArray[np.uint8]:
    """An image as uint8, H x W x 3.

    Raises:
        DataError: the file is missing or not an image.
    """
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path} is not a readable image: {error}") from error


def read_labels(path: Path, classes: int) -> NDArray[np.uint8]:
    """A label map as uint8, H x W, values 0..classes, the last one void.

    Raises:
        DataError: the file is missing, not an 8-bit image of one plane, or has other values.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in {"L", "P"}:
                raise DataError(f"{path} has mode {image.mode}; a label map is an 8-bit image of one plane")
            labels = np.asarray(image)
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path} is not a readable label map: {error}") from error
    if int(labels.max()) > classes:
        raise DataError(
            f"{path} holds the label {int(labels.max())}; labels are 0..{classes - 1}, void is {classes}"
        )
    return labels


def labelled(root: Path, split: str, classes: int) -> list[Picture]:
    """The labelled frames of one split of CamVid.

    Args:
        root: the folder given by `--data`.
        split: "train", "val" or "test".
        classes: K; labels are 0..K-1, K is void.

    Raises:
        DataError: a folder or a label map is missing, unreadable, of another size, or has wrong values.
    """
    folder = root / "camvid" / split
    annotations = root / "camvid" / f"{split}annot"
    pictures = []
    for path in files(folder):
        annotation = annotations / f"{path.stem}.png"
        if not annotation.is_file():
            raise DataError(f"{path} has no label map {annotation}")
        pixels, labels = read_pixels(path), read_labels(annotation, classes)
        if pixels.shape[:2] != labels.shape:
            raise DataError(
                f"{path} is {pixels.shape[1]}x{pixels.shape[0]}, its label map "
                f"{labels.shape[1]}x{labels.shape[0]}"
            )
        pictures.append(Picture(f"camvid/{split}/{path.stem}", pixels, labels))
    return pictures


def photographs(root: Path, folders: Sequence[str]) -> list[Picture]:
    """The images of some folders below `root`, without label maps.

    Raises:
        DataError: a folder is missing or empty, or an image unreadable.
    """
    return [
        Picture(f"{folder}/{path.stem}", read_pixels(path))
        for folder in folders
        for path in files(root / folder)
    ]


def pad(array: NDArray[np.uint8], multiple: int, void: int | None = None) -> NDArray[np.uint8]:
    """Extend an image or a map at the right and bottom to multiples of `multiple`.

    Args:
        array: H x W or H x W x C.
        multiple: what both sides become multiples of.
        void: the value of the extension; None: the edge is repeated.
    """
    height, width = array.shape[:2]
    extra = ((0, -height % multiple), (0, -width % multiple))
    pads = extra + ((0, 0),) * (array.ndim - 2)
    if void is None:
        return np.pad(array, pads, mode="edge")
    return np.pad(array, pads, constant_values=void)
