"""What travels beside the pixels, from file to stream to file; and pixels that nobody sees."""

from __future__ import annotations

import dataclasses
import io
import struct

import numpy as np
import pytest
from oslic.runtime.codec import Codec, Settings
from oslic.runtime.codec.container import Header, Payload, SectionType, StreamReader
from oslic.runtime.codec.metadata_sections import metadata_sections, read_metadata
from oslic.runtime.codec.rate_control import lowest_reaching
from oslic.runtime.errors import ImageError, StreamError, UsageError
from oslic.runtime.image.arrays import Layout, fill_hidden, visible_psnr
from oslic.runtime.image.files import decode_image
from oslic.runtime.image.metadata import Metadata, Resolution, Unit, resolution
from oslic.runtime.image.png import add_chunks, chunks_before_pixels
from oslic.runtime.image.writing import encode_image, lossless_writer_for
from oslic.runtime.limits import Limits
from oslic.runtime.tiling import single
from PIL import Image, ImageCms
from stream_tools import put_together

LIMITS = Limits()
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF>\xc3\xa9</rdf:RDF></x:xmpmeta>"
COLOR = (
    (b"cICP", bytes([12, 13, 0, 1])),
    (b"gAMA", struct.pack(">I", 100_000)),
    (b"cHRM", struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)),
)


@pytest.fixture(scope="module")
def codec():
    with Codec.open(threads=1) as opened:
        yield opened


def _bytes(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _with_alpha(photo: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.dstack([photo[: alpha.shape[0], : alpha.shape[1]], alpha])


FULL = Metadata(
    icc=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
    xmp=XMP,
    color=COLOR,
    resolution=Resolution(11811, 5906, Unit.METER),
)


def _stream(sections):
    """A reader of a stream that has nothing else."""
    header = Header(Layout.RGB, "oslic", bytes(8), single(8, 8), b"")
    data = put_together(header, {kind: [Payload(content)] for kind, content in sections.items()})
    return StreamReader.of_bytes(data, Limits(memory=1))


@pytest.mark.parametrize("metadata", [Metadata(), FULL, Metadata(color=COLOR[1:2]), Metadata(xmp=XMP)])
def test_sections_hold_everything(metadata):
    sections = metadata_sections(metadata)
    assert read_metadata(_stream(sections)) == metadata
    assert all(kind & 0x80 for kind in sections)
    assert len(sections) == sum(bool(getattr(metadata, f.name)) for f in dataclasses.fields(metadata))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (SectionType.COLOR, b"gAM"),
        (SectionType.COLOR, b"gAMA\0\0"),
        (SectionType.COLOR, b"IDAT\0\0\0\0"),
        (SectionType.COLOR, COLOR[2][0] + COLOR[2][1] + COLOR[1][0] + COLOR[1][1]),
        (SectionType.RESOLUTION, b"\1\1\0\0\0"),
        (SectionType.RESOLUTION, struct.pack("<BII", 9, 1, 1)),
        (SectionType.RESOLUTION, struct.pack("<BII", 1, 0, 1)),
    ],
)
def test_damaged_sections_are_refused(kind, data):
    with pytest.raises(StreamError, match=kind.name.lower()):
        read_metadata(_stream({kind: data}))


@pytest.mark.parametrize("chunks", [COLOR[:1], COLOR[1:2], COLOR[1:], COLOR])
def test_color_chunks_pass_through_the_codec(codec, photo, chunks):
    data = add_chunks(_bytes(Image.fromarray(photo[:40, :50])), dict(chunks))
    picture = decode_image(data, LIMITS)
    stream = codec.compress(picture.pixels, 30, effort=0, metadata=picture.metadata)
    decoded = codec.decode(stream)
    back = encode_image(decoded.image, decoded.metadata, "x.png")
    kept = [(name, content) for name, content in chunks_before_pixels(back) if name in dict(COLOR)]
    assert kept == list(chunks)
    with Image.open(io.BytesIO(back)) as image:
        image.load()
        if b"gAMA" in dict(chunks):
            assert image.info["gamma"] == 1.0
        assert np.array_equal(np.asarray(image), decoded.image)


@pytest.mark.parametrize("name", ["x.tif", "x.webp", "x.bmp", "x.ppm"])
def test_formats_that_cannot_say_what_colors_mean_are_told(name):
    assert lossless_writer_for(name).left_out(Metadata(color=COLOR)) == (
        "the meaning of its colors (cICP, gAMA, cHRM)",
    )
    assert lossless_writer_for(name).left_out(Metadata(color=((b"sRGB", b"\0"), COLOR[1]))) == ()
    assert lossless_writer_for("x.png").left_out(Metadata(color=COLOR)) == ()


def test_decompress_warns_of_what_is_lost(codec, photo, tmp_path, capsys):
    from oslic.cli.main import main

    stream = tmp_path / "x.oslic"
    stream.write_bytes(codec.compress(photo[:40, :50], 30, effort=0, metadata=Metadata(color=COLOR[1:2])))
    assert main(["decompress", str(stream), "-o", str(tmp_path / "x.tif")]) == 0
    assert ".tif files do not hold the meaning of its colors (gAMA); write .png" in capsys.readouterr().err
    assert main(["decompress", str(stream), "-o", str(tmp_path / "x.png")]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_xmp_travels(photo, kind, suffix):
    image = Image.fromarray(photo[:20, :30])
    data = _bytes(image, kind, **({} if kind in {"PNG", "TIFF"} else {"xmp": XMP}))
    if kind == "PNG":
        data = add_chunks(data, {b"iTXt": b"XML:com.adobe.xmp" + bytes(5) + XMP})
    if kind == "TIFF":
        exif = Image.Exif()
        exif[700] = XMP
        data = _bytes(image, kind, exif=exif)
    picture = decode_image(data, LIMITS)
    assert picture.metadata.xmp == XMP
    with Image.open(io.BytesIO(encode_image(picture.pixels, picture.metadata, f"x{suffix}"))) as back:
        assert back.info["xmp"] == XMP
        assert np.array_equal(np.asarray(back), picture.pixels)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_resolution_travels(photo, kind, suffix):
    picture = decode_image(_bytes(Image.fromarray(photo[:20, :30]), kind, dpi=(300, 150)), LIMITS)
    assert picture.metadata.resolution is not None
    with Image.open(io.BytesIO(encode_image(picture.pixels, picture.metadata, f"x{suffix}"))) as back:
        assert [round(float(value), 1) for value in back.info["dpi"]] == [300, 150]


def test_resolution_turns_with_the_image(photo):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = _bytes(Image.fromarray(photo[:20, :30]), "JPEG", dpi=(300, 150), exif=exif)
    assert decode_image(data, LIMITS).metadata.resolution == Resolution(150, 300, Unit.INCH)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ((72.5, 72.5, Unit.INCH), Resolution(2854, 2854, Unit.METER)),
        ((1, 1, Unit.ASPECT), None),
        ((2, 1, Unit.ASPECT), Resolution(2, 1, Unit.ASPECT)),
        ((0, 1, Unit.INCH), None),
        ((float("nan"), 1, Unit.INCH), None),
        ((1e-9, 1, Unit.INCH), None),
        ((1e300, 1, Unit.METER), None),
    ],
)
def test_resolutions_in_whole_numbers(given, found):
    assert resolution(*given) == found


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exifs_size_is_the_images(photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x0100], exif[0x0101] = 30, 20
    exif[0x8769] = {0xA002: 30, 0xA003: 20, 0x9003: "2020:01:02 03:04:05"}
    picture = decode_image(_bytes(Image.fromarray(photo[:20, :30]), "JPEG", exif=exif), LIMITS)
    kept = Image.Exif()
    kept.load(picture.metadata.exif)
    height, width = picture.pixels.shape[:2]
    assert (width, height) == ((20, 30) if orientation in {6, 8} else (30, 20))
    inner = kept.get_ifd(0x8769)
    assert (kept[0x0100], kept[0x0101], inner[0xA002], inner[0xA003]) == (width, height, width, height)
    assert inner[0x9003] == "2020:01:02 03:04:05"


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_a_gray_image_gets_no_rgb_profile(photo, mode):
    image = Image.fromarray(photo[:20, :30]).convert(mode)
    picture = decode_image(_bytes(image, "TIFF", icc_profile=FULL.icc), LIMITS)
    assert picture.metadata.icc == b""
    assert picture.notes == ("its RGB profile does not fit gray pixels: left out",)


def test_a_fitting_gray_profile_is_kept(photo):
    gray = FULL.icc[:16] + b"GRAY" + FULL.icc[20:]
    picture = decode_image(_bytes(Image.fromarray(photo[:20, :30, 0]), "TIFF", icc_profile=gray), LIMITS)
    assert (picture.metadata.icc, picture.notes) == (gray, ())
    color = decode_image(_bytes(Image.fromarray(photo[:20, :30]), "TIFF", icc_profile=gray), LIMITS)
    assert (color.metadata.icc, len(color.notes)) == (b"", 1)


def test_large_xmp_is_refused(photo):
    data = _bytes(Image.fromarray(photo[:20, :30]), "WEBP", xmp=XMP * 100)
    with pytest.raises(ImageError, match="XMP packet of more than 1000 bytes"):
        decode_image(data, Limits(metadata_bytes=1000))


def test_several_pages_are_no_animation(photo):
    pages = [Image.fromarray(photo[i * 50 : i * 50 + 50, :80]) for i in range(3)]
    data = _bytes(pages[0], "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageError, match="x has several pages"):
        decode_image(data, LIMITS, "x")
    assert decode_image(_bytes(pages[0], "TIFF"), LIMITS).pixels.shape == (50, 80, 3)


def test_hidden_color_costs_nothing(codec, photo):
    noise = np.random.default_rng(3).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    alpha = np.zeros((160, 160), np.uint8)
    alpha[40:90, 50:120] = 255
    noisy, black = (_with_alpha(image, alpha) for image in (noise, np.zeros_like(noise)))
    for image in (noisy, black):
        image[40:90, 50:120, :3] = photo[40:90, 50:120]
    sizes = [len(codec.compress(image, 60, effort=0)) for image in (noisy, black)]
    assert sizes[0] == sizes[1]
    kept = codec.compress(noisy, 60, effort=0, keep_invisible=True)
    assert len(kept) > 4 * sizes[0]
    hidden = alpha == 0
    errors = [
        np.abs(codec.decompress(data)[hidden].astype(int) - noisy[hidden]).mean()
        for data in (kept, codec.compress(noisy, 60, effort=0))
    ]
    assert errors[0] < 25
    assert errors[1] > 45


def test_hidden_color_continues_what_is_seen(photo):
    alpha = np.zeros((33, 47), np.uint8)
    alpha[5:20, 7:30] = 9
    color = photo[:33, :47]
    filled = fill_hidden(color, alpha)
    assert np.array_equal(filled[alpha > 0], color[alpha > 0])
    seen = color[alpha > 0]
    assert (filled >= seen.min(axis=0)).all()
    assert (filled <= seen.max(axis=0)).all()
    steps = np.abs(np.diff(filled[30:].astype(int), axis=1))
    assert steps.mean() < 1
    assert np.array_equal(fill_hidden(color[:, :, 0], alpha), filled[:, :, 0])
    assert (fill_hidden(color, np.zeros_like(alpha)) == 128).all()
    assert fill_hidden(color, np.ones_like(alpha)) is color


def test_psnr_is_of_what_is_seen(photo):
    alpha = np.zeros((60, 60), np.uint8)
    alpha[:30] = 100
    image = _with_alpha(photo, alpha)
    other = image.copy()
    other[:30, :, :3] ^= 1
    other[30:, :, :3] ^= 255
    assert visible_psnr(image, other) == pytest.approx(10 * np.log10(255**2))
    assert visible_psnr(image, image) == float("inf")
    assert visible_psnr(image[:, :, [0, 3]], other[:, :, [0, 3]]) == pytest.approx(10 * np.log10(255**2))
    assert visible_psnr(image[30:], other[30:]) == float("inf")
    assert visible_psnr(image[:30, :, :3], other[:30, :, :3]) == pytest.approx(10 * np.log10(255**2))


@pytest.mark.parametrize("channels", [2, 4])
def test_a_psnr_asked_for_is_that_of_the_colors(codec, photo, channels):
    ramp = np.broadcast_to(np.arange(96, dtype=np.uint8) + 100, (80, 96))
    image = _with_alpha(photo, ramp)[:, :, [1, 3] if channels == 2 else [0, 1, 2, 3]].copy()
    layers = codec.layers(image, Settings(effort=0))
    encoded = lowest_reaching(codec, layers, 40)
    decoded = codec.decompress(encoded.data)
    difference = decoded[:, :, :-1].astype(float) - image[:, :, :-1]
    assert 10 * np.log10(255**2 / np.mean(difference**2)) >= 40


def test_the_demo_judges_what_is_shown(photo):
    from oslic.bench.report.layer_images import as_rgb, with_alpha_of

    alpha = np.zeros((40, 50), np.uint8)
    alpha[:, 25:] = 255
    image = _with_alpha(photo, alpha)
    shown = as_rgb(with_alpha_of(255 - image[:, :, :3], image))
    assert (shown[:, :25] == 255).all()
    assert np.array_equal(shown[:, 25:], 255 - photo[:40, 25:50])


def test_a_packet_that_is_not_text_is_an_error_or_kept(photo):
    metadata = Metadata(xmp=b"\xff\xfe\0binary")
    for suffix in (".png", ".tif", ".webp"):
        try:
            data = encode_image(photo[:9, :9], metadata, f"x{suffix}")
        except UsageError:
            continue
        assert np.array_equal(decode_image(data, LIMITS).pixels, photo[:9, :9])
