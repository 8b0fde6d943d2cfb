"""Quality by class."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import small_bundle
import stream_reader
from oslic.cli import main as cli
from oslic.runtime.bundle.manifest import ClassInfo
from oslic.runtime.codec import Codec, Settings
from oslic.runtime.codec.class_gains import GainMap, Gains, class_quality, classes_named, focused
from oslic.runtime.codec.parameters import Parameters
from oslic.runtime.codec.refinement import Refinement
from oslic.runtime.codec.stage_timer import Stages
from oslic.runtime.codec.stream import open_stream
from oslic.runtime.errors import StreamError, UsageError
from oslic.runtime.image.arrays import luma
from oslic.runtime.limits import Limits
from oslic.runtime.tiling import Box
from PIL import Image
from stream_tools import put_together, take_apart

FAST = 0


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    bundle = small_bundle.write(tmp_path_factory.mktemp("bundles") / "small")
    names = ("sky", "skin", "clothes", "rest")
    classes = tuple(
        ClassInfo(name, entry.color) for name, entry in zip(names, bundle.manifest.classes, strict=True)
    )
    manifest = replace(bundle.manifest, classes=classes, groups={"person": ("skin", "clothes")})
    with Codec.open(replace(bundle, manifest=manifest), threads=1) as opened:
        yield opened


def by_the_page(labels, scale, table, height, width):
    """G and C of docs/reference/stream.md, pixel by pixel, in Python's whole numbers."""
    rows, columns = labels.shape

    def g(i, j):
        i, j = min(max(i, 0), rows - 1), min(max(j, 0), columns - 1)
        near = [(a, b) for a in range(i - 1, i + 2) for b in range(j - 1, j + 2)]
        return max(table.get(int(labels[a, b]), 16) for a, b in near if 0 <= a < rows and 0 <= b < columns)

    found = np.zeros((2, height, width), int)
    for y in range(height):
        i, v = divmod(2 * y + 1 - scale, 2 * scale)
        for x in range(width):
            j, w = divmod(2 * x + 1 - scale, 2 * scale)
            m = (2 * scale - v) * ((2 * scale - w) * g(i, j) + w * g(i, j + 1))
            m += v * ((2 * scale - w) * g(i + 1, j) + w * g(i + 1, j + 1))
            found[0, y, x] = max(1, 256 * m // (4 * scale * scale))
            found[1, y, x] = math.isqrt(4096 * int(found[0, y, x]))
    return found


@pytest.mark.parametrize("scale", [3, 8])
def test_gains_are_those_of_the_page(scale):
    rng = np.random.default_rng(scale)
    labels = rng.integers(0, 4, (6, 7), dtype=np.uint8)
    table = {0: 4, 2: 1, 3: 255}
    height, width = 6 * scale - 2, 7 * scale - 1
    gains = GainMap(labels, scale, table).of(Box(0, 0, width, height))
    luma_gain, chroma_gain = by_the_page(labels, scale, table, height, width)
    assert np.array_equal(gains.luma, luma_gain)
    assert np.array_equal(gains.chroma, chroma_gain)
    part = GainMap(labels, scale, table).of(Box(5, 3, 15, 11))
    assert np.array_equal(part.luma, luma_gain[3:11, 5:15])


def test_residuals_are_enlarged_by_the_page_and_come_back():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, (3, 4), dtype=np.uint8)
    gains = GainMap(labels, 8, {0: 4}).of(Box(0, 0, 30, 22))
    residual = rng.integers(-255, 256, (22, 30, 3)).astype(np.int16)
    shrunk = gains.shrink(residual)
    found = gains.enlarge(shrunk)
    for y, x in ((0, 0), (10, 17), (21, 29)):
        channels = [int(value) for value in shrunk[y, x]]
        gray = (19595 * channels[0] + 38470 * channels[1] + 7471 * channels[2] + 32768) // 65536
        g, c = int(gains.luma[y, x]), int(gains.chroma[y, x])
        for channel, value in enumerate(channels):
            wanted = (4096 * (value - gray) + c // 2) // c + (4096 * gray + g // 2) // g
            assert found[y, x, channel] == wanted
    # A rounding by a half is enlarged up to four times, in luma and beside it.
    assert np.abs(found - residual).max() <= 6
    gray = residual[..., 0]
    assert np.abs(gains.enlarge(gains.shrink(gray)) - gray).max() <= 3


def test_a_class_keeps_its_gain_up_to_its_border():
    labels = np.zeros((10, 12), np.uint8)
    labels[3:6, 4:8] = 1
    gains = GainMap(labels, 8, {0: 4}).of(Box(0, 0, 96, 80))
    assert (gains.luma[24:48, 32:64] == 4096).all()
    assert gains.luma.min() == 1024
    assert np.abs(np.diff(gains.luma, axis=1)).max() <= 3072 / 8 + 1


def test_qualities_become_gains(codec):
    manifest = codec.bundle.manifest
    assert class_quality(60, {}, manifest).table == {}
    up = class_quality(60, {"person": 17.7}, manifest)
    assert (up.quality, up.table) == (78, {0: 8, 3: 8})
    down = class_quality(60, {"sky": -35.4}, manifest)
    assert (down.quality, down.table) == (60, {0: 4})
    # A class stands above its group, whatever comes first.
    for changes in ({"person": 20, "skin": 0}, {"skin": 0, "person": 20}):
        both = class_quality(60, changes, manifest)
        assert (both.quality, set(both.table)) == (80, {0, 1, 3})
    assert class_quality(90, {"person": 40}, manifest).quality == 100
    assert class_quality(90, {"person": 40}, manifest).table[0] == round(16 * 2 ** (-10 / 17.7))
    assert classes_named("person", manifest) == (1, 2)
    with pytest.raises(UsageError, match="no class 'dog'; there are person, sky, skin, clothes, rest"):
        class_quality(60, {"dog": 5}, manifest)


def test_focus_moves_quality_from_the_rest():
    assert focused(60, "person") == focused(60, "person:strong") == (38, (("person", 35),))
    assert focused(60, "person:mild") == (48, (("person", 18),))
    assert focused(10, "sky")[0] == 1
    assert focused(0, "person") == (0, ())  # without a residual there is nothing to move
    with pytest.raises(UsageError, match="a focus is mild or strong, not 'weak'"):
        focused(60, "person:weak")


@pytest.mark.parametrize("layers", ["always", "never"])
@pytest.mark.parametrize("gray", [False, True])
def test_pictures_come_back_better_where_it_was_asked_for(codec, photo, layers, gray):
    image = luma(photo) if gray else photo
    codec_labels = codec.layers(image).labels
    inside = int(np.bincount(codec_labels.ravel()).argmax())
    name = codec.bundle.manifest.classes[inside].name
    shape = codec_labels.shape
    repeated = codec_labels.repeat(4, 0).repeat(4, 1)[: image.shape[0], : image.shape[1]]
    assert shape == (-(-image.shape[0] // 4), -(-image.shape[1] // 4))
    errors = {}
    for change in (0, 30):
        data = codec.compress(
            image, 40, effort=FAST, layers=layers, tune="psnr", class_quality={name: change}
        )
        difference = (codec.decompress(data).astype(float) - image) ** 2
        errors[change] = difference[repeated == inside].mean(), len(data)
        stream = stream_reader.read(data)
        assert stream.flags & 8 == (8 if change else 0)
    assert errors[30][0] < 0.5 * errors[0][0]
    assert errors[30][1] > errors[0][1]


def test_refinement_knows_the_quality_of_each_part(samples):
    """A part in focus is refined as a picture of its own quality, not of that of the rest."""
    image = np.asarray(Image.open(samples / "astronaut.png").convert("RGB").resize((256, 256)))
    with Codec.open(threads=1) as shipped:

        def errors(**how):
            data = shipped.compress(image, 50, focus="person", **how)
            inside = shipped.decode_labels(data).mask("person")
            squares = np.square(image.astype(float) - shipped.decompress(data))
            return squares[inside].mean(), squares[~inside].mean(), open_stream(data, Limits()).header

        refined, outside, header = errors()
        unrefined, outside_unrefined, _ = errors(refine=False)
    assert refined < 0.97 * unrefined
    assert outside < 0.97 * outside_unrefined
    # The stream tells the quality of what has the gain 1.
    assert Parameters.from_bytes(header.parameters).quality == 50 - 22 + 35


def test_the_refined_parts_are_mixed_by_their_quality():
    class Network:
        """Adds a tenth of the quality that it is told."""

        def refine(self, decoded, estimate, *, quality, visual):
            return decoded + np.uint8(quality // 10)

    levels = np.array([[4096, 2048], [1024, 4096]], np.int32)
    refinement = Refinement(Network(), 80, False, Stages())
    found = refinement.tile(np.full((2, 2, 3), 100, np.uint8), None, Gains(levels, levels))
    # Qualities 80, 62.3 and 44.6: 8, half way, and 4 more.
    assert found[:, :, 0].tolist() == [[108, 106], [104, 108]]


def test_quality_0_stays_quality_0_in_focus(codec, photo):
    assert codec.compress(photo, 0, focus="person") == codec.compress(photo, 0)


def test_without_changes_the_bytes_are_the_same(codec, photo):
    assert codec.compress(photo, 50, effort=FAST, class_quality={"sky": 0}) == codec.compress(
        photo, 50, effort=FAST
    )


def test_tiles_and_regions(codec, photo):
    made = codec.layers(photo, Settings(50, FAST, class_quality=(("sky", 20.0),)), tile=192, halo=32)
    encoded = codec.finish(made)
    whole = codec.decompress(encoded.data)
    assert np.array_equal(whole, codec.reconstruct(encoded))
    assert np.array_equal(codec.decompress(encoded.data, region=(100, 90, 200, 150)), whole[90:240, 100:300])


def test_damaged_tables_are_refused(codec, photo):
    data = codec.compress(photo, 50, effort=FAST, class_quality={"sky": 20})
    header, parts = take_apart(data)
    stated = Parameters.from_bytes(header.parameters)
    assert [index for index, _ in stated.gains] == [1, 2, 3]
    head = header.parameters[: -2 * len(stated.gains) - 1]
    for tail, message in (
        (b"\x00", "number of gains"),
        (b"\x02\x03\x04\x01\x04", "not in order"),
        (b"\x01\x02\x00", "or 0"),
        (b"\x01\x02", "parameters"),
        (b"\x01\x09\x04", "class that the bundle"),
    ):
        with pytest.raises(StreamError, match=message):
            codec.decompress(put_together(replace(header, parameters=head + tail), parts))


def test_the_command_line(tmp_path, samples, capsys):
    source, target = str(samples / "chelsea.png"), str(tmp_path / "x.oslic")
    assert cli.main(["compress", source, "-o", target, "--class-quality", "nonsense=+5"]) == 2
    assert "no class 'nonsense'; there are" in capsys.readouterr().err
    for wrong in ("person", "person=", "=+x"):
        with pytest.raises(SystemExit):
            cli.main(["compress", source, "-o", target, "--class-quality", wrong])
        assert "is not of the form NAME=+N" in capsys.readouterr().err
    assert cli.main(["compress", source, "-o", target, "--focus", "x:y"]) == 2
    assert "a focus is mild or strong" in capsys.readouterr().err
    assert cli.main(["compress", source, "-o", target, "--class-quality", "x=+500"]) == 2
    assert "must be by at most 100" in capsys.readouterr().err
    Image.open(source).close()


def test_the_compact_image_is_as_coarse_as_what_is_in_focus_wants_it(samples):
    """The rest of a picture in focus has a low quality; its compact image is not fine for that."""
    image = np.asarray(Image.open(samples / "astronaut.png").convert("RGB").resize((256, 256)))
    with Codec.open(threads=1) as shipped:
        plain, focus = (shipped.compress(image, 30, effort=FAST, **how) for how in ({}, {"focus": "person"}))
        sizes = [
            len(stream_reader.read(data).sections[stream_reader.COMPACT].pieces[0].data)
            for data in (plain, focus)
        ]
    assert sizes[0] == sizes[1]
