"""Pictures of other kinds as 8-bit sRGB, through the real command line where it is about what users see."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from oslic.cli import main as cli
from oslic.runtime import Codec
from oslic.runtime.errors import ImageError, UsageError
from oslic.runtime.image.arrays import psnr
from oslic.runtime.image.conversion import Conversion
from oslic.runtime.image.deep_png import encode_deep_png
from oslic.runtime.image.files import decode_image
from oslic.runtime.image.metadata import COLOR_CHUNKS
from oslic.runtime.image.plugins import PLUGINS, plugin_for
from oslic.runtime.image.png import add_chunks
from oslic.runtime.limits import Limits
from PIL import Image, ImageCms

LIMITS = Limits()


def _bytes(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _converted(data: bytes, page: int = 1):
    with pytest.raises(ImageError, match="--convert"):
        decode_image(data, LIMITS)
    return decode_image(data, LIMITS, conversion=Conversion(page))


@pytest.fixture(scope="module")
def deep(photo):
    """A photograph of 16 bits a sample whose rounding to 8 is not what cutting is."""
    noise = np.random.default_rng(1).integers(-128, 128, photo.shape)
    return np.clip(photo.astype(np.int64) * 257 + noise, 0, 65535).astype(np.uint16)


def test_16_bit_png_is_rounded(photo, deep):
    assert np.array_equal(_converted(encode_deep_png(deep)).pixels, photo)
    assert np.array_equal(_converted(encode_deep_png(deep[:, :, 1])).pixels, photo[:, :, 1])
    alpha = np.dstack([deep, deep[:, :, :1]])
    assert np.array_equal(_converted(encode_deep_png(alpha)).pixels, np.dstack([photo, photo[:, :, 0]]))


def test_without_opencv_it_is_cut(photo, deep, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    data = _bytes(Image.fromarray(deep[:, :, 0]), "PNG")
    assert np.array_equal(_converted(data).pixels, photo[:, :, 0])


def test_16_bit_color_without_opencv(photo, deep, monkeypatch):
    data = encode_deep_png(deep)
    monkeypatch.setitem(sys.modules, "cv2", None)
    found = _converted(data).pixels.astype(int)
    assert np.abs(found - photo).max() == 1


@pytest.mark.parametrize("kind", ["TIFF", "PNG"])
def test_16_bit_gray(photo, deep, kind):
    assert np.array_equal(_converted(_bytes(Image.fromarray(deep[:, :, 0]), kind)).pixels, photo[:, :, 0])


@pytest.mark.parametrize("most", [1.0, 255.0, 65535.0])
def test_floats_have_the_range_that_they_fill(photo, most):
    samples = (photo[:, :, 0] / 255 * most).astype(np.float32)
    picture = _converted(_bytes(Image.fromarray(samples), "TIFF"))
    assert np.abs(picture.pixels.astype(int) - photo[:, :, 0]).max() <= 1
    assert picture.notes == (f"samples of 0..{most:g} converted to 8 bits",)


def test_floats_of_any_range_are_stretched():
    samples = np.linspace(-2, 6, 256, dtype=np.float32).reshape(16, 16)
    samples[3, 3] = np.nan
    picture = _converted(_bytes(Image.fromarray(samples), "TIFF"))
    assert (picture.pixels[0, 0], picture.pixels[-1, -1], picture.pixels[3, 3]) == (0, 255, 0)
    assert "stretched" in picture.notes[0]


def test_cmyk_without_a_profile(photo):
    picture = _converted(_bytes(Image.fromarray(photo).convert("CMYK"), "TIFF"))
    assert psnr(picture.pixels, photo) > 40
    assert "a guess" in picture.notes[0]


def test_lab(photo):
    to_lab = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
    )
    lab = ImageCms.applyTransform(Image.fromarray(photo), to_lab)
    assert psnr(_converted(_bytes(lab, "TIFF")).pixels, photo) > 30


def test_a_profile_is_applied_and_gone(photo, deep):
    """A profile with red and blue exchanged: whoever applies it gets the photograph back."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    table = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * profile[131], 12)}
    red, blue = table[b"rXYZ"], table[b"bXYZ"]
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    data = bytearray(_bytes(Image.fromarray(photo), "PNG", icc_profile=bytes(profile)))
    chunk = data[data.index(b"iCCP") - 4 :][: 12 + int.from_bytes(data[data.index(b"iCCP") - 4 :][:4], "big")]
    deep_png = encode_deep_png(np.ascontiguousarray(deep[:, :, ::-1]))
    picture = _converted(deep_png[:33] + bytes(chunk) + deep_png[33:])
    assert psnr(picture.pixels, photo) > 40
    assert picture.metadata.icc == b""
    assert picture.notes == ("16 bits a sample converted to 8 bits and sRGB",)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_a_page_of_several(photo, kind):
    frames = [Image.fromarray(photo[i * 50 : i * 50 + 50, :80, 0]) for i in range(3)]
    more = {"lossless": True} if kind == "WEBP" else {}
    data = _bytes(frames[0], kind, save_all=True, append_images=frames[1:], **more)
    for page in (1, 3):
        picture = _converted(data, page)
        assert any(f"page {page} is taken" in note for note in picture.notes)
        pixels = picture.pixels
        gray = pixels if pixels.ndim == 2 else pixels[:, :, 0]
        assert np.array_equal(gray, np.asarray(frames[page - 1]))
    with pytest.raises(UsageError, match="has no page 4"):
        decode_image(data, LIMITS, conversion=Conversion(4))


def test_high_dynamic_range_is_out_of_scope(deep):
    pq = bytes([9, 16, 0, 1])
    assert len(pq) == COLOR_CHUNKS[b"cICP"]
    with pytest.raises(ImageError, match="high dynamic range"):
        decode_image(add_chunks(encode_deep_png(deep), {b"cICP": pq}), LIMITS, conversion=Conversion())


def test_ordinary_pictures_are_left_as_they_are(photo):
    data = _bytes(Image.fromarray(photo), "PNG", icc_profile=b"any profile of 20 bytes or more")
    assert decode_image(data, LIMITS, conversion=Conversion()).metadata == decode_image(data, LIMITS).metadata


def test_through_the_command_line(tmp_path, photo, deep, capsys):
    source = tmp_path / "a.png"
    source.write_bytes(encode_deep_png(deep[:64, :64]))
    words = ["compress", str(source), "-o", str(tmp_path / "a.oslic"), "--effort", "0"]
    assert cli.main(words) == 3
    assert "`oslic compress --convert` makes that of it" in capsys.readouterr().err
    assert cli.main([*words, "--convert"]) == 0
    assert "warning: " in capsys.readouterr().err
    with Codec.open() as codec:
        assert (tmp_path / "a.oslic").read_bytes() == codec.compress(photo[:64, :64], effort=0)


def test_jpeg_xl_by_its_plug_in(tmp_path, photo, monkeypatch, capsys):
    pytest.importorskip("pillow_jxl")
    data = _bytes(Image.fromarray(photo), "JXL", lossless=True)
    assert plugin_for(data) is PLUGINS[1]
    # As in a process in which nobody has imported the plug-in.
    Image.init()
    for table in (Image.OPEN, Image.MIME):
        monkeypatch.delitem(table, "JXL", raising=False)
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "JXL"])
    monkeypatch.setitem(sys.modules, "pillow_jxl", None)
    (tmp_path / "a.jxl").write_bytes(data)
    assert cli.main(["compress", str(tmp_path / "a.jxl")]) == 3
    assert (
        "is a JPEG XL file, which Pillow reads with a plug-in: pip install pillow-jxl-plugin"
        in capsys.readouterr().err
    )


def test_jpeg_xl_in_a_process_of_its_own(tmp_path, photo):
    pytest.importorskip("pillow_jxl")
    (tmp_path / "a.jxl").write_bytes(_bytes(Image.fromarray(photo[:40, :48]), "JXL", lossless=True))
    command = [sys.executable, "-m", "oslic.cli.main", "compress", str(tmp_path), "--effort", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with Codec.open() as codec:
        found = codec.decompress(tmp_path / "a.jxl.oslic")
        assert np.array_equal(found, codec.decompress(codec.compress(photo[:40, :48], effort=0)))


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"hevc"])
def test_heic_without_its_plug_in_is_named(monkeypatch, brand):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    data = b"\0\0\0\x18ftyp" + brand + bytes(100)
    with pytest.raises(ImageError, match=r"x is a HEIC file, .*: pip install pillow-heif"):
        decode_image(data, LIMITS, "x")
