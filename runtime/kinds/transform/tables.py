"""Tables of a transform codec: fixed probabilities as whole numbers, read from a file of the bundle.

A table has the probabilities of consecutive whole numbers and, last, of all others together, in 65536ths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ...errors import BundleError
from ...plain_json import parse_object

TOTAL: Final = 1 << 16
"""What the counts of a table sum to."""
MOST_SYMBOLS: Final = 1 << 13
"""Entries of a table."""
MOST_TABLES: Final = 1 << 11
MOST_MAGNITUDE: Final = 1 << 20
"""Of what is coded: latents beyond it are those of no network."""
_KEYS: Final = frozenset({"offsets", "first", "counts"})


@dataclass(frozen=True)
class Table:
    """A distribution.

    Attributes:
        first: the number that the first entry belongs to.
        counts: int64, at least 1 each; the last one is of all numbers that have no entry.
    """

    first: int
    counts: npt.NDArray[np.int64]

    @property
    def escape(self) -> int:
        """Place of the last entry."""
        return len(self.counts) - 1


@dataclass(frozen=True)
class Tables:
    """What a bundle's file holds.

    Attributes:
        offsets: of each channel that the factorized prior codes, float32: the rounded difference to it is coded.
        apart: a table for each of those channels.
        thresholds: ascending scales, float32; a latent whose scale is above n of them is coded by the table n. Empty
            without hyperprior.
        by_scale: one table more than thresholds; empty without hyperprior.
    """

    offsets: npt.NDArray[np.float32]
    apart: tuple[Table, ...]
    thresholds: npt.NDArray[np.float32]
    by_scale: tuple[Table, ...]

    def indices(self, scales: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
        """The number of the table of each scale: how many thresholds are below it."""
        return np.searchsorted(self.thresholds, scales, side="left").astype(np.uint16)


def read_tables(data: bytes, where: str) -> Tables:
    """Parse and check a file of tables.

    Args:
        data: JSON: {"apart": {"offsets", "first", "counts"}, "by_scale": {"offsets", "first", "counts"}}; the offsets
            of "by_scale" are its thresholds.
        where: names it in messages.

    Raises:
        BundleError: not such a file; a table that does not sum, or with an entry below 1.
    """
    body = parse_object(data, where, BundleError)
    if set(body) != {"apart", "by_scale"}:
        raise BundleError(f"{where} must hold apart and by_scale: export the bundle again")
    offsets, apart = _group(body["apart"], f"{where}: apart")
    thresholds, by_scale = _group(body["by_scale"], f"{where}: by_scale")
    if len(offsets) != len(apart) or not apart:
        raise BundleError(
            f"{where}: apart has {len(apart)} tables and {len(offsets)} offsets: as many of both are needed"
        )
    if len(by_scale) != (len(thresholds) + 1 if len(thresholds) else 0):
        raise BundleError(f"{where}: by_scale has {len(by_scale)} tables for {len(thresholds)} thresholds")
    if np.any(np.diff(thresholds) <= 0):
        raise BundleError(f"{where}: the thresholds of by_scale do not ascend")
    return Tables(offsets, apart, thresholds, by_scale)


def _group(value: Any, where: str) -> tuple[npt.NDArray[np.float32], tuple[Table, ...]]:
    if (
        not isinstance(value, dict)
        or set(value) != _KEYS
        or not all(isinstance(v, list) for v in value.values())
    ):
        raise BundleError(f"{where} must be an object of the lists {', '.join(sorted(_KEYS))}")
    first, counts = value["first"], value["counts"]
    if len(first) != len(counts) or len(counts) > MOST_TABLES:
        raise BundleError(f"{where} has {len(counts)} tables of counts for {len(first)} first numbers")
    offsets = value["offsets"]
    if len(offsets) > MOST_TABLES or not all(
        type(number) in {int, float} and abs(number) <= MOST_MAGNITUDE for number in offsets
    ):
        raise BundleError(f"{where}: offsets must be at most {MOST_TABLES} numbers up to {MOST_MAGNITUDE}")
    tables = tuple(
        _table(start, row, f"{where}: table {n}")
        for n, (start, row) in enumerate(zip(first, counts, strict=True))
    )
    return np.array(offsets, np.float32), tables


def _table(first: Any, counts: Any, where: str) -> Table:
    if type(first) is not int or abs(first) > MOST_MAGNITUDE:
        raise BundleError(
            f"{where} begins with {first!r:.40}, must begin with a whole number up to {MOST_MAGNITUDE}"
        )
    if not isinstance(counts, list) or not 2 <= len(counts) <= MOST_SYMBOLS:
        raise BundleError(f"{where} must have 2 to {MOST_SYMBOLS} counts")
    if not all(type(count) is int and 1 <= count < TOTAL for count in counts) or sum(counts) != TOTAL:
        raise BundleError(f"{where} does not sum to {TOTAL} with counts of at least 1: the file is damaged")
    return Table(first, np.array(counts, np.int64))
