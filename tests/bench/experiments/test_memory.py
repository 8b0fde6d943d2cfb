"""`oslic bench memory` and `oslic bench scale`, through the real command line, on pictures that are small enough."""

from __future__ import annotations

import json

import pytest
from oslic.cli.main import main


def test_what_processes_hold_is_measured_beside_what_is_predicted(tmp_path, samples):
    output = tmp_path / "memory.json"
    words = ["--sizes", "0.02", "--runs", "2"]
    assert main(["bench", "memory", str(samples / "coffee.png"), *words, "-o", str(output)]) == 0
    rows = json.loads(output.read_text())["rows"]
    assert [(row["command"], row["files"]) for row in rows] == [
        ("compress", 1),
        ("compress", 3),
        ("decompress", 1),
        ("decompress", 3),
    ]
    assert all(
        len(row["runs_bytes"]) == 2 and max(row["runs_bytes"]) == row["measured_bytes"] for row in rows
    )
    assert all(row["measured_bytes"] > 1 << 25 and row["predicted_bytes"] > 1 << 25 for row in rows)


@pytest.mark.slow
def test_sizes_are_measured_whole_and_in_strips(tmp_path, samples):
    output = tmp_path / "scale.json"
    words = ["--megapixels", "0.6", "--strips", "0.3", "--positions", "1", "-o", str(output)]
    assert main(["bench", "scale", str(samples / "coffee.png"), *words]) == 0
    result = json.loads(output.read_text())
    ours = [row for row in result["rows"] if row["command"] in {"compress", "decompress", "thumbnail"}]
    assert [(row["command"], row["strips"]) for row in ours] == [
        ("compress", False),
        ("decompress", False),
        ("thumbnail", False),
        ("compress", True),
        ("decompress", True),
    ]
    assert 0 < ours[0]["overhead_bytes"] < ours[0]["bytes"]
    assert result["regions"]["equal"]
