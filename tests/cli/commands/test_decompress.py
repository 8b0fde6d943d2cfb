"""`oslic decompress`: what goes along with parts and smaller forms of a picture, and formats that do not fit."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from oslic.cli import main as cli
from PIL import ExifTags, Image, ImageCms

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def described(tmp_path, photo, monkeypatch):
    """The current folder, with `x.oslic`: 96x128 with alpha, a profile, a resolution, and EXIF that states the size."""
    monkeypatch.chdir(tmp_path)
    exif = Image.Exif()
    exif[ExifTags.Base.ImageWidth], exif[ExifTags.Base.ImageLength] = 96, 128
    picture = Image.fromarray(photo[:128, :96]).convert("RGBA")
    picture.putpixel((3, 3), (9, 9, 9, 40))
    picture.save("x.png", exif=exif, icc_profile=PROFILE, dpi=(300, 300))
    assert cli.main(["compress", "x.png", "-o", "x.oslic", "--effort", "0"]) == 0
    return tmp_path


@pytest.mark.parametrize(
    ("words", "size"),
    [
        (["--scale", "1/8"], (12, 16)),
        (["--scale", "1/4"], (24, 32)),
        (["--region", "10,20,30,40"], (30, 40)),
        ([], (96, 128)),
    ],
)
def test_metadata_go_with_parts_and_smaller_forms(described, words, size, capsys):
    assert cli.main(["decompress", "x.oslic", *words, "-o", "part.png"]) == 0
    with Image.open("part.png") as part:
        assert part.size == size
        assert part.info["icc_profile"] == PROFILE
        assert part.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        exif = part.getexif()
        assert (exif[ExifTags.Base.ImageWidth], exif[ExifTags.Base.ImageLength]) == size
    assert ("at scale 1/8 its alpha is left out" in capsys.readouterr().err) == ("1/8" in words)


def test_a_thumbnail_says_what_its_format_does_not_hold(described, capsys):
    assert cli.main(["decompress", "x.oslic", "--scale", "1/8", "-o", "part.ppm"]) == 0
    assert ".ppm files do not hold the ICC profile, EXIF, the resolution" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layer", "compact", "--format", "jpeg", "-o", "c.png"], "its ending says png"),
        (["--layer", "compact", "--format", "jpeg", "-o", "c.jpg"], "no lossless image format"),
        (["--layer", "compact", "--quality", "10", "-o", "c.webp"], "has no --quality"),
        (["--layer", "estimate", "--region", "0,0,8,8", "-o", "c.pgm"], "files hold no alpha"),
        (["--scale", "1/8", "-o", "c.pgm"], "PGM files are gray"),
    ],
)
def test_formats_that_do_not_fit_are_refused(described, words, message, capsys):
    assert cli.main(["decompress", "x.oslic", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(described.glob("c.*"))


@pytest.mark.slow
def test_a_turned_picture_in_strips_through_a_pipe(tmp_path, photo):
    """Larger than the memory that it may take; a file decodes to the same pixels, upright, with the same metadata."""
    pytest.importorskip("pyvips")
    pixels = np.tile(photo, (6, 5, 1))  # 4 megapixels
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Model] = 6, "Box"
    Image.fromarray(pixels).save(tmp_path / "x.jpg", exif=exif, dpi=(300, 150))
    oslic = [sys.executable, "-m", "oslic.cli.main"]
    words = ["compress", "x.jpg", "-o", "-", "--max-memory", "300M", "-q", "5", "--effort", "0"]
    done = subprocess.run([*oslic, *words], cwd=tmp_path, capture_output=True, check=True)
    (tmp_path / "x.oslic").write_bytes(done.stdout)
    for name, more in (("whole.png", []), ("strips.png", ["--max-memory", "345M"])):
        words = ["decompress", "x.oslic", "-o", name, "--json", *more]
        said = subprocess.run([*oslic, *words], cwd=tmp_path, capture_output=True, check=True).stdout
        assert (b'"strips": true' in said) == bool(more)
    with Image.open(tmp_path / "whole.png") as whole, Image.open(tmp_path / "strips.png") as strips:
        assert whole.size == (pixels.shape[0], pixels.shape[1])
        assert np.array_equal(np.asarray(whole), np.asarray(strips))
        assert whole.info.get("exif") == strips.info.get("exif")
        assert whole.info["dpi"] == strips.info["dpi"]
        assert ExifTags.Base.Orientation not in strips.getexif()
        assert strips.getexif()[ExifTags.Base.Model] == "Box"
