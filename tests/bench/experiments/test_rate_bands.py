"""BD-rates by metric and range."""

import math

import pytest
from oslic.bench.experiments.rate_bands import described, rate_bands
from oslic.measure.rate_curves import Point


def points(coder, image, factor, scores):
    """A curve whose rate doubles with each setting; `factor` is by which it is larger at each of them."""
    return [
        Point(coder, image, q, 1, 0.1 * 2**q * f, {"psnr": psnr, "ssimulacra2": visual}, {})
        for q, (f, psnr, visual) in enumerate(zip(factor, *scores, strict=True))
    ]


SCORES = ((27.0, 29.0, 31.0, 33.0, 35.0, 37.0, 40.0), (5.0, 20.0, 35.0, 50.0, 65.0, 80.0, 90.0))


def test_each_range_has_its_own_rate():
    found = points("anchor", "a", [1] * 7, SCORES) + points("ours", "a", [1.2] * 3 + [0.9] * 4, SCORES)
    rows = {(r["metric"], r["range"]): r for r in rate_bands(found, ["ours"], ["anchor"])}
    assert set(rows) == {
        ("psnr", (28.0, 39.0)),
        ("psnr", (28.0, 31.0)),
        ("psnr", (31.0, 35.0)),
        ("psnr", (35.0, 39.0)),
        ("ssimulacra2", (10.0, 85.0)),
    }
    assert rows["psnr", (35.0, 39.0)]["bd_rate_percent"] == pytest.approx(-10, abs=0.3)
    assert rows["psnr", (28.0, 31.0)]["bd_rate_percent"] == pytest.approx(20, abs=0.5)
    assert -10 < rows["psnr", (31.0, 35.0)]["bd_rate_percent"] < 20
    assert all(row["images"] == 1 for row in rows.values())


def test_the_mean_is_over_the_images_that_reach_a_range():
    low = tuple(tuple(values[:3]) for values in SCORES)
    found = []
    for image, factor, scores in (("a", 1.1, SCORES), ("b", 1.3, low)):
        found += points("anchor", image, [1] * len(scores[0]), scores)
        found += points("ours", image, [factor] * len(scores[0]), scores)
    rows = {r["range"]: r for r in rate_bands(found, ["ours"], ["anchor"]) if r["metric"] == "psnr"}
    assert rows[28.0, 31.0]["bd_rate_percent"] == pytest.approx(20)
    assert rows[28.0, 31.0]["images"] == 2
    assert rows[35.0, 39.0]["bd_rate_percent"] == pytest.approx(10)
    assert rows[35.0, 39.0]["images"] == 1


def test_a_range_that_nobody_reaches_has_no_row():
    low = tuple(tuple(value / 4 for value in values) for values in SCORES)
    found = points("anchor", "a", [1] * 7, low) + points("ours", "a", [1] * 7, low)
    rows = rate_bands(found, ["ours"], ["anchor"])
    assert [row["metric"] for row in rows] == ["ssimulacra2"]
    assert math.isclose(rows[0]["bd_rate_percent"], 0, abs_tol=1e-6)
    assert "ssimulacra2" in described(rows)
    assert "+0.00 %" in described(rows) or "-0.00 %" in described(rows)
