"""Reading any common image file, and refusing the others with a reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from oslic.runtime.errors import DataError, ImageError, LimitError, UsageError
from oslic.runtime.image.files import decode_image, find_images, read_image
from oslic.runtime.image.metadata import Metadata
from oslic.runtime.image.writing import encode_image, lossless_writer_for
from oslic.runtime.limits import Limits
from PIL import Image, ImageCms

LIMITS = Limits()


def _bytes(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("mode", "shape"),
    [("L", (4, 6)), ("1", (4, 6)), ("LA", (4, 6, 2)), ("RGB", (4, 6, 3)), ("RGBA", (4, 6, 4))],
)
def test_modes_keep_their_channels(mode, shape):
    values = np.random.default_rng(1).integers(0, 256, (4, 6, 4), dtype=np.uint8)
    image = Image.fromarray(values, "RGBA").convert(mode)
    picture = decode_image(_bytes(image), LIMITS)
    assert picture.pixels.shape == shape
    assert np.array_equal(picture.pixels, np.asarray(image.convert("L") if mode == "1" else image))


def test_palette_images_become_the_colors_they_show(photo):
    image = Image.fromarray(photo).quantize(64)
    assert np.array_equal(decode_image(_bytes(image), LIMITS).pixels, np.asarray(image.convert("RGB")))
    transparent = decode_image(_bytes(image, transparency=3), LIMITS).pixels
    assert transparent.shape == (300, 451, 4)
    assert set(np.unique(transparent[:, :, 3])) == {0, 255}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_and_removed(photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "maker"
    picture = decode_image(_bytes(Image.fromarray(photo), exif=exif), LIMITS)
    expected = {
        1: photo,
        2: photo[:, ::-1],
        3: photo[::-1, ::-1],
        4: photo[::-1],
        5: photo.transpose(1, 0, 2),
        6: photo[::-1].transpose(1, 0, 2),
        7: photo[::-1, ::-1].transpose(1, 0, 2),
        8: photo.transpose(1, 0, 2)[::-1],
    }[orientation]
    assert np.array_equal(picture.pixels, expected)
    kept = Image.Exif()
    kept.load(picture.metadata.exif)
    assert kept.get(0x0112) is None
    assert kept[0x010F] == "maker"


def test_icc_profile_is_kept_and_written(tmp_path, photo):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = decode_image(_bytes(Image.fromarray(photo), icc_profile=profile), LIMITS)
    assert picture.metadata == Metadata(profile, b"")
    target = tmp_path / "x.png"
    target.write_bytes(encode_image(picture.pixels, picture.metadata, target))
    assert Image.open(target).info["icc_profile"] == profile


def _png16(color_type: int) -> bytes:
    channels = {0: 1, 2: 3, 4: 2, 6: 4}[color_type]

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + bytes(2 * channels * 4) for _ in range(4))
    header = struct.pack(">IIBBBBB", 4, 4, 16, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("color_type", [0, 2, 4, 6])
def test_16_bit_png_is_refused(color_type):
    with pytest.raises(ImageError, match="16-bit"):
        decode_image(_png16(color_type), LIMITS)


def test_16_bit_tiff_is_refused():
    with pytest.raises(ImageError, match=r"16-bit|8 bits"):
        decode_image(_bytes(Image.fromarray(np.zeros((4, 4), np.uint16)), "TIFF"), LIMITS)


def test_cmyk_is_refused(photo):
    with pytest.raises(ImageError, match="CMYK"):
        decode_image(_bytes(Image.fromarray(photo).convert("CMYK"), "JPEG"), LIMITS)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animations_are_refused(photo, kind):
    frames = [Image.fromarray(photo[i * 50 : i * 50 + 50, :80]) for i in range(3)]
    data = _bytes(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="animation of 3 frames"):
        decode_image(data, LIMITS)


@pytest.mark.parametrize(
    ("data", "message"), [(b"", "empty"), (b"hello, world", "not an image"), (b"BM", "not an image")]
)
def test_what_is_no_image_is_refused(data, message):
    with pytest.raises(ImageError, match=message):
        decode_image(data, LIMITS, "x")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_truncated_images_are_refused(photo, kind):
    data = _bytes(Image.fromarray(photo), kind)
    with pytest.raises(ImageError, match="x"):
        decode_image(data[: len(data) // 2], LIMITS, "x")


def test_sizes_beyond_the_limit_are_refused_before_decoding(photo):
    data = _bytes(Image.fromarray(photo))
    with pytest.raises(LimitError, match="451x300"):
        decode_image(data[:100], Limits(pixels=100_000))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.png: No such file"):
        read_image(tmp_path / "nothing.png", LIMITS)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".bmp", ".ppm"])
def test_every_writer_is_lossless(photo, tmp_path, suffix):
    target = tmp_path / f"x{suffix}"
    target.write_bytes(encode_image(photo, Metadata(), target))
    assert np.array_equal(np.asarray(Image.open(target)), photo)


def _camera_exif(orientation=1) -> Image.Exif:
    """As cameras write it: sub-directories, and the size of the picture as it came from the sensor."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x0100], exif[0x0101] = 4000, 3000
    exif[0x010F] = "maker"
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0x829A: (1, 30)}
    exif[0x8825] = {1: "N", 2: (48.0, 12.0, 30.5)}
    return exif


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_every_writer_keeps_a_cameras_exif(photo, suffix, mode):
    image = Image.fromarray(photo[:60, :50]).convert(mode)
    if "A" in mode:
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    picture = decode_image(_bytes(image, exif=_camera_exif(6).tobytes()), LIMITS)
    back = Image.open(io.BytesIO(encode_image(picture.pixels, picture.metadata, f"x{suffix}")))
    assert np.array_equal(back.convert(mode), picture.pixels)
    exif = back.getexif()
    assert (exif[0x010F], exif.get(0x0112, 1)) == ("maker", 1)
    assert exif.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
    assert exif.get_ifd(0x8825)[2] == (48.0, 12.0, 30.5)


@pytest.mark.parametrize("suffix", [".bmp", ".ppm"])
@pytest.mark.parametrize("channels", [2, 4])
def test_formats_without_alpha_refuse_it(suffix, channels):
    with pytest.raises(UsageError, match=r"hold no alpha; write \.png"):
        encode_image(np.zeros((4, 5, channels), np.uint8), Metadata(), f"x{suffix}")


def test_a_damaged_exif_block_is_an_error_with_a_remedy(photo):
    block = bytearray(_camera_exif().tobytes())
    block[8] ^= 1  # TIFF's number 42
    with pytest.raises(ImageError, match=r"x has a damaged EXIF block: .*; strip it"):
        decode_image(_bytes(Image.fromarray(photo[:9, :9]), "JPEG", exif=bytes(block)), LIMITS, "x")
    with pytest.raises(UsageError, match=r"write another kind \(\.png\)"):
        encode_image(photo[:9, :9], Metadata(exif=bytes(block)), "x.tif")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_altered_files_decode_or_are_refused(photo, kind):
    data = _bytes(Image.fromarray(photo[:16, :16]), kind, exif=_camera_exif(6).tobytes())
    random = np.random.default_rng(5)
    refused = 0
    for _ in range(300):
        altered = bytearray(data)
        for place in random.integers(0, min(len(data), 400), 1 + random.integers(3)):
            altered[place] = random.integers(256)
        try:
            decode_image(bytes(altered), Limits(pixels=1 << 16))
        except (ImageError, LimitError):
            refused += 1
    assert refused


def test_the_first_picture_of_a_cameras_file_is_taken(photo):
    image, preview = Image.fromarray(photo[:60, :80]), Image.fromarray(photo[:30, :40])
    data = _bytes(image, "MPO", save_all=True, append_images=[preview], exif=_camera_exif(6).tobytes())
    assert Image.open(io.BytesIO(data)).n_frames == 2
    pixels = decode_image(data, LIMITS).pixels
    first = np.array(Image.open(io.BytesIO(data)).transpose(Image.Transpose.ROTATE_270))
    assert np.array_equal(pixels, first)


def test_lossy_or_unknown_endings_are_refused():
    for name in ("x.jpg", "x", "x.avif"):
        with pytest.raises(UsageError, match="no lossless image format"):
            lossless_writer_for(name)


def test_images_of_a_folder_are_told_by_their_endings(tmp_path):
    for name in ("b.PNG", "a.jpeg", "README.md", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "inner").mkdir()
    assert [path.name for path in find_images(tmp_path)] == ["a.jpeg", "b.PNG"]
    with pytest.raises(DataError, match="holds no images"):
        find_images(tmp_path / "inner")
    with pytest.raises(DataError, match="does not exist"):
        find_images(tmp_path / "none")
    with pytest.raises(DataError, match="is not a folder"):
        find_images(tmp_path / "README.md")
