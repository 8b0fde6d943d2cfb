"""Judging two results: known slowdowns and nothing at all, on samples drawn with known noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from oslic.bench.experiments import latency, rate_distortion
from oslic.bench.regression import comparison
from oslic.cli.main import main
from oslic.runtime.errors import DataError

MARGINS = comparison.Margins()


def _series(draw, milliseconds, count=40, load=1.0):
    """Times that disturbances only lengthen: a floor, small jitter, and an exponential tail."""
    return list(
        milliseconds * load * (1 + np.abs(draw.normal(0, 0.01, count)) + draw.exponential(0.08, count))
    )


def _verdicts(slowdown, runs=40):
    found = []
    for seed in range(runs):
        draw = np.random.default_rng(seed)
        # The second run meets a machine that is as a whole up to 30 % slower.
        load = 1 + 0.3 * draw.random()
        found.append(
            comparison.compare_samples(
                _series(draw, 50),
                _series(draw, 50 * slowdown, load=load),
                _series(draw, 5),
                _series(draw, 5, load=load),
                MARGINS,
            )[2]
        )
    return found


def test_equal_builds_are_called_the_same():
    assert _verdicts(1.0).count("SAME") >= 38


def test_a_tenth_slower_is_called_slower():
    assert _verdicts(1.1).count("SLOWER") >= 38


def test_a_tenth_faster_is_called_faster():
    assert _verdicts(1 / 1.1).count("FASTER") >= 38


def test_few_samples_are_undecided():
    draw = np.random.default_rng(0)
    few = [_series(draw, 50, count=5) for _ in range(4)]
    assert comparison.compare_samples(*few, MARGINS)[2] == "UNDECIDED"


def _latency(draw, slowdown=1.0, size=(768, 512)):
    def timing(**stages):
        series = {name: {"samples_ms": _series(draw, ms)} for name, ms in stages.items()}
        return {"wall": series, "cpu": series["total"], "stage_cpu": {}}

    return {
        "format": latency.FORMAT,
        "version": latency.VERSION,
        "settings": {"width": size[0], "height": size[1]},
        "timings": {
            latency.REFERENCE: timing(total=5),
            "oslic/compress": timing(total=200, segment=40 * slowdown, write=0.2),
            "only/before": timing(total=10),
        },
    }


def test_every_stage_that_both_have_is_judged():
    draw = np.random.default_rng(1)
    after = _latency(draw, 1.3)
    del after["timings"]["only/before"]
    rows = comparison.compare(_latency(draw), after, MARGINS)
    assert {row.figure: row.verdict for row in rows} == {
        "oslic/compress": "SAME",
        "oslic/compress segment": "SLOWER",
    }


def test_a_stage_is_judged_by_processor_time_the_whole_by_the_clock():
    """Other load doubles the clock's times of the second run and leaves the processor's alone."""
    draw = np.random.default_rng(4)
    before, after = _latency(draw), _latency(draw, 2.0)
    del after["timings"]["only/before"]
    for result in (before, after):
        result["timings"]["oslic/compress"]["stage_cpu"] = {"segment": {"samples_ms": _series(draw, 40)}}
    rows = comparison.compare(before, after, MARGINS)
    assert {row.figure: row.verdict for row in rows} == {
        "oslic/compress": "SAME",
        "oslic/compress segment": "SAME",
    }
    del after["timings"]["oslic/compress"]["stage_cpu"]["segment"]
    rows = comparison.compare(before, after, MARGINS)
    assert {row.figure: row.verdict for row in rows}["oslic/compress segment"] == "SLOWER"


def _rd(scale=1.0):
    curve = {
        "name": "oslic",
        "bpp": [0.2 * scale, 0.5 * scale, 1.0 * scale],
        "scores": {"psnr": [28.0, 32.0, 36.0]},
    }
    return {
        "format": rate_distortion.FORMAT,
        "version": rate_distortion.VERSION,
        "summary": {"curves": [curve]},
    }


@pytest.mark.parametrize(("scale", "verdict"), [(1.0, "SAME"), (1.02, "WORSE"), (0.98, "BETTER")])
def test_rate_distortion_is_judged_by_bd_rate(scale, verdict):
    (row,) = comparison.compare(_rd(), _rd(scale), MARGINS)
    assert row.verdict == verdict
    assert row.after == pytest.approx((scale - 1) * 100, abs=1e-6)


def test_what_cannot_be_compared_is_refused():
    draw = np.random.default_rng(2)
    with pytest.raises(DataError, match="of the kinds"):
        comparison.compare(_latency(draw), _rd(), MARGINS)
    with pytest.raises(DataError, match="measured at"):
        comparison.compare(_latency(draw), _latency(draw, size=(32, 32)), MARGINS)
    apart = _rd()
    apart["summary"]["curves"][0]["scores"]["psnr"] = [38.0, 42.0, 46.0]
    with pytest.raises(DataError, match=r"curves of oslic .* no quality in common"):
        comparison.compare(_rd(), apart, MARGINS)
    with pytest.raises(DataError, match="versions 1 and"):
        comparison.compare({**_latency(draw), "version": 1}, _latency(draw), MARGINS)


def test_the_command_exits_non_zero_on_a_regression(tmp_path, capsys):
    draw = np.random.default_rng(3)
    for name, slowdown in (("a", 1.0), ("b", 1.0), ("c", 1.3)):
        (tmp_path / f"{name}.json").write_text(json.dumps(_latency(draw, slowdown)))
    a, b, c = (str(tmp_path / f"{name}.json") for name in "abc")
    assert main(["bench", "regress", a, b]) == 0
    assert "no regression" in capsys.readouterr().out
    assert main(["bench", "regress", a, c]) == 1
    assert "SLOWER" in capsys.readouterr().out
    assert main(["bench", "regress", c, a]) == 0
    assert "FASTER" in capsys.readouterr().out
