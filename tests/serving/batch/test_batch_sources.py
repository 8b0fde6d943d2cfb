"""What a batch works on."""

from __future__ import annotations

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from oslic.runtime.errors import DataError, UsageError
from oslic.serving.batch import storage
from oslic.serving.batch.sources import Item, find_items


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "deep/er/c.webp", "notes.md", "x.oslic", "out/d.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "photos"


def names(items):
    return [item.name for item in items]


def test_a_folder_is_searched_with_all_below_it(folder):
    found = list(find_items(str(folder), streams=False))
    assert names(found) == ["a.PNG", "b.jpg", "deep/er/c.webp", "out/d.png"]
    assert found[2].source == str(folder / "deep/er/c.webp")


def test_the_folder_of_the_results_is_not_searched(folder):
    found = find_items(str(folder), streams=False, without=str(folder / "out"))
    assert "out/d.png" not in names(found)


def test_streams_are_found_where_they_are_to_be_decoded(folder):
    assert names(find_items(str(folder), streams=True)) == ["x.oslic"]


def test_a_list_names_files_one_a_line(tmp_path):
    (tmp_path / "list.txt").write_text("/data/a.png\n\n  s3://bucket/b/../c.png \n")
    assert list(find_items(str(tmp_path / "list.txt"), streams=False)) == [
        Item("/data/a.png", "data/a.png"),
        Item("s3://bucket/b/../c.png", "bucket/b/c.png"),
    ]


def test_a_manifest_names_files_in_a_column(tmp_path):
    path = str(tmp_path / "manifest.parquet")
    pq.write_table(pa.table({"url": ["/x/1.png", "/x/2.png"], "n": [1, 2]}), path)
    assert names(find_items(path, streams=False, column="url")) == ["x/1.png", "x/2.png"]
    with pytest.raises(UsageError, match="no column 'path': it has url, n"):
        find_items(path, streams=False)
    with pytest.raises(UsageError, match="holds 1, must hold paths"):
        find_items(path, streams=False, column="n")


def test_what_is_no_parquet_file_is_told(tmp_path):
    (tmp_path / "m.parquet").write_bytes(b"not a table")
    with pytest.raises(UsageError, match="not a Parquet file"):
        find_items(str(tmp_path / "m.parquet"), streams=False)


def test_sources_without_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        find_items(str(tmp_path), streams=False)
    with pytest.raises(DataError, match=r"holds no \.oslic files"):
        find_items(str(tmp_path), streams=True)
    with pytest.raises(UsageError, match="does not exist"):
        find_items(str(tmp_path / "nowhere"), streams=False)


def test_names_that_begin_with_a_dot_are_passed_over(tmp_path):
    for name in ("1.png", "._1.png", ".hidden/2.png", "shown/3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"one")
    assert {item.name for item in find_items(str(tmp_path), streams=False)} == {"1.png", "shown/3.png"}


def test_urls_of_fsspec_are_searched_read_and_written():
    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/a/1.png", b"one")
    files.pipe_file("/bucket/2.jpg", b"two")
    try:
        found = list(find_items("memory://bucket", streams=False))
        assert sorted(names(found)) == ["2.jpg", "a/1.png"]
        assert sorted(storage.read(item.source, "image", 100) for item in found) == [b"one", b"two"]
        storage.write("memory://bucket/new/x", b"data")
        assert files.cat_file("/bucket/new/x") == b"data"
    finally:
        files.rm("/bucket", recursive=True)


def test_unknown_schemes_and_missing_files_are_one_line():
    with pytest.raises(UsageError, match="Protocol not known: nosuch"):
        find_items("nosuch://bucket", streams=False)
    with pytest.raises(UsageError, match="cannot read the image memory://nothing"):
        storage.read("memory://nothing", "image", 10)


def test_files_longer_than_the_limit_are_not_read(tmp_path):
    from oslic.runtime.errors import LimitError

    files = fsspec.filesystem("memory")
    files.pipe_file("/long", bytes(11))
    try:
        with pytest.raises(LimitError, match="more than 10 bytes"):
            storage.read("memory://long", "image", 10)
    finally:
        files.rm("/long")
