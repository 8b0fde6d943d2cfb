"""Pictures in strips by libvips against what Pillow reads and writes whole."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from oslic.runtime.errors import ImageError, LimitError, UsageError
from oslic.runtime.image.arrays import Layout
from oslic.runtime.image.files import read_image
from oslic.runtime.image.large import LargeImage, left_out, strips_kind, write_strips
from oslic.runtime.image.metadata import Metadata, Resolution, Unit
from oslic.runtime.image.png import add_chunks, chunks_before_pixels
from oslic.runtime.limits import Limits
from PIL import ExifTags, Image, ImageCms

pytest.importorskip("pyvips")
LIMITS = Limits()
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def picture(photo, mode):
    return np.array(Image.fromarray(photo).convert(mode))


def strips_of(path, *counts):
    source = LargeImage(path, LIMITS)
    return source, np.concatenate([source.rows(count) for count in counts])


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_strips_are_the_picture(photo, tmp_path, mode, ending):
    pixels = picture(photo, mode)
    Image.fromarray(pixels).save(tmp_path / f"x.{ending}")
    source, read = strips_of(tmp_path / f"x.{ending}", 100, 1, 199)
    assert (source.width, source.height) == (451, 300)
    assert source.layout == Layout({"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}[mode])
    assert np.array_equal(read, pixels)


def test_a_turned_picture_is_upright(photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(photo).save(tmp_path / "x.png", exif=exif)
    upright = read_image(tmp_path / "x.png", LIMITS).pixels
    assert upright.shape == (451, 300, 3)
    _, read = strips_of(tmp_path / "x.png", 200, 251)
    assert np.array_equal(read, upright)


def test_reduced_is_the_mean_of_squares(photo, tmp_path):
    pixels = picture(photo, "RGBA")
    Image.fromarray(pixels).save(tmp_path / "x.png")
    reduced = LargeImage(tmp_path / "x.png", LIMITS).reduced(4)
    assert reduced.shape == (75, 113, 3)
    means = pixels[:, :448, :3].reshape(75, 4, 112, 4, 3).mean((1, 3))
    assert np.abs(reduced[:, :112] - means).max() <= 1
    assert LargeImage(tmp_path / "x.png", LIMITS).reduced(1).shape == (300, 451, 3)


def test_profile_and_exif_come_along(photo, tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "a cat"
    Image.fromarray(photo).save(tmp_path / "x.png", icc_profile=PROFILE, exif=exif)
    metadata = LargeImage(tmp_path / "x.png", LIMITS).metadata
    assert metadata.icc == PROFILE
    assert b"a cat" in metadata.exif


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda photo, path: path.write_bytes(b"no image"), ImageError, "cannot be read"),
        (lambda photo, path: Image.fromarray(photo).convert("CMYK").save(path, "TIFF"), ImageError, "cmyk"),
        (
            lambda photo, path: Image.fromarray(photo[:, :, 0].astype(np.uint16)).save(path, "TIFF"),
            ImageError,
            "ushort",
        ),
        (
            lambda photo, path: Image.fromarray(photo).save(
                path, "TIFF", save_all=True, append_images=[Image.fromarray(photo)]
            ),
            ImageError,
            "several pages",
        ),
    ],
)
def test_what_is_no_picture_of_8_bits_is_refused(photo, tmp_path, make, error, message):
    make(photo, tmp_path / "x.tif")
    with pytest.raises(error, match=message):
        LargeImage(tmp_path / "x.tif", LIMITS)


def test_a_damaged_file_is_told_where_its_rows_end(photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "x.png")
    data = (tmp_path / "x.png").read_bytes()
    (tmp_path / "x.png").write_bytes(data[: len(data) // 2])
    source = LargeImage(tmp_path / "x.png", LIMITS)
    with pytest.raises(ImageError, match="is damaged"):
        [source.rows(100) for _ in range(3)]


def test_the_limit_on_pixels_holds(photo, tmp_path):
    Image.fromarray(photo).save(tmp_path / "x.png")
    with pytest.raises(LimitError, match="451x300"):
        LargeImage(tmp_path / "x.png", Limits(pixels=100_000))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("ending", [".png", ".tif", ".tiff"])
def test_written_strips_are_the_picture(photo, tmp_path, mode, ending):
    pixels = picture(photo, mode)
    layout = Layout(1 if pixels.ndim == 2 else pixels.shape[2])
    # libvips leaves out profiles of other kinds of color than the picture's.
    metadata = Metadata(icc=PROFILE if layout in {Layout.RGB, Layout.RGBA} else b"")
    path = tmp_path / f"x{ending}"
    with path.open("w+b") as target:
        write_strips(
            [pixels[:120], pixels[120:]],
            (451, 300),
            layout,
            metadata=metadata,
            kind=strips_kind(path),
            target=target,
        )
    with Image.open(path) as image:
        assert np.array_equal(np.array(image), pixels)
        assert image.info.get("icc_profile", b"") == metadata.icc


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak there")
def test_writing_takes_the_memory_of_strips(tmp_path):
    """252 MB of samples; pages of mapped files count as well."""
    code = f"""
import numpy as np
from oslic.runtime.image.arrays import Layout
from oslic.runtime.image.large import write_strips
from oslic.runtime.image.metadata import Metadata
colors = (np.arange(750) % 251).astype(np.uint8).reshape(5, 50, 3)
strip = np.kron(colors, np.ones((20, 240, 1), np.uint8))
with open({str(tmp_path / "x.png")!r}, "w+b") as target:
    write_strips([strip] * 70, (12000, 7000), Layout.RGB, metadata=Metadata(), kind=".png", target=target)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 200_000  # KiB
    with Image.open(tmp_path / "x.png") as image:
        assert image.size == (12000, 7000)


def _exif(size):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Model] = "Box"
    exif[ExifTags.Base.ImageWidth], exif[ExifTags.Base.ImageLength] = size
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] = size[0]
    return exif


XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="6">a place</rdf></x:xmpmeta>'


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif"])
def test_metadata_are_those_of_the_picture_read_whole(photo, tmp_path, ending):
    path = tmp_path / f"x{ending}"
    picture = Image.fromarray(photo)
    extras = {} if ending == ".webp" else {"dpi": (300, 150)}
    if ending != ".tif":
        extras |= {"exif": _exif(picture.size)}
    if ending in {".jpg", ".webp"}:
        extras |= {"xmp": XMP}
    picture.save(path, icc_profile=PROFILE, **extras)
    if ending == ".png":
        color = {b"gAMA": (45455).to_bytes(4, "big"), b"iTXt": b"XML:com.adobe.xmp" + bytes(5) + XMP}
        path.write_bytes(add_chunks(path.read_bytes(), color))
    whole, strips = read_image(path, LIMITS), LargeImage(path, LIMITS)
    assert strips.metadata == whole.metadata
    assert strips.notes == whole.notes
    assert strips.metadata.icc == PROFILE
    if "exif" in extras:
        exif = Image.Exif()
        exif.load(strips.metadata.exif)
        assert ExifTags.Base.Orientation not in exif
        assert (strips.width, strips.height) == (300, 451)
        assert exif[ExifTags.Base.ImageWidth] == 300
    if ending != ".tif":
        assert b"Orientation" not in strips.metadata.xmp
        assert strips.metadata.xmp


def test_a_profile_that_does_not_fit_is_left_out_with_a_note(photo, tmp_path):
    Image.fromarray(photo).convert("L").save(tmp_path / "x.jpg", icc_profile=PROFILE)
    image = LargeImage(tmp_path / "x.jpg", LIMITS)
    assert image.metadata.icc == b""
    assert image.notes == read_image(tmp_path / "x.jpg", LIMITS).notes != ()


EVERYTHING = Metadata(
    icc=PROFILE,
    exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x10\0\x02\0\0\0\x04Box\0\0\0\0\0",
    xmp=b"<x:xmpmeta/>",
    color=((b"gAMA", (45455).to_bytes(4, "big")),),
    resolution=Resolution(11811, 5906, Unit.METER),
)


@pytest.mark.parametrize("metadata", [Metadata(), EVERYTHING])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_written_pngs_have_the_metadata_and_nothing_else(photo, tmp_path, mode, metadata):
    path = tmp_path / "x.png"
    pixels = picture(photo, mode)
    with path.open("w+b") as target:
        write_strips(
            [pixels], (451, 300), Layout(pixels.shape[2]), metadata=metadata, kind=".png", target=target
        )
    found = read_image(path, LIMITS)
    assert np.array_equal(found.pixels, pixels)
    assert found.metadata == metadata
    assert left_out(metadata, ".png") == ()
    others = {b"IHDR", b"iCCP", b"gAMA", b"pHYs", b"iTXt", b"eXIf"}
    assert {name for name, _ in chunks_before_pixels(path.read_bytes())} <= others


def test_written_tiffs_have_what_is_not_left_out(photo, tmp_path):
    path = tmp_path / "x.tif"
    metadata = replace(EVERYTHING, icc=b"")
    with path.open("w+b") as target:
        write_strips([photo], (451, 300), Layout.RGB, metadata=metadata, kind=".tif", target=target)
    found = read_image(path, LIMITS).metadata
    assert found.xmp == metadata.xmp
    assert found.resolution.per_inch == pytest.approx(metadata.resolution.per_inch, rel=1e-4)
    assert [words.split()[-1] for words in left_out(metadata, ".tif")] == ["EXIF", "(gAMA)"]


def test_errors_of_the_target_are_the_system_s(photo):
    with Path("/dev/full").open("wb") as target, pytest.raises(OSError, match="No space left"):
        write_strips([photo], (451, 300), Layout.RGB, metadata=Metadata(), kind=".png", target=target)


def test_other_formats_cannot_be_written_in_strips(tmp_path):
    with pytest.raises(UsageError, match=r"\.png, \.tif, \.tiff are written"):
        strips_kind(tmp_path / "x.jpg")
