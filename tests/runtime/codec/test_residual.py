"""The residual coder and the AVIF container it strips and rebuilds."""

from __future__ import annotations

import io

import numpy as np
import pytest
from oslic.runtime.codec import av1, residual
from oslic.runtime.codec.yuv import compensate_rounding
from oslic.runtime.errors import StreamError, UsageError
from PIL import Image, ImageFilter


def _psnr(a, b):
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.fixture(scope="module")
def estimate(photo):
    return np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(4)))


def _avif(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "AVIF", **({"speed": 8, "advanced": {"tune": "psnr"}} | options))
    return file.getvalue()


@pytest.mark.parametrize(("mode", "subsampling"), [("RGB", "4:4:4"), ("L", "4:0:0")])
@pytest.mark.parametrize("size", [(451, 300), (1, 1), (17, 3)])
def test_a_rebuilt_container_decodes_to_the_same_pixels(photo, mode, subsampling, size):
    picture = Image.fromarray(photo).resize(size).convert(mode)
    original = _avif(picture, subsampling=subsampling)
    stripped = av1.unwrap(original)
    rebuilt = av1.wrap(stripped, *size, monochrome=mode == "L")
    assert len(stripped) < len(original) - 200
    one, other = (np.asarray(Image.open(io.BytesIO(x)).convert(mode)) for x in (original, rebuilt))
    assert np.array_equal(one, other)


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_color_round_trip_is_near_what_plain_avif_reaches(photo, estimate, quality):
    coded = residual.encode(photo, estimate, quality=quality, speed=8)
    back = residual.decode(coded, estimate)
    plain = np.asarray(
        Image.open(io.BytesIO(_avif(Image.fromarray(photo), subsampling="4:4:4", quality=quality)))
    )
    assert back.dtype == np.uint8
    assert back.shape == photo.shape
    assert _psnr(photo, back) > _psnr(photo, plain) - 1.5
    assert _psnr(photo, back) > _psnr(photo, estimate)


def test_gray_round_trip(photo, estimate):
    gray, gray_estimate = photo[:, :, 1].copy(), estimate[:, :, 1].copy()
    coded = residual.encode(gray, gray_estimate, quality=80, speed=8)
    assert _psnr(gray, residual.decode(coded, gray_estimate)) > 38


def test_quality_orders_bytes_and_error(photo, estimate):
    coded = [residual.encode(photo, estimate, quality=q, speed=9) for q in (20, 50, 80)]
    sizes = [len(c.payload) for c in coded]
    errors = [_psnr(photo, residual.decode(c, estimate)) for c in coded]
    assert sizes == sorted(sizes)
    assert errors == sorted(errors)
    assert sizes[0] * 2 < sizes[2]


def test_the_same_image_gives_the_same_bytes(photo, estimate):
    one, other = (residual.encode(photo, estimate, quality=40, speed=8) for _ in range(2))
    assert one == other


def test_residuals_beyond_8_bits_take_scale_2(photo):
    opposite = np.where(photo > 127, 0, 255).astype(np.uint8)
    coded = residual.encode(photo, opposite, quality=25, speed=9)
    assert coded.scale == 2
    beyond = photo - opposite.astype(np.int16)
    clipped = residual.CodedResidual(
        residual._encode(beyond, 1, quality=25, speed=9, visual=False), 1, residual.MAX_WEIGHT
    )
    assert (
        _psnr(photo, residual.decode(coded, opposite)) > _psnr(photo, residual.decode(clipped, opposite)) + 3
    )


def test_ordinary_residuals_take_scale_1(photo, estimate):
    assert residual.encode(photo, estimate, quality=50, speed=9).scale == 1


@pytest.mark.parametrize(
    ("quality", "weight"), [(1, 8), (15, 8), (16, 5), (28, 3), (36, 2), (44, 1), (100, 1)]
)
def test_the_estimate_weighs_less_the_finer_the_quality(quality, weight):
    assert residual.default_weight(quality) == weight


@pytest.mark.parametrize("weight", range(1, residual.MAX_WEIGHT + 1))
def test_the_prediction_is_the_estimate_drawn_towards_mid_gray(weight):
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    exact = 128 + weight / 8 * (levels.astype(float) - 128)
    prediction = residual.prediction(levels, weight)
    assert prediction.dtype == np.int16
    assert np.array_equal(prediction, np.floor(exact + 0.5))


def test_another_weight_decodes_to_another_image(photo, estimate):
    coded = residual.encode(photo, estimate, quality=60, speed=9)
    assert coded.weight == residual.default_weight(60) < residual.MAX_WEIGHT
    other = residual.CodedResidual(coded.payload, coded.scale, residual.MAX_WEIGHT)
    right, wrong = residual.decode(coded, estimate), residual.decode(other, estimate)
    assert _psnr(photo, right) > _psnr(photo, wrong) + 5


@pytest.mark.parametrize(("quality", "speed"), [(0, 6), (101, 6), (50, 11), (50, -1)])
def test_arguments_out_of_range_are_named(photo, estimate, quality, speed):
    with pytest.raises(UsageError, match="out of range"):
        residual.encode(photo, estimate, quality=quality, speed=speed)


def test_damaged_payloads_raise_stream_errors(photo, estimate):
    coded = residual.encode(photo, estimate, quality=30, speed=9)
    for bad in (b"", b"\x0a", coded.payload[:3], coded.payload[:40], b"\xff" * 100, coded.payload[20:]):
        with pytest.raises(StreamError):
            residual.decode(residual.CodedResidual(bad, 1, residual.MAX_WEIGHT), estimate)


def test_a_payload_of_another_size_is_refused(photo, estimate):
    coded = residual.encode(photo, estimate, quality=30, speed=9)
    with pytest.raises(StreamError, match="the residual is 451x300, the image 200x100"):
        residual.decode(coded, estimate[:100, :200])


def test_a_second_sequence_header_of_another_size_is_refused():
    """AV1 decoders take the last one: it would cost memory for any size, and come back scaled."""
    small, large = (
        av1.unwrap(_avif(Image.new("RGB", size, "gray"), subsampling="4:4:4"))
        for size in ((32, 32), (640, 480))
    )
    first = next(small[start:end] for kind, start, _, end in av1._obus(small) if kind == 1)
    coded = residual.CodedResidual(first + large, 1, residual.MAX_WEIGHT)
    with pytest.raises(StreamError, match="the residual is 640x480, the image 32x32"):
        residual.decode_samples(coded, (32, 32, 3))


def _sequence_header(width, height, monochrome=False, **changes):
    """A sequence header of a reduced still picture, field by field, as an open bitstream unit."""
    fields = {
        "profile": (0 if monochrome else 1, 3), "still": (1, 1), "reduced": (1, 1), "level": (0, 5),
        "width_bits": (15, 4), "height_bits": (15, 4), "width": (width - 1, 16), "height": (height - 1, 16),
        "tools": (0, 3), "superres": (0, 1), "filters": (0, 2), "high_depth": (0, 1), "twelve_bit": (0, 0),
        "one_plane": (int(monochrome), 1 if changes.get("profile", 0 if monochrome else 1) != 1 else 0),
        "described": (1, 1), "primaries": (1, 8), "transfer": (13, 8), "matrix": (6, 8), "full_range": (1, 1),
        "subsampling": (0, 0), "position": (0, 0), "separate": (0, 0 if monochrome else 1), "grain": (0, 1),
        "stop": (1, 1),
    }  # fmt: skip
    text = ""
    for name, field in fields.items():
        change = changes.get(name, field)
        value, count = change if isinstance(change, tuple) else (change, field[1])
        text += f"{value:0{count}b}" if count else ""
    data = int(text.ljust(-len(text) // 8 * -8, "0"), 2).to_bytes(-(-len(text) // 8), "big")
    return bytes([0x0A, len(data)]) + data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"described": 0, "primaries": (0, 0), "transfer": (0, 0), "matrix": (0, 0)}, None),
        ({"high_depth": 1}, "more than 8 bit"),
        ({"profile": 2, "high_depth": 1, "twelve_bit": (1, 1)}, "profile 2, more than 8 bit"),
        ({"profile": 0, "position": (0, 2)}, "profile 0; it must be 8 bit, YCbCr 4:4:4"),  # 4:2:0
        ({"profile": 2}, "profile 2; it must be"),  # 4:2:2
        ({"profile": 0, "one_plane": (1, 1), "separate": (0, 0)}, "one plane; it must be 8 bit, YCbCr"),
        ({"matrix": 0}, "matrix coefficients 0"),
        ({"matrix": 9}, "matrix coefficients 9"),
        ({"full_range": 0}, "limited range"),
        ({"grain": 1}, "film grain"),
        ({"superres": 1}, "super-resolution"),
        ({"reduced": 0}, "reduced still picture"),
    ],
    ids=str,
)
def test_only_the_kind_of_picture_that_streams_have_is_decoded(changes, message):
    good = av1.unwrap(_avif(Image.new("RGB", (48, 32), "gray"), subsampling="4:4:4"))
    frame = next(good[start:end] for kind, start, _, end in av1._obus(good) if kind == 6)
    data = _sequence_header(48, 32, **changes) + frame
    if message is None:
        av1.wrap(data, 48, 32, monochrome=False)
    else:
        with pytest.raises(StreamError, match=message):
            av1.wrap(data, 48, 32, monochrome=False)


def test_color_in_gray_layouts_and_gray_in_color_are_refused():
    av1.wrap(_sequence_header(48, 32, monochrome=True) + b"\x32\0", 48, 32, monochrome=True)
    with pytest.raises(StreamError, match="must be 8 bit, one plane"):
        av1.wrap(_sequence_header(48, 32) + b"\x32\0", 48, 32, monochrome=True)
    with pytest.raises(StreamError, match="must be 8 bit, YCbCr 4:4:4"):
        av1.wrap(_sequence_header(48, 32, monochrome=True) + b"\x32\0", 48, 32, monochrome=False)


def test_real_pictures_of_other_kinds_are_refused(photo, estimate):
    """What encoders make, not only headers made for the test."""
    coded = residual.encode(photo, estimate, quality=60)
    picture = Image.fromarray(photo)
    for subsampling in ("4:2:0", "4:2:2", "4:0:0"):
        payload = av1.unwrap(_avif(picture, subsampling=subsampling))
        with pytest.raises(StreamError, match="must be 8 bit, YCbCr 4:4:4"):
            residual.decode(residual.CodedResidual(payload, 1, 8), estimate)
    limited = av1.unwrap(_avif(picture, subsampling="4:4:4", range="limited"))
    with pytest.raises(StreamError, match="limited range"):
        residual.decode(residual.CodedResidual(limited, 1, 8), estimate)
    with pytest.raises(StreamError, match="must be 8 bit, one plane"):
        residual.decode(coded, estimate[:, :, 0])
    grainy = av1.unwrap(_avif(picture, subsampling="4:4:4", codec="aom", advanced={"film-grain-test": "1"}))
    with pytest.raises(StreamError, match="film grain"):
        residual.decode(residual.CodedResidual(grainy, 1, 8), estimate)


def test_a_residual_is_one_picture(photo, estimate):
    payload = residual.encode(photo, estimate, quality=30, speed=9).payload
    frame = next(payload[start:end] for kind, start, _, end in av1._obus(payload) if kind == 6)
    for more, message in (
        (frame, "has 2 frames"),
        (b"\x2a\x01\0", "unit of type 5"),
        (b"\x12\0", "unit of type 2"),
    ):
        with pytest.raises(StreamError, match=message):
            residual.decode(residual.CodedResidual(payload + more, 1, 8), estimate)


@pytest.mark.parametrize("data", [b"", b"\0\0\0\x08mdat\0\0\0\x04", b"\0\0\0\x01free", b"\0\0\0\xffmdat"])
def test_unwrap_refuses_what_is_no_avif(data):
    with pytest.raises(StreamError):
        av1.unwrap(data)


@pytest.mark.parametrize("quality", [40, 60, 90])
def test_the_residual_brings_no_color_cast(photo, estimate, quality):
    coded = residual.encode(photo, estimate, quality=quality)
    cast = np.mean(residual.decode(coded, estimate).astype(float) - photo, axis=(0, 1))
    assert np.abs(cast).max() < 0.3


def test_samples_are_moved_to_where_cut_chroma_is_rounded_chroma(photo):
    rgb = photo.astype(np.float64)
    to_yuv = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    wanted = np.rint(rgb @ to_yuv.T)
    moved = compensate_rounding(photo) @ to_yuv.T
    inside = ((photo > 4) & (photo < 251)).all(axis=2)
    assert np.mean(np.rint(moved[..., 0])[inside] == wanted[..., 0][inside]) > 0.99
    for plane in (1, 2):
        assert np.mean(np.floor(moved[..., plane])[inside] == wanted[..., plane][inside]) > 0.95


def test_the_best_quality_is_nearly_lossless(photo, estimate):
    assert _psnr(photo, residual.decode(residual.encode(photo, estimate, quality=100), estimate)) > 51
