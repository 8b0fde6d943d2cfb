"""Time against bytes, by effort."""

import json

import pytest
from oslic.cli.main import main
from PIL import Image


def test_more_effort_takes_longer_and_saves_bytes(photo, tmp_path, capsys):
    Image.fromarray(photo[:160, :224]).save(tmp_path / "a.png")
    out = tmp_path / "effort.json"
    words = ["bench", "effort", str(tmp_path), "--efforts", "0,7", "--qualities", "40,70"]
    assert main([*words, "-o", str(out)]) == 0
    rows = {row["effort"]: row for row in json.loads(out.read_text())["rows"]}
    assert sorted(rows) == [0, 4, 7]
    assert rows[4]["time"] == 1
    assert rows[4]["bytes_percent"] == 0
    assert rows[0]["bytes_percent"] > rows[7]["bytes_percent"]
    assert [rows[e]["av1_speed"] for e in (0, 4, 7)] == [10, 6, 4]
    assert f"| 7 | 4 | 100 | 3 | {rows[7]['time']:.2f}x |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--efforts", "10"], "efforts are 0..9"),
        (["--efforts", "a"], "must be whole numbers"),
        (["--qualities", "50"], "two or more of 1..100"),
    ],
)
def test_what_is_out_of_range_is_one_line(tmp_path, capsys, more, message):
    assert main(["bench", "effort", str(tmp_path), *more]) == 2
    assert message in capsys.readouterr().err
