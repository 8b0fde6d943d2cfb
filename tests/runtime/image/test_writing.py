"""The formats that pictures are written in, through `oslic decompress`."""

from __future__ import annotations

import io

import numpy as np
import pytest
from oslic.cli import main as cli
from oslic.runtime import Codec
from oslic.runtime.errors import UsageError
from oslic.runtime.image.arrays import psnr
from oslic.runtime.image.metadata import Metadata, Resolution, Unit
from oslic.runtime.image.writing import FORMATS, writer_for
from PIL import Image, ImageCms


@pytest.fixture(scope="module")
def stream(tmp_path_factory, photo):
    path = tmp_path_factory.mktemp("stream") / "a.oslic"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "maker"
    metadata = Metadata(profile, exif.tobytes(), b"<x/>", resolution=Resolution(300, 300, Unit.INCH))
    with Codec.open() as codec:
        path.write_bytes(codec.compress(photo[:96, :128], 90, effort=0, metadata=metadata))
        return path, codec.decompress(path), metadata


@pytest.mark.parametrize(
    ("name", "words", "kind", "least"),
    [
        ("x.png", [], "PNG", np.inf),
        ("x.tif", [], "TIFF", np.inf),
        ("x.webp", [], "WEBP", np.inf),
        ("x.jpg", [], "JPEG", 38),
        ("x.JPEG", ["--quality", "50"], "JPEG", 28),
        ("x.avif", [], "AVIF", 38),
        ("x.webp", ["--quality", "80"], "WEBP", 30),
        ("x", ["--format", "jpeg"], "JPEG", 38),
        ("x.picture", ["--format", "tiff"], "TIFF", np.inf),
    ],
)
def test_format_and_quality(tmp_path, stream, name, words, kind, least):
    path, pixels, metadata = stream
    target = tmp_path / name
    assert cli.main(["decompress", str(path), "-o", str(target), *words]) == 0
    with Image.open(target) as image:
        assert image.format == kind
        found = psnr(np.asarray(image), pixels)
        assert found >= least
        assert np.isfinite(found) or not np.isfinite(least)
        assert image.info["icc_profile"] == metadata.icc
        assert image.getexif()[0x010F] == "maker"
        assert image.info.get("xmp", b"").rstrip(b"\0") == b"<x/>"


def test_a_lower_quality_is_a_smaller_file(stream):
    _, pixels, _ = stream
    for chosen in ("jpeg", "webp", "avif"):
        sizes = [len(writer_for("x", chosen, q).encode(pixels, Metadata(), "x")) for q in (20, 60, 95)]
        assert sizes == sorted(set(sizes))


def test_what_a_format_does_not_hold_is_told(tmp_path, stream, capsys):
    path, _, metadata = stream
    assert cli.main(["decompress", str(path), "-o", str(tmp_path / "x.avif")]) == 0
    assert "files do not hold the resolution; write .png" in capsys.readouterr().err
    for form, lost in (
        ("png", 0),
        ("jpeg", 0),
        ("tiff", 0),
        ("webp", 1),
        ("avif", 1),
        ("ppm", 4),
        ("bmp", 3),
    ):
        assert len(writer_for("x", form).left_out(metadata)) == lost, form


def test_what_each_says_of_itself_is_true(photo):
    """Alpha, lossless or not: by writing a picture and reading it again."""
    color, alpha = photo[:40, :48], np.dstack([photo[:40, :48], photo[:40, :48, 0]])
    for name, form in FORMATS.items():
        writer = writer_for("x", name)
        back = np.asarray(Image.open(io.BytesIO(writer.encode(color, Metadata(), "x"))))
        assert np.array_equal(back, color) == (form.quality is None)
        if form.alpha:
            back = np.asarray(Image.open(io.BytesIO(writer.encode(alpha, Metadata(), "x"))))
            assert np.array_equal(back, alpha) == (form.quality is None)
        else:
            with pytest.raises(UsageError, match="hold no alpha"):
                writer.encode(alpha, Metadata(), "x")
