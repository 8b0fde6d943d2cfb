"""Run lengths and documents against `pycocotools`."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from label_streams import COLORS, NAMES
from oslic.runtime.bundle.manifest import ClassInfo
from oslic.runtime.codec import LabelMap
from oslic.runtime.codec.coco import CocoWriter, compressed
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

# Of arrays that pycocotools makes for itself.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES = tuple(ClassInfo(name, color) for name, color in zip(NAMES, COLORS, strict=True))


def _map(array, scale, width, height, classes=CLASSES):
    return LabelMap(
        np.asarray(array, np.uint8), scale, width, height, classes, {"person": ("skin", "clothes")}
    )


@st.composite
def maps(draw):
    scale = draw(st.integers(1, 5))
    width, height = draw(st.integers(1, 24)), draw(st.integers(1, 24))
    shape = -(-height // scale), -(-width // scale)
    return _map(draw(arrays(np.uint8, shape, elements=st.integers(0, 3))), scale, width, height)


@settings(max_examples=300, deadline=None)
@given(maps())
def test_run_lengths_are_those_of_pycocotools(labels):
    full = np.asarray(labels).repeat(labels.scale, 0).repeat(labels.scale, 1)
    full = full[: labels.height, : labels.width]
    for number, name in enumerate(labels.names):
        wanted = np.asfortranarray(full == number, np.uint8)
        counts = labels.run_lengths(name)
        assert counts.sum() == full.size
        assert (counts[1:] > 0).all()
        size = [labels.height, labels.width]
        assert np.array_equal(
            coco_mask.decode(coco_mask.frPyObjects({"size": size, "counts": counts.tolist()}, *size)), wanted
        )
        text = compressed(counts)
        assert text.encode() == coco_mask.encode(wanted)["counts"]
        assert np.array_equal(coco_mask.decode({"size": size, "counts": text}), wanted)


@pytest.mark.parametrize(
    "counts",
    [[0, 1], [1], [5, 1 << 31, 7], [0, 15, 16, 31, 32, 1023, 1024, 1, (1 << 32) - 70_000], [3, 2, 1] * 40],
)
def test_long_and_falling_counts_are_written_as_pycocotools_writes_them(counts):
    side = sum(counts)
    made = coco_mask.frPyObjects({"size": [side, 1], "counts": counts}, side, 1)
    assert compressed(np.array(counts)) == made["counts"].decode()


def _load(path):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


@pytest.mark.parametrize("compress", [False, True])
def test_a_document_is_read_by_pycocotools(tmp_path, compress):
    random = np.random.default_rng(5)
    labels = _map(random.integers(0, 3, (6, 9)), 7, 60, 40)  # nothing has class 3
    path = tmp_path / "x.json"
    path.write_text(json.dumps(labels.to_coco("folder/x.oslic", compress=compress)), encoding="utf-8")
    found = _load(path)
    assert found.loadImgs(found.getImgIds()) == [
        {"id": 1, "file_name": "folder/x.oslic", "width": 60, "height": 40}
    ]
    assert found.loadCats(found.getCatIds()) == [
        {"id": 1, "name": "sky", "supercategory": "sky"},
        {"id": 2, "name": "skin", "supercategory": "person"},
        {"id": 3, "name": "clothes", "supercategory": "person"},
        {"id": 4, "name": "thing", "supercategory": "thing"},
    ]
    assert found.getCatIds(supNms=["person"]) == [2, 3]
    annotations = found.loadAnns(found.getAnnIds(imgIds=[1]))
    assert [each["category_id"] for each in annotations] == [1, 2, 3]
    assert [each["id"] for each in annotations] == [1, 2, 3]
    for each in annotations:
        mask = labels.full() == each["category_id"] - 1
        assert np.array_equal(found.annToMask(each), mask)
        encoded = found.annToRLE(each)
        assert each["area"] == coco_mask.area(encoded) == mask.sum()
        assert each["bbox"] == coco_mask.toBbox(encoded).tolist()
        assert isinstance(each["segmentation"]["counts"], str) is compress
    assert sum(each["area"] for each in annotations) == 60 * 40


def test_categories_of_several_networks_are_told_apart_by_name():
    other = tuple(ClassInfo(name, (0, 0, 0)) for name in ("water", "sky"))
    file = io.BytesIO()
    writer = CocoWriter(file)
    writer.add("a", _map([[0, 3]], 8, 16, 8))
    writer.add("b", LabelMap(np.array([[0, 1]], np.uint8), 8, 16, 8, other))
    writer.finish()
    made = json.loads(file.getvalue())
    names = {entry["id"]: entry["name"] for entry in made["categories"]}
    assert list(names.values()) == [*NAMES, "water"]
    assert [(each["image_id"], names[each["category_id"]]) for each in made["annotations"]] == [
        (1, "sky"),
        (1, "thing"),
        (2, "water"),
        (2, "sky"),
    ]


def test_a_document_without_pictures_is_one():
    file = io.BytesIO()
    CocoWriter(file).finish()
    assert json.loads(file.getvalue())["annotations"] == []
