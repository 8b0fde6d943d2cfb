"""`oslic bench latency`: real stages, and peers at the setting nearest in quality."""

from __future__ import annotations

import importlib.util
import json
import sys

import numpy as np
import pytest
from oslic.bench.coders import registry as coders
from oslic.bench.experiments import latency
from oslic.bench.report.sections.registry import read_result, sections
from oslic.cli.main import main
from oslic.runtime.errors import DependencyError

QUICK = ("--timeout", "1", "--min-samples", "4", "--size", "96x64", "--threads", "1", "--effort", "0")


def test_stages_and_peers_of_one_run(samples, tmp_path, capsys):
    program = tmp_path / "convert.py"
    program.write_text(
        "import sys\nfrom PIL import Image\nImage.open(sys.argv[1]).convert('RGB').save(sys.argv[2], sys.argv[3], "
        "quality=int(float(sys.argv[4])))\n"
    )
    own = (
        f"mine:5,90:{sys.executable} {program} {{input}} {{output}} WEBP {{quality}}:"
        f"{sys.executable} {program} {{input}} {{output}} PNG 0"
    )
    out = tmp_path / "latency.json"
    command = ["bench", "latency", str(samples / "coffee.png"), "--peers", "jpeg,jpeg2000", "--command", own]
    assert main([*command, *QUICK, "--quality", "80", "--throughput", "2", "-o", str(out)]) == 0
    result = json.loads(out.read_text())
    stages = result["timings"]["oslic/compress"]["wall"]
    assert set(stages) == {
        *(
            "total",
            "read",
            "segment",
            "labels",
            "analyse",
            "compact",
            "synthesise",
            "residual",
            "write",
            "flif",
        )
    }
    for series in stages.values():
        assert len(series["samples_ms"]) == series["n"] >= 4
    worked = result["timings"]["oslic/compress"]["stage_cpu"]
    assert set(worked) == set(stages) - {"total", "read", "write", "flif"}
    assert 0 < worked["segment"]["p50_ms"] < 1.1 * stages["segment"]["p50_ms"] + 1
    median = {name: series["p50_ms"] for name, series in stages.items()}
    assert 0 < median["segment"] < median["total"]
    assert set(result["timings"]["jpeg/encode"]["wall"]) == {"total"}
    assert result["timings"]["mine/encode"]["wall"]["total"]["n"] == stages["total"]["n"]  # interleaved
    coded = result["coded"]
    assert set(coded) == {"oslic", "jpeg", "jpeg2000", "mine"}
    assert coded["mine"]["quality"] == 90
    for name in ("jpeg", "jpeg2000"):
        assert abs(coded[name]["psnr"] - coded["oslic"]["psnr"]) < 3
    flow = result["throughput"]["oslic"]
    (table,) = (t for t in sections([read_result(out)])[0].tables if "per second" in t.title)
    gain = flow["pipelined_per_second"] / flow["sequential_per_second"]
    assert table.rows[0][:2] == ("oslic", f"{flow['sequential_per_second']:.2f}")
    assert table.rows[0][3:] == (f"{gain:.2f}", "2")
    assert f"jpeg: {coded['jpeg']['bytes']} bytes" in capsys.readouterr().out


def test_a_peer_is_timed_at_its_setting_nearest_in_psnr(samples):
    from oslic.measure.metrics import psnr
    from oslic.runtime.image.files import read_image
    from oslic.runtime.limits import Limits

    image = read_image(samples / "coffee.png", Limits()).pixels[:160, :160]
    spec = coders.PEERS["jpeg"]
    coder = spec.open()
    scores = {q: psnr(image, coder.code(image, q).image) for q in spec.qualities}
    middle = spec.qualities[4]
    candidates, facts = latency.peer_candidates(spec, image, scores[middle] + 0.01)
    assert facts["quality"] == middle
    assert facts["psnr"] == scores[middle]
    assert facts["bytes"] == len(coder.encode(image, middle).data)
    assert set(candidates) == {"jpeg/encode", "jpeg/decode"}


@pytest.mark.parametrize("name", ["jpegxx", "avif"])
def test_unknown_peers_are_named(samples, name, capsys):
    assert main(["bench", "latency", str(samples / "coffee.png"), "--peers", name]) == 2
    assert f"unknown peer '{name}'; known: avif-s6" in capsys.readouterr().err


def test_the_hyperprior_codes_any_size():
    spec = coders.TIMED_PEERS["hyperprior-untrained"]
    if importlib.util.find_spec("compressai") is None:
        with pytest.raises(DependencyError, match="pip install compressai"):
            spec.open()
        pytest.skip("CompressAI is not installed: pip install compressai")
    coder = spec.open()
    image = np.random.default_rng(0).integers(0, 256, (70, 100, 3), np.uint8)
    coded = coder.encode(image, 5)
    again = coder.decode(coded.data)
    assert again.shape == image.shape
    assert np.array_equal(again, coder.decode(coder.encode(image, 5).data))
