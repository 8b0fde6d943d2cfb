"""The table of results: one row for each item, as Parquet files beside the results.

Files of `TARGET/results/` are only ever added. Where an item was worked on again, because it had failed or was to be
coded in another way, its last row counts; `read_results` returns those.
"""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

from . import storage

if TYPE_CHECKING:
    import pyarrow as pa

RESULTS_NAME: Final = "results"
_ROWS_PER_FILE: Final = 20_000
_SECONDS_PER_FILE: Final = 60.0


@dataclass(frozen=True)
class Row:
    """What came of one item.

    Attributes:
        source: path or URL of the item.
        output: path or URL of what was written; None: nothing was.
        width: of the picture; 0 where it was not read.
        height: likewise.
        bytes_in: length of the source's file.
        bytes_out: length of what was written.
        psnr: in dB, of what the decoder makes of the stream; infinite where that is the picture; None: not known,
            because there was nothing to compare.
        digest_matches: whether the stream decodes to what its encoder saw, bit for bit; None: it was not decoded.
        seconds: of work on it, reading and writing included; the work on others beside it is not.
        digest: SHA-256 of what was written, hexadecimal.
        error: why it failed, in one line; None: it did not.
        exit_code: the error's (docs/reference/exit-codes.md); 0: none.
        settings: how it was coded; rows of other settings do not count as done.
        finished: when, UTC.
    """

    source: str
    settings: str
    output: str | None = None
    width: int = 0
    height: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    psnr: float | None = None
    digest_matches: bool | None = None
    seconds: float = 0.0
    digest: str | None = None
    error: str | None = None
    exit_code: int = 0
    finished: datetime | None = None

    @property
    def failed(self) -> bool:
        """Whether the item failed."""
        return self.error is not None


def schema() -> pa.Schema:
    """The table's columns, those of `Row`."""
    import pyarrow as pa

    kinds = {
        "source": pa.string(),
        "settings": pa.string(),
        "output": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "bytes_in": pa.int64(),
        "bytes_out": pa.int64(),
        "psnr": pa.float64(),
        "digest_matches": pa.bool_(),
        "seconds": pa.float64(),
        "digest": pa.string(),
        "error": pa.string(),
        "exit_code": pa.int32(),
        "finished": pa.timestamp("ms", tz="UTC"),
    }
    return pa.schema([(field.name, kinds[field.name]) for field in fields(Row)])


class ResultTable:
    """Collects rows, and writes a file of them every minute or every 20,000 rows.

    What a killed run had not yet written is worked on again by the next one: at most a minute of work.

    Args:
        target: path or URL of the results' folder.
    """

    def __init__(self, target: str) -> None:
        self._folder = storage.join(target, RESULTS_NAME)
        self._run = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
        self._rows: list[Row] = []
        self._files = 0
        self._since = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.flush()

    def add(self, row: Row) -> None:
        """Take a row.

        Raises:
            UsageError: a file was due and cannot be written.
        """
        self._rows.append(row)
        if len(self._rows) >= _ROWS_PER_FILE or time.monotonic() - self._since > _SECONDS_PER_FILE:
            self.flush()

    def flush(self) -> None:
        """Write what was collected.

        Raises:
            UsageError: it cannot be written; the rows are kept.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._rows:
            file = io.BytesIO()
            pq.write_table(pa.Table.from_pylist([asdict(row) for row in self._rows], schema()), file)
            # Sorted by name they are in the order in which they were written.
            storage.write(
                storage.join(self._folder, f"{self._run}-{self._files:05d}.parquet"), file.getvalue()
            )
            self._files += 1
            self._rows.clear()
        self._since = time.monotonic()


def sources_done(target: str, settings: str) -> frozenset[bytes]:
    """Keys (`key_of`) of the sources whose last row says that they were done with these settings.

    They take some 100 bytes of memory each.

    Raises:
        UsageError: the table cannot be read.
    """
    done: set[bytes] = set()
    for part in _parts(target, ["source", "settings", "error"]):
        for row in part.to_pylist():
            if row["error"] is None and row["settings"] == settings:
                done.add(key_of(row["source"]))
            else:
                done.discard(key_of(row["source"]))
    return frozenset(done)


def key_of(source: str) -> bytes:
    """What stands for a source in memory: 16 bytes of a hash."""
    import hashlib

    return hashlib.blake2b(source.encode("utf-8", "surrogateescape"), digest_size=16).digest()


def read_results(target: str) -> pa.Table:
    """The table of results: the last row of each source, in the order of those rows.

    Raises:
        UsageError: it cannot be read.
    """
    import pyarrow as pa

    last: dict[str, dict[str, Any]] = {}
    for part in _parts(target, None):
        for row in part.to_pylist():
            last.pop(row["source"], None)
            last[row["source"]] = row
    return pa.Table.from_pylist(list(last.values()), schema())


def _parts(target: str, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
    folder = storage.join(target, RESULTS_NAME)
    if not storage.is_folder(folder):
        return
    for name in sorted(storage.find(folder)):
        if name.endswith(".parquet"):
            with storage.parquet_file(storage.join(folder, name)) as table:
                yield from table.iter_batches(columns=columns)
