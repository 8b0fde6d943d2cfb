"""Soft labels by the teacher networks of the data folder.

`everyday/teacher/teach.py` in the data folder merges two small pretrained networks into the everyday classes. It is
no part of this project; here its probabilities are computed once per photograph and kept as files.
"""

from __future__ import annotations

import importlib.util
import io
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol, cast

import numpy as np
from PIL import Image

from ..runtime.errors import DataError
from ..runtime.files import write_atomically
from ..runtime.image.files import open_stored
from ..runtime.limits import Limits
from ..runtime.tiling import Box
from .data import files, soft_file_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

FULL: Final = 255
"""The value that stands for a probability of 1 in a file of soft labels."""

_LONG_SIDE: Final = 129


class Teacher(Protocol):
    """What `teach.py` offers."""

    __file__: str

    def probabilities(self, image: Image.Image) -> NDArray[np.float32]:
        """Soft labels, float32 (h, w, K), the long side 257; the class "clothes" stands for the whole person."""


def load_teacher(data: Path) -> Teacher:
    """The teacher of a data folder.

    Raises:
        DataError: there is none, or what it needs is not installed.
    """
    path = data / "everyday" / "teacher" / "teach.py"
    spec = importlib.util.spec_from_file_location("oslic_teacher", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise DataError(f"there is no teacher {path}")
    module = importlib.util.module_from_spec(spec)
    with _imports(path):
        spec.loader.exec_module(module)
    return cast("Teacher", module)


@contextmanager
def _imports(path: Path) -> Iterator[None]:
    """Name the package that a teacher lacks; it may look for it only when it is used."""
    try:
        yield
    except ImportError as error:
        package = str(error.name).partition(".")[0].replace("_", "-")
        raise DataError(f"the teacher {path} needs {package}: pip install {package}") from error


def soft_labels(teacher: Teacher, image: Image.Image) -> NDArray[np.uint8]:
    """Probabilities in units of 1/255, uint8 (h, w, K), the long side 129.

    Raises:
        DataError: the teacher needs a package that is not installed.
    """
    with _imports(Path(teacher.__file__)):
        probabilities = teacher.probabilities(image)
    height, width = probabilities.shape[:2]
    scale = _LONG_SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    planes = [
        np.asarray(Image.fromarray(probabilities[..., k]).resize(size, Image.Resampling.BOX))
        for k in range(probabilities.shape[2])
    ]
    levels: NDArray[np.uint8] = np.rint(np.stack(planes, axis=2) * FULL).astype(np.uint8)
    return levels


def crop_boxes(name: str, height: int, width: int, count: int) -> list[Box]:
    """Random parts of a photograph, of 45 to 75 percent of its sides: the same ones for the same name.

    Args:
        name: of the photograph.
        height: of the photograph.
        width: of the photograph.
        count: of the boxes.
    """
    rng = np.random.default_rng(list(name.encode()))
    boxes = []
    for share in rng.uniform(0.45, 0.75, count):
        rows, columns = max(1, round(height * share)), max(1, round(width * share))
        left, top = int(rng.integers(0, width - columns + 1)), int(rng.integers(0, height - rows + 1))
        boxes.append(Box(left, top, left + columns, top + rows))
    return boxes


def teach(data: Path, folders: Sequence[str], out: Path, crops: int = 0) -> int:
    """Write the soft labels of all photographs of some folders; those that are there already are kept.

    Args:
        data: the data folder, with the teacher.
        folders: folders of photographs below it.
        out: where `<folder>/<name>.npy` are written, uint8 (h, w, K), and the soft labels of crops as
            `<folder>/<name>@<left>,<top>,<right>,<bottom>.npy`.
        crops: how many random parts of each photograph are shown to the teacher as pictures of their own.

    Returns:
        How many files were written.

    Raises:
        DataError: no teacher, or a folder without photographs.
    """
    teacher = load_teacher(data)
    written = 0
    for folder in folders:
        target = out / folder
        target.mkdir(parents=True, exist_ok=True)
        for path in files(data / folder):
            with open_stored(path, Limits()) as image:
                picture = image.convert("RGB")
                for part in (None, *crop_boxes(path.stem, image.height, image.width, crops)):
                    done = target / soft_file_name(path.stem, part)
                    if not done.exists():
                        shown = picture if part is None else picture.crop(astuple(part))
                        labels = soft_labels(teacher, shown)
                        array = io.BytesIO()
                        np.save(array, labels)
                        write_atomically(done, array.getvalue())
                        written += 1
    return written
