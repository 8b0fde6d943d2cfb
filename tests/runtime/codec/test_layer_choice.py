"""Streams with and without layers, coarser compact images, refined pictures."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import small_bundle
import stream_reader
from oslic.runtime import flif
from oslic.runtime.codec import Codec, DriftWarning, Settings, residual
from oslic.runtime.codec.coarseness import Reduction, compact_reduction_for, reduce_compact
from oslic.runtime.codec.container import SectionType, StreamReader
from oslic.runtime.codec.layer_choice import constant_levels, is_graphic
from oslic.runtime.codec.parameters import Parameters, TileRecord
from oslic.runtime.codec.preview import preview_colors
from oslic.runtime.codec.rate_control import highest_within
from oslic.runtime.codec.stream import check_stream
from oslic.runtime.errors import BundleError, StreamError, UsageError
from oslic.runtime.image.arrays import Layout, luma
from oslic.runtime.limits import Limits
from PIL import Image, ImageDraw
from stream_tools import changed, put_together, take_apart, with_record

FAST = 0
TILE, HALO = 192, 32
COARSENESS = ((40, 2), (70, 4))


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles") / "refining"
    bundle = small_bundle.write(folder, refines=True, coarseness=COARSENESS)
    with Codec.open(bundle, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def drawing():
    """Text and boxes, as on a screen: uint8 (300, 448, 3)."""
    picture = Image.new("RGB", (448, 300), (250, 250, 252))
    draw = ImageDraw.Draw(picture)
    for row in range(12):
        draw.text((12, 12 + 22 * row), f"{row}: what stands on a screen, in small letters", (20, 30, 60))
    draw.rectangle((300, 40, 430, 200), (40, 120, 200), (10, 20, 30))
    return np.asarray(picture)


def records(data):
    reader = StreamReader.of_bytes(data, Limits())
    return [TileRecord.from_bytes(piece.record) for piece in reader.pieces(SectionType.RESIDUAL)]


# -- coarser compact images ----------------------------------------------------------------------------------------


def test_coarse_levels_are_the_middle_ones():
    levels = np.arange(16, dtype=np.uint8).reshape(16, 1, 1)

    def coarse(degree):
        return reduce_compact(levels, Reduction(degree), 16).ravel().tolist()

    assert coarse(1) == list(range(16))
    assert coarse(2) == [1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11, 13, 13, 15, 15]
    assert coarse(4) == [2] * 4 + [6] * 4 + [10] * 4 + [14] * 4
    assert coarse(11) == [5] * 11 + [15] * 5
    degrees = [compact_reduction_for(q, COARSENESS).coarseness for q in (0, 39.75, 40, 69, 70, 100)]
    assert degrees == [1, 1, 2, 2, 4, 4]
    assert compact_reduction_for(100, ()) == compact_reduction_for(0, COARSENESS) == Reduction(1, 0.0)
    # The finer the quality, the less a compact image is of the file, and the more of it may stay.
    costs = [compact_reduction_for(q, ((5, 2),)).smoothing for q in (5, 30, 45, 100)]
    assert costs == sorted(costs, reverse=True)
    assert min(costs) > 0


def potts_energy(cells, compact, reduction):
    """What smoothing is to lessen, from its definition; `compact` has levels of whole cells."""
    centers = cells.astype(float) * reduction.coarseness + (reduction.coarseness - 1) / 2
    energy = (((compact - centers) / reduction.coarseness) ** 2).sum()
    height, width = cells.shape[:2]
    for down, right, weight in ((0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.5), (1, -1, 0.5)):
        here = cells[: height - down, max(0, -right) : width - max(0, right)]
        there = cells[down:, max(0, right) : width + min(0, right)]
        energy += reduction.smoothing * weight * (here != there).sum()
    return energy


def test_smoothing_lessens_the_energy_that_it_is_defined_by():
    random = np.random.default_rng(3)
    slope = np.add.outer(np.arange(24), np.arange(40))[..., None] / 4
    compact = np.clip(slope + random.normal(0, 1.5, (24, 40, 3)), 0, 15).astype(np.uint8)
    plain = reduce_compact(compact, Reduction(4), 16)
    last = None
    for smoothing in (0.05, 0.2, 0.6):
        reduction = Reduction(4, smoothing)
        smooth = reduce_compact(compact, reduction, 16)
        assert set(np.unique(smooth)) <= {2, 6, 10, 14}
        before, after = (potts_energy(each // 4, compact, reduction) for each in (plain, smooth))
        assert after < before
        size = len(flif.encode(smooth))
        assert size < (len(flif.encode(plain)) if last is None else last)
        last = size


def test_smoothing_takes_a_lonely_sample_and_leaves_an_edge():
    compact = np.full((9, 9, 3), 3, np.uint8)
    compact[:, 5:] = 12
    compact[4, 2] = 4  # just beyond the border of a cell of 4 levels
    smooth = reduce_compact(compact, Reduction(4, 0.2), 16)
    expected = np.full((9, 9, 3), 2, np.uint8)
    expected[:, 5:] = 14
    assert np.array_equal(smooth, expected)
    # Far from the border it says something.
    compact[4, 2] = 11
    assert reduce_compact(compact, Reduction(4, 0.2), 16)[4, 2].tolist() == [10] * 3


def test_the_coarseness_follows_the_quality(codec, photo):
    layers = codec.layers(photo, Settings(30, FAST))
    sizes = []
    for quality, coarseness in ((30, 1), (50, 2), (80, 4)):
        encoded = codec.finish(layers, quality=quality)
        assert encoded.layers.reduction.coarseness == coarseness
        expected = reduce_compact(layers.fine, encoded.layers.reduction, small_bundle.LEVELS)
        assert np.array_equal(encoded.layers.compact, expected)
        # Layers that are made for the quality give the same file.
        assert codec.compress(photo, quality, effort=FAST) == encoded.data
        assert np.array_equal(codec.decompress(encoded.data), codec.reconstruct(encoded))
        sizes.append(encoded.section_bytes["compact"])
    assert sizes == sorted(sizes, reverse=True)
    assert codec.finish(codec.finish(layers, quality=80).layers, quality=30).data == codec.finish(layers).data


def test_another_quality_segments_and_analyses_nothing_again(codec, photo, monkeypatch):
    for first, then in ((60, 0), (0, 60)):
        layers = codec.layers(photo, Settings(first, FAST))
        with monkeypatch.context() as patch:
            patch.setattr(codec.graphs, "segment", None)
            patch.setattr(codec.graphs, "analyse", None)
            encoded = codec.finish(layers, quality=then)
        assert encoded.data == codec.compress(photo, then, effort=FAST)


def test_a_rate_is_met_through_changes_of_coarseness(codec, photo):
    encoded = highest_within(codec, codec.layers(photo, Settings(0, FAST)), 3.0)
    assert encoded.quality > 40
    assert encoded.data == codec.compress(photo, encoded.quality, effort=FAST)


# -- refined pictures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tune", ["psnr", "visual"])
@pytest.mark.parametrize("layout", [Layout.RGB, Layout.GRAY, Layout.RGBA])
def test_pictures_are_refined_after_the_residual(codec, photo, tune, layout):
    image = {
        Layout.RGB: photo,
        Layout.GRAY: luma(photo),
        Layout.RGBA: np.dstack([photo, np.full(photo.shape[:2], 200, np.uint8)]),
    }[layout]
    made = codec.layers(image, Settings(50, FAST, tune=tune))
    plain, refined = (
        codec.finish(replace(made, settings=replace(made.settings, refine=False))),
        codec.finish(made),
    )
    before, after = codec.decompress(plain.data), codec.decompress(refined.data)

    def color(pixels):
        return pixels if layout is Layout.GRAY else pixels[..., :3]

    wanted = small_bundle.refined(color(before), plain.layers.estimate, 50, tune == "visual")
    assert np.abs(color(after) - wanted).max() <= 1
    if layout is Layout.RGBA:
        assert np.array_equal(after[..., 3], before[..., 3])
    assert not np.array_equal(after, before)
    assert np.array_equal(codec.reconstruct(refined), after)
    stated = [Parameters.from_bytes(take_apart(each.data)[0].parameters) for each in (plain, refined)]
    assert [(each.refined, each.visual) for each in stated] == [
        (False, tune == "visual"),
        (True, tune == "visual"),
    ]
    assert take_apart(refined.data)[0].identity == bytes.fromhex("ab" * 5 + "cd" * 3)
    assert take_apart(plain.data)[0].identity == bytes.fromhex("ab" * 5 + "00" * 3)
    assert len(refined.data) == len(plain.data)


def test_tiles_are_refined_alone(codec, photo):
    made = codec.layers(photo, Settings(50, FAST, tune="psnr"), tile=TILE, halo=HALO)
    whole = codec.finish(made).data
    decoded = codec.decompress(whole)
    assert np.array_equal(codec.decompress(whole, region=(150, 100, 200, 150)), decoded[100:250, 150:350])
    off = codec.decompress(codec.finish(replace(made, settings=replace(made.settings, refine=False))).data)
    box = made.grid.box(1)
    part = codec.graphs.refine(
        box.of(off), box.of(codec.finish(made).layers.estimate), quality=50, visual=False
    )
    assert np.array_equal(box.of(decoded), part)


def test_quality_0_is_the_estimate(codec, photo):
    encoded = codec.finish(codec.layers(photo, Settings(0)))
    assert not encoded.refined
    assert np.array_equal(codec.decompress(encoded.data), encoded.layers.estimate)


def test_another_network_for_refining_is_told(codec, photo, tmp_path):
    data = codec.compress(photo, 50, effort=FAST)
    header, parts = take_apart(data)
    other = put_together(replace(header, identity=header.identity[:5] + b"abc"), parts)
    with pytest.warns(DriftWarning, match=r"another network \(616263\)"):
        assert np.array_equal(codec.decompress(other), codec.decompress(data))
    bundle = small_bundle.write(tmp_path / "plain")
    with Codec.open(bundle, threads=1) as without, pytest.warns(DriftWarning, match="lacks: it is left out"):
        found = without.decompress(data)
    unrefined = codec.decompress(codec.compress(photo, 50, effort=FAST, refine=False))
    assert np.array_equal(found, unrefined)
    # A stream that is not refined names no network for it.
    flags = header.parameters[0] & ~1
    with pytest.raises(StreamError, match="is not refined"):
        codec.decompress(
            put_together(replace(header, parameters=bytes([flags]) + header.parameters[1:]), parts)
        )


# -- tiles without layers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [Layout.RGB, Layout.GRAY])
@pytest.mark.parametrize("tile", [None, TILE])
def test_without_layers_the_residual_is_the_picture(codec, photo, layout, tile):
    image = luma(photo) if layout is Layout.GRAY else photo
    settings = Settings(60, FAST, layers="never", tune="psnr", refine=False)
    encoded = codec.finish(codec.layers(image, settings, tile=tile, halo=HALO))
    assert all(record.plain and record.weight == 0 for record in records(encoded.data))
    assert stream_reader.read(encoded.data).kind == "oslic"
    decoded = codec.decompress(encoded.data)
    assert np.array_equal(decoded, codec.reconstruct(encoded))
    grid = encoded.layers.grid
    for number in range(grid.count):
        part = grid.box(number).of(image)
        coded = residual.encode(part, part, quality=60, speed=10, weight=0)
        assert np.array_equal(grid.box(number).of(decoded), residual.decode(coded, part))
    assert encoded.section_bytes["compact"] < 40 * grid.count
    # What stands for the estimate is one color near the tile's mean.
    estimate = codec.decode(encoded.data, layer="estimate").image
    box = grid.box(0)
    assert np.ptp(box.of(estimate).reshape(-1, *estimate.shape[2:]), axis=0).max() == 0


def test_without_layers_pictures_are_refined_too(codec, photo):
    off = codec.decompress(codec.compress(photo, 60, effort=FAST, layers="never", tune="psnr", refine=False))
    on = codec.decompress(codec.compress(photo, 60, effort=FAST, layers="never", tune="psnr"))
    assert np.abs(on - small_bundle.refined(off, off, 60, False)).max() <= 1


def test_drawings_have_no_layers(codec, drawing, photo):
    assert is_graphic(drawing)
    assert is_graphic(luma(drawing))
    assert not is_graphic(photo)
    assert all(record.plain for record in records(codec.compress(drawing, 60, effort=FAST)))
    assert not any(record.plain for record in records(codec.compress(photo, 60, effort=FAST)))
    assert not any(record.plain for record in records(codec.compress(drawing, 0)))


def test_drawings_are_refined_only_where_it_helps(codec, drawing):
    """The small bundle's network adds a level when it is tuned for the eye: that helps no drawing."""
    (record,) = records(codec.compress(drawing, 90, effort=FAST, tune="visual"))
    assert record.unrefined
    on, off = (codec.compress(drawing, 90, effort=FAST, tune="visual", refine=each) for each in (True, False))
    assert np.array_equal(codec.decompress(on), codec.decompress(off))


def test_a_picture_that_is_half_a_drawing(codec, drawing, photo):
    """Tiles around those without layers see their constant compact image."""
    image = np.concatenate([drawing[:, :384], photo[:, :384]], axis=1)
    made = codec.layers(image, Settings(60, FAST), tile=TILE, halo=HALO)
    assert made.plain == made.graphic == {0, 1, 4, 5}
    data = codec.finish(made).data
    assert [record.plain for record in records(data)] == [True, True, False, False] * 2
    whole = codec.decompress(data)
    assert codec.decode(data).digest_matches
    assert np.array_equal(codec.decompress(data, region=(350, 60, 200, 180)), whole[60:240, 350:550])
    # At quality 0 all tiles have layers.
    lowest = codec.finish(made, quality=0)
    assert lowest.data == codec.finish(codec.layers(image, Settings(0, FAST), tile=TILE, halo=HALO)).data
    assert not lowest.layers.plain


def test_tiles_choose_what_is_smaller(codec, drawing, photo):
    """One of both ways for each tile, and none is worse than always or never at the same quality."""
    image = np.concatenate([photo[:, :384], photo[::-1, :384]], axis=1)
    found = {}
    for mode in ("always", "auto", "never"):
        encoded = codec.finish(codec.layers(image, Settings(50, FAST, mode), tile=TILE, halo=HALO))
        assert np.array_equal(codec.decompress(encoded.data), codec.reconstruct(encoded))
        assert codec.decode(encoded.data).digest_matches
        error = residual.mean_squared_error(codec.decompress(encoded.data), image)
        found[mode] = residual.coding_cost(error, len(encoded.data))
    assert found["auto"] <= min(found["always"], found["never"]) + 0.02


def test_what_cannot_be_is_refused(codec, photo):
    for settings in ({"layers": "some"}, {"tune": "ssim"}, {"quality": 101}, {"effort": 10}, {"quality": -1}):
        with pytest.raises(UsageError, match=r"must be one of|out of range"):
            Settings(**settings)
    with pytest.raises(UsageError, match="quality 0 without layers"):
        codec.compress(photo, 0, layers="never")
    data = codec.compress(photo, 60, effort=FAST, layers="never")
    for changes in ({"weight": 3}, {"weight": 8}, {"estimate_digest": b"abcd"}):
        with pytest.raises(StreamError, match="without layers has an estimate"):
            codec.decompress(with_record(data, **changes))
    speckled = np.zeros((38, 57, 3), np.uint8)
    speckled[5, 5] = 3
    with pytest.raises(StreamError, match="not constant"):
        codec.decompress(changed(data, SectionType.COMPACT, flif.encode(speckled, crc=False)))


def test_the_constant_is_the_nearest_color(codec):
    manifest = codec.bundle.manifest
    color = np.full((40, 50, 3), (158, 83, 2), np.uint8)
    levels = constant_levels(color, manifest)
    assert levels.tolist() == [2, 1, 0]
    assert preview_colors(levels, manifest).tolist() == [160, 80, 0]


def test_strips_give_the_same_file(codec, drawing, photo):
    from test_tiles import Rows

    image = np.asarray(Image.fromarray(np.concatenate([drawing, photo[:, :448]])).resize((1210, 1620)))
    for layers in ("always", "never"):
        file = io.BytesIO()
        settings = Settings(60, FAST, layers)
        codec.compress_rows(Rows(image), file, settings)
        assert file.getvalue() == codec.compress(image, 60, effort=FAST, layers=layers)
        reader = StreamReader.of_file(file, codec.limits)
        check_stream(reader)
        strips = [strip.pixels for strip in codec.decompress_rows(reader)]
        assert np.array_equal(np.concatenate(strips), codec.decompress(file.getvalue()))
    with pytest.raises(UsageError, match="cannot choose its layers"):
        codec.compress_rows(Rows(image), io.BytesIO(), Settings(60, FAST, "auto"))


def test_manifests_say_what_they_refine_by(tmp_path):
    bundle = small_bundle.write(tmp_path / "a", refines=True)
    for changes, message in (
        ({"refinement": None}, "refinement is None"),
        ({"refinement": "xyz"}, "refinement is 'xyz'"),
        ({"coarseness": ((50, 2), (40, 3))}, "coarseness"),
        ({"coarseness": ((50, 32),)}, "coarseness"),
        ({"graphs": {k: v for k, v in bundle.manifest.graphs.items() if k != "analyse"}}, "graphs"),
    ):
        with pytest.raises(BundleError, match=message):
            replace(bundle.manifest, **changes).check()
