"""How many bytes others need for the scores of the layers alone."""

import json
import math

import numpy as np
import pytest
from oslic.bench.experiments.low_rates import BEST_AVIF, LOW_PEERS, bytes_needed, needs, own_scores
from oslic.cli.main import main
from oslic.measure.rate_curves import Point
from PIL import Image

PIXELS = 1000


def point(coder, image, size, score):
    return Point(coder, image, 0, size, size * 8 / PIXELS, {"ms_ssim": score}, {})


def test_bytes_are_interpolated_in_their_logarithm():
    curve = [point("x", "a", 1000, 0.8), point("x", "a", 4000, 0.9), point("x", "a", 8000, 0.95)]
    assert bytes_needed(curve, 0.85, "ms_ssim") == pytest.approx(2000)
    assert bytes_needed(curve, 0.9, "ms_ssim") == pytest.approx(4000)
    assert bytes_needed(curve, 0.99, "ms_ssim") == pytest.approx(8000)
    assert bytes_needed(curve, 0.1, "ms_ssim") == pytest.approx(1000)


def test_the_best_avif_is_another_one_for_each_image():
    points = []
    for image, first, second in (("a", 2000, 3000), ("b", 9000, 4000)):
        points += [point("ours", image, 2000, 0.9)]
        for name, size in (("avif-x", first), ("avif-y", second), ("webp", 8000)):
            points += [point(name, image, size // 2, 0.8), point(name, image, size, 0.9)]
    rows = {row["peer"]: row for row in needs(points, ["ours"])}
    assert set(rows) == {"avif-x", "avif-y", "webp", BEST_AVIF}
    assert rows["webp"]["needs"] == pytest.approx(4)
    assert rows["avif-x"]["needs"] == pytest.approx(math.sqrt(1 * 4.5))
    assert rows["avif-x"]["ahead"] == 1
    assert rows[BEST_AVIF]["needs"] == pytest.approx(math.sqrt(1 * 2))
    (mean,) = own_scores(points, ["ours"])
    assert mean == {"coder": "ours", "bytes": 2000, "bpp": 16, "ms_ssim": 0.9}


def test_the_peers_reach_down_to_where_the_layers_are(photo):
    """The smallest files of the best AVIF are smaller than a twelfth of a bit per pixel."""
    image = photo[:288, :448]
    sizes = {
        name: len(LOW_PEERS[name].open().encode(image, LOW_PEERS[name].qualities[0]).data)
        for name in ("avif-ssim-420", "avif-psnr-420")
    }
    assert max(sizes.values()) * 8 / (288 * 448) < 1 / 12


def test_the_command(photo, tmp_path, capsys):
    Image.fromarray(photo[:192, :256]).save(tmp_path / "a.png")
    out = tmp_path / "low.json"
    words = ["bench", "rd", str(tmp_path), "--low", "--peers", "avif-iq-420,webp", "--metrics", "ms_ssim"]
    assert main([*words, "--jobs", "1", "-o", str(out)]) == 0
    body = json.loads(out.read_text())
    (own,) = body["own"]
    assert own["coder"] == "oslic"
    (stream,) = [p for p in body["points"] if p["coder"] == "oslic"]
    assert stream["quality"] == 0
    assert own["bytes"] == stream["size"] < 192 * 256 / 8
    rows = {row["peer"]: row["needs"] for row in body["needs"]}
    assert set(rows) == {"avif-iq-420", "webp", BEST_AVIF}
    assert rows[BEST_AVIF] == rows["avif-iq-420"]
    # By hand from the points of the file.
    webp = sorted((p["scores"]["ms_ssim"], p["size"]) for p in body["points"] if p["coder"] == "webp")
    scores, sizes = zip(*webp, strict=True)
    wanted = np.exp(np.interp(stream["scores"]["ms_ssim"], scores, np.log(sizes))) / stream["size"]
    assert rows["webp"] == pytest.approx(wanted)
    assert "needs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--metrics", "vgg16"], "give their file with --vgg16"),
        (["--variants", "psnr-auto"], "which have no --variants"),
        (["--metrics", "beauty"], "unknown metric 'beauty'"),
        (["--peers", "gif"], "unknown peer 'gif'"),
    ],
)
def test_what_does_not_fit_is_one_line(photo, tmp_path, capsys, more, message):
    Image.fromarray(photo[:192, :256]).save(tmp_path / "a.png")
    assert main(["bench", "rd", str(tmp_path), "--low", "-o", str(tmp_path / "x.json"), *more]) == 2
    assert message in capsys.readouterr().err
