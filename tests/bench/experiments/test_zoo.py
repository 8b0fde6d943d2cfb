"""The zoo: every network is exported, fused and exact; its table and verdicts."""

from __future__ import annotations

import json

import onnx
import onnx_ir as ir
import pytest
from oslic.bench.experiments import zoo
from oslic.bench.zoo import ZOO
from oslic.cli.main import main
from oslic.measure.timing import Settings
from oslic.runtime.errors import DataError

SHORT = Settings(min_samples=8, min_seconds=0.0, max_error=10.0, timeout=0.1)
QUICK = {"decoder 3x3", "DCGAN, norm before conv", "U-Net++", "deconvolution behind upsampling"}
# Two exporters write these differently enough that one of them hides a place from the rules.
CASES = [(name, exporter) for name, entry in ZOO.items() for exporter in entry.exporters]


def test_the_zoo_has_what_the_field_builds():
    assert len(ZOO) >= 25
    styles = [name for name in ZOO if name.startswith("octave")]
    assert len(styles) == 5


@pytest.mark.parametrize(
    ("name", "exporter"),
    [pytest.param(*case, marks=[] if case[0] in QUICK else [pytest.mark.slow]) for case in CASES],
)
def test_every_network_is_fused_and_computes_the_same(name, exporter):
    _, fused, report = zoo.rewrite(ZOO[name], exporter)
    assert report.differences
    assert all(difference.ok for difference in report.differences)
    onnx.checker.check_model(ir.to_proto(fused), full_check=not ZOO[name].half)
    assert report.after.macs <= report.before.macs
    assert not report.notes


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if len(entry.exporters) == 2])
def test_both_exporters_lead_to_the_same_multiplications(name):
    (_, _, dynamo), (_, _, script) = (zoo.rewrite(ZOO[name], exporter) for exporter in ZOO[name].exporters)
    assert dynamo.before.macs == script.before.macs
    assert dynamo.after.macs == script.after.macs


def test_a_row_holds_hits_times_and_a_verdict():
    result = zoo.run(["deconvolution"], 2, SHORT, lambda line: None)
    (row,) = result["rows"]
    assert row["hits"] == {"transposed-behind-upsampling": 1}
    assert row["macs"]["after"] < row["macs"]["before"]
    assert len(row["samples_ms"]["before"]) == len(row["samples_ms"]["after"]) >= 8
    assert row["interval"][0] <= row["speed"] <= row["interval"][1]
    assert result["summary"]["geometric_mean"] == pytest.approx(row["speed"])
    assert result["environment"]["cpu"]["model"]
    with pytest.raises(DataError, match="no network of the zoo is called nonesuch"):
        zoo.run(["nonesuch"], 1, SHORT, print)


def row(name, speed, verdict):
    return {
        "network": name,
        "hits": {"a-rule": 2},
        "macs": {"before": 2_000_000, "after": 1_000_000},
        "ms": {"before": 2.0, "after": 2.0 / speed},
        "speed": speed,
        "interval": [speed - 0.01, speed + 0.01],
        "verdict": verdict,
    }


def test_the_table_goes_into_a_page_between_its_marks():
    rows = [row("one", 2.0, "FASTER"), row("two", 0.5, "SLOWER")]
    rows.append({"network": "three", "hits": {}, "macs": {"before": 1, "after": 1}})
    summary = zoo.summary(rows)
    assert summary == {"networks": 3, "with_hits": 2, "geometric_mean": pytest.approx(1.0), "slower": ["two"]}
    machine = {"cpu": {"model": "A processor", "features": ["avx2"]}, "versions": {"onnxruntime": "1.0"}}
    result = {"rows": rows, "summary": summary, "environment": machine}
    page = zoo.insert("before\n<!-- zoo -->\nold\n<!-- end of zoo -->\nbehind\n", result)
    assert "| one | a-rule 2 | 2 → 1 | 2.0 → 1.0 | 2.00 (1.99 to 2.01) | faster |" in page
    assert "| three | none |" in page
    assert "slower: two. A processor, avx2; ONNX Runtime 1.0, one thread." in page
    assert "old" not in page
    assert page.endswith("behind\n")
    with pytest.raises(DataError, match="needs the lines"):
        zoo.insert("no marks", result)


def test_the_command_writes_the_result_and_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        zoo,
        "run",
        lambda names, repeats, settings, progress: {
            "rows": [row("one", 2.0, "FASTER")],
            "summary": zoo.summary([row("one", 2.0, "FASTER")]),
            "environment": {"cpu": {"model": "A processor", "features": []}, "versions": {}},
        },
    )
    page = tmp_path / "page.md"
    page.write_text("<!-- zoo -->\n<!-- end of zoo -->\n")
    out = tmp_path / "zoo.json"
    assert main(["bench", "zoo", "-o", str(out), "--table", str(page)]) == 0
    assert json.loads(out.read_text())["summary"]["geometric_mean"] == pytest.approx(2.0)
    assert "| one |" in page.read_text()
    assert "geometric mean 2.000; slower: none" in capsys.readouterr().out
