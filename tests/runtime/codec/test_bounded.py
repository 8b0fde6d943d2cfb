"""Lossless and near-lossless coding: every sample within its bound, whatever the picture, layout and networks."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest
import small_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from oslic.cli.main import main
from oslic.runtime import flif
from oslic.runtime.bundle.folder import Bundle, write_bundle
from oslic.runtime.codec import Codec, Settings, bounded
from oslic.runtime.codec.bounded import BoundedResidual, encode_bounded
from oslic.runtime.codec.container import SectionType, StreamReader, digest
from oslic.runtime.codec.parameters import Parameters, ResidualMode
from oslic.runtime.codec.stream import open_stream, read_record
from oslic.runtime.errors import ImageError, StreamError, UsageError, VerificationError
from oslic.runtime.image.arrays import Layout
from oslic.runtime.limits import Limits
from oslic.runtime.segmentation_size import reduce_image
from PIL import Image
from stream_tools import changed, take_apart, with_record

FAST = 0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return small_bundle.write(tmp_path_factory.mktemp("bundles") / "small", refines=True)


@pytest.fixture(scope="module")
def codec(bundle):
    with Codec.open(bundle, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def exact_codec(bundle, tmp_path_factory):
    """The same networks, said to be exact: what follows for the residual of tiles is what is tested."""
    folder = tmp_path_factory.mktemp("bundles") / "exact"
    files = {bundle.manifest.graphs[name].file: bundle.read_graph(name) for name in bundle.manifest.graphs}
    write_bundle(folder, dataclasses.replace(bundle.manifest, exact=True), files, replace=False)
    with Codec.open(Bundle.open(folder), threads=1) as opened:
        yield opened


def in_layout(rgb, layout):
    alpha = (rgb[..., 1] > 90).astype(np.uint8) * 200
    planes = {
        Layout.GRAY: rgb[..., 0],
        Layout.GRAY_ALPHA: np.dstack([rgb[..., 0], alpha]),
        Layout.RGB: rgb,
        Layout.RGBA: np.dstack([rgb, alpha]),
    }
    return np.ascontiguousarray(planes[layout])


def records(data):
    reader = open_stream(data, Limits())
    parameters = Parameters.from_bytes(reader.header.parameters)
    return [read_record(reader, tile, parameters) for tile in range(reader.header.grid.count)]


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("size", [(1, 1), (53, 37), (96, 64)])
def test_lossless_gives_back_every_sample(codec, photo, layout, size):
    """Of the color under alpha 0 as well, which lossy coding replaces."""
    image = in_layout(photo[: size[0], : size[1]], layout)
    if layout.has_alpha and image.size > 4:
        assert (image[..., -1] == 0).any()
    assert np.array_equal(codec.decompress(codec.compress(image, lossless=True, effort=FAST)), image)


@pytest.mark.parametrize("kind", ["noise", "black and white", "flat", "ramp"])
def test_lossless_of_pictures_that_are_no_photographs(exact_codec, kind):
    random = np.random.default_rng(5)
    pictures = {
        "noise": random.integers(0, 256, (40, 72, 3)),
        "black and white": 255 * random.integers(0, 2, (40, 72, 3)),
        "flat": np.full((40, 72, 3), 200),
        "ramp": np.arange(40 * 72 * 3).reshape(40, 72, 3) % 256,
    }
    image = pictures[kind].astype(np.uint8)
    data = exact_codec.compress(image, lossless=True, effort=FAST)
    assert np.array_equal(exact_codec.decompress(data, strict=True), image)


@pytest.mark.parametrize("bound", [1, 2, 5, 16])
@pytest.mark.parametrize("layout", [Layout.RGBA, Layout.GRAY])
def test_near_lossless_keeps_its_bound_and_uses_it(codec, photo, layout, bound):
    image = in_layout(photo[:96, :120], layout)
    data = codec.compress(image, max_error=bound, effort=FAST)
    decoded = codec.decompress(data).astype(int)
    assert np.abs(decoded - image).max() == bound
    if layout.has_alpha:
        assert np.array_equal(decoded[..., -1], image[..., -1])
    assert len(data) < len(codec.compress(image, lossless=True, effort=FAST))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 16),
    st.one_of(st.none(), st.integers(0, 8)),
    st.integers(0, 2**31),
    st.sampled_from([(0, 256), (0, 5), (250, 256)]),
)
def test_the_arithmetic_keeps_the_bound_for_any_prediction(bound, weight, seed, ends):
    """Samples at both ends of the range, where reconstructions are clipped, and residuals of more than 8 bits."""
    random = np.random.default_rng(seed)
    color = random.integers(*ends, (7, 9, 3)).astype(np.uint8)
    estimate = random.integers(0, 256, (7, 9, 3)).astype(np.uint8)
    coded = bounded._encode(color, estimate, bound, weight, FAST)
    found = coded.add(coded.samples(color.shape), estimate)
    assert np.abs(found.astype(int) - color).max() <= bound


def test_reconstruction_is_what_the_document_says():
    """docs/reference/stream.md, by plain Python for each sample."""
    random = np.random.default_rng(8)
    samples = random.integers(0, 256, (5, 6, 3)).astype(np.uint8)
    estimate = random.integers(0, 256, (5, 6, 3)).astype(np.uint8)
    for bound in (0, 1, 16):
        step = 2 * bound + 1
        for weight in (None, 0, 3, 8):
            found = BoundedResidual(b"", bound, weight).add(samples, estimate)
            for s, e, x in zip(samples.flat, estimate.flat, found.flat, strict=True):
                p = 128 + (int(weight or 0) * (int(e) - 128) + 4) // 8
                if weight is None:
                    wanted = min(255, step * int(s))
                elif bound == 0:
                    wanted = (p + int(s) - 128) % 256
                else:
                    wanted = min(255, max(0, p + step * (int(s) - 128)))
                assert x == wanted


def test_networks_that_are_not_exact_leave_the_picture_to_itself(codec, exact_codec, photo):
    """An estimate that other machines may not have must not decide what a sample is."""
    image = np.ascontiguousarray(photo[:64, :96])
    for opened, modes in ((codec, {ResidualMode.FLIF_PICTURE}), (exact_codec, set(ResidualMode))):
        made = opened.compress(image, lossless=True, effort=FAST)
        assert {record.mode for record in records(made)} <= modes
        assert Parameters.from_bytes(open_stream(made, Limits()).header.parameters).exact is (
            opened is exact_codec
        )


def test_the_residual_is_taken_where_it_is_smaller():
    """A picture that its estimate predicts well costs less as what it differs by."""
    random = np.random.default_rng(3)
    estimate = random.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    color = (estimate + random.integers(0, 3, estimate.shape)).astype(np.uint8)
    coded, _ = encode_bounded(color, estimate, 0, effort=FAST)
    assert coded.weight == 8
    assert len(coded.payload) < 0.5 * len(flif.encode(color, effort=FAST))
    assert np.array_equal(coded.add(coded.samples(color.shape), estimate), color)
    assert encode_bounded(color, None, 0, effort=FAST)[0].weight is None


def test_a_lossless_stream_with_another_estimate_is_an_error(exact_codec, photo):
    """Not a warning: its samples are wrong."""
    image = np.ascontiguousarray(photo[:64, :96])
    layers = exact_codec.layers(image)
    data = exact_codec.compress(image, lossless=True, effort=FAST)
    weight = 4
    coded = bounded._encode(image, layers.estimate, 0, weight, FAST)
    data = changed(data, SectionType.RESIDUAL, coded.payload)
    data = with_record(
        data,
        mode=ResidualMode.FLIF_RESIDUAL,
        weight=weight,
        residual_digest=digest(coded.samples(image.shape)),
    )
    assert np.array_equal(exact_codec.decompress(data), image)
    wrong = with_record(data, estimate_digest=b"abcd")
    with pytest.raises(VerificationError, match="the estimate differs from the encoder's"):
        exact_codec.decompress(wrong)
    assert exact_codec.decode(wrong).is_wrong


def test_a_picture_that_was_changed_is_an_error(codec, photo):
    """Its checksums are right, its digest is not."""
    image = np.ascontiguousarray(photo[:32, :40])
    data = codec.compress(image, lossless=True, effort=FAST)
    other = image.copy()
    other[3, 4, 1] ^= 1
    wrong = changed(data, SectionType.RESIDUAL, flif.encode(other, crc=False))
    with pytest.raises(VerificationError):
        codec.decompress(wrong)
    with pytest.raises(StreamError):
        codec.decompress(changed(data, SectionType.RESIDUAL, flif.encode(other[:, :-1].copy(), crc=False)))


def test_a_drifted_estimate_is_an_error_of_exact_streams_alone(codec, exact_codec, photo):
    """Of other lossy streams it is a warning; a residual that drifts is one of exact streams as well."""
    image = np.ascontiguousarray(photo[:64, :96])
    lossy = codec.compress(image, 20, effort=FAST)
    exact = exact_codec.compress(image, 20, effort=FAST)
    with pytest.warns(UserWarning, match="estimate differs"):
        codec.decompress(with_record(lossy, estimate_digest=b"abcd"))
    with pytest.raises(VerificationError, match="estimate differs"):
        exact_codec.decompress(with_record(exact, estimate_digest=b"abcd"))
    drifted = with_record(exact, residual_digest=b"abcd")
    with pytest.warns(UserWarning, match="residual differs"):
        exact_codec.decompress(drifted)
    with pytest.raises(VerificationError, match="residual differs"):
        exact_codec.decompress(drifted, strict=True)


def test_labels_preview_estimate_and_regions_are_there(codec, photo):
    image = np.ascontiguousarray(photo)
    layers = codec.layers(image, tile=192, halo=32)
    data = codec.finish(codec.layers(image, Settings(max_error=0, effort=FAST), tile=192, halo=32)).data
    assert len(records(data)) == layers.grid.count > 1
    left, top, width, height = region = (100, 90, 150, 130)
    part = codec.decompress(data, region=region)
    assert np.array_equal(part, image[top : top + height, left : left + width])
    estimate = codec.decode(data, layer="estimate").image
    assert estimate.shape == image.shape
    assert codec.decode_labels(data).width == image.shape[1]
    decoded = codec.decode(data, with_estimate=True)
    assert np.array_equal(decoded.estimate, estimate)
    assert np.array_equal(decoded.image, image)


def test_no_network_runs_for_the_picture_itself(bundle, photo):
    with Codec.open(bundle, threads=1) as codec:
        data = codec.compress(np.ascontiguousarray(photo[:64, :64]), lossless=True, effort=FAST)
    with Codec.open(bundle, threads=1) as codec:
        codec.decompress(data)
        assert not codec.graphs._runners


def test_auto_layers_leave_out_what_a_lossless_picture_does_not_need(codec, photo):
    image = np.ascontiguousarray(photo[:96, :96])
    always, auto = (
        codec.compress(image, lossless=True, effort=FAST, layers=mode) for mode in ("always", "auto")
    )
    assert [record.plain for record in records(always)] == [False]
    assert [record.plain for record in records(auto)] == [True]
    assert len(auto) < len(always)
    assert np.array_equal(codec.decompress(auto), image)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"lossless": True, "quality": 50}, "quality and lossless are ways to say one thing"),
        ({"lossless": True, "max_error": 2}, "lossless and max_error are ways to say one thing"),
        ({"max_error": 0}, "max_error is 0, must be at least 1: that is lossless"),
        ({"max_error": 17}, "17 is out of range 1..16"),
        ({"max_error": 1.5}, "max_error is 1.5: must be a whole number"),
        ({"lossless": True, "class_quality": {"1": 20}}, "the quality of classes is for lossy coding"),
    ],
)
def test_what_cannot_be_asked_for(codec, photo, arguments, message):
    with pytest.raises(UsageError, match=message):
        codec.compress(photo, **arguments)


def test_input_that_had_to_be_converted_is_refused(codec, tmp_path, photo, capsys):
    """Its original is not what would come back; a palette's colors are."""
    deep = Image.fromarray(photo[..., 0].astype(np.uint16) * 257)
    deep.save(tmp_path / "deep.png")
    folder = str(codec.bundle.path)
    arguments = ["compress", str(tmp_path / "deep.png"), "-o", str(tmp_path / "x.oslic"), "--bundle", folder]
    assert main([*arguments, "--lossless"]) != 0
    assert main([*arguments, "--lossless", "--convert"]) != 0
    assert "cannot come back bit for bit" in capsys.readouterr().err
    assert not (tmp_path / "x.oslic").exists()
    assert main([*arguments, "--convert", "--max-error", "2", "--effort", "0"]) == 0
    with pytest.raises(ImageError, match="cannot come back bit for bit"):
        codec.compress(Image.fromarray(photo).convert("RGBA").convert("RGBa"), lossless=True)
    palette = Image.fromarray(photo).quantize(16)
    found = codec.decompress(codec.compress(palette, lossless=True, effort=FAST))
    assert np.array_equal(found, np.asarray(palette.convert("RGB")))


def test_commands(codec, tmp_path, samples, capsys):
    """From file to file, and what `info` says of it."""
    source, stream, target = samples / "chelsea.png", tmp_path / "a.oslic", tmp_path / "a.png"
    options = ["--bundle", str(codec.bundle.path)]
    assert main(["compress", str(source), "-o", str(stream), "--lossless", "--effort", "0", *options]) == 0
    assert main(["decompress", str(stream), "-o", str(target), "--strict", *options]) == 0
    assert np.array_equal(np.asarray(Image.open(target)), np.asarray(Image.open(source).convert("RGB")))
    capsys.readouterr()
    assert main(["info", str(stream), "--json", *options]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["largest_error"], facts["residual_modes"]) == (0, {"flif_picture": 1})
    assert not facts["refined"]


def test_in_strips(codec, photo):
    """A picture that is never whole in memory is the same stream."""
    image = np.ascontiguousarray(np.tile(photo[..., 0], (4, 3))[:1100, :1210])

    class Rows:
        height, width, layout = *image.shape[:2], Layout.GRAY
        row = 0

        def reduced(self, factor):
            return reduce_image(np.dstack([image] * 3), factor)

        def rows(self, count):
            self.row += count
            return image[self.row - count : self.row]

    wanted = Settings(max_error=0, effort=FAST)
    file = io.BytesIO()
    codec.compress_rows(Rows(), file, wanted)
    assert file.getvalue() == codec.finish(codec.layers(image, wanted)).data
    reader = StreamReader.of_bytes(file.getvalue(), Limits())
    strips = list(codec.decompress_rows(reader))
    assert np.array_equal(np.concatenate([strip.pixels for strip in strips]), image)
    assert not any(strip.is_wrong for strip in strips)
    assert take_apart(file.getvalue())[0].grid.is_tiled


def test_verify_looks_at_the_estimate_of_a_lossless_picture_too(codec, tmp_path, photo, capsys):
    """Its picture is right whatever the estimate is; its preview layers may be damaged all the same."""
    data = codec.compress(np.ascontiguousarray(photo[:48, :64]), lossless=True, effort=FAST)
    wrong = with_record(data, estimate_digest=b"abcd")
    assert not codec.decode(wrong).is_wrong
    for name, content in (("right", data), ("wrong", wrong)):
        (tmp_path / f"{name}.oslic").write_bytes(content)
    options = ["--bundle", str(codec.bundle.path)]
    assert main(["verify", str(tmp_path / "right.oslic"), *options]) == 0
    assert main(["verify", str(tmp_path / "wrong.oslic"), *options]) == VerificationError.exit_code
    assert "estimate differs" in capsys.readouterr().err
