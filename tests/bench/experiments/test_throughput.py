"""`oslic bench throughput`, through the real command line, and the scale of qualities."""

from __future__ import annotations

import json

import pytest
from oslic.bench.experiments.quality_table import at_psnr, curve_of, quality_table
from oslic.cli.main import main
from PIL import Image


def test_every_candidate_is_measured_in_every_round(tmp_path, photo, capsys):
    for index in range(3):
        Image.fromarray(photo[40 * index : 40 * index + 40, :64]).save(tmp_path / f"{index}.png")
    words = [
        "bench",
        "throughput",
        str(tmp_path),
        "--rounds",
        "2",
        "--jobs",
        "2,3",
        "--effort",
        "0",
        "--count",
        "2",
    ]
    assert main([*words, "-o", str(tmp_path / "r.json")]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["settings"]["images"] == ["0.png", "1.png"]
    assert len(result["samples"]) == 6
    for found in result["samples"].values():
        assert len(found["seconds"]) == len(found["processor_seconds"]) == 2
        assert all(seconds > 0 for seconds in found["seconds"])
    ratio = result["ratios"]["compress, 3 at a time"]
    before = result["samples"]["compress, one call after another"]["seconds"]
    after = result["samples"]["compress, 3 at a time"]["seconds"]
    assert ratio["least"] == pytest.approx(min(b / a for b, a in zip(before, after, strict=True)))
    assert "compress, 2 at a time: " in capsys.readouterr().out


def _point(coder, quality, psnr, size):
    return {"coder": coder, "quality": quality, "scores": {"psnr": psnr}, "size": size}


def test_the_scale_of_qualities():
    points = [
        _point("oslic", 60, 36.0, 1000), _point("oslic", 60, 38.0, 3000), _point("oslic", 10, 20.0, 500),
        _point("jpeg", 80, 36.0, 1000), _point("jpeg", 90, 38.0, 4000),
    ]  # fmt: skip
    assert curve_of(points, "oslic") == [(10, 20.0, 500), (60, 37.0, 2000)]
    jpeg = curve_of(points, "jpeg")
    quality, size = at_psnr(jpeg, 37.0)
    assert (quality, size) == (pytest.approx(85), pytest.approx(2000))  # bytes in between geometrically
    assert at_psnr(jpeg, 35.9) is at_psnr(jpeg, 38.1) is at_psnr([], 37.0) is None
    table = quality_table(
        {"points": points, "settings": {"coders": {"oslic": {}, "jpeg": {}}, "images": ["a", "b"]}}
    )
    assert "| 60 | 37.0 | 2,000 | 85 | 2,000 |" in table
    assert "| 10 | 20.0 | 500 | - | - |" in table
