"""Pictures of several tiles: every way of decoding gives the same pixels."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import small_bundle
from oslic.runtime.codec import Codec, Settings
from oslic.runtime.codec.container import SectionType, StreamReader
from oslic.runtime.codec.preview import preview_colors, read_compact, smoothed, thumbnail
from oslic.runtime.codec.stream import check_stream, open_stream
from oslic.runtime.codec.streaming import DecodedStrip
from oslic.runtime.errors import BundleError, LimitError, StreamError, UsageError, VerificationError
from oslic.runtime.image.arrays import Layout, luma
from oslic.runtime.image.metadata import Metadata
from oslic.runtime.limits import Limits
from oslic.runtime.segmentation_size import labels_on, reduce_image, reduction_for
from oslic.runtime.tiling import Box
from PIL import Image
from stream_tools import changed, put_together, take_apart, with_record

FAST = 0
TILE, HALO = 384, 32
SIZE = (1210, 1003)


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    bundle = small_bundle.write(tmp_path_factory.mktemp("bundles") / "small")
    with Codec.open(bundle, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def picture(photo):
    """A photograph of several tiles, with alpha: uint8 (1003, 1210, 4)."""
    large = Image.fromarray(photo).resize(SIZE, Image.Resampling.BICUBIC)
    alpha = Image.fromarray(photo[:, :, 1]).resize(SIZE)
    return np.dstack([np.asarray(large), np.asarray(alpha)])


@pytest.fixture(scope="module")
def layers(codec, picture):
    return codec.layers(picture, tile=TILE, halo=HALO)


@pytest.fixture(scope="module")
def stream(codec, layers):
    return codec.finish(layers, quality=50, effort=FAST).data


@pytest.fixture(scope="module")
def whole(codec, stream):
    return codec.decompress(stream)


def test_the_grid_is_that_of_the_stream(codec, layers, stream):
    grid = StreamReader.of_bytes(stream, codec.limits).header.grid
    assert grid == layers.grid
    assert (grid.columns, grid.rows, grid.halo) == (4, 3, HALO)


def test_alpha_comes_back_and_color_is_close(picture, whole):
    assert whole.shape == picture.shape
    assert np.array_equal(whole[..., 3], picture[..., 3])
    error = whole[..., :3].astype(float) - picture[..., :3]
    assert np.mean(error * error) < 60


def test_the_estimate_of_a_tile_is_what_the_format_says(codec, layers):
    """`synthesise` on the tile and its halo, cut; put together here from the stored layers alone."""
    scale = codec.bundle.manifest.label_scale
    height, width = layers.estimate.shape[:2]
    for left, top in ((0, 0), (TILE, TILE), (3 * TILE, 2 * TILE)):
        right, bottom = min(width, left + TILE), min(height, top + TILE)
        assert Box(left, top, right, bottom) in [layers.grid.box(i) for i in range(layers.grid.count)]
        x0, y0 = max(0, left - HALO), max(0, top - HALO)
        x1, y1 = min(width, right + HALO), min(height, bottom + HALO)
        compact = layers.compact[y0 // 8 : -(-y1 // 8), x0 // 8 : -(-x1 // 8)]
        rows = [(y0 + i * scale) // layers.label_scale for i in range(-(-(y1 - y0) // scale))]
        columns = [(x0 + j * scale) // layers.label_scale for j in range(-(-(x1 - x0) // scale))]
        labels = np.array([[layers.labels[r, c] for c in columns] for r in rows])
        made = codec.graphs.synthesise(compact, labels, y1 - y0, x1 - x0)
        cut = made[top - y0 : bottom - y0, left - x0 : right - x0]
        assert np.array_equal(cut, layers.estimate[top:bottom, left:right])


def test_the_label_map_is_of_the_reduced_picture(codec, picture, layers):
    factor = reduction_for(*picture.shape[:2])
    assert factor == 3
    assert layers.label_scale == factor * codec.bundle.manifest.label_scale
    reduced = np.ascontiguousarray(picture[..., :3])
    assert np.array_equal(layers.labels, codec.graphs.segment(reduce_image(reduced, factor)))


@pytest.mark.parametrize("size", [(400, 300), (800, 600), (3200, 2400), (100, 9000)])
def test_what_the_network_sees_is_of_some_420_pixels(size):
    factor = reduction_for(*size)
    assert 280 <= max(size) / factor <= 630


def test_labels_are_looked_up_where_a_position_lies():
    labels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    found = labels_on(labels, 12, Box(8, 16, 40, 36), 8)
    # Rows 16, 24, 32 and columns 8, 16, 24, 32 of the picture, in blocks of 12.
    assert np.array_equal(found, [[4, 5, 6, 6], [8, 9, 10, 10], [8, 9, 10, 10]])


@pytest.mark.parametrize(
    "region", [(0, 0, 1, 1), (1209, 1002, 1, 1), (300, 340, 100, 50), (0, 700, 1210, 8), (64, 64, 1000, 900)]
)
def test_a_region_is_that_part_of_the_whole(codec, stream, whole, region):
    left, top, width, height = region
    part = codec.decompress(stream, region=region)
    assert np.array_equal(part, whole[top : top + height, left : left + width])


def test_a_region_decodes_only_the_tiles_that_it_touches(codec, stream, whole):
    damaged = changed(stream, SectionType.RESIDUAL, b"garbage", tile=11)
    part = codec.decompress(damaged, region=(10, 10, 100, 100))
    assert np.array_equal(part, whole[10:110, 10:110])
    with pytest.raises(StreamError):
        codec.decompress(damaged)


@pytest.mark.parametrize(
    "region", [(-1, 0, 5, 5), (0, 0, 0, 5), (0, 0, 1211, 5), (1210, 0, 1, 1), (0, 1000, 5, 4)]
)
def test_regions_outside_are_refused(codec, stream, region):
    with pytest.raises(UsageError, match="not inside the picture of 1210x1003"):
        codec.decompress(stream, region=region)


def test_reconstruct_is_what_the_decoder_gives(codec, layers, whole):
    encoded = codec.finish(layers, quality=50, effort=FAST)
    assert np.array_equal(codec.reconstruct(encoded), whole)


def test_the_estimate_alone(codec, stream, layers):
    decoded = codec.decode(stream, layer="estimate")
    assert np.array_equal(decoded.image[..., :3], layers.estimate)
    assert decoded.digest_matches


def test_gray_pictures(codec, picture):
    gray = luma(np.ascontiguousarray(picture[..., :3]))
    data = codec.finish(codec.layers(gray, tile=TILE, halo=HALO), quality=60, effort=FAST).data
    back = codec.decompress(data)
    assert back.shape == gray.shape
    assert np.mean(np.abs(back.astype(int) - gray)) < 4
    assert np.array_equal(codec.decompress(data, region=(500, 400, 99, 77)), back[400:477, 500:599])


def test_drift_names_its_tiles(codec, stream):
    drifted = with_record(with_record(stream, 3, estimate_digest=bytes(4)), 7, residual_digest=bytes(4))
    decoded = codec.decode(drifted)
    assert (decoded.drifted, decoded.residual_drifted) == ((3,), (7,))
    assert codec.decode(drifted, region=(0, 0, 50, 50)).digest_matches
    with pytest.raises(VerificationError, match="estimate differs"):
        codec.decompress(drifted, strict=True)


def test_an_exact_stream_that_drifts_is_an_error(codec, stream):
    header, parts = take_apart(with_record(stream, 3, estimate_digest=bytes(4)))
    flagged = bytes([header.parameters[0] | 0x10]) + header.parameters[1:]
    with pytest.raises(VerificationError):
        codec.decompress(put_together(replace(header, parameters=flagged), parts))


# -- truncated streams -------------------------------------------------------------------------------------------


def test_what_is_whole_of_a_truncated_stream_is_decoded(codec, stream, whole, layers):
    info = StreamReader.of_bytes(stream, codec.limits).info
    section = info.section(SectionType.RESIDUAL)
    cut = stream[: section.offset + section.index + (section.length - section.index) // 2]
    with pytest.raises(StreamError, match="truncated inside its residual section"):
        codec.decode(cut)
    decoded = codec.decode(cut, partial=True)
    lost = decoded.missing["residual"]
    assert 0 < len(lost) < layers.grid.count
    assert lost == tuple(range(lost[0], layers.grid.count))
    assert decoded.missing["alpha"] == tuple(range(layers.grid.count))
    for tile in range(layers.grid.count):
        wanted = layers.estimate if tile in lost else whole[..., :3]
        box = layers.grid.box(tile)
        assert np.array_equal(box.of(decoded.image)[..., :3], box.of(wanted))


@pytest.mark.parametrize("region", [(0, 0, 5), (1.5, 0, 2, 2), "0,0,2,2", 7])
def test_a_region_is_four_whole_numbers(codec, stream, region):
    with pytest.raises(UsageError, match="must be four whole numbers"):
        codec.decompress(stream, region=region)


def test_a_profile_that_is_cut_off_is_missing(photo):
    with Codec.open(threads=1) as shipped:
        data = shipped.compress(photo[:64, :96], 40, metadata=Metadata(icc=b"profile" * 40, xmp=b"<x/>"))
        whole = shipped.decode(data, partial=True)
        assert whole.missing == {}
        assert (whole.metadata.icc, whole.metadata.xmp) == (b"profile" * 40, b"<x/>")
        info = StreamReader.of_bytes(data, shipped.limits).info
        for name, length in (("xmp", len(data) - 1), ("icc", info.section(SectionType.ICC).end - 1)):
            decoded = shipped.decode(data[:length], partial=True)
            assert decoded.missing[name] == (0,)
            assert getattr(decoded.metadata, name) == b""
            assert np.array_equal(decoded.image, whole.image)


def test_the_first_kilobytes_are_a_preview(codec, stream, layers):
    info = StreamReader.of_bytes(stream, codec.limits).info
    first = stream[: info.section(SectionType.COMPACT).end]
    assert len(first) < len(stream) / 4
    decoded = codec.decode(first, partial=True)
    assert np.array_equal(decoded.image[..., :3], layers.estimate)
    small = thumbnail(StreamReader.of_bytes(first, codec.limits, partial=True), codec.bundle)
    assert small.shape == (126, 152, 3)


@pytest.fixture(scope="module")
def half(codec, stream):
    """The stream's beginning, with the compact images of half of its tiles."""
    info = StreamReader.of_bytes(stream, codec.limits).info
    section = info.section(SectionType.COMPACT)
    return stream[: section.offset + section.index + (section.length - section.index) // 2]


def test_tiles_without_a_compact_image_are_gray(codec, half, layers):
    decoded = codec.decode(half, partial=True)
    lost = decoded.missing["compact"]
    assert lost == tuple(range(lost[0], 12))
    assert 4 <= lost[0] <= 8
    for tile in range(12):
        box = layers.grid.box(tile)
        shown, wanted = box.of(decoded.image)[..., :3], box.of(layers.estimate)
        if tile in lost:
            assert (shown == 128).all()
        elif not set(layers.grid.touching(layers.grid.input_box(tile))) & set(lost):
            assert np.array_equal(shown, wanted)
        else:
            # What its halo lacks is made up: nothing changes far from there, and little beside it.
            assert not np.array_equal(shown, wanted)
            assert np.array_equal(shown[:200, :200], wanted[:200, :200])
            difference = shown.astype(float) - wanted
            assert np.sqrt(np.square(difference).mean()) < 4


def test_of_a_truncated_stream_not_all_is_compared(codec, stream, half):
    assert codec.decode(stream, partial=True).digest_matches is True
    decoded = codec.decode(half, partial=True)
    assert decoded.digest_matches is None
    assert decoded.drift is None


def test_the_small_picture_of_a_truncated_stream(codec, stream, half):
    whole = read_compact(StreamReader.of_bytes(stream, codec.limits), codec.bundle)
    reader = StreamReader.of_bytes(half, codec.limits, partial=True)
    levels, missing = read_compact(reader, codec.bundle)
    assert whole.missing == ()
    assert missing == codec.decode(half, partial=True).missing["compact"]
    for tile in range(12):
        box = reader.header.grid.box(tile).scaled(8)
        wanted = codec.bundle.manifest.levels // 2 if tile in missing else box.of(whole.levels)
        assert (box.of(levels) == wanted).all()
    with pytest.raises(StreamError, match="truncated inside its compact section"):
        open_stream(half, codec.limits)


def test_a_region_needs_the_memory_of_its_tiles(codec, stream, whole):
    grid = StreamReader.of_bytes(stream, codec.limits).header.grid
    least = codec.decoding.for_part(grid.part(Box(0, 0, 8, 8)), grid)
    assert least < codec.decoding.for_grid(grid)
    with Codec.open(codec.bundle.path, limits=Limits(memory=least), threads=1) as narrow:
        with pytest.raises(LimitError):
            narrow.decode(stream)
        assert np.array_equal(narrow.decompress(stream, region=(3, 2, 8, 8)), whole[2:10, 3:11])
        with pytest.raises(LimitError, match="the region's tiles are 1152x1003: they would need"):
            narrow.decompress(stream, region=(300, 300, 800, 600))
    limits = Limits(pixels=1210 * 1002)
    with Codec.open(codec.bundle.path, limits=limits, threads=1) as small, pytest.raises(LimitError):
        small.decompress(stream, region=(0, 0, 8, 8))


def test_without_a_label_map_there_is_nothing(codec, stream):
    labels = StreamReader.of_bytes(stream, codec.limits).info.section(SectionType.LABELS)
    with pytest.raises(StreamError, match="ends inside its labels section"):
        codec.decode(stream[: labels.end - 1], partial=True)


# -- thumbnails --------------------------------------------------------------------------------------------------


def test_a_thumbnail_has_the_previews_colors(codec, stream, layers):
    small = thumbnail(open_stream(stream, codec.limits), codec.bundle)
    wanted = layers.compact.astype(int) * 80
    # Smooth as far as the rounding to whole levels allows.
    assert np.abs(small - wanted)[wanted < 255].max() <= 41
    assert (small != np.minimum(wanted, 255)).any()


def test_terraces_of_a_ramp_become_a_ramp_again():
    ramp = np.linspace(0, 15, 61)
    levels = np.rint(ramp / 3).astype(np.uint8)[None, :, None].repeat(8, 0).repeat(3, 2) * 3
    found = smoothed(levels)
    assert found.dtype == np.float32
    assert np.abs(levels - ramp[:, None]).mean() > 1.3 * np.abs(found - ramp[:, None]).mean()
    # Nothing comes nearer to another level.
    assert np.abs(found - levels).max() <= 1.5
    flat = np.full((5, 7, 3), 9, np.uint8)
    assert np.array_equal(smoothed(flat), flat)


def test_thumbnails_of_fine_qualities_are_smooth_as_well(photo):
    with Codec.open(threads=1) as shipped:
        reader = open_stream(shipped.compress(photo, 40), shipped.limits)
        small = thumbnail(reader, shipped.bundle)
        rough = preview_colors(read_compact(reader, shipped.bundle).levels, shipped.bundle.manifest)
    wanted = np.asarray(Image.fromarray(photo).reduce(8)).astype(float)
    assert np.mean((small - wanted) ** 2) < 0.85 * np.mean((rough - wanted) ** 2)


def test_the_shipped_bundles_thumbnail_looks_like_the_picture(photo):
    with Codec.open(threads=1) as shipped:
        data = shipped.compress(photo, 0)
        small = thumbnail(open_stream(data, shipped.limits), shipped.bundle)
    wanted = np.asarray(Image.fromarray(photo).reduce(8))
    assert small.shape == wanted.shape
    assert np.sqrt(np.mean((small.astype(float) - wanted) ** 2)) < 20


# -- strips ------------------------------------------------------------------------------------------------------


class Rows:
    """An array as a source of rows."""

    def __init__(self, image):
        self.image, self.row = image, 0
        self.height, self.width = image.shape[:2]
        self.layout = Layout(1 if image.ndim == 2 else image.shape[2])

    def reduced(self, factor):
        color = self.image if self.image.ndim == 2 else self.image[..., :3]
        if self.image.ndim == 2:
            color = np.repeat(color[..., np.newaxis], 3, axis=2)
        return reduce_image(np.ascontiguousarray(color), factor)

    def rows(self, count):
        self.row += count
        assert self.row <= self.height
        return self.image[self.row - count : self.row]


def test_strips_give_the_same_file_and_the_same_pixels(codec, picture):
    whole = codec.compress(picture, 50, effort=FAST)
    file = io.BytesIO()
    sizes = codec.compress_rows(Rows(picture), file, Settings(50, FAST))
    assert file.getvalue() == whole
    assert set(sizes) == {"labels", "compact", "residual", "alpha"}
    reader = StreamReader.of_file(file, codec.limits)
    check_stream(reader)
    strips = list(codec.decompress_rows(reader))
    assert [type(strip) for strip in strips] == [DecodedStrip] * reader.header.grid.rows
    assert np.array_equal(np.concatenate([s.pixels for s in strips]), codec.decompress(whole))
    assert not any(s.drifted or s.residual_drifted for s in strips)


def test_strips_are_as_coarse_as_the_whole_below_a_step_of_the_table(photo):
    """15.75 is below 16, where the compact image gets coarser, and the AV1 coder takes it as 16."""
    with Codec.open(threads=1) as shipped:
        assert shipped.bundle.manifest.coarseness[0][0] == 16
        whole = shipped.compress(photo, 15.75, effort=FAST)
        file = io.BytesIO()
        shipped.compress_rows(Rows(photo), file, Settings(15.75, FAST))
    assert file.getvalue() == whole


def test_strips_that_do_not_fit_are_refused(codec, picture):
    tight = Codec(codec.graphs, Limits(memory=30 << 20))
    with pytest.raises(LimitError, match="even in strips it would need"):
        tight.compress_rows(Rows(picture), io.BytesIO(), Settings(50))


# -- bundles by fingerprint --------------------------------------------------------------------------------------


def test_a_stream_finds_its_bundle(codec, stream, whole, monkeypatch):
    """Decoded without naming the bundle, though the default is another one."""
    with Codec.open(threads=1) as default:
        monkeypatch.delenv("OSLIC_BUNDLES", raising=False)
        with pytest.raises(BundleError, match=r"abababab.*OSLIC_BUNDLES"):
            default.decompress(stream)
        monkeypatch.setenv("OSLIC_BUNDLES", str(codec.bundle.path.parent))
        assert np.array_equal(default.decompress(stream), whole)
    with Codec.open("lite") as named, pytest.raises(BundleError, match="give the right one with --bundle"):
        named.decompress(stream)


def test_unknown_names_of_bundles_list_the_shipped_ones():
    with pytest.raises(BundleError, match=r"no bundle none-such: .*lite"):
        Codec.open("none-such")
