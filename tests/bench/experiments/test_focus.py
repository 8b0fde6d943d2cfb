"""Quality by class at equal bytes."""

import json

import numpy as np
import pytest
from conftest import SAMPLES
from oslic.bench.experiments.focus import Marked, _at_size, read_marked
from oslic.cli.main import main
from oslic.runtime.errors import DataError
from oslic.runtime.limits import Limits
from PIL import Image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A person who fills a fifth of the picture, marked by a box: the astronaut on a gray wall."""
    folder = tmp_path_factory.mktemp("marked")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    image = np.array(Image.open(SAMPLES / "astronaut.png").convert("RGB").resize((256, 256)))
    labels = np.zeros((256, 256), np.uint8)
    labels[20:150, 70:140] = 8
    Image.fromarray(image).save(folder / "images" / "a.png")
    Image.fromarray(labels).save(folder / "labels" / "a.png")
    return folder


def test_only_photographs_with_such_a_share_are_taken(folder):
    (found,) = read_marked([folder], [7, 8], (0.1, 0.3), Limits())
    assert found.mask.mean() == pytest.approx(130 * 70 / 256**2)
    with pytest.raises(DataError, match=r"no photograph .* marked share of 0.2 to 0.3"):
        read_marked([folder], [7, 8], (0.2, 0.3), Limits())


def test_scores_are_interpolated_at_the_size():
    image = np.full((16, 16, 3), 100, np.uint8)
    mask = np.zeros((16, 16), bool)
    mask[:8] = True

    def code(level):
        # 1 percent more bytes a level; an error of 20 below level 50, of 10 from there on.
        return round(1000 * 1.01**level), image + np.uint8(10 if level >= 50 else 20)

    sides = _at_size(Marked("a", image, mask), code, round(1000 * 1.01**49.5))
    expected = np.mean([10 * np.log10(255**2 / error**2) for error in (10, 20)])
    assert sides == pytest.approx((expected, expected), abs=0.5)


def test_the_command(folder, tmp_path, capsys):
    out = tmp_path / "focus.json"
    words = ["bench", "focus", str(folder), "--values", "7,8", "--qualities", "50", "-o", str(out)]
    assert main(words) == 0
    body = json.loads(out.read_text())
    (row,) = body["rows"]
    assert row["inside"] > 0.2
    assert row["outside"] < -0.5
    assert row["avif_inside"] < row["inside"]
    (mean,) = body["means"]
    assert mean["images"] == 1
    assert mean["inside"] == mean["least_inside"] == row["inside"]
    assert f"inside {row['inside']:+.2f} dB" in capsys.readouterr().out


def test_labels_that_are_missing_are_named(folder, tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "images" / "b.png")
    with pytest.raises(DataError, match=r"b\.png has no label map"):
        read_marked([tmp_path], [8], (0.1, 0.3), Limits())
