"""Training data: photographs and label maps in the layout of `--data`.

camvid/{train,val,test}                      frames
camvid/{train,val,test}annot                 their label maps, 8-bit, CamVid's classes
everyday/{train,val,test}/NAME/{images,labels}   photographs, label maps by people
everyday/pseudo/NAME/{images,labels}         photographs, label maps by a teacher
photos, photos_more, bsds500/{train,val}     photographs for training
kodak                                        photographs for validation

Label maps hold 0..16, the classes of `EVERYDAY_CLASSES`, `PERSON` and `VOID`.
"""

from __future__ import annotations

import glob
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import UnidentifiedImageError

from ..networks.config import EVERYDAY_CLASSES
from ..runtime.errors import DataError
from ..runtime.image.files import find_images, open_stored
from ..runtime.limits import Limits
from ..runtime.tiling import Box

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

EVERYDAY_SOURCES: Final = ("msrc", "ccp", "labelmefacade", "human", "food", "fasseg")
"""The sources of everyday photographs that people labeled."""
TESTED_FOLDER: Final = "bsds500/val"
"""Folder whose first `TESTED` pictures no SegNet learns from, and whose next `VALIDATED` ones score it."""
TESTED: Final = 60
VALIDATED: Final = 30
PERSON: Final = 254
"""Label of a person of whom nobody told skin and hair from clothes."""
VOID: Final = 255
"""Label of a pixel that nobody labeled: left out of losses and scores."""
SKIN_HAIR: Final = [c.name for c in EVERYDAY_CLASSES].index("skin_hair")
CLOTHES: Final = [c.name for c in EVERYDAY_CLASSES].index("clothes")

# CamVid's Sky, Building, Pole, Road, Pavement, Tree, SignSymbol, Fence, Car, Pedestrian, Bicyclist, void.
_CAMVID: Final = np.array([0, 1, 16, 5, 5, 2, 15, 1, 10, PERSON, VOID, VOID], np.uint8)


@dataclass(frozen=True)
class Picture:
    """One image with, where it has one, its label map.

    Attributes:
        name: folder and file name without extension.
        pixels: uint8, H x W x 3.
        labels: uint8; H x W as annotated, or at the label scale as computed; None: none yet.
        soft: uint8, h x w x K, probabilities in units of 1/255 on a coarser grid over the whole image; None: none.
    """

    name: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.uint8] | None = None
    soft: NDArray[np.uint8] | None = None


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
        with open_stored(path, Limits()) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path} is not a readable image: {error}") from error


def read_labels(path: Path) -> NDArray[np.uint8]:
    """A label map as it is stored: uint8, H x W.

    Raises:
        DataError: the file is missing, or not an 8-bit image of one plane.
    """
    try:
        with open_stored(path, Limits()) as image:
            if image.mode not in {"L", "P"}:
                raise DataError(f"{path} has mode {image.mode}; a label map is an 8-bit image of one plane")
            return np.asarray(image)
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path} is not a readable label map: {error}") from error


def _check_values(labels: NDArray[np.uint8], path: Path) -> None:
    known = np.isin(labels, (*range(len(EVERYDAY_CLASSES)), PERSON, VOID))
    if not known.all():
        raise DataError(
            f"{path} holds the label {int(labels[~known][0])}; labels are 0..{len(EVERYDAY_CLASSES) - 1}, "
            f"{PERSON} for a person, {VOID} for none"
        )


def _is_camvid(source: str) -> bool:
    return source.startswith("camvid/")


def picture_folder(root: Path, source: str) -> Path:
    """Where the images of a source of labeled pictures are."""
    return root / source if _is_camvid(source) else root / source / "images"


def label_folder(root: Path, source: str) -> Path:
    """Where the label maps of a source of labeled pictures are."""
    return root / f"{source}annot" if _is_camvid(source) else root / source / "labels"


def labeled(root: Path, source: str) -> list[Picture]:
    """The pictures of one source that has label maps.

    Args:
        root: the folder given by `--data`.
        source: "camvid/train", "everyday/val/msrc", ...: a folder below it. CamVid's classes are mapped to ours.

    Raises:
        DataError: a folder or a label map is missing, unreadable, of another size, or has wrong values.
    """
    camvid, maps = _is_camvid(source), label_folder(root, source)
    pictures = []
    for path in files(picture_folder(root, source)):
        annotation = maps / f"{path.stem}.png"
        if not annotation.is_file():
            raise DataError(f"{path} has no label map {annotation}")
        pixels, labels = read_pixels(path), read_labels(annotation)
        if camvid:
            if int(labels.max()) >= len(_CAMVID):
                raise DataError(f"{annotation} holds the label {int(labels.max())}; CamVid's are 0..11")
            labels = _CAMVID[labels]
        _check_values(labels, annotation)
        if pixels.shape[:2] != labels.shape:
            raise DataError(
                f"{path} is {pixels.shape[1]}x{pixels.shape[0]}, its label map "
                f"{labels.shape[1]}x{labels.shape[0]}"
            )
        pictures.append(Picture(f"{source}/{path.stem}", pixels, labels))
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


def soft_file_name(name: str, part: Box | None) -> str:
    """The file of a photograph's soft labels, or of those of a part of it."""
    if part is None:
        return f"{name}.npy"
    return f"{name}@{part.left},{part.top},{part.right},{part.bottom}.npy"


def softly_labeled(root: Path, soft: Path, folder: str, *, parts: bool = False) -> list[Picture]:
    """The images of a folder with the soft labels that `oslic train teach` made of them.

    Args:
        root: the folder given by `--data`.
        soft: what `oslic train teach --out` named.
        folder: below both of them.
        parts: the parts of images that the teacher saw are pictures, too.

    Raises:
        DataError: an image or its soft labels are missing or unreadable.
    """
    pictures = []
    for path in files(root / folder):
        pixels = read_pixels(path)
        whole = soft / folder / soft_file_name(path.stem, None)
        pictures.append(Picture(f"{folder}/{path.stem}", pixels, soft=_read_soft_labels(whole, f"of {path}")))
        for file in sorted(whole.parent.glob(f"{glob.escape(path.stem)}@*.npy")) if parts else ():
            try:
                part = Box(*(int(side) for side in file.stem.rpartition("@")[2].split(",")))
            except (TypeError, ValueError) as error:
                raise DataError(f"{file} names no part of {path}: {error}") from error
            labels = _read_soft_labels(file, f"of a part of {path}")
            pictures.append(Picture(f"{folder}/{file.stem}", part.of(pixels), soft=labels))
    return pictures


def _read_soft_labels(file: Path, what: str) -> NDArray[np.uint8]:
    try:
        labels = np.load(file, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(f"{file} does not hold the soft labels {what}: {error}") from error
    if labels.dtype != np.uint8 or labels.ndim != 3 or labels.shape[2] != len(EVERYDAY_CLASSES):
        raise DataError(
            f"{file} holds {labels.dtype} {labels.shape}, not uint8 (h, w, {len(EVERYDAY_CLASSES)})"
        )
    return np.asarray(labels)


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
