"""No command writes over what it reads, and none leaves half of what it writes, through the real command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import small_bundle
from oslic.cli import main as cli
from oslic.runtime import folders, ledger
from oslic.runtime.bundle.folder import Bundle, default_bundle, require_free, write_bundle
from oslic.runtime.errors import UsageError
from oslic.runtime.files import write_atomically
from PIL import Image


@pytest.fixture(scope="session")
def originals(tmp_path_factory, photo):
    tmp_path = tmp_path_factory.mktemp("originals")
    Image.fromarray(photo[:96, :128]).save(tmp_path / "a.png")
    for words in (
        ["compress", "a.png", "-o", "a.oslic", "--effort", "0"],
        ["flif", "encode", "a.png", "a.flif"],
    ):
        assert _main(tmp_path, *words) == 0
    bundle = small_bundle.write(tmp_path / "bundle")
    shutil.copy(bundle.graph_path("analyse"), tmp_path / "a.onnx")
    shutil.copy(Path(__file__).parents[2] / "bench/results/selfcheck.json", tmp_path / "a.json")
    return tmp_path


@pytest.fixture
def folder(tmp_path, originals):
    """A photograph, a stream, a FLIF file, a result of a bench, a graph; each also as a link and a hard link."""
    shutil.copytree(originals, tmp_path, dirs_exist_ok=True)
    for name in ("a.png", "a.oslic", "a.flif", "a.json", "a.onnx"):
        (tmp_path / f"soft-{name}").symlink_to(name)
        (tmp_path / f"hard-{name}").hardlink_to(tmp_path / name)
    return tmp_path


def _main(folder, *words):
    before = Path.cwd()
    os.chdir(folder)
    try:
        return cli.main(list(words))
    finally:
        os.chdir(before)


def _oslic(folder, *words, **more):
    command = [sys.executable, "-m", "oslic.cli.main", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, check=False, **more)


def _contents(folder):
    return {
        str(path.relative_to(folder)): (path.readlink() if path.is_symlink() else path.read_bytes())
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


# Every command that writes a file, its input named again as its output.
OVER_THEIR_INPUT = [
    ["info", "a.oslic", "--labels", "{}a.oslic"],
    ["labels", "a.oslic", "-o", "{}a.oslic"],
    ["labels", "a.oslic", "--json", "--coco", "{}a.oslic"],
    ["labels", "a.oslic", "a.png", "-o", "a.oslic"],
    ["compress", "a.png", "-o", "{}a.png"],
    ["compress", "a.png", "a.oslic", "-o", "a.oslic"],
    ["decompress", "a.oslic", "-o", "{}a.oslic"],
    ["decompress", "a.oslic", "a.png", "-o", "."],
    ["flif", "encode", "a.png", "{}a.png"],
    ["flif", "decode", "a.flif", "{}a.flif"],
    ["fuse", "a.onnx", "-o", "{}a.onnx"],
    ["fuse", "a.onnx", "-o", "b.onnx", "--report", "{}a.onnx"],
    ["compare", "bundle", "--backends", "onnxruntime-cpu,onnxruntime-cpu", "--images", ".", "-o", "{}a.png"],
    ["bench", "latency", "a.png", "-o", "{}a.png"],
    ["bench", "selfcheck", "a.png", "-o", "{}a.png"],
    ["bench", "rd", ".", "-o", "{}a.png"],
    ["bench", "drift", ".", "-o", "{}a.png"],
    ["bench", "int8", "bundle", "bundle", "--image", "a.png", "-o", "{}a.png"],
    ["bench", "int8", "bundle", "bundle", "--kodak", ".", "-o", "{}a.png"],
    ["bench", "report", "a.json", "-o", "{}a.json"],
    ["bench", "report", "a.json", "--markdown", "{}a.json"],
    ["bench", "report", "a.json", "--readme", "{}a.json"],
    ["bench", "report", "a.json", "-o", "b.html", "--visual", "a.png", "--markdown", "{}a.png"],
    ["bench", "latency", "a.png", "--bundle", "bundle", "-o", "bundle/manifest.json"],
    ["build", "bundle", "--backend", "tensorrt-rtx", "--timing-cache", "bundle/manifest.json"],
]


@pytest.mark.parametrize("link", ["", "./", "soft-", "hard-"])
@pytest.mark.parametrize("words", OVER_THEIR_INPUT, ids=" ".join)
def test_no_command_writes_over_its_input(folder, capsys, words, link):
    before = _contents(folder)
    capsys.readouterr()
    assert _main(folder, *(word.format(link) for word in words)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert _contents(folder) == before


@pytest.mark.parametrize("ending", ["json", "md", "html", "oslic", "onnx"])
def test_what_is_read_is_not_written_whatever_its_name_promises(folder, capsys, ending):
    """The ending fits what the command writes, so only the input stands in the way."""
    cases = {
        "json": ["bench", "report", "x", "-o", "b.html", "--markdown", "c.md", "--pictures", "."],
        "md": ["bench", "report", "x", "--markdown", "x"],
        "html": ["bench", "report", "x", "-o", "x"],
        "oslic": ["compress", "x", "-o", "x"],
        "onnx": ["fuse", "x", "-o", "x"],
    }
    source = {"oslic": "a.png", "onnx": "a.onnx"}.get(ending, "a.json")
    name = f"input.{ending}"
    shutil.copy(folder / source, folder / name)
    code = _main(folder, *(name if word == "x" else word for word in cases[ending]))
    error = capsys.readouterr().err
    if ending == "json":  # not one of the outputs
        assert code == 0
    else:
        assert code == 2
        assert f"{name} would be written over the input {name}: give another name" in error
    assert (folder / name).read_bytes() == (folder / source).read_bytes()


def test_a_command_that_forgets_the_type_of_its_output_replaces_nothing(tmp_path, monkeypatch, capsys):
    """Also what it writes to must be declared: the default refuses."""
    (tmp_path / "forgetful.py").write_text(
        "from oslic.runtime.files import write_atomically\n"
        "def configure(parser):\n    parser.add_argument('-o')\n"
        "def run(args):\n    write_atomically(args.o, b'new')\n    return 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import forgetful

    monkeypatch.setattr(cli, "load", lambda name: forgetful)
    target = tmp_path / "x"
    assert _main(tmp_path, "info", "-o", "x") == 0
    assert target.read_bytes() == b"new"
    target.write_bytes(b"old")
    assert _main(tmp_path, "info", "-o", "x") == 2
    assert "x would be written over the input x" in capsys.readouterr().err
    assert target.read_bytes() == b"old"


def test_two_outputs_are_two_files(folder, capsys):
    before = _contents(folder)
    for other in ("r.md", "./r.md", f"{folder}/r.md"):
        assert _main(folder, "bench", "report", "a.json", "--markdown", "r.md", "--readme", other) == 2
        assert "would be written twice" in capsys.readouterr().err
    (folder / "out").mkdir()
    (folder / "out" / "b.png.oslic").symlink_to("a.png.oslic")
    shutil.copy(folder / "a.png", folder / "b.png")
    assert _main(folder, "compress", "a.png", "b.png", "-o", "out") == 2
    assert "are the same file" in capsys.readouterr().err
    assert not (folder / "out" / "a.png.oslic").exists()
    (folder / "b.png").unlink()
    shutil.rmtree(folder / "out")
    assert _contents(folder) == before


def test_two_inputs_of_one_name_are_not_shown_in_one_picture(folder, capsys):
    """`oslic demo` named what it wrote after the inputs' names without their folders."""
    (folder / "out").mkdir()
    (folder / "more").mkdir()
    shutil.copy(folder / "a.png", folder / "more" / "a.png")
    assert _main(folder, "demo", "a.png", "more/a.png", "-o", "out") == 2
    assert "out/a.oslic would be written twice" in capsys.readouterr().err
    shutil.copy(folder / "a.png", folder / "a.layers.png")
    assert _main(folder, "demo", "a.png", "a.layers.png", "-o", ".") == 2
    assert "a.layers.png would be written over the input a.layers.png" in capsys.readouterr().err
    assert list((folder / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compress", "a.png", "-o", ""], "the name of an output is empty"),
        (["bench", "report", "a.json", "-o", ""], "the name of an output is empty"),
        (["info", "a.oslic", "--labels", "new.png/"], "it names a folder"),
        (["compress", "a.png", "-o", "none/new/"], "create it first"),
        (["info", "a.oslic", "--labels", "none/new.png"], "does not exist; create it first"),
        (["info", "a.oslic", "--labels", "bundle"], "it is a folder"),
    ],
)
def test_names_that_are_no_files_are_refused(folder, capsys, words, message):
    before = _contents(folder)
    capsys.readouterr()
    assert _main(folder, *words) == 2
    assert message in capsys.readouterr().err
    assert _contents(folder) == before


def test_files_that_an_earlier_run_did_not_leave_are_not_taken_for_its_own(folder, capsys):
    """Both commands would remove them in the end."""
    (folder / "r.json.partial").write_text("a diary")
    assert _main(folder, "bench", "rd", ".", "-o", "r.json", "--peers", "none", "--metrics", "psnr") == 10
    assert "is not what an earlier run left" in capsys.readouterr().err
    assert (folder / "r.json.partial").read_text() == "a diary"
    (folder / "g.json.work").mkdir()
    (folder / "g.json.work" / "diary").touch()
    assert _main(folder, "bench", "gpu", "-o", "g.json", "--device", "cpu", "--quick") == 2
    assert "holds files that are not of `oslic bench gpu`" in capsys.readouterr().err
    assert (folder / "g.json.work" / "diary").exists()


def test_several_outputs_may_go_to_a_device(folder):
    assert _main(folder, "bench", "report", "a.json", "--markdown", "/dev/null", "-o", "/dev/null") == 0


def test_an_input_that_is_read_late_is_known_early(folder, capsys):
    """The output is refused when the folder of images is listed, before hours of work are lost."""
    start = time.monotonic()
    (folder / "photos").mkdir()
    shutil.copy(folder / "a.png", folder / "photos" / "a.png")
    target = folder / "photos" / "result"
    target.hardlink_to(folder / "photos" / "a.png")
    assert _main(folder, "bench", "rd", "photos", "-o", "photos/result", "--peers", "none") == 2
    assert "photos/result would be written over the input photos/a.png" in capsys.readouterr().err
    assert time.monotonic() - start < 5
    assert target.read_bytes() == (folder / "a.png").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["info", "a.oslic", "--labels", "l.jpg"], "without loss"),
        (["info", "a.oslic", "--labels", "l.webp"], "without loss"),
        (["info", "a.oslic", "--labels", "l.json"], "says JSON"),
        (["labels", "a.oslic", "-o", "l.jpg"], "without loss"),
        (["labels", "a.oslic", "-o", "l.oslic"], "says an OSLIC stream"),
        (["labels", "a.oslic", "--coco", "l.png"], "says an image"),
        (["compress", "a.png", "-o", "new.png"], "says an image"),
        (["compress", "a.png", "-o", "new.json"], "says JSON"),
        (["decompress", "a.oslic", "-o", "new.gif"], "no image format that is written"),
        (["decompress", "a.oslic", "-o", "new.oslic"], "says an OSLIC stream"),
        (["flif", "encode", "a.png", "new.jpg"], "says an image"),
        (["flif", "decode", "a.flif", "new.tif"], "decoded to PNG"),
        (["bench", "latency", "a.png", "-o", "new.png"], "says an image"),
        (["bench", "report", "a.json", "-o", "new.md"], "says Markdown"),
        (["fuse", "a.onnx", "-o", "new.json"], "says JSON"),
    ],
)
def test_the_name_of_an_output_says_what_it_holds(folder, capsys, words, message):
    before = _contents(folder)
    capsys.readouterr()
    assert _main(folder, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert _contents(folder) == before


@pytest.mark.parametrize(
    ("ending", "kind"), [("png", "PNG"), ("tif", "TIFF"), ("TIFF", "TIFF"), ("bmp", "BMP")]
)
def test_label_maps_have_the_format_of_their_name(folder, ending, kind):
    for name in ("l.png", f"l.{ending}"):
        assert _main(folder, "info", "a.oslic", "--labels", name) == 0
    reference, written = Image.open(folder / "l.png"), Image.open(folder / f"l.{ending}")
    assert (written.format, written.mode) == (kind, "P")
    assert np.array_equal(np.asarray(written), np.asarray(reference))
    assert np.array_equal(np.asarray(written.convert("RGB")), np.asarray(reference.convert("RGB")))


def test_a_name_that_is_too_long_does_not_stop_the_others(folder, capsys):
    long = "x" * 250
    (folder / "out").mkdir()
    shutil.copy(folder / "a.png", folder / f"{long}.png")
    shutil.copy(folder / "a.oslic", folder / f"{'y' * 249}.oslic")
    for command, names, ending in (
        ("compress", ["a.png", f"{long}.png", "soft-a.png"], "png.oslic"),
        ("decompress", ["a.oslic", "z" * 300, f"{'y' * 249}.oslic", "soft-a.oslic"], "png"),
    ):
        capsys.readouterr()
        assert _main(folder, command, *names, "-o", "out", "--json") == 2
        said = capsys.readouterr()
        assert "File name too long" in said.err
        rows = json.loads(said.out)["files"]
        assert [row.get("exit_code", 0) for row in rows if row["input"] in {"a.png", "a.oslic"}] == [0]
        assert len(rows) == len(names)
        assert (folder / "out" / f"a.{ending}").is_file()
        assert (folder / "out" / f"soft-a.{ending}").is_file()


def test_standard_output_is_written_to_and_not_replaced(folder):
    stream = (folder / "a.oslic").read_bytes()
    for name in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        piped = _oslic(folder, "compress", "a.png", "-o", name, "--effort", "0")
        assert (piped.returncode, piped.stdout) == (0, stream)
        assert b" -> " in piped.stderr
        (folder / "log").write_bytes(b"before\n")
        with (folder / "log").open("ab") as log:
            command = [
                sys.executable,
                "-m",
                "oslic.cli.main",
                "compress",
                "a.png",
                "-o",
                name,
                "--effort",
                "0",
            ]
            subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.DEVNULL, check=True)
        assert (folder / "log").read_bytes() == b"before\n" + stream
    labels = _oslic(folder, "info", "a.oslic", "--labels", "/dev/stdout")
    assert labels.stdout.startswith(b"\x89PNG")
    assert b"fingerprint" in labels.stderr
    image = _oslic(folder, "decompress", "/dev/stdin", "-o", "/dev/stdout", input=stream)
    assert (image.returncode, image.stdout[:4]) == (0, b"\x89PNG")


def test_standard_output_that_is_an_input_is_refused(folder):
    before = (folder / "a.oslic").read_bytes()
    with (folder / "a.oslic").open("ab") as log:
        command = [sys.executable, "-m", "oslic.cli.main", "info", "a.oslic", "--labels", "/dev/stdout"]
        done = subprocess.run(command, cwd=folder, stdout=log, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 2
    assert b"would be written over the input" in done.stderr
    assert (folder / "a.oslic").read_bytes() == before


def test_an_output_into_a_pipe_without_a_reader_is_an_error(folder):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "oslic.cli.main", "compress", "a.png", "-o", "/dev/stdout"]
    done = subprocess.run(command, cwd=folder, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert done.returncode == 2
    assert b"cannot write /dev/stdout: Broken pipe" in done.stderr


def test_a_write_protected_file_is_not_replaced(folder, capsys):
    target = folder / "old.oslic"
    target.write_bytes(b"old")
    target.chmod(0o444)
    assert _main(folder, "compress", "a.png", "-o", "old.oslic") == 2
    assert "it is write-protected" in capsys.readouterr().err
    assert target.read_bytes() == b"old"


def test_a_replaced_file_keeps_its_permissions(tmp_path):
    target = tmp_path / "x"
    target.write_bytes(b"old")
    target.chmod(0o640)
    write_atomically(target, b"new")
    assert (target.read_bytes(), target.stat().st_mode & 0o777) == (b"new", 0o640)


STOPPED = """
import os, signal, sys
# Whoever runs the tests may ignore it, as `nohup` does, and what is ignored stays so.
signal.signal(signal.{name}, signal.default_int_handler if "{name}" == "SIGINT" else signal.SIG_DFL)
from oslic.cli import main as cli
sync = os.fsync
def stopped(handle):
    # As `timeout` does: two of them, while the file is being written to the disk.
    os.kill(os.getpid(), signal.{name})
    os.kill(os.getpid(), signal.{name})
    sync(handle)
os.fsync = stopped
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_leaves_no_partial_file(folder, name):
    before = _contents(folder)
    for words in (["flif", "encode", "a.png", "new.flif"], ["info", "a.oslic", "--labels", "a.tif"]):
        done = subprocess.run(
            [sys.executable, "-c", STOPPED.format(name=name), *words],
            cwd=folder,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 128 + getattr(signal, name)
        assert b"Traceback" not in done.stderr
        assert _contents(folder) == before


def test_a_signal_during_a_batch_leaves_whole_files_only(folder):
    """The file is written on another thread than the one that gets the signal."""
    done = subprocess.run(
        [sys.executable, "-c", STOPPED.format(name="SIGTERM"), "compress", "a.png", "-o", "new.oslic"],
        cwd=folder, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 128 + signal.SIGTERM
    assert not list(folder.glob(".oslic-*"))
    if (folder / "new.oslic").exists():
        assert _main(folder, "verify", "new.oslic", "--checksums") == 0


ENDLESS = """
import os, signal, sys, threading
signal.signal(signal.{name}, signal.default_int_handler if "{name}" == "SIGINT" else signal.SIG_DFL)
from oslic.cli import main as cli
from oslic.cli.commands import info
from oslic.runtime.threads import Workers
cli._GRACE_SECONDS = 0.5
def endless(args):
    # A graph that never ends runs on a thread of ours, outside of the interpreter's lock.
    with Workers(1) as pool:
        running = pool.submit(threading.Event().wait)
        os.kill(os.getpid(), signal.{name})
        running.result()
info.run = endless
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_a_graph_that_never_ends(folder, name):
    done = subprocess.run(
        [sys.executable, "-c", ENDLESS.format(name=name), "info", "a.oslic"],
        cwd=folder, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 128 + getattr(signal, name)


def test_the_callers_signals_are_left_alone(folder):
    handler = signal.getsignal(signal.SIGTERM)
    assert _main(folder, "info", "a.oslic") == 0
    assert signal.getsignal(signal.SIGTERM) is handler


REPLACE = """
import itertools, sys
from pathlib import Path
from oslic.runtime import folders
if {two_steps}:
    folders._exchange = lambda one, other: False
print("ready", flush=True)
for i in itertools.count():
    folders.write_folder(Path(sys.argv[1]), {{name: str(i).encode() * 1000 for name in "abc"}})
"""


@pytest.mark.parametrize("two_steps", [False, True])
def test_a_killed_replacement_leaves_a_whole_folder(tmp_path, two_steps):
    target = tmp_path / "bundle"
    folders.write_folder(target, dict.fromkeys("abc", b"first"))
    for i in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", REPLACE.format(two_steps=two_steps), str(target)], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.05 + 0.007 * i)
        process.kill()
        process.wait()
        process.stdout.close()
        if two_steps:
            folders.restore(target)
        contents = {path.name: path.read_bytes() for path in target.iterdir()}
        assert set(contents) == set("abc")
        assert len(set(contents.values())) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from oslic.runtime import folders
from oslic.runtime.bundle.folder import Bundle, write_bundle
if {two_steps}:
    folders._exchange = lambda one, other: False
rename = Path.rename
def killed(self, target):
    done = rename(self, target)
    os.kill(os.getpid(), signal.SIGKILL)
    return done
Path.rename = killed
folders.shutil.rmtree = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
bundle = Bundle.open(sys.argv[1])
files = {{graph.file: bundle.read_graph(name) for name, graph in bundle.manifest.graphs.items()}}
write_bundle(Path(sys.argv[2]), bundle.manifest, files, replace=True)
"""


@pytest.mark.parametrize("two_steps", [False, True])
def test_a_bundle_is_whole_when_its_replacement_is_killed_in_the_middle(tmp_path, two_steps):
    """Right after the first rename: with an exchange the new bundle stands; in two steps the old one is put back."""
    small = small_bundle.write(tmp_path / "bundle")
    done = subprocess.run(
        [sys.executable, "-c", KILLED.format(two_steps=two_steps), str(default_bundle()), str(small.path)],
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    if two_steps:
        assert not small.path.exists()
        require_free(small.path, replace=True)
        assert Bundle.open(small.path).manifest == small.manifest
    else:
        assert Bundle.open(small.path).manifest.name == "lite"
    for name in ("segment", "analyse", "synthesise"):
        Bundle.open(small.path).read_graph(name)


def test_only_bundles_are_replaced(tmp_path):
    """`--force` with the folder of something else that has a manifest.json, and with a bundle that holds more."""
    other = tmp_path / "extension"
    other.mkdir()
    (other / "manifest.json").write_text('{"manifest_version": 3}')
    with pytest.raises(UsageError, match="is not a bundle; it is not replaced"):
        require_free(other, replace=True)
    bundle = small_bundle.write(tmp_path / "bundle")
    require_free(bundle.path, replace=True)
    for name in ("notes.txt", "engines/notes.txt", "mine.onnx"):
        file = bundle.path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
        with pytest.raises(UsageError, match=f"holds {name} beside the bundle, which would be lost"):
            require_free(bundle.path, replace=True)
        file.unlink()
    # One that this version cannot read is a bundle all the same.
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    (bundle.path / "manifest.json").write_text(json.dumps(manifest | {"version": 99}))
    require_free(bundle.path, replace=True)


def test_a_link_to_a_bundle_stays_one(tmp_path):
    bundle = small_bundle.write(tmp_path / "bundle")
    (tmp_path / "link").symlink_to("bundle")
    files = {graph.file: bundle.read_graph(name) for name, graph in bundle.manifest.graphs.items()}
    write_bundle(tmp_path / "link", bundle.manifest, files, replace=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "link"]
    assert (tmp_path / "link").is_symlink()


def test_a_program_that_uses_the_library_is_not_watched(tmp_path):
    (tmp_path / "x").write_bytes(b"1")
    assert ledger.current() is None
    ledger.note_inputs(tmp_path / "x")
    write_atomically(tmp_path / "x", b"2")
    with ledger.opened() as call:
        call.note_input(tmp_path / "x")
        with pytest.raises(UsageError, match="would be written over the input"):
            write_atomically(tmp_path / "x", b"3")
        write_atomically(tmp_path / "y", b"4")
        call.note_input(tmp_path / "y")
        write_atomically(tmp_path / "y", b"5")  # it has made this one itself
    assert ledger.current() is None
