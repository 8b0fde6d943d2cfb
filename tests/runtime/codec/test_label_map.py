"""Label maps: what they say of the picture's pixels, and reading them from streams."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_streams import COLORS, GROUPS, NAMES, label_stream, named_bundle
from oslic.runtime import LabelMap, read_labels
from oslic.runtime.bundle.manifest import ClassInfo
from oslic.runtime.codec.container import SectionType, read_info
from oslic.runtime.errors import BundleError, LimitError, StreamError, UsageError
from oslic.runtime.limits import Limits
from skimage.measure import label, regionprops
from stream_tools import changed

CLASSES = tuple(ClassInfo(name, color) for name, color in zip(NAMES, COLORS, strict=True))
PEOPLE = {group: tuple(members) for group, members in GROUPS.items()}
LIMITS = Limits(memory=1 << 30)
# Columns cover 4, 4 and 2 pixels, rows 4 and 3.
SMALL = np.array([[0, 1, 2], [0, 0, 3]], np.uint8)


@pytest.fixture
def small():
    return LabelMap(SMALL, 4, 10, 7, CLASSES, PEOPLE)


@pytest.fixture
def bundle(tmp_path):
    return named_bundle(tmp_path / "bundle")


@pytest.fixture
def stream(bundle):
    return label_stream(bundle, SMALL, 4, 10, 7)


def test_the_last_row_and_column_count_for_what_they_cover(small):
    assert small.pixels() == {"sky": 16 + 24, "skin": 16, "clothes": 8, "thing": 6}
    assert small.shares() == {"sky": 40 / 70, "skin": 16 / 70, "clothes": 8 / 70, "thing": 6 / 70}
    assert small.group_shares() == {"person": pytest.approx(24 / 70)}


def test_boxes_and_regions_are_those_of_the_picture(small):
    found = small.class_statistics()
    assert list(found) == list(NAMES)
    assert (found["sky"].box, found["sky"].regions) == ((0, 0, 8, 7), 1)
    assert (found["thing"].box, found["thing"].pixels, found["thing"].share) == ((8, 4, 2, 3), 6, 6 / 70)
    person = small.group_statistics()["person"]
    assert (person.box, person.regions, person.pixels) == ((4, 0, 6, 4), 1, 24)
    assert [(region.box, region.pixels) for region in small.regions("person")] == [((4, 0, 6, 4), 24)]


def test_a_class_that_the_picture_lacks_has_no_box():
    labels = LabelMap(np.zeros((1, 1), np.uint8), 8, 5, 5, CLASSES)
    found = labels.class_statistics()["thing"]
    assert (found.pixels, found.share, found.box, found.regions) == (0, 0.0, None, 0)
    assert labels.regions("thing") == ()
    assert not labels.mask("thing").any()


@settings(max_examples=200, deadline=None)
@given(data=st.data(), scale=st.integers(1, 9), width=st.integers(1, 40), height=st.integers(1, 40))
def test_everything_agrees_with_the_full_map(data, scale, width, height):
    shape = -(-height // scale), -(-width // scale)
    array = data.draw(arrays(np.uint8, shape, elements=st.integers(0, 3)))
    labels = LabelMap(array, scale, width, height, CLASSES, PEOPLE)
    full = np.array([[array[y // scale, x // scale] for x in range(width)] for y in range(height)], np.uint8)
    assert np.array_equal(labels.full(), full)
    assert sum(labels.pixels().values()) == full.size
    masks = {name: full == number for number, name in enumerate(NAMES)}
    masks["person"] = (full == 1) | (full == 2)
    statistics = labels.class_statistics() | labels.group_statistics()
    for name, mask in masks.items():
        assert np.array_equal(labels.mask(name), mask)
        parts = regionprops(label(mask, connectivity=1))
        assert statistics[name].pixels == mask.sum()
        assert statistics[name].regions == len(parts)
        regions = labels.regions(name)
        assert [region.pixels for region in regions] == sorted((int(p.area) for p in parts), reverse=True)
        assert sorted(region.box for region in regions) == sorted(
            (p.bbox[1], p.bbox[0], p.bbox[3] - p.bbox[1], p.bbox[2] - p.bbox[0]) for p in parts
        )
        if parts:
            rows, columns = np.nonzero(mask)
            top, left = rows.min(), columns.min()
            assert statistics[name].box == (left, top, columns.max() + 1 - left, rows.max() + 1 - top)
    for name, share in labels.shares().items():
        assert share == masks[name].mean()


def test_it_stands_for_its_array(small):
    assert np.array_equal(small, SMALL)
    assert np.asarray(small) is SMALL
    assert np.asarray(small, np.int32).dtype == np.int32
    copied = np.array(small)
    copied[:] = 3
    assert small.array[0, 0] == 0
    assert small.names == NAMES
    assert small.colors.tolist() == [list(color) for color in COLORS]


def test_a_scale_beyond_the_picture_takes_no_memory():
    labels = LabelMap(np.ones((1, 1), np.uint8), 65535, 6, 3, CLASSES)
    assert labels.full().shape == (3, 6)
    assert labels.pixels()["skin"] == 18
    assert labels.class_statistics()["skin"].box == (0, 0, 6, 3)
    assert labels.run_lengths("skin").tolist() == [0, 18]


@pytest.mark.parametrize("ask", ["mask", "small_mask", "regions", "run_lengths"])
def test_a_name_that_does_not_exist_is_told_with_those_that_do(small, ask):
    with pytest.raises(UsageError, match=r"no class 'Sky'.*sky, skin, clothes, thing.*groups person"):
        getattr(small, ask)("Sky")


@pytest.mark.parametrize(
    ("array", "classes", "groups", "message"),
    [
        (SMALL[:1], CLASSES, {}, "shape"),
        (SMALL.astype(int), CLASSES, {}, "int64"),
        (SMALL, CLASSES[:3], {}, "holds 3"),
        (SMALL, (*CLASSES[:3], CLASSES[0]), {}, "one name"),
        (SMALL, CLASSES, {"x": ("sky", "sea")}, "not there"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(array, classes, groups, message):
    with pytest.raises(UsageError, match=message):
        LabelMap(array, 4, 10, 7, classes, groups)


# -- reading ---------------------------------------------------------------------------------------------------


def test_a_streams_map_is_read_with_its_classes(bundle, stream, monkeypatch):
    for given_as in (bundle, bundle.path, str(bundle.path)):
        labels = read_labels(stream, given_as)
        assert np.array_equal(labels, SMALL)
        assert (labels.scale, labels.width, labels.height) == (4, 10, 7)
        assert (labels.classes, labels.groups) == (CLASSES, PEOPLE)
    with pytest.raises(BundleError, match="no known bundle"):
        read_labels(stream)
    with pytest.raises(BundleError, match="give the right one"):
        read_labels(stream, "lite")
    monkeypatch.setenv("OSLIC_BUNDLES", str(bundle.path))
    assert np.array_equal(read_labels(memoryview(stream)), SMALL)


def test_a_codec_reads_the_maps_of_known_bundles(bundle, stream, monkeypatch):
    from oslic.runtime import Codec

    monkeypatch.setenv("OSLIC_BUNDLES", str(bundle.path))
    with Codec.open() as codec:
        assert codec.decode_labels(stream).names == NAMES
    with Codec.open("lite") as codec, pytest.raises(BundleError, match="give the right one"):
        codec.decode_labels(stream)


def test_a_truncated_stream_has_its_map_if_that_is_asked_for(bundle, stream):
    section = read_info(stream, LIMITS).section(SectionType.LABELS)
    with pytest.raises(StreamError, match="truncated"):
        read_labels(stream[:-1], bundle)
    assert np.array_equal(read_labels(stream[: section.end], bundle, partial=True), SMALL)
    for end in (section.end - 1, section.offset, section.offset - 1, 9, 0):
        with pytest.raises(StreamError, match=r"ends inside|truncated|empty"):
            read_labels(stream[:end], bundle, partial=True)


def test_a_damaged_map_is_an_error_of_ours(bundle, stream):
    section = read_info(stream, LIMITS).section(SectionType.LABELS)
    for position in range(section.offset, section.end):
        broken = bytearray(stream)
        broken[position] ^= 0x40
        with pytest.raises(StreamError, match="checksum"):
            read_labels(broken, bundle)
    for content in (b"", b"FLIF", bytes(30)):
        with pytest.raises(StreamError, match="labels section"):
            read_labels(changed(stream, SectionType.LABELS, content), bundle)
    beyond = label_stream(bundle, SMALL + 1, 4, 10, 7)
    with pytest.raises(StreamError, match="holds the value 4"):
        read_labels(beyond, bundle)
    larger = label_stream(bundle, np.zeros((9, 9), np.uint8), 4, 10, 7)
    with pytest.raises(StreamError, match="the header calls for 3x2"):
        read_labels(larger, bundle)


def test_a_map_beyond_the_memory_is_refused_before_it_is_decoded(bundle):
    large = label_stream(bundle, np.zeros((1, 1), np.uint8), 1, 8000, 8000)
    with pytest.raises(LimitError, match=r"label map is 8000x8000.*--max-memory"):
        read_labels(large, bundle, Limits(memory=1 << 30))
    with pytest.raises(LimitError, match="--max-pixels"):
        read_labels(large, bundle, Limits(pixels=1000))


def test_neither_torch_nor_a_backend_is_loaded(bundle, stream, tmp_path):
    import subprocess

    (tmp_path / "x.oslic").write_bytes(stream)
    code = f"""
import sys
from pathlib import Path
from oslic.runtime import read_labels
print(read_labels(Path({str(tmp_path / "x.oslic")!r}).read_bytes(), {str(bundle.path)!r}).pixels()["sky"])
print(sorted({{"onnxruntime", "torch", "tensorrt", "scipy", "cv2"}} & {{m.split(".")[0] for m in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["40", "[]"]
