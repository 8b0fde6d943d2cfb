"""What a batch works on: the files of a folder, of a list, or of a Parquet manifest."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from ...runtime.errors import DataError, UsageError
from ...runtime.image.files import ENDINGS
from . import storage

STREAM_ENDING: Final = ".oslic"
PATH_COLUMN: Final = "path"
_LIST_ENDING: Final = ".txt"
_MANIFEST_ENDING: Final = ".parquet"
_MAX_LIST_BYTES: Final = 1 << 30


@dataclass(frozen=True)
class Item:
    """One file to work on.

    Attributes:
        source: path or URL.
        name: of the result below the target, without the ending that says what it is: for `photos/a/b.jpg` in
            `photos` it is `a/b.jpg`.
    """

    source: str
    name: str


def find_items(
    source: str, *, streams: bool, column: str = PATH_COLUMN, without: str | None = None
) -> Iterator[Item]:
    """The files that a source names.

    Args:
        source: path or URL of a folder, which is searched with all folders below it; of a list (`.txt`, one path or URL
            a line); of a manifest (`.parquet`); or of one file.
        streams: whether `.oslic` files are looked for in a folder; else images, by their endings. Names that begin with
            a dot are passed over.
        column: of the manifest, with paths or URLs.
        without: a folder that is not searched: that of the results.

    Yields:
        Items as they are found; a list or a manifest is trusted to name what it names.

    Raises:
        DataError: there is nothing in it.
        UsageError: there is no such source, or it cannot be read.
    """
    found = _items(source, streams=streams, column=column, without=without)
    first = next(found, None)
    if first is None:
        kind = f"{STREAM_ENDING} files" if streams else f"images ({', '.join(sorted(ENDINGS))})"
        raise DataError(f"{source} holds no {kind}")
    return itertools.chain([first], found)


def is_manifest(source: str) -> bool:
    """Whether a source is a Parquet manifest."""
    return source.lower().endswith(_MANIFEST_ENDING) and not storage.is_folder(source)


def item_of(place: str) -> Item:
    """The item of a file that a list or a manifest names: its result goes to its own path, below the target."""
    path = place.partition("://")[2] if storage.is_url(place) else place
    return Item(place, "/".join(part for part in path.split("/") if part not in {"", ".", ".."}))


def _items(source: str, *, streams: bool, column: str, without: str | None) -> Iterator[Item]:
    if storage.is_folder(source):
        return _in_folder(source, streams=streams, without=without)
    if not storage.exists(source):
        raise UsageError(
            f"{source} does not exist; name a folder, a list (.txt), a manifest (.parquet) or a file"
        )
    if is_manifest(source):
        return _named(_column(source, column))
    if source.lower().endswith(_LIST_ENDING):
        lines = storage.read(source, "list", _MAX_LIST_BYTES).decode("utf-8", "surrogateescape").splitlines()
        return _named(line.strip() for line in lines if line.strip())
    return iter([Item(source, source.rstrip("/").rpartition("/")[2])])


def _in_folder(folder: str, *, streams: bool, without: str | None) -> Iterator[Item]:
    endings = {STREAM_ENDING} if streams else ENDINGS
    inside = None
    if without is not None and without.rstrip("/").startswith(folder.rstrip("/") + "/"):
        inside = without.rstrip("/").removeprefix(folder.rstrip("/") + "/") + "/"
    for name in storage.find(folder):
        if inside is not None and name.startswith(inside):
            continue
        if any(part.startswith(".") for part in name.split("/")):
            continue
        if any(name.lower().endswith(ending) for ending in endings):
            yield Item(storage.join(folder, name), name)


def _named(places: Iterable[str]) -> Iterator[Item]:
    return map(item_of, places)


def _column(source: str, column: str) -> Iterator[str]:
    with storage.parquet_file(source) as table:
        names = table.schema_arrow.names
        if column not in names:
            raise UsageError(f"{source} has no column {column!r}: it has {', '.join(names)} (--column)")
        for part in table.iter_batches(columns=[column]):
            for value in part.column(0).to_pylist():
                if not isinstance(value, str):
                    raise UsageError(f"{source}: the column {column!r} holds {value!r}, must hold paths")
                yield value
