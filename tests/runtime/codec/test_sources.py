"""What callers hand to the codec: arrays, Pillow images, paths; numbers of any real type; bytes of any kind."""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from oslic.runtime import Codec, compress_many, decompress_many
from oslic.runtime.codec.request import make_request
from oslic.runtime.errors import ImageError, RateError, StreamError, UsageError
from oslic.runtime.image.arrays import psnr
from oslic.runtime.image.metadata import Metadata
from PIL import Image, ImageCms


@pytest.fixture(scope="module")
def codec():
    with Codec.open(threads=1) as codec:
        yield codec


@pytest.fixture(scope="module")
def small(photo):
    return np.ascontiguousarray(photo[60:124, 120:200])


def test_every_kind_of_picture_gives_the_same_bytes(tmp_path, codec, small):
    wanted = codec.compress(small, 60, effort=0)
    path = tmp_path / "a.png"
    Image.fromarray(small).save(path)

    class Framework:
        def __array__(self, dtype=None, copy=None):
            return small

    for source in (
        Image.fromarray(small),
        Image.open(path),
        path,
        str(path),
        path.read_bytes(),
        bytearray(path.read_bytes()),
        Framework(),
        np.asfortranarray(small),
        small[::-1][::-1],
    ):
        assert codec.compress(source, 60, effort=0) == wanted


def test_what_is_no_picture_is_an_image_error(tmp_path, codec):
    for source, message in (
        (None, "cannot be a NoneType"),
        ({"a": 1}, "cannot be a dict"),
        (np.zeros((4, 4, 3)), "dtype float64, must be uint8"),
        (np.zeros((4, 4, 5), np.uint8), "must be \\(H, W\\)"),
        (b"not an image", "not an image"),
        (Image.new("CMYK", (4, 4)), "CMYK"),
        (Image.new("F", (4, 4)), "32-bit float"),
    ):
        with pytest.raises(ImageError, match=message):
            codec.compress(source)
    with pytest.raises(UsageError, match="No such file"):
        codec.compress(tmp_path / "none.png")


def test_the_frame_that_an_image_shows_is_taken(codec, small):
    frames = [Image.fromarray(small), Image.fromarray(small[:, ::-1].copy())]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:])
    image = Image.open(io.BytesIO(file.getvalue()))
    image.seek(1)
    shown = codec.decompress(codec.compress(image, 95, effort=0))
    assert psnr(shown, small[:, ::-1]) > 38
    assert image.tell() == 1


@pytest.mark.parametrize(
    "quality",
    [60, 60.0, np.int64(60), np.uint8(60), np.float32(60), np.array(60), Decimal(60), Fraction(120, 2)],
    ids=lambda value: type(value).__name__,
)
def test_a_quality_is_a_number_of_any_real_type(quality):
    assert make_request(quality) == make_request()
    assert isinstance(make_request(quality).settings.quality, int)


@pytest.mark.parametrize("name", ["quality", "bpp", "psnr", "effort"])
@pytest.mark.parametrize("value", ["60", True, 1j, float("nan"), float("inf"), [60], np.zeros(2), object()])
def test_what_is_no_number_is_named(name, value):
    with pytest.raises(UsageError, match=f"^{name} is .*must be"):
        make_request(**{name: value})


def test_arguments_that_do_not_fit_together_are_refused():
    for arguments, message in (
        ({"quality": 60, "bpp": 1}, "quality and bpp are ways to say one thing"),
        ({"psnr": 30, "bpp": 1}, "bpp and psnr are ways"),
        ({"focus": "person", "class_quality": {"sky": 1}}, "two ways to say one thing"),
        ({"effort": 4.5}, "must be a whole number"),
        ({"bpp": 0}, "must be above 0"),
        ({"quality": 100.5}, "out of range"),
        ({"class_quality": {"sky": "high"}}, "the change of sky is 'high'"),
    ):
        with pytest.raises(UsageError, match=message):
            make_request(**arguments)


def test_rates_and_psnr(codec, small):
    pixels = small.shape[0] * small.shape[1]
    within = codec.compress(small, bpp=3.0, effort=0)
    assert 2.0 < len(within) * 8 / pixels <= 3.0
    reached = codec.decompress(codec.compress(small, psnr=np.float32(36.0), effort=0))
    assert 36.0 <= psnr(reached, small) < 38.0
    with pytest.raises(RateError, match="below the floor"):
        codec.compress(small, bpp=0.01)


def test_metadata_of_files_travels_and_can_be_replaced(tmp_path, codec, small):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x010F] = "maker"
    path = tmp_path / "a.png"
    Image.fromarray(small).save(path, icc_profile=profile, exif=exif, dpi=(300, 300))
    for source in (path, Image.open(path)):
        found = codec.decode(codec.compress(source, effort=0)).metadata
        assert found.icc == profile
        assert b"maker" in found.exif
        assert found.resolution is not None
    nothing = codec.compress(path, effort=0, metadata=Metadata())
    assert codec.decode(nothing).metadata == Metadata()
    assert nothing == codec.compress(small, effort=0)
    mine = Metadata(xmp=b"<x/>")
    assert codec.decode(codec.compress(path, effort=0, metadata=mine)).metadata == mine


def test_what_pillow_tells_of_a_pngs_colors_is_what_the_file_says(tmp_path, codec, small):
    from oslic.runtime.image.writing import encode_image

    color = (
        (b"gAMA", (55555).to_bytes(4, "big")),
        (b"cHRM", b"".join(n.to_bytes(4, "big") for n in range(31270, 31278))),
    )
    path = tmp_path / "a.png"
    path.write_bytes(encode_image(small, Metadata(color=color), path))
    for source in (path, Image.open(path)):
        assert codec.encode(source, make_request(effort=0)).data == codec.compress(
            small, effort=0, metadata=Metadata(color=color)
        )


def test_streams_are_bytes_of_any_kind_or_files(tmp_path, codec, small):
    data = codec.compress(small, effort=0)
    wanted = codec.decompress(data)
    path = tmp_path / "a.oslic"
    path.write_bytes(data)
    for source in (
        bytearray(data),
        memoryview(data),
        np.frombuffer(data, np.uint8),
        path,
        str(path),
    ):
        assert np.array_equal(codec.decompress(source), wanted)
    assert np.array_equal(codec.decode_labels(path), codec.decode_labels(data))
    for source, message in (
        (None, "cannot be a NoneType"),
        (12, "cannot be a int"),
        (tmp_path / "x", "No such file"),
    ):
        with pytest.raises(UsageError, match=message):
            codec.decompress(source)
    with pytest.raises(StreamError, match="empty"):
        codec.decompress(b"")


def test_many(tmp_path, codec, small):
    path = tmp_path / "a.png"
    Image.fromarray(small).save(path)
    images = [small, Image.fromarray(small[:40]), path, tmp_path / "none.png", small[:, :, 0]]
    wanted = [
        codec.compress(image, 30, effort=0, class_quality={"sky": 5}) for image in (*images[:3], images[4])
    ]
    streams = list(compress_many(codec, iter(images), 30, jobs=3, effort=0, class_quality={"sky": 5}))
    assert isinstance(streams.pop(3), UsageError)
    assert streams == wanted
    back = list(decompress_many(codec, (bytearray(data) for data in streams), jobs=2, region=(0, 0, 8, 8)))
    assert [part.shape for part in back] == [(8, 8, 3)] * 3 + [(8, 8)]
    assert list(compress_many(codec, [small], focus="person", effort=0)) == [
        codec.compress(small, focus="person", effort=0)
    ]
    with pytest.raises(UsageError, match="out of range"):
        next(compress_many(codec, images, 101))
    with pytest.raises(TypeError, match="hue"):
        next(compress_many(codec, images, hue="red"))


def test_awaiting(codec, small):
    async def both():
        data = await codec.compress_async(small, 40, effort=0)
        images = await asyncio.gather(*(codec.decompress_async(data) for _ in range(3)))
        with pytest.raises(StreamError):
            await codec.decompress_async(b"no stream")
        return data, images

    data, images = asyncio.run(both())
    assert data == codec.compress(small, 40, effort=0)
    assert all(np.array_equal(image, codec.decompress(data)) for image in images)


def test_the_loop_goes_on_while_a_picture_is_coded(codec, photo):
    async def count():
        task = asyncio.create_task(codec.compress_async(photo, effort=0))
        turns = 0
        while not task.done():
            await asyncio.sleep(0)
            turns += 1
        return turns

    assert asyncio.run(count()) > 100


def test_one_codec_from_eight_threads_gives_the_bytes_of_one(codec, photo):
    parts = [
        np.ascontiguousarray(photo[y : y + 64, x : x + 96])
        for y in range(0, 224, 32)
        for x in range(0, 320, 64)
    ]

    def one(part):
        data = codec.compress(part, 50, effort=0)
        return data, codec.decompress(data).tobytes()

    alone = [one(part) for part in parts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, parts)) == alone
