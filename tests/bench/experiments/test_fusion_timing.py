"""`oslic bench fusion`: all forms of a small network, measured and reported."""

from __future__ import annotations

from oslic.bench.experiments import fusion, roofline
from oslic.bench.report import page as report
from oslic.bench.report.sections.registry import read_result, sections
from oslic.measure.timing import Settings


def test_the_peaks_are_those_of_the_threads_asked_for():
    """A product of 1024x1024 matrices takes 2^30 multiply-accumulates; a core does 1 to 1000 times 10^9 in a second."""
    found = roofline.peaks(1, Settings(min_samples=4, min_seconds=0.0, timeout=0.1))
    assert 1 < found["gmacs"] < 1000
    assert 0.5 < found["gigabytes"] < 500


def test_the_forms_of_a_small_network_are_measured_and_reported(tmp_path):
    path = tmp_path / "fusion.json"
    settings = Settings(min_samples=4, min_seconds=0.0, timeout=0.1)
    result = fusion.bench(["tiny"], ["analyse"], (64, 96), 1, settings=settings, progress=lambda _: None)
    path.write_text(fusion.to_text(result))
    (entry,) = result["results"]
    assert sections([read_result(path)])[0].headline == ""
    result["results"].append(entry | {"graph": "synthesise"})
    named = sections([result])[0].headline
    assert named.startswith("Fused octave convolutions (tiny synthesise, 1 thread): ")
    assert f"{entry['ratios']['plain/fused']:.2f}x as fast as plain" in named
    result["results"].pop()
    assert set(entry["forms"]) == set(fusion.FORMS)
    assert entry["forms"]["plain"]["macs"] > entry["forms"]["naive"]["macs"] > entry["forms"]["fused"]["macs"]
    parts = sections([read_result(path)])
    (table,) = parts[0].tables
    assert table.title == "Forms of the same networks at 96x64, 1 thread, interleaved"
    rows = {row[1]: row for row in table.rows}
    assert rows["naive"][0] == "tiny analyse"
    assert rows["naive"][2] == f"{entry['forms']['naive']['macs'] / 1e9:.3f}"
    assert rows["naive"][5] == f"{entry['ratios']['naive/fused']:.3f}"
    assert rows["fused"][5] == "-"
    page = report.html(parts, [], "figures")
    assert page.count("<svg") == 2, "the chart, and in it the roof"
    reached = result["peaks"]
    assert f"peaks: {reached['gigabytes']:.3g} GB/s, {reached['gmacs']:.3g} GMAC/s" in page
    assert "GMAC/s" in page
