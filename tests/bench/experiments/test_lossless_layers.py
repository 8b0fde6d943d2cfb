"""`oslic bench flif` on a few small pictures."""

import json

import numpy as np
import pytest
from oslic.bench.experiments import lossless_layers as bench
from oslic.bench.report.sections.registry import read_result, sections
from oslic.cli.main import main
from oslic.measure.timing import Settings
from oslic.runtime.errors import VerificationError
from PIL import Image


def test_measures_all_coders(tmp_path, photo):
    labels, photos = tmp_path / "labels", tmp_path / "photos"
    labels.mkdir()
    photos.mkdir()
    for i in range(2):
        Image.fromarray((photo[i * 60 : i * 60 + 24, :32, 0] // 32).astype(np.uint8)).save(
            labels / f"{i}.png"
        )
        Image.fromarray(photo[i * 128 : i * 128 + 80, :96]).save(photos / f"{i}.png")
    result = tmp_path / "result.json"
    arguments = ["--labels", str(labels), "--photos", str(photos), "--efforts", "10,60", "--timeout", "0.1"]
    assert main(["bench", "flif", *arguments, "--timed", "1", "-o", str(result)]) == 0
    found = json.loads(result.read_text())
    assert found["format"] == bench.FORMAT
    assert found["sets"].keys() == {"labels", "compact-256", "compact-32"}
    for part in found["sets"].values():
        assert {"ours-e10", "ours-e60", "jxl-e7", "jxl-e9", "webp", "png"} <= part["coders"].keys()
        for row in part["coders"].values():
            assert row["mean_bytes"] > 20
            assert len(row["encode"]["wall"]["total"]["samples_ms"]) >= 4
    assert (
        found["sets"]["compact-32"]["coders"]["ours-e60"]["mean_bytes"]
        < (found["sets"]["compact-256"]["coders"]["ours-e60"]["mean_bytes"])
    )
    (section,) = sections([read_result(result)])
    assert [table.title for table in section.tables] == list(found["sets"])
    row = next(row for row in section.tables[0].rows if row[0] == "ours-e60")
    assert row[1] == f"{found['sets']['labels']['coders']['ours-e60']['mean_bytes']:.0f}"


def test_box_averages(tmp_path):
    Image.fromarray(np.repeat(np.repeat(np.array([[0, 255]], np.uint8), 8, 0), 8, 1)).save(tmp_path / "a.png")
    (image,) = bench.box_averages(tmp_path, 32)
    assert image.tolist() == [[[0, 0, 0], [31, 31, 31]]]


def test_a_coder_that_loses_is_found(photo):
    lossy = bench.Coder(lambda pixels: b"x", lambda data: np.zeros((8, 8), np.uint8))
    picture = np.ascontiguousarray(photo[:8, :8, 0])
    with pytest.raises(VerificationError, match="lossy"):
        bench.compare([picture], {"lossy": lossy}, 1, Settings(timeout=0.1))
