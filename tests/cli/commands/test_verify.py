"""`oslic verify`, through the real command line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from oslic.cli import main as cli
from oslic.runtime.codec import Codec
from oslic.runtime.codec.container import Payload, SectionType, StreamReader
from oslic.runtime.limits import Limits
from oslic.runtime.tiling import single
from PIL import Image
from stream_tools import changed, put_together, take_apart, with_record


@pytest.fixture(scope="module")
def stream(photo):
    with Codec.open() as codec:
        return codec.compress(photo[:96, :128], quality=60, effort=0)


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
    info = StreamReader.of_bytes(stream, Limits()).info
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
    header, parts = take_apart(stream)
    files = {
        "good": (stream, 0),
        "short": (stream[:-1], 4),
        "long": (stream + b"x", 4),
        "other": (b"GIF89a", 4),
        "empty": (b"", 4),
        "drifted": (with_record(stream, estimate_digest=bytes(4)), 9),
        "foreign": (put_together(replace(header, identity=bytes(8)), parts), 5),
        "undecodable": (changed(stream, SectionType.LABELS, b"FLIF, but not really"), 4),
        "large": (put_together(replace(header, grid=single(1 << 20, 1 << 20)), parts), 7),
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


def test_an_unknown_ancillary_section_is_checked_too(tmp_path, stream, capsys):
    """A reader skips it, an archive wants to keep it."""
    header, parts = take_apart(stream)
    data = bytearray(put_together(header, {**parts, 0xF0: [Payload(b"something of tomorrow")]}))
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
