"""The plug-in for Pillow: programs that know nothing of the codec read and write its files."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import oslic.runtime.pillow as plugin
import pytest
from oslic.runtime import Codec
from oslic.runtime.limits import Limits
from PIL import Image, ImageCms, ImageFile, UnidentifiedImageError


@pytest.fixture(scope="module")
def codec():
    with Codec.open(threads=1) as codec:
        plugin.use_codec(codec)
        yield codec
        plugin.use_codec(None)


@pytest.fixture
def path(tmp_path, codec, photo):
    path = tmp_path / "a.oslic"
    Image.fromarray(photo[:96, :128]).save(path, quality=60, effort=0)
    return path


def test_save_and_open_are_what_the_codec_does(path, codec, photo):
    assert path.read_bytes() == codec.compress(photo[:96, :128], 60, effort=0)
    with Image.open(path) as image:
        assert (image.format, image.size, image.mode) == ("OSLIC", (128, 96), "RGB")
        assert image.get_format_mimetype() == "image/x-oslic"
        assert np.array_equal(np.asarray(image), codec.decompress(path))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1"])
def test_every_mode_that_the_codec_has(tmp_path, codec, photo, mode):
    image = Image.fromarray(photo[:32, :40]).convert(mode)
    file = io.BytesIO()
    image.save(file, "OSLIC", quality=90, effort=0)
    back = Image.open(io.BytesIO(file.getvalue()))
    assert back.mode == {"P": "RGB", "1": "L"}.get(mode, mode)
    assert np.array_equal(np.asarray(back), codec.decompress(file.getvalue()))


def test_opening_decodes_nothing(path):
    """Neither networks nor a backend are there, and size, mode and header are read all the same."""
    code = f"""
import sys
sys.modules["onnxruntime"] = None
import oslic.runtime.pillow
from PIL import Image
image = Image.open({str(path)!r})
print(image.size, image.mode)
image.draft(None, (32, 24))
print(image.size)
image.verify()
image = Image.open({str(path)!r})
print(image.preview().size)
try:
    image.load()
except OSError as error:
    print("OSError" if "ONNX Runtime" in str(error) else error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["(128, 96) RGB", "(32, 24)", "(16, 12)", "OSError"]


@pytest.mark.parametrize(
    ("wanted", "scale"), [((128, 96), 1), ((65, 10), 1), ((64, 48), 2), ((20, 24), 4), ((9, 9), 8)]
)
def test_a_draft_is_never_smaller_than_wanted(path, wanted, scale):
    with Image.open(path) as whole, Image.open(path) as image:
        drafted = image.draft("RGB", wanted)
        assert (drafted is None) == (scale == 1)
        assert image.size == (128 // scale, 96 // scale)
        reduced = whole.reduce(scale) if scale > 1 else whole
        assert np.array_equal(np.asarray(image), np.asarray(reduced))
        assert image.draft("RGB", (1, 1)) is None  # it is loaded


def test_a_thumbnail_is_made_of_a_draft(path):
    with Image.open(path) as image:
        image.thumbnail((16, 16))
        assert image.size == (16, 12)


def test_metadata(tmp_path, codec, photo):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F], exif[0x0112] = "maker", 6
    image = Image.fromarray(photo[:32, :48])
    image.info |= {"icc_profile": profile, "exif": exif.tobytes(), "dpi": (300, 300)}
    path = tmp_path / "a.oslic"
    image.save(path, effort=0)
    with Image.open(path) as back:
        # Upright; EXIF travels if it is given, as with Pillow's own writers.
        assert back.size == (32, 48)
        assert back.info["icc_profile"] == profile
        assert back.info["dpi"] == (300, 300)
        assert "exif" not in back.info
    image.save(path, effort=0, exif=exif, xmp="<x:xmpmeta/>", icc_profile=None, dpi=(72, 72))
    with Image.open(path) as back:
        assert (back.getexif()[0x010F], back.getexif().get(0x0112)) == ("maker", None)
        assert back.info["xmp"] == b"<x:xmpmeta/>"
        assert back.info["dpi"] == (72, 72)
        assert "icc_profile" not in back.info


def test_errors_are_those_that_programs_expect(tmp_path, path, codec, photo):
    image = Image.fromarray(photo[:32, :48])
    target = tmp_path / "b.oslic"
    for options, message in (
        ({"quality": 101}, "out of range"),
        ({"quality": "high"}, "must be a number"),
        ({"bpp": 1, "psnr": 30}, "give one of them"),
    ):
        with pytest.raises(OSError, match=message):
            image.save(target, **options)
        assert not target.exists()
    with pytest.raises(OSError, match="CMYK"):
        image.convert("CMYK").save(target)
    data = path.read_bytes()
    with pytest.raises(OSError, match="truncated inside its residual section"):
        Image.open(io.BytesIO(data[:-9]))
    with pytest.raises(UnidentifiedImageError):
        Image.open(io.BytesIO(b"no" + data))
    plugin.use_codec(Codec(codec.graphs, Limits(memory=1 << 20)))
    try:
        with Image.open(path) as image, pytest.raises(OSError, match="--max-memory"):
            image.load()
    finally:
        plugin.use_codec(codec)


def test_truncated_files_are_taken_where_pillow_is_told_to(path, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with Image.open(io.BytesIO(path.read_bytes()[:-500])) as image:
        assert np.asarray(image).std() > 5


def test_the_rate_and_the_psnr_are_met(codec, photo):
    image = Image.fromarray(photo[:96, :128])
    file = io.BytesIO()
    image.save(file, "OSLIC", bpp=2.0, effort=0)
    assert 1.5 < len(file.getvalue()) * 8 / (96 * 128) <= 2.0
    assert Image.registered_extensions()[".oslic"] == "OSLIC"
