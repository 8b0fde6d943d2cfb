"""Arrays for any graph's inputs: random with stated ranges, from files, from photographs; what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
from oslic.runtime.errors import DataError, UsageError
from oslic.runtime.model import Port, check_feeds, random_feeds
from oslic.runtime.model.feeds import read_arrays, write_arrays
from oslic.runtime.model.pictures import Preprocessing, read_pictures
from PIL import Image

IMAGE = Port("image", "float32", ("N", 3, "H", "W"))
KIND = Port("kind", "int64", ("N",))


def test_random_inputs_keep_to_their_ranges_and_their_seed():
    ports = (IMAGE, KIND, Port("raw", "uint8", (2, 50)), Port("mask", "bool", (64,)))
    one = random_feeds(
        ports, {"image": (2, 3, 8, 8), "kind": (2,)}, {"image": (-2, 3), "kind": (5, 7)}, seed=1
    )
    assert {name: x.dtype for name, x in one.items()} == {port.name: port.numpy for port in ports}
    assert -2 <= one["image"].min() < -1.5
    assert 2.5 < one["image"].max() < 3
    assert set(one["kind"]) <= {5, 6, 7}
    assert one["raw"].max() > 200
    assert set(one["mask"]) == {True, False}
    again = random_feeds(
        ports, {"image": (2, 3, 8, 8), "kind": (2,)}, {"image": (-2, 3), "kind": (5, 7)}, seed=1
    )
    assert all(np.array_equal(one[name], again[name]) for name in one)


def test_a_first_dimension_that_is_open_is_one():
    assert random_feeds((Port("x", "float32", ("N", 5)),))["x"].shape == (1, 5)


@pytest.mark.parametrize(
    ("shapes", "ranges", "reason"),
    [
        (
            {},
            {},
            r"the input image float32 Nx3xHxW has no fixed size: give one, such as --shapes image=1x3x256x256",
        ),
        (
            {"imgae": (1, 3, 8, 8)},
            {},
            r"--shapes: no input 'imgae'; the graph takes image float32 Nx3xHxW, kind int64 N",
        ),
        ({"image": (1, 4, 8, 8)}, {}, r"--shapes image=1x4x8x8 does not fit the input image float32 Nx3xHxW"),
        ({"image": (1, 3, 8)}, {}, r"does not fit the input image"),
        ({"image": (1, 3, 8, 8)}, {"knid": (0, 1)}, "--range: no input 'knid'"),
        ({"image": (1, 3, 8, 8)}, {"kind": (0, 0.5)}, "the input is int64, whole numbers"),
    ],
)
def test_sizes_and_ranges_that_do_not_fit_are_named(shapes, ranges, reason):
    with pytest.raises(UsageError, match=reason):
        random_feeds((IMAGE, KIND), shapes, ranges)


@pytest.mark.parametrize(
    ("feeds", "reason"),
    [
        ({"image": np.zeros((1, 3, 8, 8), np.float32)}, "f.npz: no array for the input kind int64 N"),
        (
            {"image": np.zeros((1, 3, 8, 8)), "kind": np.zeros(1, np.int64)},
            "the input image is float64 1x3x8x8, the graph expects float32 Nx3xHxW",
        ),
        (
            {"image": np.zeros((1, 8, 8, 3), np.float32), "kind": np.zeros(1, np.int64)},
            "the input image is float32 1x8x8x3, the graph expects float32 Nx3xHxW",
        ),
        (
            {"image": np.zeros((1, 3, 8, 8), np.float32), "kind": np.zeros(2, np.int64)},
            "the input kind is int64 2, but N is 1 in image",
        ),
        ({"other": np.zeros(1)}, "no input 'other'"),
    ],
)
def test_arrays_that_do_not_fit_are_named_with_what_is_expected(feeds, reason):
    with pytest.raises(UsageError, match=reason):
        check_feeds(feeds, (IMAGE, KIND), "f.npz")


def test_ranges_of_an_engine_take_what_is_inside_and_need_not_be_equal():
    port = Port("x", "float32", ("1..4", 3, "64..512", "64..512"))
    check_feeds({"x": np.zeros((1, 3, 64, 512), np.float32)}, (port,), "f.npz")
    for shape in ((5, 3, 64, 64), (1, 3, 32, 64), (1, 3, 64, 513)):
        with pytest.raises(UsageError, match=r"the graph expects float32 1\.\.4x3x64\.\.512x64\.\.512"):
            check_feeds({"x": np.zeros(shape, np.float32)}, (port,), "f.npz")


def test_arrays_go_to_a_file_and_back(tmp_path):
    feeds = {"image": np.ones((1, 3, 8, 8), np.float32), "kind": np.array([4])}
    write_arrays(tmp_path / "a.npz", feeds)
    back = read_arrays(tmp_path / "a.npz", (IMAGE, KIND))
    assert all(np.array_equal(back[name], x) for name, x in feeds.items())
    np.save(tmp_path / "a.npy", feeds["kind"])
    assert np.array_equal(read_arrays(tmp_path / "a.npy", (KIND,))["kind"], [4])
    with pytest.raises(UsageError, match="holds a single array; the graph takes image"):
        read_arrays(tmp_path / "a.npy", (IMAGE, KIND))
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "n.npz").write_bytes(b"nothing")
    for name in ("o.npy", "n.npz"):
        with pytest.raises(UsageError, match="holds no arrays by input name"):
            read_arrays(tmp_path / name, (KIND,))


def test_preprocessing_does_what_it_states(photo):
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    x = Preprocessing(mean=mean, std=std).array(photo, IMAGE, "chelsea.png")
    wanted = (photo / 255 - mean) / std
    np.testing.assert_allclose(x[0].transpose(1, 2, 0), wanted, rtol=1e-5, atol=1e-6)
    raw = Preprocessing(bgr=True).array(photo, Port("x", "uint8", (1, "H", "W", 3)), "chelsea.png")
    assert np.array_equal(raw[0], photo[..., ::-1])
    small = Preprocessing(size=(48, 32)).array(photo, IMAGE, "chelsea.png")
    by_pillow = np.asarray(Image.fromarray(photo).resize((48, 32), Image.Resampling.BICUBIC)) / 255
    np.testing.assert_allclose(small[0].transpose(1, 2, 0), by_pillow, atol=1e-6)
    cut = Preprocessing(size=(48, 32), fit="crop").array(photo, IMAGE, "chelsea.png")
    top, left = (photo.shape[0] - 32) // 2, (photo.shape[1] - 48) // 2
    np.testing.assert_allclose(
        cut[0].transpose(1, 2, 0), photo[top : top + 32, left : left + 48] / 255, atol=1e-6
    )
    gray = Preprocessing().array(photo[..., 0], IMAGE, "gray.png")
    assert np.array_equal(gray[0, 0], gray[0, 2])
    luma = Preprocessing().array(photo, Port("x", "uint8", ("N", 1, "H", "W")), "chelsea.png")
    assert np.abs(luma[0, 0] - photo @ np.array([0.299, 0.587, 0.114])).max() <= 0.5


@pytest.mark.parametrize(
    ("settings", "port", "reason"),
    [
        ({}, Port("x", "float32", ("N", "C", "H", "W")), "give --layout nchw or --layout nhwc"),
        ({}, Port("x", "float32", (1, 3, 8, 3)), "cannot be told"),
        ({}, Port("x", "float32", (1, 8)), "takes no batch of images"),
        ({"layout": "nhwc"}, Port("x", "float32", ("N", 3, "H", 8)), "has 8 channels as nhwc"),
        ({"size": (16, 8)}, Port("x", "float32", ("N", 3, 32, 32)), "--size 16x8: the height of the input x"),
        ({"mean": (0.1, 0.2)}, IMAGE, "--mean has 2 values"),
        ({"mean": (300.0,)}, Port("x", "uint8", ("N", 3, "H", "W")), "values beyond uint8"),
    ],
)
def test_preprocessing_that_does_not_fit_the_input_is_named(photo, settings, port, reason):
    with pytest.raises(UsageError, match=reason):
        Preprocessing(**settings).array(photo, port, "chelsea.png")


def test_photographs_too_small_to_crop_and_folders_without_any_are_named(photo, tmp_path, samples):
    with pytest.raises(DataError, match="too few to crop"):
        Preprocessing(size=(9999, 8), fit="crop").array(photo, IMAGE, "chelsea.png")
    with pytest.raises(DataError):
        read_pictures(tmp_path, IMAGE, Preprocessing(), 4)
    found = read_pictures(samples, IMAGE, Preprocessing(size=(32, 16)), 2)
    assert [x.shape for x in found] == [(1, 3, 16, 32)] * 2
