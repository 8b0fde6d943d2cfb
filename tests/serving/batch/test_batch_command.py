"""`oslic batch` on this machine."""

from __future__ import annotations

import hashlib
import json
import os

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
import small_bundle
from oslic.cli import main as cli
from oslic.runtime.codec import Codec
from oslic.runtime.image.arrays import psnr
from oslic.serving.batch.table import read_results
from PIL import Image


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small_bundle.write(tmp_path_factory.mktemp("bundles") / "small", refines=True).path


@pytest.fixture
def photos(tmp_path, photo):
    """Six photographs in folders, and a file that is none."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for number in range(6):
        part = photo[16 * number : 16 * number + 96, 8 * number : 8 * number + 120]
        Image.fromarray(part).save(folder / ("sub" if number % 2 else "") / f"{number}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no photograph")
    return folder


def batch(source, target, *options, bundle):
    return cli.main(
        [
            "batch",
            str(source),
            "-o",
            str(target),
            "--bundle",
            str(bundle),
            "--effort",
            "0",
            *map(str, options),
        ]
    )


def rows(target):
    return {row["source"].rpartition("/")[2]: row for row in read_results(str(target)).to_pylist()}


def test_streams_are_those_of_compress_and_the_table_says_what_they_are(photos, tmp_path, bundle, capsys):
    target = tmp_path / "streams"
    assert batch(photos, target, bundle=bundle) == 3
    output = capsys.readouterr()
    assert output.err.count("\n") == 1
    assert "broken.jpg" in output.err
    assert output.out.startswith("6 done, 1 failed, 0 done before")
    single = tmp_path / "single.oslic"
    arguments = ["-o", str(single), "--bundle", str(bundle), "--effort", "0"]
    assert cli.main(["compress", str(photos / "sub/3.png"), *arguments]) == 0
    stream = target / "sub/3.png.oslic"
    assert stream.read_bytes() == single.read_bytes()
    row = rows(target)["3.png"]
    with Codec.open(bundle) as codec:
        decoded = codec.decompress(stream.read_bytes())
    original = np.asarray(Image.open(photos / "sub/3.png"))
    assert row["psnr"] == pytest.approx(psnr(original, decoded), abs=1e-9)
    assert (row["width"], row["height"], row["bytes_in"], row["bytes_out"]) == (
        120,
        96,
        (photos / "sub/3.png").stat().st_size,
        stream.stat().st_size,
    )
    assert row["digest"] == hashlib.sha256(stream.read_bytes()).hexdigest()
    assert row["output"] == str(stream)
    assert row["error"] is None
    assert row["seconds"] > 0
    failed = rows(target)["broken.jpg"]
    assert (failed["exit_code"], failed["output"], failed["digest"]) == (3, None, None)
    assert "broken.jpg" in failed["error"]


def test_a_second_run_does_only_what_is_missing(photos, tmp_path, bundle, capsys):
    target = tmp_path / "streams"
    batch(photos, target, bundle=bundle)
    before = {path: path.stat().st_mtime_ns for path in target.rglob("*.oslic")}
    Image.open(photos / "0.png").save(photos / "new.png")
    Image.open(photos / "0.png").save(photos / "broken.jpg")
    capsys.readouterr()
    assert batch(photos, target, "--json", bundle=bundle) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["items"], summary["done"], summary["done_before"]) == (2, 2, 6)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in target.rglob("*.oslic")}.items()
    assert len(rows(target)) == read_results(str(target)).num_rows == 8
    assert all(row["error"] is None for row in rows(target).values())


def test_other_settings_are_another_job(photos, tmp_path, bundle, capsys):
    target = tmp_path / "streams"
    batch(photos, target, bundle=bundle)
    sizes = {name: row["bytes_out"] for name, row in rows(target).items()}
    capsys.readouterr()
    batch(photos, target, "--quality", "90", "--json", bundle=bundle)
    assert json.loads(capsys.readouterr().out)["done_before"] == 0
    found = rows(target)
    assert len(found) == 7
    assert all(found[name]["bytes_out"] > size for name, size in sizes.items() if size)


def test_streams_are_decoded_and_verified(photos, tmp_path, bundle, capsys):
    streams, images = tmp_path / "streams", tmp_path / "images"
    batch(photos, streams, "--verify", bundle=bundle)
    assert all(row["digest_matches"] for name, row in rows(streams).items() if name != "broken.jpg")
    damaged = bytearray((streams / "0.png.oslic").read_bytes())
    damaged[-20] ^= 1
    (streams / "damaged.oslic").write_bytes(damaged)
    capsys.readouterr()
    assert batch(streams, images, "--decode", "--verify", bundle=bundle) == 4
    made = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))
    assert made == ["0.png.png", "2.png.png", "4.png.png", "sub/1.png.png", "sub/3.png.png", "sub/5.png.png"]
    with Codec.open(bundle) as codec:
        wanted = codec.decompress((streams / "sub/1.png.oslic").read_bytes())
    assert np.array_equal(np.asarray(Image.open(images / "sub/1.png.png")), wanted)


def test_a_stream_that_drifted_fails_where_it_is_verified(tmp_path, bundle, photo):
    """The encoder's networks differ a little, under the same fingerprint: as on a machine that rounds otherwise."""
    other = small_bundle.write(
        tmp_path / "other", {"synthesise": small_bundle.synthesise(gain=0.051)}, refines=True
    ).path
    source = tmp_path / "x.png"
    Image.fromarray(photo[:96, :96]).save(source)
    assert batch(source, tmp_path / "s", bundle=other) == 0
    stream = tmp_path / "s" / "x.png.oslic"
    assert batch(stream, tmp_path / "i", "--decode", bundle=bundle) == 0
    assert rows(tmp_path / "i")["x.png.oslic"]["digest_matches"] is False
    assert batch(stream, tmp_path / "i", "--decode", "--verify", bundle=bundle) == 9


def test_urls_work_as_paths_do(photos, bundle, capsys):
    files = fsspec.filesystem("memory")
    try:
        assert batch(photos, "memory://streams", bundle=bundle) == 3
        assert files.exists("/streams/sub/5.png.oslic")
        capsys.readouterr()
        assert batch(photos, "memory://streams", "--json", bundle=bundle) == 3
        assert json.loads(capsys.readouterr().out)["done_before"] == 6
        assert batch("memory://streams", "memory://images", "--decode", bundle=bundle) == 0
        assert len(files.find("/images")) == 6 + 1
    finally:
        for folder in ("/streams", "/images"):
            if files.exists(folder):
                files.rm(folder, recursive=True)


def test_the_parts_of_the_table_are_plain_parquet(photos, tmp_path, bundle):
    batch(photos, tmp_path / "t", bundle=bundle)
    (part,) = (tmp_path / "t/results").glob("*.parquet")
    table = pq.read_table(part)
    assert table.num_rows == 7
    assert sorted(table["exit_code"].to_pylist()) == [0] * 6 + [3]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["empty", "-o", "t"], 10, "holds no images"),
        (["photos", "-o", "photos/0.png/t"], 2, "cannot write to the folder"),
        (["photos", "-o", "/proc/nowhere"], 2, "cannot write to the folder /proc/nowhere: "),
        (["photos", "-o", "t", "--quality", "200"], 2, "out of range"),
        (["photos", "-o", "t", "--actors", "2"], 2, "give --ray as well"),
        (["nosuch://x", "-o", "t"], 2, "Protocol not known"),
    ],
)
def test_what_is_wrong_is_one_line(photos, tmp_path, monkeypatch, capsys, arguments, code, message):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["batch", *arguments]) == code
    error = capsys.readouterr().err
    assert error.startswith("oslic batch: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.glob("t/**/*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_target_without_permission_is_one_line(photos, tmp_path, capsys, bundle):
    target = tmp_path / "locked"
    target.mkdir(mode=0o555)
    assert batch(photos, target / "t", bundle=bundle) == 2
    error = capsys.readouterr().err
    assert "Permission denied" in error
    assert error.count("\n") == 1


def test_without_pyarrow_the_extra_is_named(photos, tmp_path, monkeypatch, capsys, bundle):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert batch(photos, tmp_path / "t", bundle=bundle) == 11
    assert "oslic[batch]" in capsys.readouterr().err
