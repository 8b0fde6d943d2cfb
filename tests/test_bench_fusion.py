"""`oslic bench fusion`: all forms of a small network, measured and reported."""

from __future__ import annotations

from oslic.bench import fusion, report
from oslic.bench.timing import Settings


def test_the_forms_of_a_small_network_are_measured_and_reported(tmp_path):
    path = tmp_path / "fusion.json"
    settings = Settings(min_samples=4, min_seconds=0.0, timeout=0.1)
    result = fusion.bench(["tiny"], ["analyse"], (64, 96), 1, settings=settings, progress=lambda _: None)
    path.write_text(fusion.to_text(result))
    (entry,) = result["results"]
    assert report.sections([report.read_result(path)])[0].headline == ""
    result["results"].append(entry | {"graph": "synthesise"})
    named = report.sections([result])[0].headline
    assert named.startswith("Fused octave convolutions (tiny synthesise, 1 thread): ")
    assert f"{entry['ratios']['plain/fused']:.2f}x as fast as plain" in named
    result["results"].pop()
    assert set(entry["forms"]) == set(fusion.FORMS)
    assert entry["forms"]["plain"]["macs"] > entry["forms"]["naive"]["macs"] > entry["forms"]["fused"]["macs"]
    parts = report.sections([report.read_result(path)])
    (table,) = parts[0].tables
    assert table.title == "Forms of the same networks at 96x64, 1 thread, interleaved"
    rows = {row[1]: row for row in table.rows}
    assert rows["naive"][0] == "tiny analyse"
    assert rows["naive"][2] == f"{entry['forms']['naive']['macs'] / 1e9:.3f}"
    assert rows["naive"][5] == f"{entry['ratios']['naive/fused']:.3f}"
    assert rows["fused"][5] == "-"
    page = report.html(parts, [], "figures")
    assert page.count("<svg") == 2, "the chart, and in it the roof"
    assert "most reached: " in page
    assert "GMAC/s" in page
