"""`oslic compress` at both ends of the quality scale: the layers alone, and layers at the start of a large file."""

from __future__ import annotations

import numpy as np
import pytest
from oslic.cli import main as cli
from PIL import Image


def test_quality_0_says_what_the_file_is_good_for(tmp_path, photo, capsys):
    source = tmp_path / "photo.png"
    Image.fromarray(photo).save(source)
    assert cli.main(["compress", str(source), "-q", "0"]) == 0
    assert "the layers alone: a preview and what is in it, not a copy to keep" in capsys.readouterr().out
    assert cli.main(["compress", str(source), "-q", "1", "-o", str(tmp_path / "other.oslic")]) == 0
    assert "preview" not in capsys.readouterr().out


@pytest.fixture
def small(tmp_path, photo, monkeypatch):
    """A folder with `photo.png`, the current one."""
    Image.fromarray(photo[:128, :96]).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("quality", ["0.1", "0.5", "0.75"])
def test_between_0_and_1_is_1(small, quality):
    assert cli.main(["compress", "photo.png", "-q", quality, "-o", "least.oslic"]) == 0
    assert cli.main(["compress", "photo.png", "-q", "1", "-o", "one.oslic"]) == 0
    assert (small / "least.oslic").read_bytes() == (small / "one.oslic").read_bytes()


def test_an_effort_that_searches_nothing_says_so(small, capsys):
    assert cli.main(["compress", "photo.png", "-q", "0", "--effort", "5"]) == 0
    assert (
        "effort 5 looks for no better layers, as the bundle has no graph for that" in capsys.readouterr().err
    )
    words = ["compress", "photo.png", "--psnr", "5", "--effort", "5", "--bundle", "lite-preview"]
    assert cli.main([*words, "-o", "other.oslic"]) == 0
    assert "effort 5 looks for better layers with --quality 0 alone" in capsys.readouterr().err
    assert cli.main(["compress", "photo.png", "-q", "0", "--overwrite"]) == 0
    assert cli.main(["compress", "photo.png", "-q", "30", "--effort", "5", "--overwrite"]) == 0
    assert "effort" not in capsys.readouterr().err


def test_what_grows_at_quality_0_is_told_to_stay_as_it_is(tmp_path, capsys):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    assert cli.main(["compress", str(tmp_path / "dot.png"), "-q", "0"]) == 0
    assert capsys.readouterr().err.endswith("bytes against 69: keep the file as it is\n")


def test_what_a_truncated_file_lacks_is_told(small, capsys):
    assert cli.main(["compress", "photo.png", "-q", "0"]) == 0
    data = (small / "photo.png.oslic").read_bytes()
    (small / "cut.oslic").write_bytes(data[:-40])
    capsys.readouterr()
    assert cli.main(["decompress", "cut.oslic", "--partial", "-o", "cut.png"]) == 0
    assert "digest not checked" in capsys.readouterr().out
    assert cli.main(["decompress", "cut.oslic", "--partial", "--strict", "-o", "strict.png"]) == 9
    assert "what the file lacks cannot be compared with the encoder's" in capsys.readouterr().err
    assert not (small / "strict.png").exists()
    assert cli.main(["decompress", "cut.oslic", "--partial", "--scale", "1/8", "-o", "eighth.png"]) == 0
    assert "compact" in capsys.readouterr().err
    assert Image.open("eighth.png").size == (12, 16)


@pytest.mark.shared
def test_the_first_5_kilobytes_of_a_500_kilobyte_file_are_a_picture_of_the_whole(tmp_path, shared):
    source, stream, start = (
        shared / "data/kodak/kodim13.png",
        tmp_path / "whole.oslic",
        tmp_path / "start.oslic",
    )
    assert cli.main(["compress", str(source), "-q", "100", "-o", str(stream)]) == 0
    data = stream.read_bytes()
    assert len(data) > 500_000
    start.write_bytes(data[:5000])
    assert cli.main(["decompress", str(start), "--partial", "-o", str(tmp_path / "start.png")]) == 0
    with Image.open(source) as original, Image.open(tmp_path / "start.png") as shown:
        assert shown.size == original.size
        picture, preview = np.asarray(original, np.float64), np.asarray(shown, np.float64)
    flat = np.square(picture - picture.mean((0, 1))).mean()
    assert np.square(picture - preview).mean() < 0.4 * flat
