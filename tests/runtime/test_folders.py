"""Folders that are replaced whole, also where a file system cannot exchange two in one step."""

from __future__ import annotations

from pathlib import Path

import pytest
from oslic.runtime import folders
from oslic.runtime.folders import displaced, restore, write_folder


@pytest.fixture(params=[True, False], ids=["one step", "two steps"])
def exchange(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(folders, "_exchange", lambda one, other: False)


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.mark.usefixtures("exchange")
def test_a_folder_is_replaced_and_nothing_stays(tmp_path):
    place = tmp_path / "made"
    write_folder(place, {"a": b"1", "deep/b": b"2"})
    write_folder(place, {"c": b"3"})
    assert names(place) == ["c"]
    assert (place / "c").read_bytes() == b"3"
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.usefixtures("exchange")
def test_a_link_stays(tmp_path):
    write_folder(tmp_path / "real", {"a": b"1"})
    (tmp_path / "link").symlink_to("real")
    write_folder(tmp_path / "link", {"b": b"2"})
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "real") == ["b"]


def test_a_replacement_that_fails_in_its_second_step_leaves_the_old_folder(tmp_path, monkeypatch):
    place = tmp_path / "made"
    write_folder(place, {"a": b"1"})
    monkeypatch.setattr(folders, "_exchange", lambda one, other: False)
    rename = Path.rename

    def failing(self, target):
        if self.name.endswith(".part"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output"):
        write_folder(place, {"b": b"2"})
    assert names(place) == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_what_a_killed_replacement_moved_away_is_put_back(tmp_path):
    place = tmp_path / "made"
    write_folder(place, {"a": b"1"})
    place.rename(displaced(place))
    restore(place)
    assert names(place) == ["a"]
    assert not displaced(place).exists()
