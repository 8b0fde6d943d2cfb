"""A codec of another kind through the toolkit: layouts, tiles, metadata, checks, and what strangers write."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from kind_bundles import hyper_synthesis, tables, write_transform
from oslic.runtime.bundle.folder import write_bundle
from oslic.runtime.codec import Codec
from oslic.runtime.codec.container import StreamReader
from oslic.runtime.codec.request import make_request
from oslic.runtime.errors import (
    BundleError,
    LimitError,
    OslicError,
    StreamError,
    UsageError,
    VerificationError,
)
from oslic.runtime.image.arrays import luma, psnr
from oslic.runtime.image.metadata import Metadata
from oslic.runtime.kinds.codec import KindCodec
from oslic.runtime.kinds.opening import open_codec
from oslic.runtime.limits import Limits
from PIL import Image


@pytest.fixture(scope="module", params=["none", "scale", "mean_scale"])
def codec(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / request.param
    write_transform(folder, request.param)
    with open_codec(folder, "onnxruntime-cpu", threads=1) as opened:
        assert isinstance(opened, KindCodec)
        yield opened


@pytest.fixture(scope="module")
def scale_codec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "scale"
    write_transform(folder)
    with open_codec(folder, "onnxruntime-cpu", threads=1) as opened:
        yield opened


def means(photo: np.ndarray) -> np.ndarray:
    """What the hand-written networks must decode to but for their own rounding to steps of 4 levels: block means."""
    return np.asarray(Image.fromarray(photo).reduce(16)).astype(float)


def test_the_decoded_picture_is_what_the_networks_make(codec, photo):
    decoded = codec.decompress(codec.compress(photo))
    assert decoded.shape == photo.shape
    whole = photo[:288, :448]
    expected = means(whole)
    found = means(decoded[:288, :448])
    # Steps of 4 levels are rounded to within 2 of each mean; the fourth latent moves halves against each other.
    assert np.abs(found - expected).max() <= 3.0
    assert psnr(photo, decoded) > psnr(photo, np.full_like(photo, 128)) + 3


def test_layouts_come_back(codec, photo):
    gray = luma(photo)
    alpha = np.tile(np.arange(photo.shape[1], dtype=np.uint8), (photo.shape[0], 1))
    for image in (gray, np.dstack([gray, alpha]), np.dstack([photo, alpha])):
        decoded = codec.decompress(codec.compress(image))
        assert decoded.shape == image.shape
        if image.ndim == 3:
            assert np.array_equal(decoded[..., -1], alpha)
    rgb = codec.decompress(codec.compress(np.repeat(gray[:, :, None], 3, axis=2)))
    assert np.array_equal(codec.decompress(codec.compress(gray)), luma(rgb))


def test_tiles_are_pictures_of_their_own(scale_codec, photo):
    request = dataclasses.replace(make_request(), tile=128)
    encoded = scale_codec.encode(photo, request)
    assert (encoded.grid.columns, encoded.grid.rows) == (4, 3)
    whole = scale_codec.decode(encoded.data).image
    corner = scale_codec.decompress(scale_codec.compress(photo[128:256, 256:384]))
    assert np.array_equal(whole[128:256, 256:384], corner)
    part = scale_codec.decode(encoded.data, region=(200, 100, 90, 77)).image
    assert np.array_equal(part, whole[100:177, 200:290])


def test_metadata_is_carried(scale_codec, photo):
    metadata = Metadata(icc=b"profile", xmp=b"<x/>")
    decoded = scale_codec.decode(scale_codec.encode(photo, make_request(metadata=metadata)).data)
    assert decoded.metadata == metadata


def test_streams_are_the_same_whatever_the_threads(scale_codec, photo):
    data = scale_codec.compress(photo)
    with open_codec(scale_codec.bundle, "onnxruntime-cpu", threads=2) as other:
        assert other.compress(photo) == data
        assert np.array_equal(other.decompress(data), scale_codec.decompress(data))


def test_another_hyper_synthesis_is_found_out(scale_codec, photo, tmp_path):
    data = scale_codec.compress(photo)
    model = hyper_synthesis(means=False)
    for tensor in model.graph.initializer:
        values = np.frombuffer(tensor.raw_data, np.float32).copy()
        if values.size == 8:  # the kernel: other scales, as another machine's rounding would give
            tensor.raw_data = (values * 0.3).tobytes()
    bundle = scale_codec.bundle
    changed = model.SerializeToString()
    manifest = bundle.manifest
    info = dataclasses.replace(manifest.graphs["hyper_synthesis"], sha256=hashlib.sha256(changed).hexdigest())
    manifest = dataclasses.replace(manifest, graphs={**manifest.graphs, "hyper_synthesis": info})
    files = {info.file: bundle.read_graph(name) for name, info in bundle.manifest.graphs.items()}
    files |= {"hyper_synthesis.onnx": changed, "tables.json": bundle.read_file("tables")}
    write_bundle(tmp_path / "other", manifest, files, replace=False)
    with (
        open_codec(tmp_path / "other", "onnxruntime-cpu") as other,
        pytest.raises(VerificationError, match="scales"),
    ):
        other.decode(data)


def test_what_a_kind_does_not_know_is_refused(scale_codec, photo):
    for request in (
        make_request(50),
        make_request(bpp=1.0),
        make_request(lossless=True),
        make_request(focus="person"),
    ):
        with pytest.raises(UsageError, match="'transform'"):
            scale_codec.encode(photo, request)
    data = scale_codec.compress(photo)
    for options in ({"layer": "estimate"}, {"partial": True}, {"region": (0, 0, 999, 1)}):
        with pytest.raises(UsageError):
            scale_codec.decode(data, **options)


def test_streams_and_bundles_of_different_kinds_are_told_apart(codec, scale_codec, photo):
    with Codec.open(threads=1) as ours:
        with pytest.raises(StreamError, match="of the kind 'transform', not 'oslic'"):
            ours.decode(codec.compress(photo))
        with pytest.raises(BundleError, match="the stream is of the kind 'oslic'"):
            codec.decode(ours.compress(photo[:64, :64], 0))
    with pytest.raises(BundleError, match="open_codec"):
        Codec.open(codec.bundle)
    if codec.bundle.manifest.settings["hyperprior"] != "scale":
        with pytest.raises(BundleError, match="made with the networks"):
            scale_codec.decode(codec.compress(photo))


def test_limits_hold(tmp_path):
    bundle = write_transform(tmp_path / "bundle")
    image = np.zeros((600, 600, 3), np.uint8)
    with open_codec(bundle, "onnxruntime-cpu") as codec:
        data = codec.encode(image).data
    with (
        open_codec(bundle, "onnxruntime-cpu", limits=Limits(pixels=1000)) as small,
        pytest.raises(LimitError, match="pixels"),
    ):
        small.decode(data)
    with (
        open_codec(bundle, "onnxruntime-cpu", limits=Limits(memory=53 << 20)) as small,
        pytest.raises(LimitError, match="memory"),
    ):
        small.decode(data)


def test_truncated_and_altered_files_are_refused(scale_codec, photo):
    data = scale_codec.compress(photo[:128, :128])
    for length in range(0, len(data), 7):
        with pytest.raises(StreamError):
            scale_codec.decode(data[:length])
    for place in range(len(data)):
        with pytest.raises(OslicError):
            scale_codec.decode(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])


def test_a_stream_lists_its_sections_without_its_kind(scale_codec, photo):
    reader = StreamReader.of_bytes(scale_codec.compress(photo), Limits())
    assert [section.name for section in reader.info.sections] == ["0x01", "0x02", "checks"]
    assert reader.header.kind == "transform"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["apart"]["counts"][0].__setitem__(0, 2), "does not sum to 65536"),
        (lambda t: t["apart"]["counts"][0].__setitem__(0, 0), "does not sum to 65536"),
        (lambda t: t["by_scale"]["offsets"].reverse(), "do not ascend"),
        (lambda t: t["by_scale"]["counts"].pop(), "first numbers"),
        (lambda t: t["apart"]["first"].__setitem__(0, 1 << 40), "must begin with a whole number"),
        (lambda t: t["apart"]["offsets"].pop(), "as many of both"),
        (lambda t: t.pop("by_scale"), "must hold apart and by_scale"),
    ],
)
def test_tables_that_cannot_be_are_refused(change, message, tmp_path):
    body = tables(hyperprior=True)
    body["apart"]["counts"] = [list(row) for row in body["apart"]["counts"]]
    change(body)
    bundle = write_transform(tmp_path / "bundle", file=json.dumps(body).encode())
    with pytest.raises(BundleError, match=message):
        open_codec(bundle, "onnxruntime-cpu")


@pytest.mark.parametrize(
    "settings", [{"hyperprior": "other"}, {"latents": 0}, {"latents": True}, {"hyperprior": "none"}]
)
def test_settings_that_cannot_be_are_refused(settings, tmp_path):
    bundle = write_transform(tmp_path / "bundle")
    manifest = dataclasses.replace(bundle.manifest, settings={**bundle.manifest.settings, **settings})
    bundle = dataclasses.replace(bundle, manifest=manifest)
    with pytest.raises(BundleError):
        open_codec(bundle, "onnxruntime-cpu")


# -- kinds that do not do what they promise ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encode", "message"),
    [
        (lambda image, run: None, "returned NoneType, must be sections by name"),
        (
            lambda image, run: {"hyper": b"", "latents": "text"},
            "made str of the section 'latents', must be bytes",
        ),
        (lambda image, run: 1 // 0, "cannot encode: ZeroDivisionError"),
        (lambda image, run: run("nope", image=image[None]), "has no graph 'nope'"),
        (lambda image, run: image.__setitem__(slice(None), 0), "cannot encode: ValueError"),
    ],
)
def test_an_encoder_that_fails_is_told_as_an_error_of_the_bundle(
    tmp_path, photo, monkeypatch, encode, message
):
    picture = np.ascontiguousarray(photo[:128, :192])
    before = picture.copy()
    with open_codec(write_transform(tmp_path / "kind"), "onnxruntime-cpu", threads=1) as codec:
        monkeypatch.setattr(codec.kind, "encode", encode)
        with pytest.raises(BundleError, match=message):
            codec.compress(picture)
    # The picture is the caller's.
    assert np.array_equal(picture, before)


def test_only_arrays_of_integers_are_checked(tmp_path, photo, monkeypatch):
    with open_codec(write_transform(tmp_path / "kind"), "onnxruntime-cpu", threads=1) as codec:
        monkeypatch.setattr(codec.kind, "encode", lambda image, run: run.check("numbers", [1]))
        with pytest.raises(UsageError, match="what is checked is list, must be an array of integers"):
            codec.compress(photo)
