"""The command line: exit codes, messages, JSON, files."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from label_streams import label_stream, named_bundle
from onnx_builders import Builder
from oslic.cli import main as cli
from oslic.runtime.bundle.folder import default_bundle
from oslic.runtime.codec import Codec
from oslic.runtime.codec.container import SectionType
from PIL import Image
from stream_tools import changed, with_record


@pytest.fixture
def small(tmp_path, photo):
    path = tmp_path / "cat.png"
    Image.fromarray(photo[:120, :160]).save(path)
    return path


@pytest.fixture
def stream(tmp_path, small):
    path = tmp_path / "cat.oslic"
    assert cli.main(["compress", str(small), "-o", str(path), "--effort", "0"]) == 0
    return path


def test_round_trip(tmp_path, small, stream, capsys):
    back = tmp_path / "back.png"
    assert cli.main(["decompress", str(stream), "-o", str(back)]) == 0
    assert "digest ok" in capsys.readouterr().out
    assert Image.open(back).size == Image.open(small).size


def test_folders_and_json(tmp_path, photo, capsys):
    sources = []
    for index in range(3):
        sources.append(str(tmp_path / f"{index}.png"))
        Image.fromarray(photo[index * 40 : index * 40 + 40, :64]).save(sources[-1])
    out = tmp_path / "out"
    out.mkdir()
    assert cli.main(["compress", *sources, "-o", str(out), "--json", "--effort", "0", "--quality", "30"]) == 0
    rows = json.loads(capsys.readouterr().out)["files"]
    assert [row["input"] for row in rows] == sources
    for row in rows:
        assert row["bytes"] == sum(row["section_bytes"].values()) + row["overhead_bytes"]
        assert set(row["stages_ms"]) >= {
            "read",
            "segment",
            "analyse",
            "synthesise",
            "labels",
            "compact",
            "residual",
            "write",
        }
    streams = [str(out / f"{i}.png.oslic") for i in range(3)]
    assert cli.main(["decompress", *streams, "-o", str(out), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["files"]
    assert all(row["digest_matches"] for row in rows)
    assert sorted(p.name for p in out.glob("*.png")) == ["0.png", "1.png", "2.png"]


def test_one_bad_file_does_not_stop_the_others(tmp_path, small, capsys):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    out = tmp_path / "out"
    out.mkdir()
    assert cli.main(["compress", str(bad), str(small), "-o", str(out), "--effort", "0"]) == 3
    assert (out / "cat.png.oslic").is_file()
    assert not (out / "bad.png.oslic").exists()
    error = capsys.readouterr().err
    assert error.startswith("oslic compress: error: ")
    assert "bad.png is not an image" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["compress", "{small}", "-o", "{tmp}/none/x.oslic"], 2, "does not exist"),
        (
            ["compress", "{small}", "{stream}", "-o", "{tmp}/x.oslic"],
            2,
            "is one file, and there are 2 inputs",
        ),
        (["compress", "{tmp}/none.png", "-o", "{tmp}/x.oslic"], 2, "No such file"),
        (
            ["compress", "{small}", "-o", "{tmp}/x.oslic", "--bpp", "0.001"],
            8,
            "below the floor of this image",
        ),
        (["compress", "{small}", "-o", "{tmp}/x.oslic", "--quality", "101"], 2, "out of range"),
        (["compress", "{small}", "-o", "{tmp}/x.oslic", "--bundle", "{tmp}"], 5, "no bundle at"),
        (["compress", "{small}", "-o", "{tmp}/x.oslic", "--backend", "x"], 6, "unknown backend"),
        (["decompress", "{small}", "-o", "{tmp}/x.png"], 4, "not an .oslic stream"),
        (["decompress", "{stream}", "-o", "{tmp}/x.gif"], 2, "no image format that is written"),
        (["info", "{small}"], 4, "not an .oslic stream"),
        (["info", "{tmp}/none"], 2, "No such file"),
    ],
)
def test_errors_are_one_line_with_a_documented_code(tmp_path, small, stream, capsys, words, code, message):
    capsys.readouterr()
    filled = [w.format(small=small, stream=stream, tmp=tmp_path) for w in words]
    before = sorted(tmp_path.iterdir())
    assert cli.main(filled) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_debug_raises(tmp_path, small):
    from oslic.runtime.errors import UsageError

    with pytest.raises(UsageError):
        cli.main(["compress", str(small), "-o", str(tmp_path / "none" / "x"), "--debug"])


@pytest.mark.parametrize("option", ["--psnr", "--bpp"])
def test_targets_that_are_no_numbers_are_refused(small, tmp_path, option, capsys):
    """No comparison with nan holds: a search for it ended at the lowest quality, as if that had reached it."""
    for value in ("nan", "inf", "-3"):
        with pytest.raises(SystemExit) as caught:
            cli.main(["compress", str(small), "-o", str(tmp_path / "x.oslic"), option, value])
        assert caught.value.code == 2
        assert f"{value} is not" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["{small}", "{tmp}/link.png", "{tmp}/./cat.png"])
def test_no_input_is_written_over(small, tmp_path, name, capsys):
    (tmp_path / "link.png").symlink_to(small)
    before = small.read_bytes()
    output = name.format(small=small, tmp=tmp_path)
    for command in (["compress", str(small), "-o", output], ["flif", "encode", str(small), output]):
        assert cli.main(command) == 2
        assert "would be written over the input" in capsys.readouterr().err
    folder = tmp_path / "folder"
    folder.mkdir()
    image = small.rename(folder / "cat.png")
    (folder / "cat.png.oslic").hardlink_to(image)
    assert cli.main(["compress", str(image), "-o", str(folder)]) == 2
    assert image.read_bytes() == before


def test_json_has_no_infinity(photo):
    from oslic.cli.commands.compress import _row
    from oslic.cli.jobs import Job

    with Codec.open() as codec:
        made = codec.layers(photo[:32, :32])
        layers = dataclasses.replace(made, image=made.estimate)
        encoded = dataclasses.replace(codec.finish(layers, quality=0), layers=layers)
        row = _row(Job(Path("x.png"), Path("x.oslic")), encoded, float("inf"), {})
    assert row["psnr"] is row["psnr_estimate"] is None
    json.dumps(row, allow_nan=False)


def test_info_shows_header_and_sections(stream, capsys):
    assert cli.main(["info", str(stream), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["width"], facts["height"], facts["layout"]) == (160, 120, "rgb")
    assert [s["name"] for s in facts["sections"]] == ["labels", "compact", "residual"]
    assert facts["bytes"] == stream.stat().st_size
    assert facts["overhead_bytes"] <= 64
    assert cli.main(["info", str(stream)]) == 0
    assert "section residual" in capsys.readouterr().out


def test_info_writes_the_label_map_with_its_classes(tmp_path, small, stream):
    path = tmp_path / "labels.png"
    assert cli.main(["info", str(stream), "--labels", str(path)]) == 0
    picture = Image.open(path)
    with Codec.open() as codec:
        labels = codec.graphs.segment(np.array(Image.open(small)))
        scale = codec.bundle.manifest.label_scale
        colors = [c.color for c in codec.bundle.manifest.classes]
    assert picture.mode == "P"
    assert np.array_equal(np.asarray(picture), labels.repeat(scale, 0).repeat(scale, 1)[:120, :160])
    assert picture.convert("RGB").getpixel((0, 0)) == colors[labels[0, 0]]


def test_info_tells_what_the_picture_shows(tmp_path, monkeypatch, capsys):
    bundle = named_bundle(tmp_path / "bundle")
    labels = np.zeros((20, 10), np.uint8)
    labels[:6], labels[6, 0] = 1, 2  # 30 % and 0.5 %
    data = label_stream(bundle, labels, 8, 80, 160)
    path = tmp_path / "x.oslic"
    path.write_bytes(data)

    def facts():
        assert cli.main(["info", str(path), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    assert (facts()["bundle"], facts()["classes"], facts()["groups"]) == (None, None, None)
    assert cli.main(["info", str(path)]) == 0
    assert "classes" not in capsys.readouterr().out
    monkeypatch.setenv("OSLIC_BUNDLES", str(bundle.path))
    assert facts()["classes"] == {"sky": 0.695, "skin": 0.3, "clothes": 0.005, "thing": 0.0}
    assert facts()["groups"] == {"person": pytest.approx(0.305)}
    assert cli.main(["info", str(path)]) == 0
    assert re.search(r"^classes +sky 69\.5 %, skin 30\.0 %$", capsys.readouterr().out, re.MULTILINE)

    path.write_bytes(changed(data, SectionType.LABELS, b"damaged"))
    assert cli.main(["info", str(path), "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["classes"] is None
    assert said.err.startswith("oslic info: warning: the labels section is damaged")
    assert cli.main(["info", str(path), "--labels", str(tmp_path / "l.png")]) == 4
    assert not (tmp_path / "l.png").exists()


def test_the_label_map_needs_no_backend(tmp_path, stream):
    code = f"""
import sys
sys.modules["onnxruntime"] = None  # as if it were not installed
from oslic.cli import main as cli
assert cli.main(["backends"]) == 0
sys.exit(cli.main(["info", {str(stream)!r}, "--labels", {str(tmp_path / "labels.png")!r}]))
"""
    assert "ONNX Runtime is not installed" in _python(code)
    assert Image.open(tmp_path / "labels.png").size == (160, 120)


def test_strict_decoding_of_a_drifted_stream_fails(tmp_path, float_lite, monkeypatch, samples, capsys):
    monkeypatch.setenv("OSLIC_BUNDLES", str(float_lite.path))
    stream = tmp_path / "a.oslic"
    source = str(samples / "coffee.png")
    assert cli.main(["compress", source, "-o", str(stream), "--bundle", str(float_lite.path)]) == 0
    capsys.readouterr()
    drifted = tmp_path / "drifted.oslic"
    drifted.write_bytes(with_record(stream.read_bytes(), estimate_digest=bytes(4)))
    target = tmp_path / "x.png"
    assert cli.main(["decompress", str(drifted), "-o", str(target), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["files"][0]["digest_matches"] is False
    assert "warning" in captured.err
    target.unlink()
    assert cli.main(["decompress", str(drifted), "-o", str(target), "--strict"]) == 9
    assert not target.exists()


def test_backends_lists_every_backend_with_a_reason(capsys):
    assert cli.main(["backends", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["backends"]
    assert rows["onnxruntime-cpu"]["usable"]
    assert all(row["reason"] for row in rows.values())


def test_help_and_version(capsys):
    assert cli.main([]) == 2
    out = capsys.readouterr().out
    assert all(name in out for name in cli.COMMANDS)
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("oslic 0.")


def test_an_unknown_command_lists_the_known_ones(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(["fly"])
    assert caught.value.code == 2
    assert "compress" in capsys.readouterr().err


def _oslic(*arguments, **more) -> subprocess.CompletedProcess:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "oslic.cli.main", *map(str, arguments)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more}
    return subprocess.run(command, text=True, check=False, **streams)


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        ("fuse a.onnx -o b.onnx", "onnx_ir", "onnx"),
        ("export checkpoint -o bundle", "onnx_ir", "export"),
        ("build bundle --backend tensorrt-rtx", "onnx_ir", "onnx"),
        ("compare bundle --backends a,b", "onnx_ir", "onnx"),
        ("calibrate bundle --images photos -o int8", "onnx", "calibrate"),
        ("train codec --data photos --out run", "torch", "train"),
        ("bench fusion --network lite", "onnx_ir", "bench,export"),
    ],
)
def test_missing_packages_are_named_with_the_extra_that_brings_them(words, package, extra):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        f"from oslic.cli.main import main; sys.exit(main({words.split()!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    name, other, *_ = words.split()
    full = f"{name} {other}" if name == "bench" else name
    wanted = (
        f"oslic {name}: error: `oslic {full}` needs the package {package}: pip install 'oslic[{extra}]'\n"
    )
    assert (done.returncode, done.stderr) == (11, wanted)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["info", "--help"], ["inspect"]])
def test_a_reader_that_goes_away_is_no_error(arguments, unbuffered):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        done = _oslic(*arguments, stdout=output, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def without_reader(*arguments, both=False, unbuffered=False):
    """Run `oslic` with a standard output, or an error, too, that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        return subprocess.run(
            [sys.executable, *(["-u"] if unbuffered else []), "-m", "oslic.cli.main", *map(str, arguments)],
            stdout=writing,
            stderr=writing if both else subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writing)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("unbuffered", [False, True])
def test_work_goes_on_without_a_reader(tmp_path, small, both, unbuffered):
    target = tmp_path / "out.oslic"
    words = ("compress", small, "-o", target, "--effort", "0", "--json")
    done = without_reader(*words, both=both, unbuffered=unbuffered)
    assert (done.returncode, done.stderr or "") == (0, "")
    assert cli.main(["verify", str(target)]) == 0
    done = without_reader("verify", small, target, both=both, unbuffered=unbuffered)
    assert done.returncode == 4
    assert both or done.stderr.count("\n") == 1


def test_results_and_verdicts_outlive_the_reader(tmp_path):
    for name, gain in (("a", 1.0), ("b", 2.0)):
        b = Builder(shape=(1, 8, 6, 8))
        y = b.conv(b.up(b.op("Mul", "x", b.weight(np.float32(gain))), 2, 2), 8, 6, 3)
        onnx.save(ir.to_proto(b.model(y)), tmp_path / f"{name}.onnx")
    one, two, out, verdict = (tmp_path / name for name in ("a.onnx", "b.onnx", "f.onnx", "verdict.json"))
    for unbuffered in (False, True):
        done = without_reader("fuse", one, "-o", out, "--form", "phases", unbuffered=unbuffered)
        assert (done.returncode, done.stderr) == (0, "")
        onnx.checker.check_model(str(out))
        done = without_reader("compare", one, two, "-o", verdict, unbuffered=unbuffered)
        assert done.returncode == 9
        json.loads(verdict.read_text())
        out.unlink()
        verdict.unlink()


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_line(unbuffered):
    with Path("/dev/full").open("w") as output:
        done = _oslic("inspect", stdout=output, env={**os.environ, "PYTHONUNBUFFERED": unbuffered})
    assert done.returncode == 2
    assert re.fullmatch(r"oslic.*: error: .*No space left on device\n", done.stderr)


def test_names_that_the_output_cannot_hold_are_escaped(tmp_path, small):
    target = tmp_path / "gr\xf6\xdfe.oslic"
    options = ["--effort", "0"]
    done = _oslic("compress", small, "-o", target, *options, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert r"gr\xf6\xdfe.oslic: " in done.stdout
    assert target.is_file()


def test_a_name_that_is_too_long_is_one_line(small, capsys):
    assert cli.main(["compress", str(small), "-o", "x" * 300]) == 2
    error = capsys.readouterr().err
    assert error.endswith("xxx: File name too long\n")
    assert error.count("\n") == 1


def test_a_shortened_exif_block_prints_nothing(photo, tmp_path):
    exif = Image.Exif()
    exif[0x010F] = "maker" * 9
    Image.fromarray(photo[:8, :8]).save(tmp_path / "x.jpg", exif=exif.tobytes()[:-20])
    done = _oslic("flif", "encode", tmp_path / "x.jpg", tmp_path / "x.flif")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_runtime_loads_neither_torch_nor_the_other_rooms(small, tmp_path):
    code = f"""
import sys
from oslic.cli import main as cli
assert cli.main(["compress", {str(small)!r}, "-o", {str(tmp_path / "x.oslic")!r}, "--effort", "0"]) == 0
assert cli.main(["decompress", {str(tmp_path / "x.oslic")!r}, "-o", {str(tmp_path / "x.png")!r}]) == 0
names = {{m.split(".")[0] for m in sys.modules}} | {{".".join(m.split(".")[:2]) for m in sys.modules}}
rooms = {{"oslic." + room for room in ("networks", "training", "export", "calibration", "serving", "bench")}}
print(sorted(names & ({{"torch", "onnx", "scipy", "matplotlib"}} | rooms)))
"""
    assert _python(code).splitlines()[-1] == "[]"


def test_flif_needs_nothing_but_numpy():
    code = """
import sys
import oslic.runtime.flif
print(sorted({"PIL", "onnxruntime", "torch"} & {m.split(".")[0] for m in sys.modules}))
"""
    assert _python(code) == "[]"


def test_importing_the_runtime_loads_next_to_nothing():
    """The target is 0.3 s; modules are counted instead, which no other load on the machine can change."""
    code = """
import sys
before = set(sys.modules)
import oslic.runtime
print(len(set(sys.modules) - before))
"""
    assert int(_python(code)) <= 40


def test_a_thumbnail_loads_what_it_needs(stream, tmp_path):
    """The target is 0.3 s; modules and threads are counted instead."""
    code = f"""
import os, sys
from oslic.cli import main as cli
sys.argv = ["oslic", "decompress", {str(stream)!r}, "--scale", "1/8", "-o", {str(tmp_path / "x.png")!r}]
assert cli.main() == 0
names = ["PIL.GifImagePlugin", "PIL.AvifImagePlugin", "oslic.runtime.backends.base", "oslic.runtime.codec.label_map"]
print("OPENBLAS_NUM_THREADS" in os.environ, [name for name in names if name in sys.modules])
print(len(os.listdir("/proc/self/task")) if sys.platform == "linux" else 1)
"""
    *_, loaded, threads = _python(code).splitlines()
    assert (loaded, threads) == ("False []", "1")


@pytest.mark.slow
def test_peak_memory_of_decompress(tmp_path, samples):
    """DESIGN: `oslic decompress` of 768x512 stays below 400 MB."""
    image = np.asarray(Image.open(samples / "coffee.png").convert("RGB"))
    source, stream = tmp_path / "x.png", tmp_path / "x.oslic"
    Image.fromarray(np.tile(image, (2, 2, 1))[:512, :768]).save(source)
    assert cli.main(["compress", str(source), "-o", str(stream), "--effort", "0"]) == 0
    # Not ru_maxrss: that keeps the peak of the process that started this one.
    code = f"""
from pathlib import Path
from oslic.cli import main as cli
assert cli.main(["decompress", {str(stream)!r}, "-o", {str(tmp_path / "y.png")!r}]) == 0
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""
    assert int(_python(code).splitlines()[-1]) < 400 * 1024


@pytest.mark.slow
@pytest.mark.shared
def test_all_kodak_images_go_through_the_command_line(tmp_path, shared, capsys):
    images = sorted(str(p) for p in (shared / "data" / "kodak").iterdir() if p.suffix in {".png", ".webp"})
    assert len(images) == 24
    assert default_bundle().is_dir()
    assert cli.main(["compress", *images, "-o", str(tmp_path), "--effort", "1", "--json"]) == 0
    capsys.readouterr()
    streams = sorted(map(str, tmp_path.glob("*.oslic")))
    assert len(streams) == 24
    assert cli.main(["decompress", *streams, "-o", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["files"]
    assert all(row["digest_matches"] for row in rows)
    assert {(row["width"], row["height"]) for row in rows} == {(768, 512), (512, 768)}
