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
