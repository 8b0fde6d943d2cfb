"""The label map of a picture: what is where. Reading it needs neither a network nor a backend.

    >>> from oslic.runtime import Codec, read_labels
    >>> labels = read_labels(Codec.open().compress("photo.jpg"))
    >>> labels.shares()["sky"] < 0.5
    True
    >>> labels.mask("person").shape  # a class, or a group of classes: bool (H, W)
    (256, 256)

A stream stores one label for each S x S pixels. Everything here works on that small map; only `full` and `mask` make
something of the picture's size.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..bundle.folder import Bundle
from ..errors import LimitError, UsageError
from ..image.arrays import ceil_div
from ..limits import Limits
from ..memory import LABELS
from . import coco
from .connected_regions import Regions, find_regions
from .parameters import Parameters
from .stream import bundle_for, check_identity, open_stream, read_label_plane
from .stream_source import StreamSource, read_stream

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from ..bundle.manifest import ClassInfo
    from ..image.arrays import Pixels
    from .container import Header, StreamReader

Box = tuple[int, int, int, int]
"""Left, top, width and height, in pixels of the picture."""

_MOST_NAMED: Final = 64


@dataclass(frozen=True)
class Region:
    """A 4-connected part of a picture with one class.

    Attributes:
        box: left, top, width and height of its bounding box, in pixels of the picture.
        pixels: number of pixels of the picture that it covers.
    """

    box: Box
    pixels: int


@dataclass(frozen=True)
class ClassStatistics:
    """How much of a picture belongs to a class or a group of classes.

    Attributes:
        pixels: number of pixels of the picture.
        share: share of the picture's pixels, 0 to 1.
        box: left, top, width and height of the bounding box, in pixels of the picture; None if the class does not
            occur.
        regions: number of 4-connected regions.
    """

    pixels: int
    share: float
    box: Box | None
    regions: int


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A picture's label map. `numpy.asarray` gives its array at the stored scale.

    Attributes:
        array: uint8 (ceil(H/S), ceil(W/S)), positions in `classes`.
        scale: S; a label stands for S x S pixels, at the right and bottom edges for those that there are.
        width: W of the picture.
        height: H of the picture.
        classes: names and colors.
        groups: names for several classes together.

    Raises:
        UsageError: the array is not of that size, or holds numbers that no class has.
    """

    array: Pixels
    scale: int
    width: int
    height: int
    classes: tuple[ClassInfo, ...]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = ceil_div(self.height, self.scale), ceil_div(self.width, self.scale)
        if self.array.dtype != np.uint8 or self.array.shape != shape or not self.array.size:
            raise UsageError(
                f"the label map is {self.array.dtype} of the shape {self.array.shape}: that of a picture of "
                f"{self.width}x{self.height} at 1/{self.scale} is uint8 of {shape}"
            )
        if self.array.max() >= len(self.classes):
            raise UsageError(
                f"the label map holds {self.array.max()}, and there are {len(self.classes)} classes"
            )
        if len(set(self.names)) < len(self.names) or not set(self.names).issuperset(
            member for members in self.groups.values() for member in members
        ):
            raise UsageError("two classes have one name, or a group has a class that is not there")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self.array, dtype=dtype, copy=copy)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their numbers."""
        return tuple(entry.name for entry in self.classes)

    @property
    def colors(self) -> Pixels:
        """Colors of the classes, in the order of their numbers: uint8 (K, 3), RGB."""
        return np.array([entry.color for entry in self.classes], np.uint8)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """Where each row of the array begins in the picture, and where the last one ends: int64 (ceil(H/S) + 1,)."""
        return _edges(self.scale, self.height)

    @property
    def columns(self) -> npt.NDArray[np.int64]:
        """Where each column of the array begins in the picture, and where the last ends: int64 (ceil(W/S) + 1,)."""
        return _edges(self.scale, self.width)

    def full(self) -> Pixels:
        """The label of each pixel of the picture: uint8 (H, W)."""
        return self._enlarged(self.array)

    def mask(self, name: str) -> npt.NDArray[np.bool_]:
        """Where a class is in the picture: bool (H, W).

        Args:
            name: of a class or a group.

        Raises:
            UsageError: there is no class or group of that name; the message lists those that there are.
        """
        return self._enlarged(self.small_mask(name))

    def small_mask(self, name: str) -> npt.NDArray[np.bool_]:
        """As `mask`, at the stored scale: bool (ceil(H/S), ceil(W/S))."""
        wanted = np.array([entry in self._members(name) for entry in self.names])
        return wanted[self.array]

    def pixels(self) -> dict[str, int]:
        """Number of pixels of the picture by class, in the order of the classes; 0 for those that do not occur."""
        last_row, last_column = (int(np.diff(edges)[-1]) for edges in (self.rows, self.columns))
        inner, right = self.array[:-1, :-1], self.array[:-1, -1]
        bottom, corner = self.array[-1, :-1], self.array[-1, -1]
        counts = (
            self._counted(inner) * self.scale**2
            + self._counted(right) * (self.scale * last_column)
            + self._counted(bottom) * (self.scale * last_row)
            + self._counted(corner) * (last_row * last_column)
        )
        return dict(zip(self.names, counts.tolist(), strict=True))

    def shares(self) -> dict[str, float]:
        """Share of the picture's pixels by class, in the order of the classes; they add up to 1."""
        total = self.width * self.height
        return {name: count / total for name, count in self.pixels().items()}

    def group_shares(self) -> dict[str, float]:
        """Share of the picture's pixels by group, 0 to 1."""
        shares = self.shares()
        return {name: sum(shares[each] for each in set(members)) for name, members in self.groups.items()}

    def regions(self, name: str) -> tuple[Region, ...]:
        """The 4-connected regions of a class, the largest first.

        Args:
            name: of a class or a group; regions of a group may hold all of its classes.

        Raises:
            UsageError: as `mask`.
        """
        found = self._regions_of(name)
        order = np.argsort(-found.areas, kind="stable")
        boxes = np.column_stack([found.left, found.top, found.right - found.left, found.bottom - found.top])
        return tuple(
            Region((x, y, width, height), area)
            for (x, y, width, height), area in zip(
                boxes[order].tolist(), found.areas[order].tolist(), strict=True
            )
        )

    def class_statistics(self) -> dict[str, ClassStatistics]:
        """Statistics by class, in the order of the classes; also of those that do not occur."""
        found = find_regions(self.array, self.rows, self.columns)
        return {name: self._statistics(found, number) for number, name in enumerate(self.names)}

    def group_statistics(self) -> dict[str, ClassStatistics]:
        """Statistics by group."""
        return {name: self._statistics(self._regions_of(name), 1) for name in self.groups}

    def run_lengths(self, name: str) -> npt.NDArray[np.int64]:
        """The mask of a class as uncompressed run lengths of COCO: int64 (N,), see `coco.run_lengths`.

        Args:
            name: of a class or a group.

        Raises:
            UsageError: as `mask`.
        """
        return coco.run_lengths(self.small_mask(name), self.rows, self.columns)

    def to_coco(self, file_name: str, *, compress: bool = False) -> dict[str, Any]:
        """A document in the layout of COCO, with an annotation for each class that occurs.

        Args:
            file_name: of the picture.
            compress: whether run lengths are text, which is many times shorter, and not lists of numbers. `pycocotools`
                reads both.

        Returns:
            Plain JSON types: `images`, `annotations`, `categories`, `info`, `licenses`.
        """
        file = io.BytesIO()
        writer = coco.CocoWriter(file, compress=compress)
        writer.add(file_name, self)
        writer.finish()
        document: dict[str, Any] = json.loads(file.getvalue())
        return document

    def _counted(self, labels: npt.ArrayLike) -> npt.NDArray[np.int64]:
        return np.bincount(np.ravel(labels), minlength=len(self.classes)).astype(np.int64)

    def _enlarged(self, small: npt.NDArray[Any]) -> npt.NDArray[Any]:
        # Not beyond the edges: S may be far larger than the picture.
        return small.repeat(np.diff(self.rows), axis=0).repeat(np.diff(self.columns), axis=1)

    def _members(self, name: str) -> tuple[str, ...]:
        if name in self.names:
            return (name,)
        if name in self.groups:
            return self.groups[name]
        classes, groups = (_listed(names) for names in (self.names, self.groups))
        raise UsageError(
            f"there is no class {name!r}: the classes are {classes}"
            + (f", groups {groups}" if groups else "")
        )

    def _regions_of(self, name: str) -> Regions:
        found = find_regions(self.small_mask(name).view(np.uint8), self.rows, self.columns)
        return found.of(1)

    def _statistics(self, found: Regions, value: int) -> ClassStatistics:
        own = found.of(value)
        pixels = int(own.areas.sum())
        box = None
        if len(own):
            left, top = int(own.left.min()), int(own.top.min())
            box = left, top, int(own.right.max()) - left, int(own.bottom.max()) - top
        return ClassStatistics(pixels, pixels / (self.width * self.height), box, len(own))


def map_size(header: Header, scale: int) -> tuple[int, int]:
    """Width and height of the label map of a stream, at the scale at which it is stored."""
    return ceil_div(header.width, scale), ceil_div(header.height, scale)


def _edges(scale: int, length: int) -> npt.NDArray[np.int64]:
    """Where each part of `scale` begins in a length, and where the last one ends."""
    return np.append(np.arange(0, length, scale, dtype=np.int64), length)


def _listed(names: Any) -> str:
    every = list(names)
    more = f" and {len(every) - _MOST_NAMED} more" if len(every) > _MOST_NAMED else ""
    return ", ".join(every[:_MOST_NAMED]) + more


def read_labels(
    data: StreamSource,
    bundle: str | Path | Bundle | None = None,
    limits: Limits | None = None,
    *,
    partial: bool = False,
) -> LabelMap:
    """Read the label map of a stream; no network runs, and no backend is needed.

    Args:
        data: the `.oslic` file's bytes, or its path.
        bundle: that names the classes: a folder, the name of a shipped bundle, an opened one, or None for the known one
            (shipped, or in OSLIC_BUNDLES) that the stream names.
        limits: what to refuse; None for the defaults.
        partial: whether a truncated file is taken, if it has its label map.

    Raises:
        StreamError: damaged, truncated, or of another version.
        BundleError: no known bundle has the stream's networks, or not the given one.
        LimitError: larger than the limits.
    """
    limits = limits or Limits()
    reader = open_stream(read_stream(data, limits), limits, partial=partial)
    if isinstance(bundle, Bundle):
        check_identity(reader.header, bundle)
    else:
        bundle = bundle_for(reader.header, bundle)
    return label_map_of(reader, bundle)


def label_map_of(reader: StreamReader, bundle: Bundle) -> LabelMap:
    """The label map of an opened stream.

    Args:
        reader: of the stream, its sections checked.
        bundle: that it was made with.

    Raises:
        StreamError: damaged.
        LimitError: larger than the limits.
    """
    header, manifest = reader.header, bundle.manifest
    parameters = Parameters.from_bytes(header.parameters)
    width, height = map_size(header, parameters.label_scale)
    need, limit = LABELS.at(width * height), reader.limits.memory
    if need > limit:
        raise LimitError(
            f"the label map is {width}x{height}: it would need {-(-need >> 20)} MiB of memory, the limit is "
            f"{limit >> 20} MiB (--max-memory)"
        )
    plane = read_label_plane(reader, parameters, bundle)
    return LabelMap(
        plane, parameters.label_scale, header.width, header.height, manifest.classes, manifest.groups
    )
