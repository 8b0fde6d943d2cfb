"""`oslic verify`, through the real command line."""

from __future__ import annotations

import json

import pytest
from oslic.runtime import cli
from oslic.runtime.codec import Codec
from oslic.runtime.limits import Limits
from oslic.runtime.stream import payload, read_info, write_stream
from PIL import Image


@pytest.fixture(scope="module")
def stream(photo):
    with Codec.open() as codec:
        return codec.compress(photo[:96, :128], quality=60, speed=10)


def test_good_files(tmp_path, stream, capsys):
    for name in ("a.oslic", "b.oslic"):
        (tmp_path / name).write_bytes(stream)
    names = [str(tmp_path / "a.oslic"), str(tmp_path / "b.oslic")]
    assert cli.main(["verify", *names]) == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"{n}: ok, 128x96, 4 checksums, decodes, digest ok" for n in names]
    assert said.err == ""
    assert cli.main(["verify", *names, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["input"] for row in rows] == names
    for row in rows:
        assert row["ok"] is True
        assert (row["width"], row["height"], row["bytes"], row["decoded"]) == (128, 96, len(stream), True)
    assert cli.main(["verify", *names, "--quiet", "--json"]) == 0
    assert capsys.readouterr().out == ""


def test_every_byte_that_changes_is_found(tmp_path, stream, capsys):
    """The checksums alone tell: also in each section's last byte."""
    info = read_info(stream, Limits())
    places = [0, 9, 20, info.sections[0].offset - 1]
    places += [place for s in info.sections for place in (s.offset, s.offset + s.length - 1)]
    names = []
    for place in places:
        data = bytearray(stream)
        data[place] ^= 4
        path = tmp_path / f"{place}.oslic"
        path.write_bytes(data)
        names.append(str(path))
    assert cli.main(["verify", *names, "--json", "--checksums"]) == 4
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["ok"], row["exit_code"]) for row in rows] == [(False, 4)] * len(names)


def test_each_kind_of_failure_has_its_exit_code(tmp_path, stream, capsys):
    info = read_info(stream, Limits())
    parts = {section.type: payload(stream, section) for section in info.sections}
    header = info.header
    files = {
        "good": (stream, 0),
        "short": (stream[:-1], 4),
        "long": (stream + b"x", 4),
        "other": (b"GIF89a", 4),
        "empty": (b"", 4),
        "drifted": (_written(header, parts, digest=bytes(8)), 9),
        "foreign": (_written(header, parts, fingerprint=bytes(8)), 5),
        "undecodable": (_written(header, {**parts, info.sections[0].type: b"FLIF, but not really"}), 4),
        "large": (_written(header, parts, width=1 << 20, height=1 << 20), 7),
    }
    for name, (data, _) in files.items():
        (tmp_path / name).write_bytes(data)
    wanted = {name: code for name, (_, code) in files.items()} | {"missing": 2}
    paths = [str(tmp_path / name) for name in wanted]
    assert cli.main(["verify", *paths, "--json"]) == 4  # that of the first failure
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert {row["input"].rpartition("/")[2]: row["exit_code"] for row in rows} == wanted
    assert all(row["ok"] == (row["exit_code"] == 0) == ("error" not in row) for row in rows)
    assert len(said.err.splitlines()) == len(wanted) - 1
    for name, code in wanted.items():
        assert cli.main(["verify", str(tmp_path / name)]) == code


def _written(header, parts, **changes):
    import dataclasses

    return write_stream(dataclasses.replace(header, **changes), parts)


def test_an_unknown_ancillary_section_is_checked_too(tmp_path, stream, capsys):
    """A reader skips it, an archive wants to keep it."""
    info = read_info(stream, Limits())
    parts = {section.type: payload(stream, section) for section in info.sections}
    data = bytearray(_written(info.header, {**parts, 0xF0: b"something of tomorrow"}))
    path = tmp_path / "a.oslic"
    path.write_bytes(data)
    assert cli.main(["verify", str(path)]) == 0
    data[-1] ^= 1
    path.write_bytes(data)
    assert cli.main(["verify", str(path)]) == 4
    assert "does not match its checksum" in capsys.readouterr().err


def test_checksums_need_no_bundle(tmp_path, stream, capsys):
    path = tmp_path / "a.oslic"
    path.write_bytes(stream)
    assert cli.main(["verify", str(path), "--checksums", "--bundle", str(tmp_path / "none")]) == 0
    assert capsys.readouterr().out == f"{path}: ok, 128x96, 4 checksums\n"
    assert cli.main(["verify", str(path), "--bundle", str(tmp_path / "none")]) == 5


def test_what_it_calls_good_decompresses(tmp_path, stream):
    path = tmp_path / "a.oslic"
    path.write_bytes(stream)
    assert cli.main(["verify", str(path)]) == 0
    assert cli.main(["decompress", str(path), "-o", str(tmp_path / "a.png"), "--strict"]) == 0
    assert Image.open(tmp_path / "a.png").size == (128, 96)
