"""Calibration and comparison of bundles of other kinds than `oslic`, by the commands."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from oslic.calibration.report import html
from oslic.cli.main import main
from oslic.runtime.bundle.folder import Bundle
from oslic.runtime.image.arrays import psnr
from oslic.runtime.kinds.opening import open_codec
from oslic.runtime.kinds.recording import record
from oslic.runtime.model.running import load
from oslic.runtime.model.source import model_of
from oslic.runtime.plain_json import with_nulls

CHECKPOINT = Path(__file__).resolve().parents[2] / "checkpoints/hyperprior-64"
LATENTS = 96


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds") / "float"
    assert main(["export", str(CHECKPOINT), "-o", str(folder)]) == 0
    return Bundle.open(folder)


def calibrate(bundle, samples, folder, *more):
    words = [
        "--images",
        samples,
        "-o",
        folder,
        "--threads",
        1,
        "--cache",
        folder.parent / "cache",
        "--ignore-time",
    ]
    return main(
        [str(word) for word in ("calibrate", bundle.path, *words, "--ignore-time", "--count", 4, *more)]
    )


@pytest.fixture(scope="module")
def quantized(plain, samples, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds") / "int8"
    assert calibrate(plain, samples, folder) == 0
    return Bundle.open(folder)


def test_what_graphs_are_given_is_recorded(plain, photo):
    picture = photo[:256, :448]
    found = record(plain, [("a", picture), ("b", picture[:64, :128])], 1)
    # Encoder and decoder both need the scales.
    counts = {"analysis": 2, "hyper_analysis": 2, "hyper_synthesis": 4, "synthesis": 2}
    assert {name: len(samples) for name, samples in found.items()} == counts
    assert [sample.name for sample in found["analysis"]] == ["a", "b"]
    assert np.array_equal(found["analysis"][0].feeds["image"], picture[None])
    # Synthesis gets what was decoded, whole numbers; the hyper-analysis what the analysis computes.
    latents = found["synthesis"][0].feeds["latents"]
    assert latents.shape == (1, LATENTS, 16, 28)
    assert np.array_equal(latents, np.rint(latents))
    graph = load(model_of(plain, "analysis"), "onnxruntime-cpu")
    assert np.array_equal(
        found["hyper_analysis"][0].feeds["latents"], graph.run({"image": picture[None]})["latents"]
    )


def test_the_quantized_bundle_codes_pictures(plain, quantized, photo):
    manifest = quantized.manifest
    assert manifest.fingerprint != plain.manifest.fingerprint
    assert manifest.quantization["float_fingerprint"] == plain.manifest.fingerprint
    assert manifest.graphs["synthesis"].precision == "int8"
    # How symbols are coded follows from this graph: it stays as it was, byte for byte.
    assert quantized.read_graph("hyper_synthesis") == plain.read_graph("hyper_synthesis")
    assert quantized.read_file("tables") == plain.read_file("tables")
    pictures = []
    for bundle in (plain, quantized):
        with open_codec(bundle, "onnxruntime-cpu", threads=1) as codec:
            pictures.append(codec.decode(codec.encode(photo).data).image)
    assert not np.array_equal(*pictures)
    assert psnr(*pictures) > 30
    assert abs(psnr(photo, pictures[0]) - psnr(photo, pictures[1])) < 0.5


def test_the_report_tells_bytes_and_psnr(quantized):
    report = json.loads((quantized.path / "calibration.json").read_text())
    before, after = report["together"]["before"], report["together"]["after"]
    assert before.keys() == after.keys() == {"bpp", "psnr_db"}
    assert after["psnr_db"] == pytest.approx(before["psnr_db"], abs=0.5)
    assert after["bpp"] == pytest.approx(before["bpp"], rel=0.1)
    assert "PSNR of the picture" in (quantized.path / "calibration.html").read_text()
    assert "hyper_synthesis" not in report["graphs"]


def test_layers_whose_outputs_are_not_finite_have_no_damage_and_no_place_in_the_chart(quantized):
    """Quantized alone they overflow, or a root becomes that of a negative number: they stay in float."""
    assert with_nulls(math.inf) is None
    assert with_nulls(0.5) == 0.5
    report = json.loads((quantized.path / "calibration.json").read_text())
    title, graphs = "what each layer wins and costs", report["graphs"]
    name = max(graphs, key=lambda graph: len(graphs[graph]["layers"]))
    report["graphs"] = {name: graphs[name]}
    first, *others = graphs[name]["layers"]
    first["damage_alone"] = None
    assert f"{name}: {title}" in html(report)
    for layer in others:
        layer["damage_alone"] = None
    page = html(report)
    assert title not in page
    assert first["name"] in page


def test_only_chosen_graphs_are_quantized(plain, samples, tmp_path):
    assert calibrate(plain, samples, tmp_path / "one", "--graphs", "synthesis") == 0
    graphs = Bundle.open(tmp_path / "one").manifest.graphs
    assert {name for name, graph in graphs.items() if graph.precision == "int8"} == {"synthesis"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--graphs", "hyper_synthesis"), "how symbols are coded follows from what it computes"),
        (("--graphs", "synthesise"), "--graphs synthesise: the bundle has analysis, hyper_analysis,"),
        (("--budget-db", "1"), "is for bundles of the kind 'oslic'; of others: --min-sqnr"),
        (("--integer",), "others: oslic export --integer"),
        (
            ("--exclude-type", "Conv", "--exclude-type", "ConvTranspose"),
            "no layer of any graph is left in int8",
        ),
    ],
)
def test_what_cannot_be_is_said_and_nothing_is_written(plain, samples, tmp_path, capsys, more, message):
    assert calibrate(plain, samples, tmp_path / "none", *more) != 0
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "none").exists()


def test_a_quantized_bundle_is_not_quantized_again(quantized, samples, tmp_path, capsys):
    assert calibrate(quantized, samples, tmp_path / "again") != 0
    assert "is already quantized" in capsys.readouterr().err


def test_both_are_compared_graph_by_graph(plain, quantized, samples, tmp_path, capsys):
    out = tmp_path / "r.json"
    words = ["compare", plain.path, quantized.path, "--images", samples, "--crop", 192, "-o", out]
    # In int8 latents are off by up to half a step of their rounding, and pictures by some levels.
    allowed = ["--atol", "latents:0.5", "--atol", "picture:32"]
    assert main([*map(str, words), *allowed]) == 0
    rows = {row["output"]: row for row in json.loads(out.read_text())["outputs"]}
    assert set(rows) == {"latents", "hyper", "parameters", "picture"}
    # Each graph gets what the first side's gave: what is not quantized gives the same.
    assert rows["parameters"]["differing"] == 0
    assert rows["picture"]["differing"] > 0
    assert rows["picture"]["psnr"] > 30
    capsys.readouterr()
    assert main([*map(str, words[:-2]), *allowed[:2], "--atol", "picture:0", "--bisect"]) == 9
    printed = capsys.readouterr()
    assert "beyond the tolerance: picture" in printed.err
    assert "synthesis: first beyond the tolerance is" in printed.out


def test_it_is_cast_but_for_what_decides_how_symbols_are_coded(plain, samples, tmp_path, photo):
    words = ["cast", plain.path, "--images", samples, "-o"]
    assert main([str(word) for word in (*words, tmp_path / "half")]) == 0
    half = Bundle.open(tmp_path / "half")
    precisions = {name: graph.precision for name, graph in half.manifest.graphs.items()}
    assert precisions.pop("hyper_synthesis") == "float32"
    assert set(precisions.values()) == {"float16"}
    assert half.read_graph("hyper_synthesis") == plain.read_graph("hyper_synthesis")
    with open_codec(half, "onnxruntime-cpu", threads=1) as codec:
        assert psnr(photo, codec.decode(codec.encode(photo).data).image) > 25
    assert main([str(word) for word in (*words, tmp_path / "weights", "--weights-only")]) == 0
    assert (tmp_path / "weights" / "synthesis.onnx").stat().st_size < 0.6 * plain.graph_path(
        "synthesis"
    ).stat().st_size
