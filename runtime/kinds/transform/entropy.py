"""Entropy coding of latents by fixed tables: range coding by the package `constriction`, what tables lack apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from ...codec.container import FieldReader, varint
from ...dependencies import naming_missing
from ...errors import StreamError
from .tables import MOST_MAGNITUDE, TOTAL, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

Numbers = npt.NDArray[np.int32]
_WORD_BYTES: Final = 4
_MOST_VARINT: Final = 4


class EntropyCoder:
    """Codes whole numbers, each by one of a list of tables. Safe to use from several threads.

    Those of one table are coded together, in their order, and the tables one after the other: the coder is then called
    once for each table.

    Args:
        tables: the list.

    Raises:
        DependencyError: constriction is not installed.
    """

    def __init__(self, tables: Sequence[Table]) -> None:
        with naming_missing("a codec of the kind transform", "transform"):
            import constriction
        self._queue: Any = constriction.stream.queue
        family = constriction.stream.model.Categorical
        self._tables = tuple(tables)
        self._models = [family(table.counts / TOTAL, perfect=False) for table in tables]

    def encode(self, groups: Sequence[Numbers]) -> bytes:
        """Code numbers.

        Args:
            groups: for each table the numbers that are coded by it, int32, 1-D.

        Returns:
            Length of the escapes, the escapes, and the words of the range coder.
        """
        coder, escaped = self._queue.RangeEncoder(), bytearray()
        for table, model, numbers in zip(self._tables, self._models, groups, strict=True):
            if not len(numbers):
                continue
            symbols = numbers - np.int32(table.first)
            outside = (symbols < 0) | (symbols >= table.escape)
            if outside.any():
                for number in numbers[outside].tolist():
                    escaped += varint(2 * number if number >= 0 else -2 * number - 1)
                symbols = np.where(outside, np.int32(table.escape), symbols)
            coder.encode(np.ascontiguousarray(symbols, np.int32), model)
        words: bytes = coder.get_compressed().astype("<u4").tobytes()
        return varint(len(escaped)) + bytes(escaped) + words

    def decode(self, data: bytes, counts: Sequence[int], what: str) -> list[Numbers]:
        """Inverse of `encode`.

        Args:
            data: from `encode`, or whatever stands in its place.
            counts: how many numbers each table has.
            what: names the section in messages.

        Raises:
            StreamError: truncated, or damaged.
        """
        reader = FieldReader(data, 0, len(data), f"{what} section")
        length = reader.varint("length of its escapes", min(len(data), _MOST_VARINT * sum(counts)))
        escapes = FieldReader(reader.take(length, "escapes"), 0, length, f"escapes of the {what} section")
        words = data[reader.position :]
        if len(words) % _WORD_BYTES:
            raise StreamError(
                f"the {what} section has {len(words)} bytes of code, not whole words: truncated"
            )
        coder = self._queue.RangeDecoder(np.frombuffer(words, "<u4").astype(np.uint32))
        groups = []
        for table, model, count in zip(self._tables, self._models, counts, strict=True):
            numbers = np.zeros(0, np.int32)
            if count:
                numbers = self._symbols(coder, model, count, what) + np.int32(table.first)
                for place in np.flatnonzero(numbers == table.first + table.escape).tolist():
                    numbers[place] = self._escape(escapes)
            groups.append(numbers)
        escapes.finish()
        if not coder.maybe_exhausted():
            raise StreamError(f"the {what} section has more code than its numbers need: damaged stream")
        return groups

    @staticmethod
    def _symbols(coder: Any, model: Any, count: int, what: str) -> Numbers:
        try:
            symbols: Numbers = coder.decode(model, count)
        except (
            AssertionError,
            ValueError,
        ) as error:  # what constriction raises of code that no encoder makes
            raise StreamError(f"the {what} section is no code of its tables: damaged stream") from error
        return symbols

    @staticmethod
    def _escape(escapes: FieldReader) -> int:
        coded = escapes.varint("number", 2 * MOST_MAGNITUDE)
        return coded // 2 if coded % 2 == 0 else -(coded + 1) // 2
