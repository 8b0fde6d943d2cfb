"""`oslic bench lossless`: real coders on small pictures, and what it must not let pass."""

from __future__ import annotations

import json

import numpy as np
import pytest
import small_bundle
from oslic.bench.experiments.lossless import FLIF, OURS, Coder, measure
from oslic.cli.main import main
from oslic.runtime.errors import VerificationError
from PIL import Image

pytest.importorskip("pillow_jxl")


@pytest.fixture
def folder(tmp_path, photo):
    made = tmp_path / "photos"
    made.mkdir()
    for i in range(2):
        Image.fromarray(photo[40 * i : 40 * i + 96, :128]).save(made / f"{i}.png")
    return made


def test_the_command(folder, tmp_path, capsys):
    pytest.importorskip("imagecodecs")
    bundle = small_bundle.write(tmp_path / "small")
    output = tmp_path / "result.json"
    arguments = [
        "bench",
        "lossless",
        str(bundle.path),
        "--photos",
        str(folder),
        "--bounds",
        "1,4",
        "--effort",
        "2",
    ]
    assert main([*arguments, "-o", str(output)]) == 0
    result = json.loads(output.read_text())
    assert result["pictures"] == 2
    for rows, bound in ((result["lossless"], 0), *((result["near_lossless"][e], int(e)) for e in ("1", "4"))):
        for row in rows.values():
            assert row["largest_error"] <= bound
            assert set(row["bytes"]) == {"0.png", "1.png"}
    lossless = result["lossless"]
    assert {OURS, FLIF, "jxl-e7", "webp", "png"} == set(lossless)
    # The layers come on top of FLIF of the picture.
    assert lossless[FLIF]["bpp"] < lossless[OURS]["bpp"] < 1.2 * lossless[FLIF]["bpp"]
    assert result["above_flif_percent"] == pytest.approx(
        100
        * np.mean([lossless[OURS]["bytes"][n] / lossless[FLIF]["bytes"][n] - 1 for n in ("0.png", "1.png")])
    )
    assert sum(result["parts_bpp"].values()) == pytest.approx(lossless[OURS]["bpp"])
    assert result["near_lossless"]["4"][OURS]["bpp"] < result["near_lossless"]["1"][OURS]["bpp"]
    assert "above FLIF of the picture alone" in capsys.readouterr().out


def test_a_coder_beyond_its_bound_is_an_error(photo):
    image = photo[:32, :32]
    wrong = {"wrong": Coder(lambda x: x.tobytes(), lambda data: np.full((32, 32, 3), 7, np.uint8))}
    with pytest.raises(VerificationError, match="wrong gives a back with an error of"):
        measure({"a": image}, wrong, 4)
