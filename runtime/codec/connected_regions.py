"""Connected regions of a map of small numbers: 4-connected, with their boxes and areas.

The work is done on runs: parts of rows with one value. Runs that touch from row to row are joined, until there are none
left that touch and are apart.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Regions:
    """Connected regions, an entry for each: int64 (N,).

    Attributes:
        values: the value that a region has.
        areas: sizes of its pixels, summed.
        left: edge of its bounding box.
        top: edge of its bounding box.
        right: edge of its bounding box, one behind its last pixel.
        bottom: edge of its bounding box, one behind its last pixel.
    """

    values: Integers
    areas: Integers
    left: Integers
    top: Integers
    right: Integers
    bottom: Integers

    def __len__(self) -> int:
        return len(self.values)

    def of(self, value: int) -> Regions:
        """Those that have a value."""
        own = self.values == value
        return Regions(*(getattr(self, entry.name)[own] for entry in fields(self)))


def find_regions(values: npt.NDArray[np.uint8], rows: Integers, columns: Integers) -> Regions:
    """The 4-connected regions of equal values.

    Args:
        values: (h, w), h and w at least 1.
        rows: int64 (h + 1,), ascending: where each row begins, and where the last one ends.
        columns: int64 (w + 1,), ascending: the same of the columns.

    Returns:
        The regions in the order of their first pixels, row by row.
    """
    width = values.shape[1]
    begins = np.ones(values.shape, np.bool_)
    np.not_equal(values[:, 1:], values[:, :-1], out=begins[:, 1:])
    first = np.flatnonzero(begins)
    run_of = (np.cumsum(begins, dtype=np.int32) - np.int32(1)).reshape(values.shape)
    # Runs of two rows that touch: the column where the later one of them begins belongs to both, and is named once.
    touching = (values[1:] == values[:-1]) & (begins[1:] | begins[:-1])
    root = _joined(len(first), run_of[:-1][touching], run_of[1:][touching])

    row, column = np.divmod(first, width)
    last = np.append(first[1:], values.size) - 1
    left, right = columns[column], columns[last % width + 1]
    top, bottom = rows[row], rows[row + 1]
    # A region's root is its first run, so the regions come in the order of those.
    roots, region = np.unique(root, return_inverse=True)
    order = np.argsort(region, kind="stable")
    starts = np.searchsorted(region[order], np.arange(len(roots)))
    return Regions(
        values.reshape(-1)[first[roots]].astype(np.int64),
        np.add.reduceat(((right - left) * (bottom - top))[order], starts),
        np.minimum.reduceat(left[order], starts),
        np.minimum.reduceat(top[order], starts),
        np.maximum.reduceat(right[order], starts),
        np.maximum.reduceat(bottom[order], starts),
    )


def _joined(count: int, one: npt.NDArray[np.int32], other: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """The least of the numbers below `count` that each of them is joined to, if `one[i]` and `other[i]` are joined."""
    root = np.arange(count, dtype=np.int32)
    while len(one):
        a, b = root[one], root[other]
        apart = a != b
        one, other, a, b = one[apart], other[apart], a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(above := root[root], root):
            root = above
    return root
