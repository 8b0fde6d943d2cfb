"""Rate-distortion runs: points against direct computation, resuming, summaries, reports."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import sys

import numpy as np
import pytest
from conftest import ROOT
from oslic.bench.coders import registry as coders
from oslic.bench.experiments import rate_distortion
from oslic.bench.report import page as report
from oslic.bench.report.sections.registry import KNOWN, read_result, sections
from oslic.cli.main import main
from oslic.measure import charts, metrics, rate_curves
from oslic.runtime.bundle.folder import Bundle, default_bundle
from oslic.runtime.codec import Codec
from oslic.runtime.errors import BackendError, DataError, DependencyError, LimitError, UsageError
from oslic.runtime.image.files import find_images
from oslic.runtime.limits import Limits
from PIL import Image


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photo):
    path = tmp_path_factory.mktemp("images")
    for index in range(2):
        Image.fromarray(photo[index * 100 : index * 100 + 180, 40:260]).save(path / f"{index}.png")
    return path


JPEG = coders.CoderSpec(
    "jpeg", "pillow", (30, 60, 90), {"format": "JPEG", "quality_name": "quality", "subsampling": 0}
)


def test_points_are_what_direct_computation_gives(folder):
    points = rate_distortion.run_job(rate_distortion.Job(folder / "0.png", JPEG, ("psnr", "ms_ssim")))
    image = np.asarray(Image.open(folder / "0.png"))
    for point, quality in zip(points, (30, 60, 90), strict=True):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=0)
        back = np.asarray(Image.open(file))
        assert point.size == file.tell()
        assert point.bpp == file.tell() * 8 / (180 * 220)
        assert point.scores == {"psnr": metrics.psnr(image, back), "ms_ssim": metrics.ms_ssim(image, back)}


def test_the_limits_of_a_job_hold_in_its_process(folder, photo, tmp_path):
    limits = Limits(pixels=180 * 220 - 1)
    for coder in (JPEG, coders.ours(None)):
        jobs = [rate_distortion.Job(folder / "0.png", coder, ("psnr",), limits)]
        with pytest.raises(LimitError, match="more than the limit of 39599"):
            rate_distortion.measure(jobs, tmp_path / "partial", processes=1, progress=False)
    encode = coders.ours(None, threads=1).open(limits).encode
    with pytest.raises(LimitError, match="more than the limit of 39599"):
        encode(photo[:180, :220], 20)


@pytest.mark.parametrize("name", sorted(coders.PEERS))
def test_every_peer_codes_a_photograph(photo, name):
    try:
        code = coders.PEERS[name].open().code
    except DependencyError as error:
        pytest.skip(str(error))
    qualities = coders.PEERS[name].qualities
    low, high = (code(photo[:176, :200], q) for q in (qualities[0], qualities[-1]))
    assert low.size < high.size
    assert metrics.psnr(photo[:176, :200], low.image) < metrics.psnr(photo[:176, :200], high.image)


def test_a_job_is_one_of_its_bundle(samples, tmp_path):
    """A run that goes on must not take the points of other weights."""
    folder = tmp_path / "other"
    shutil.copytree(default_bundle(), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["fingerprint"] = "1" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest))
    image = samples / "chelsea.png"
    own = coders.ours(None)
    assert own.options["fingerprint"] == Bundle.open(default_bundle()).manifest.fingerprint
    other = dataclasses.replace(
        coders.ours(str(folder)), options={**coders.ours(str(folder)).options, "bundle": None}
    )
    assert rate_distortion.Job(image, own, ("psnr",)).key != rate_distortion.Job(image, other, ("psnr",)).key


def test_a_blank_label_map_is_what_the_map_is_measured_against(photo):
    spec = coders.ours(None, threads=1, effort=0, variant="psnr-always-blank")
    coded = spec.open().encode(photo, 30)
    with Codec.open(threads=1) as codec:
        assert np.unique(codec.decode(coded.data).labels).tolist() == [0]
    usual = coders.ours(None, threads=1, effort=0, variant="psnr-always").open().encode(photo, 30)
    assert coded.section_bytes["labels"] < 20 < usual.section_bytes["labels"]
    # The networks see it: it is no other file with another map.
    assert coded.section_bytes["compact"] != usual.section_bytes["compact"]


def test_our_codec_codes_a_photograph_with_its_layers(photo):
    code = coders.ours(None, threads=1, effort=0).open().code
    image = np.ascontiguousarray(photo[:96, :128])
    low, high = code(image, 10), code(image, 80)
    assert low.size < high.size
    assert low.section_bytes["labels"] == high.section_bytes["labels"]
    assert low.size > sum(low.section_bytes.values())


def test_a_peer_of_the_users_choice(photo, tmp_path):
    program = tmp_path / "convert.py"
    program.write_text(
        "import sys\nfrom PIL import Image\nImage.open(sys.argv[1]).convert('RGB').save(sys.argv[2], sys.argv[3], "
        "quality=int(float(sys.argv[4])))\n"
    )
    options = {
        "encode": f"{sys.executable} {program} {{input}} {{output}} WEBP {{quality}}",
        "decode": f"{sys.executable} {program} {{input}} {{output}} PNG 0",
    }
    code = coders.CoderSpec("mine", "command", (20, 90), options).open().code
    low, high = code(photo[:50, :60], 20), code(photo[:50, :60], 90)
    assert low.image.shape == (50, 60, 3)
    assert low.size < high.size
    assert metrics.psnr(photo[:50, :60], low.image) < metrics.psnr(photo[:50, :60], high.image)


def test_command_specs_are_parsed_and_refused():
    spec = coders.command("x:20,50:enc -q {quality} {input} {output}:dec {input} {output}")
    assert (spec.name, spec.qualities, spec.options["decode"]) == ("x", (20.0, 50.0), "dec {input} {output}")
    for bad in (
        "x",
        "x:1:enc {input} {output}:dec {input} {output}",
        "x:a:enc {quality} {input} {output}:d {input} {output}",
        "x:1:enc {quality} {input} {output} {more}:d {input} {output}",
        "x:1:enc {quality} {input} {output}:d {input} {output} {",
    ):
        with pytest.raises(UsageError):
            coders.command(bad)
    missing = coders.CoderSpec("x", "command", (1,), {"encode": "no-such-program {input}", "decode": "x"})
    with pytest.raises(DependencyError, match="no-such-program is not installed"):
        missing.open().encode(np.zeros((4, 4, 3), np.uint8), 1)


def test_commands_that_leave_nothing_or_no_picture_are_named():
    image = np.zeros((4, 4, 3), np.uint8)
    idle = coders.command("x:1:true {input} {output} {quality}:cp {input} {output}").open()
    with pytest.raises(BackendError, match=r"wrote no \{output\}: true"):
        idle.encode(image, 1)
    with pytest.raises(BackendError, match="no PNG file: cp"):
        idle.decode(b"not a picture")


def test_finished_jobs_are_not_run_again(folder, tmp_path):
    jobs = [rate_distortion.Job(image, JPEG, ("psnr",)) for image in find_images(folder)]
    partial = tmp_path / "partial"
    first = rate_distortion.measure(jobs[:1], partial, processes=1, progress=False)
    # A figure that no run would give shows that the kept one is used; a broken last line is passed over.
    row = json.loads(partial.read_text())
    row["points"][0]["size"] = 12345
    partial.write_text(json.dumps(row) + '\n{"key": "bro')
    both = rate_distortion.measure(jobs, partial, processes=1, progress=False)
    assert both[0].size == 12345
    assert both[1:3] == first[1:]
    assert len(both) == 6


def test_keys_depend_on_the_image_the_settings_and_the_metrics(folder):
    keys = {
        rate_distortion.Job(image, coder, wanted).key
        for image in find_images(folder)
        for coder in (JPEG, coders.PEERS["jpeg"])
        for wanted in (("psnr",), ("psnr", "ms_ssim"))
    }
    assert len(keys) == 8


def _points(coder, factor):
    return [
        rate_curves.Point(coder, image, q, 100, factor * bpp * scale, {"psnr": psnr}, {})
        for image, scale in (("a", 1.0), ("b", 2.0))
        for q, bpp, psnr in ((1, 0.2, 28.0), (2, 0.5, 32.0), (3, 1.0, 36.0), (4, 1.8, 40.0))
    ]


def test_bd_rates_are_taken_file_for_file():
    points = _points("x", 1.0) + _points("y", 0.9)
    assert rate_curves.bd_rate_by_image(points, "y", "x") == pytest.approx({"a": -10, "b": -10})
    summary = rate_distortion.summarize(points, "y")
    (row,) = summary["bd_rates"]
    assert row["bd_rate_percent"] == pytest.approx(-10)
    assert row["anchor"] == "x"


def test_mean_curves_leave_out_settings_that_lack_an_image():
    points = [*_points("x", 1.0), rate_curves.Point("x", "a", 9, 1, 5.0, {"psnr": 50.0}, {})]
    curve = rate_curves.mean_curves(points)["x"]
    assert curve.bpp == pytest.approx((0.3, 0.75, 1.5, 2.7))
    assert curve.scores["psnr"] == (28.0, 32.0, 36.0, 40.0)


def test_anchors_are_read_and_refused(tmp_path):
    good = tmp_path / "vtm.json"
    good.write_text(json.dumps({"name": "VTM", "results": {"bpp": [0.5, 0.2], "psnr-rgb": [34, 30]}}))
    assert rate_curves.read_anchor(good) == rate_curves.Curve(
        "vtm", (0.2, 0.5), {"psnr": (30.0, 34.0)}, "VTM"
    )
    assert [c.name for c in rate_curves.read_anchors(tmp_path)] == ["vtm"]
    good.write_text("{}")
    with pytest.raises(DataError, match="CompressAI's schema"):
        rate_curves.read_anchors(tmp_path)
    with pytest.raises(DataError, match="does not exist, or holds no JSON"):
        rate_curves.read_anchors(tmp_path / "none")


def test_images_that_come_back_exactly_have_finite_scores(photo, tmp_path):
    """A flat picture, whose curve is one point, and a gray one, whose color never errs."""
    Image.new("RGB", (176, 168), (128, 128, 128)).save(tmp_path / "flat.png")
    Image.fromarray(photo[:176, :200]).convert("L").save(tmp_path / "gray.png")
    points = [
        point
        for name in ("flat.png", "gray.png")
        for coder in ("jpeg", "other")
        for point in rate_distortion.run_job(
            rate_distortion.Job(
                tmp_path / name, dataclasses.replace(JPEG, name=coder), ("psnr", "psnr_ycbcr")
            )
        )
    ]
    assert {p.scores["psnr"] for p in points if p.image == "flat.png"} == {100.0}
    assert {p.scores["psnr_ycbcr"] for p in points if p.image == "gray.png"} == {100.0}
    flat = [p for p in points if p.image == "flat.png"]
    assert set(rate_distortion.summarize(flat, "jpeg")["bd_rates"][0]) == {
        "anchor",
        "metric",
        "method",
        "error",
    }
    json.dumps(rate_distortion.summarize(points, "jpeg"), allow_nan=False)


def test_images_too_small_for_a_metric_are_refused_at_once(photo, tmp_path, capsys):
    Image.fromarray(photo[:160, :200]).save(tmp_path / "small.png")
    assert main(["bench", "rd", str(tmp_path), "-o", str(tmp_path / "rd.json")]) == DataError.exit_code
    assert "small.png is 200x160, and MS-SSIM needs sides above 160" in capsys.readouterr().err
    rate_distortion.check_sizes([tmp_path / "small.png"], ("psnr",), Limits())
    Image.fromarray(photo[:161, :200]).save(tmp_path / "small.png")
    rate_distortion.check_sizes([tmp_path / "small.png"], ("ms_ssim",), Limits())
    metrics.ms_ssim(photo[:161, :200], photo[:161, :200])


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        find_images(tmp_path / "none")
    with pytest.raises(DataError, match="holds no images"):
        find_images(tmp_path)


def test_the_command_and_the_report(folder, tmp_path, capsys):
    result = tmp_path / "rd.json"
    words = [
        "bench",
        "rd",
        str(folder),
        "-o",
        str(result),
        "--peers",
        "jpeg,webp",
        "--effort",
        "0",
        "--jobs",
        "1",
    ]
    assert main([*words, "--metrics", "ms_ssim"]) == 0
    body = json.loads(result.read_text())
    assert {c["name"] for c in body["summary"]["curves"]} == {"oslic", "jpeg", "webp"}
    assert "bundle" not in body["settings"]["coders"]["oslic"]
    assert not result.with_name("rd.json.partial").exists()
    ours = [p for p in body["points"] if p["coder"] == "oslic"]
    assert {p["image"] for p in ours} == {"0.png", "1.png"}
    readme = tmp_path / "README.md"
    readme.write_text(
        "before\n<!-- headlines: made by `oslic bench report`, do not edit -->\nold\n<!-- end of headlines -->\n"
        "between\n<!-- figures: made by `oslic bench report`, do not edit -->\nold\n<!-- end of figures -->\nafter\n"
    )
    page = tmp_path / "report.html"
    words = [
        "bench",
        "report",
        str(result),
        "-o",
        str(page),
        "--readme",
        str(readme),
        "--pictures",
        str(tmp_path / "docs" / "charts"),
        "--visual",
        str(folder / "0.png"),
    ]
    assert main(words) == 0
    html = page.read_text()
    assert html.count("<svg") == 3
    assert html.count("data:image/webp;base64,") == 4
    assert not re.search(r"(src|href)=['\"](?!data:|#)", html)
    assert all(f"id='{target}'" in html for target in re.findall(r"href='#([^']+)'", html))
    assert html.index("2 photographs") < html.index("<svg")
    assert html.count("0.png</h3>") == 1
    text = readme.read_text()
    assert text.startswith("before\n")
    assert text.endswith("<!-- end of figures -->\nafter\n")
    assert "BD-rate of oslic" in text
    assert "old" not in text
    (headline,) = re.findall(r"^\* .*", text.split("between")[0], re.MULTILINE)
    assert "2 photographs" in headline
    for rate in body["summary"]["bd_rates"]:
        assert f"{rate['bd_rate_percent']:+.1f} % against {rate['anchor']}" in headline
    links = re.findall(r"!\[[^]]+\]\((docs/charts/[a-z0-9-]+\.svg)\)", text)
    assert sorted(links) == sorted(f"docs/charts/{p.name}" for p in (tmp_path / "docs" / "charts").iterdir())
    assert len(links) == 3
    assert all((tmp_path / link).read_text().startswith("<svg xmlns=") for link in links)


def test_processors_of_one_model_name_are_told_apart():
    cpu = {"model": "AMD EPYC", "usable_cores": 2, "features": ["avx2"]}
    assert report.processor_name({"cpu": cpu}) == "AMD EPYC with AVX2, 2 cores"
    cpu = {"model": "AMD EPYC", "usable_cores": 1, "features": ["avx2", "avx512f", "avx512_vnni"]}
    assert report.processor_name({"cpu": cpu}) == "AMD EPYC with AVX-512 VNNI, 1 core"
    cpu = {"model": "Neoverse-N1", "usable_cores": 4, "features": []}
    assert report.processor_name({"cpu": cpu}) == "Neoverse-N1, 4 cores"


def test_unknown_results_are_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"format": "something"}')
    with pytest.raises(DataError, match="of the kind 'something'"):
        read_result(path)


def test_ticks_are_round_and_cover_the_range():
    assert charts.ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert charts.ticks(27.3, 41.2) == [28, 30, 32, 34, 36, 38, 40] or charts.ticks(27.3, 41.2) == [
        30,
        35,
        40,
    ]


def test_charts_place_points_in_proportion():
    chart = charts.line_chart("t", "x", "y", [charts.Line("a", [(0, 0), (1, 1), (2, 2)])])
    at = [(float(x), float(y)) for x, y in re.findall(r"<circle cx='([\d.]+)' cy='([\d.]+)'", chart)]
    assert at[1][0] == pytest.approx((at[0][0] + at[2][0]) / 2, abs=0.11)
    assert at[0][0] < at[2][0]
    assert at[0][1] > at[2][1]
    escaped = charts.bar_chart("<&>", "ms", [charts.Bar("<b>", [("p", 1.0)], (0.9, 1.3))])
    assert "<b>" not in escaped
    assert "&lt;&amp;&gt;" in escaped


def test_lines_of_a_context_widen_no_axis_and_share_a_name_in_the_legend():
    line = charts.Line("a", [(1, 1), (2, 2)])
    alone = charts.line_chart("t", "x", "y", [line])
    around = [charts.Line(name, [(0.1, 1), (50, 90)], context="others") for name in ("p", "q")]
    framed = charts.line_chart("t", "x", "y", [*around, line])
    circles = r"<circle [^>]+>"
    assert re.findall(circles, framed) == re.findall(circles, alone)
    assert framed.count(">others</text>") == 1
    assert re.findall(r"<title>(\w)</title>", framed) == ["p", "q"]
    assert framed.count("<svg") == 2, "an inner picture cuts them off"


def test_a_legend_avoids_what_is_drawn():
    corner = r"<rect x='(\d+)' y='(\d+)' width='\d+' height='\d+' fill='white' fill-opacity"
    rising = charts.line_chart("t", "x", "y", [charts.Line("a", [(0, 0), (1, 1)])])
    falling = charts.line_chart("t", "x", "y", [charts.Line("a", [(0, 1), (1, 0)])])
    (right, low), (also_right, high) = (
        map(int, re.search(corner, chart).groups()) for chart in (rising, falling)
    )
    assert right == also_right
    assert low > high


def test_points_on_logarithmic_axes_lie_within_them():
    points = [(6.0, 30.0), (25.0, 60.0)]
    chart = charts.line_chart("t", "x", "y", [charts.Line("a", points, joined=False)], log_x=True, log_y=True)
    labels = re.findall(r">(\d+)</text>", chart)
    assert labels == ["10", "15", "20", "25", "30", "35", "40", "45", "50", "55", "60"]


def test_a_legend_of_bars_stays_within_the_picture_in_colors_of_their_own():
    names = ["read", "segment", "analyse", "synthesise", "labels", "compact", "residual", "add", "write"]
    parts = [(name, 1.0) for name in [*names, "other"]]
    bars = [charts.Bar("ours", parts), charts.Bar("a name " * 20, [("whole", 3.0)])]
    chart = charts.bar_chart("t", "ms", bars, neutral=("other", "whole"))
    fills = re.findall(r"fill='(#\w+)'><title>(\w+): ", chart)
    assert len({color for color, _ in fills}) == len(parts) + 1
    (width,) = re.findall(r"viewBox='0 0 (\d+) ", chart)
    starts = re.findall(
        r"<text x='([\d.]+)' y='[\d.]+' text-anchor='start' font-size='12'[^>]*>(\w+)<", chart
    )
    assert {name for _, name in starts} == {*names, "other", "whole"}
    assert all(float(x) + 7 * len(name) <= float(width) for x, name in starts)
    assert "…" in chart


def test_a_table_is_folded_if_long_and_its_words_are_aligned_left():
    short = report.Table("t", ("a", "b", "c"), (("x", "naive", "1.0"), ("y", "fused", "-")))
    assert short.html().count("class='words'>b") == 1
    assert "<td class='words'>fused</td><td>-</td>" in short.html()
    assert "<details>" not in short.html()
    long = report.Table("t", ("a", "b"), (("x", "1"),) * 13)
    assert "<summary class='long'>t (13)</summary>" in long.html()


def test_all_measured_results_are_reported_in_one_order():
    files = sorted((ROOT / "bench" / "results").glob("*.json"))
    # Tables of the others stand in docs/.
    reported = [path for path in files if json.loads(path.read_text())["format"] in KNOWN]
    results = [read_result(path) for path in reported]
    parts = sections(results)
    assert parts[0].title == "Rate and distortion"
    (checked,) = (result for result in results if result["format"] == "oslic-bench-selfcheck")
    (verdicts,) = parts[-1].tables
    assert verdicts.rows[0][:2] == ("equal builds", str(checked["equal_called_same"]))
    assert verdicts.rows[1][0] == "synthesise made 10 % slower"
    assert verdicts.rows[1][3] == str(checked["slowed_called_slower"])
    page = report.html(parts, [], "figures")
    assert all(f"id='part-{index}'" in page for index in range(len(results)))
