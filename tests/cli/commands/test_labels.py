"""`oslic labels`: its files, its JSON, its errors."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys

import numpy as np
import pytest
from label_streams import COLORS, NAMES, label_stream, named_bundle
from oslic.cli import main as cli
from oslic.cli.label_images import safe_names
from oslic.runtime.codec.container import SectionType, read_info
from oslic.runtime.limits import Limits
from PIL import Image
from pycocotools.coco import COCO

# Columns cover 4, 4 and 2 pixels, rows 4 and 3; "clothes" does not occur.
SMALL = np.array([[0, 1, 1], [0, 0, 3]], np.uint8)
FULL = SMALL.repeat(4, 0).repeat(4, 1)[:7, :10]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the stream `a.oslic`, whose bundle is known; the current one."""
    bundle = named_bundle(tmp_path / "bundle")
    (tmp_path / "a.oslic").write_bytes(label_stream(bundle, SMALL, 4, 10, 7))
    monkeypatch.setenv("OSLIC_BUNDLES", str(bundle.path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name not in {"bundle", "a.oslic"})


def _rows(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_the_label_map_goes_beside_the_stream(folder, capsys):
    assert cli.main(["labels", "a.oslic"]) == 0
    assert capsys.readouterr().out == (
        "a.oslic -> a.labels.png: 10x7, sky 57.1 %, skin 34.3 %, thing 8.6 %\n"
    )
    assert _files(folder) == ["a.labels.png"]
    picture = Image.open("a.labels.png")
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), FULL)
    assert np.array_equal(np.asarray(picture.convert("RGB")), np.array(COLORS)[FULL])


@pytest.mark.parametrize("place", ["out/", "out", "x.png", "x.tif", "x.bmp"])
def test_the_label_map_goes_where_it_is_told(folder, place):
    (folder / "out").mkdir()
    assert cli.main(["labels", "a.oslic", "-o", place]) == 0
    path = folder / "out/a.labels.png" if place.startswith("out") else folder / place
    assert np.array_equal(np.asarray(Image.open(path)), FULL)


def test_there_is_a_mask_for_each_class_that_occurs(folder, capsys):
    assert cli.main(["labels", "a.oslic", "--masks", "--mask", "person", "--mask", "sky", "--json"]) == 0
    (row,) = _rows(capsys)
    names = ["a.mask.sky.png", "a.mask.skin.png", "a.mask.thing.png", "a.mask.person.png"]
    assert row["outputs"] == names
    assert _files(folder) == sorted(names)
    for name, wanted in zip(names, (FULL == 0, FULL == 1, FULL == 3, (FULL == 1) | (FULL == 2)), strict=True):
        mask = Image.open(name)
        assert mask.mode == "1"
        assert np.array_equal(np.asarray(mask), wanted)


def test_a_mask_that_is_asked_for_may_be_empty(folder):
    assert cli.main(["labels", "a.oslic", "--mask", "clothes"]) == 0
    assert not np.asarray(Image.open("a.mask.clothes.png")).any()


def test_json_has_a_line_for_each_file(folder, capsys):
    (folder / "bad.oslic").write_bytes(b"not a stream")
    assert cli.main(["labels", "bad.oslic", "a.oslic", "none.oslic", "--json"]) == 4
    said = capsys.readouterr()
    bad, good, none = map(json.loads, said.out.splitlines())
    assert good == {
        "input": "a.oslic",
        "width": 10,
        "height": 7,
        "label_scale": 4,
        "classes": {
            "sky": {"share": 40 / 70, "pixels": 40, "bbox": [0, 0, 8, 7], "regions": 1},
            "skin": {"share": 24 / 70, "pixels": 24, "bbox": [4, 0, 6, 4], "regions": 1},
            "clothes": {"share": 0.0, "pixels": 0, "bbox": None, "regions": 0},
            "thing": {"share": 6 / 70, "pixels": 6, "bbox": [8, 4, 2, 3], "regions": 1},
        },
        "groups": {
            "person": {
                "classes": ["skin", "clothes"],
                "share": 24 / 70,
                "pixels": 24,
                "bbox": [4, 0, 6, 4],
                "regions": 1,
            }
        },
        "outputs": [],
    }
    assert (bad["input"], bad["exit_code"], none["exit_code"]) == ("bad.oslic", 4, 2)
    assert "not an .oslic stream" in bad["error"]
    assert said.err.count("oslic labels: error: ") == 2
    assert _files(folder) == ["bad.oslic"]


def _coco(path):
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(path)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("option", [[], ["--compress-counts"]])
def test_one_coco_file_holds_all_that_can_be_read(folder, option, capsys):
    other = named_bundle(folder / "other", ("sea", "sky", "b", "c"), "ef" * 32, {})
    (folder / "b.oslic").write_bytes(label_stream(other, SMALL, 8, 20, 14))
    (folder / "bad.oslic").write_bytes(b"not a stream")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OSLIC_BUNDLES", f"{folder / 'bundle'}:{other.path}")
        words = ["labels", "a.oslic", "bad.oslic", "b.oslic", "--coco", "c.json", *option]
        assert cli.main(words) == 4
    assert capsys.readouterr().out.splitlines()[0] == "a.oslic: 10x7, sky 57.1 %, skin 34.3 %, thing 8.6 %"
    found = _coco("c.json")
    assert [image["file_name"] for image in found.loadImgs(found.getImgIds())] == ["a.oslic", "b.oslic"]
    (sky,) = found.getCatIds(catNms=["sky"])
    (first,) = found.loadAnns(found.getAnnIds(imgIds=[1], catIds=[sky]))
    (second,) = found.loadAnns(found.getAnnIds(imgIds=[2], catIds=[sky]))
    assert np.array_equal(found.annToMask(first), FULL == 0)
    assert np.array_equal(found.annToMask(second), (SMALL == 1).repeat(8, 0).repeat(8, 1)[:14, :20])
    assert _files(folder) == ["b.oslic", "bad.oslic", "c.json", "other"]


def test_nothing_is_written_where_nothing_can_be_read(folder):
    (folder / "bad.oslic").write_bytes((folder / "a.oslic").read_bytes()[:-1])
    before = _files(folder)
    assert cli.main(["labels", "bad.oslic", "--png", "--masks", "--coco", "c.json"]) == 4
    assert _files(folder) == before


@pytest.mark.parametrize("words", [[], ["--masks"]])
def test_files_that_are_there_stay_unless_they_may_go(folder, capsys, words):
    name = "a.mask.sky.png" if words else "a.labels.png"
    (folder / name).write_text("precious")
    assert cli.main(["labels", "a.oslic", *words]) == 2
    assert f"{name} exists already: it is not replaced" in capsys.readouterr().err
    assert (folder / name).read_text() == "precious"
    assert cli.main(["labels", "a.oslic", *words, "-o", ".", "--no-overwrite"]) == 2
    assert (folder / name).read_text() == "precious"
    assert cli.main(["labels", "a.oslic", *words, "--overwrite"]) == 0
    assert Image.open(folder / name).size == (10, 7)
    (folder / name).write_text("not so precious")
    assert cli.main(["labels", "a.oslic", *words, "-o", "."]) == 0
    assert Image.open(folder / name).size == (10, 7)


def test_a_truncated_stream_is_taken_where_that_is_asked_for(folder, capsys):
    data = (folder / "a.oslic").read_bytes()
    section = read_info(data, Limits(memory=1)).section(SectionType.LABELS)
    (folder / "cut.oslic").write_bytes(data[: section.end])
    (folder / "more.oslic").write_bytes(data[: section.end - 1])
    assert cli.main(["labels", "cut.oslic"]) == 4
    assert "truncated" in capsys.readouterr().err
    assert cli.main(["labels", "cut.oslic", "--partial"]) == 0
    assert np.array_equal(np.asarray(Image.open("cut.labels.png")), FULL)
    assert cli.main(["labels", "more.oslic", "--partial"]) == 4
    assert not (folder / "more.labels.png").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["a.oslic", "--mask", "Sky"],
            2,
            "no class 'Sky': the classes are sky, skin, clothes, thing, groups person",
        ),
        (["a.oslic", "--png", "--mask", "../sky"], 2, "no class '../sky'"),
        (["a.oslic", "--bundle", "lite"], 5, "give the right one with --bundle"),
        (["a.oslic", "--bundle", "none"], 5, "no bundle none"),
        (["a.oslic", "--masks", "-o", "x.png"], 2, "-o must name an existing folder"),
        (["a.oslic", "-o", "none/none/"], 2, "create it first"),
        (["a.oslic", "-o", "none/x.png"], 2, "does not exist"),
        (["a.oslic", "-o", "x.jpg"], 2, "without loss"),
        (["a.oslic", "-o", "a.oslic"], 2, "a.oslic"),
        (["a.oslic", "--coco", "a.oslic"], 2, "would be written over the input"),
        (["a.oslic", "--json", "-o", "."], 2, "add --png or --masks"),
        (["a.oslic", "--compress-counts"], 2, "--coco FILE"),
        (["a.oslic", "sub/a.oslic", "-o", "."], 2, "would both be written"),
        (["a.oslic", "--max-pixels", "9"], 7, "--max-pixels"),
        (["a.oslic", "--max-memory", "1M"], 7, "--max-memory"),
        (["/dev/null"], 2, "name one with -o"),
        (["bundle"], 2, "the folder bundle holds no streams (.oslic)"),
        (["x" * 300], 2, "File name too long"),
        ([""], 2, "the name of an input is empty"),
    ],
)
def test_errors_are_one_line_and_leave_nothing_behind(folder, capsys, words, code, message):
    before = _files(folder)
    data = (folder / "a.oslic").read_bytes()
    assert cli.main(["labels", *words]) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert _files(folder) == before
    assert (folder / "a.oslic").read_bytes() == data


def test_a_mask_is_not_written_over_another_input(folder, capsys):
    """The names of masks are known only when the stream is read."""
    (folder / "a.oslic").rename(folder / "x.oslic")
    victim = folder / "x.mask.thing.png"
    victim.write_bytes((folder / "x.oslic").read_bytes())
    assert cli.main(["labels", "x.oslic", str(victim), "--masks"]) == 2
    assert "would be written over the input" in capsys.readouterr().err
    assert victim.read_bytes() == (folder / "x.oslic").read_bytes()
    assert not (folder / "x.mask.sky.png").exists()


def test_names_of_classes_that_are_no_names_of_files(folder, capsys):
    names = ("../../etc/x", "A", "a", "\x1b[31m")
    bundle = named_bundle(folder / "evil", names, "ef" * 32, {"": ["A"]})
    labels = np.array([[0, 1, 2, 3]], np.uint8)
    (folder / "b.oslic").write_bytes(label_stream(bundle, labels, 8, 32, 8))
    assert cli.main(["labels", "b.oslic", "--masks", "--mask", "", "--bundle", str(bundle.path)]) == 0
    said = capsys.readouterr().out
    assert all(c.isprintable() or c == "\n" for c in said)
    assert [name for name in _files(folder) if name.startswith("b.mask")] == [
        "b.mask.-4.png",
        "b.mask.A.png",
        "b.mask.__31m.png",
        "b.mask.______etc_x.png",
        "b.mask.a-2.png",
    ]
    assert cli.main(["labels", "b.oslic", "--mask", "x", "--bundle", str(bundle.path)]) == 2
    assert all(c.isprintable() or c == "\n" for c in capsys.readouterr().err)


def test_safe_names_differ():
    names = ["a", "a-1", "A", "", "é/ü", "x" * 300, "x" * 301, "a-2", "天空", "..", "\ud800"]
    safe = safe_names(names)
    assert len({made.casefold() for made in safe.values()}) == len(names)
    assert all(len(made) < 60 and made and "/" not in made and "." not in made for made in safe.values())
    assert (safe["a"], safe["é/ü"], safe["天空"]) == ("a", "é_ü", "天空")


def test_no_backend_is_loaded(folder):
    code = """
import sys
from oslic.cli import main as cli
assert cli.main(["labels", "a.oslic", "--png", "--masks", "--json", "--coco", "c.json"]) == 0
print(sorted({"onnxruntime", "torch", "tensorrt", "cv2"} & {m.split(".")[0] for m in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_output_may_go_through_a_pipe(folder):
    command = [sys.executable, "-m", "oslic.cli.main", "labels", "/dev/stdin", "-o", "/dev/stdout"]
    done = subprocess.run(command, input=(folder / "a.oslic").read_bytes(), capture_output=True, check=True)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(done.stdout))), FULL)
    assert b"/dev/stdin -> /dev/stdout" in done.stderr


def test_the_layer_of_decompress_is_the_same_picture(folder, capsys):
    assert cli.main(["decompress", "a.oslic", "-o", "x.png", "--layer", "labels", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["files"]
    assert (row["width"], row["height"]) == (10, 7)
    assert cli.main(["labels", "a.oslic"]) == 0
    assert cli.main(["info", "a.oslic", "--labels", "y.png"]) == 0
    assert (folder / "x.png").read_bytes() == (folder / "a.labels.png").read_bytes()
    assert (folder / "y.png").read_bytes() == (folder / "x.png").read_bytes()


def test_a_scale_far_beyond_the_picture_makes_no_large_picture(folder):
    bundle = named_bundle(folder / "other", NAMES, "ef" * 32)
    (folder / "b.oslic").write_bytes(label_stream(bundle, np.array([[3]], np.uint8), 65535, 6, 3))
    for name in ("x.png", "x.tif"):
        assert cli.main(["labels", "b.oslic", "-o", name, "--bundle", str(bundle.path)]) == 0
        assert np.array_equal(np.asarray(Image.open(name)), np.full((3, 6), 3))
