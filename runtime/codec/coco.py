"""Label maps as annotations in the layout of COCO: run lengths, boxes, areas, categories.

An annotation is all that a picture has of a class, as in COCO-Stuff. Run lengths are those of `pycocotools`: down the
columns, from left to right, beginning with a run of zeros. They are made from the map at its stored scale, without a
mask of the picture's size.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from .label_map import LabelMap

    Integers = npt.NDArray[np.int64]

_MOST_CHARACTERS = 13
"""Of a number of 64 bits, at 5 bits each."""


def run_lengths(mask: npt.NDArray[np.bool_], rows: Integers, columns: Integers) -> Integers:
    """The run lengths of a mask whose rows and columns are repeated.

    Args:
        mask: bool (h, w).
        rows: int64 (h + 1,), ascending from 0: where each row begins in the picture, and where the last one ends.
        columns: int64 (w + 1,), ascending from 0: the same of the columns.

    Returns:
        int64 (N,): numbers of zeros and ones in turn, zeros first (0 of them where the first pixel is set), down the
        columns of the picture. They add up to its pixels.
    """
    height, width = rows[-1], columns[-1]
    # Runs of ones in each column of the small mask: `edges` is 1 where one begins, -1 behind its end.
    edges = np.diff(mask.T.astype(np.int8), axis=1, prepend=0, append=0)
    column, begin = np.nonzero(edges == 1)
    _, end = np.nonzero(edges == -1)
    # The same in each column of the picture.
    runs = np.bincount(column, minlength=mask.shape[1])
    source = np.repeat(np.arange(mask.shape[1]), np.diff(columns))
    count = runs[source]
    offset = np.repeat(np.cumsum(runs)[source] - count - (np.cumsum(count) - count), count)
    run = np.arange(len(offset)) + offset
    start = np.repeat(np.arange(width) * height, count)
    begins, ends = start + rows[begin[run]], start + rows[end[run]]
    # A run that reaches the bottom goes on where the next one begins at the top.
    apart = begins[1:] != ends[:-1]
    begins, ends = begins[np.r_[True, apart][: len(begins)]], ends[np.r_[apart, True][: len(ends)]]
    places = np.r_[0, np.column_stack([begins, ends]).reshape(-1), height * width]
    counts: Integers = np.diff(places)
    return counts if counts[-1] or len(counts) == 1 else counts[:-1]


def compressed(counts: Integers) -> str:
    """Run lengths as the text that `pycocotools` calls compressed.

    From the fourth number on, it holds differences to the number two places before; 5 bits a character, the least
    significant first.

    Args:
        counts: int64 (N,), from `run_lengths`.
    """
    left = counts.copy()
    left[3:] -= counts[1:-2]
    characters = np.zeros((len(left), _MOST_CHARACTERS), np.uint8)
    used = np.zeros(characters.shape, np.bool_)
    more = np.ones(len(left), np.bool_)
    for place in range(_MOST_CHARACTERS):
        used[:, place] = more
        bits = left & 31
        left >>= 5
        more = more & np.where(bits & 16, left != -1, left != 0)
        characters[:, place] = bits + 32 * more + 48
        if not more.any():
            break
    return characters[used].tobytes().decode("ascii")


class CocoWriter:
    """Writes one document for several label maps, picture by picture.

    Args:
        file: gets the JSON, UTF-8.
        compress: whether run lengths are written as text (see `compressed`) and not as lists of numbers.
    """

    def __init__(self, file: BinaryIO, *, compress: bool = False) -> None:
        self._file = file
        self._compress = compress
        self._images: list[dict[str, Any]] = []
        self._categories: dict[str, dict[str, Any]] = {}
        self._annotations = 0
        info = {"description": "label maps of .oslic streams"}
        file.write(b'{"info": %s, "licenses": [],\n"annotations": [' % _json(info))

    def add(self, file_name: str, label_map: LabelMap) -> None:
        """Write the annotations of a picture.

        Categories are told apart by their names: the first map's have the numbers of its classes plus 1, names that a
        map of other networks adds follow.

        Args:
            file_name: of the picture.
            label_map: of the picture.
        """
        image = {
            "id": len(self._images) + 1,
            "file_name": file_name,
            "width": label_map.width,
            "height": label_map.height,
        }
        self._images.append(image)
        for name in label_map.names:
            number = len(self._categories) + 1
            self._categories.setdefault(
                name, {"id": number, "name": name, "supercategory": _group_of(name, label_map.groups)}
            )
        for name, found in label_map.class_statistics().items():
            if found.box is None:
                continue
            counts = label_map.run_lengths(name)
            self._annotations += 1
            annotation = {
                "id": self._annotations,
                "image_id": image["id"],
                "category_id": self._categories[name]["id"],
                "iscrowd": 0,
                "area": found.pixels,
                "bbox": found.box,
                "segmentation": {
                    "size": [label_map.height, label_map.width],
                    "counts": compressed(counts) if self._compress else counts.tolist(),
                },
            }
            self._file.write((b",\n" if self._annotations > 1 else b"\n") + _json(annotation))

    def finish(self) -> None:
        """Write what all pictures have in common."""
        self._file.write(
            b'\n],\n"images": %s,\n"categories": %s}\n'
            % (_json(self._images), _json(list(self._categories.values())))
        )


def _json(value: Any) -> bytes:
    return json.dumps(value).encode("ascii")


def _group_of(name: str, groups: Mapping[str, tuple[str, ...]]) -> str:
    """The first group that a class is in; its own name where there is none."""
    return next((group for group, members in groups.items() if name in members), name)
