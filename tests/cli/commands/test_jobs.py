"""Files, folders, standard input and output as the sources and targets of `oslic compress` and `decompress`."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from oslic.cli import main as cli
from PIL import Image

QUICK = ("--effort", "0", "--quiet")


@pytest.fixture
def folder(tmp_path, photo, monkeypatch):
    """photos/{a.jpg,a.png,b.png} and photos/inner/{c.png,.hidden.png,notes.txt}; it is the current folder's."""
    inner = tmp_path / "photos" / "inner"
    inner.mkdir(parents=True)
    for index, name in enumerate(("a.png", "b.png", "inner/c.png", "inner/.hidden.png")):
        Image.fromarray(photo[20 * index : 20 * index + 40, :56]).save(tmp_path / "photos" / name)
    Image.fromarray(photo[80:120, :56]).save(tmp_path / "photos" / "a.jpg")
    (inner / "notes.txt").write_text("no picture")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _files(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def _oslic(*words, **more):
    command = [sys.executable, "-m", "oslic.cli.main", *words]
    return subprocess.run(command, capture_output=True, check=False, **more)


def test_a_folder_with_names_that_cannot_collide(folder, capsys):
    assert cli.main(["compress", "photos", *QUICK]) == 0
    assert _files(folder / "photos") == [
        "a.jpg", "a.jpg.oslic", "a.png", "a.png.oslic", "b.png", "b.png.oslic",
        "inner/.hidden.png", "inner/c.png", "inner/notes.txt",
    ]  # fmt: skip
    assert capsys.readouterr() == ("", "")
    for name in ("a.jpg", "a.png", "b.png"):
        (folder / "photos" / name).unlink()
    # Back beside the streams: PNG files, `a.png` and `b.png` under their old names.
    assert cli.main(["decompress", "photos", "--quiet"]) == 0
    assert {"a.jpg.png", "a.png", "b.png"} <= set(_files(folder / "photos"))


def test_a_tree_keeps_its_folders(folder):
    assert cli.main(["compress", "photos", "-r", "-o", "out", *QUICK]) == 0
    assert _files("out") == ["a.jpg.oslic", "a.png.oslic", "b.png.oslic", "inner/c.png.oslic"]
    assert cli.main(["decompress", "out", "--recursive", "-o", "back/", "--quiet", "--format", "jpeg"]) == 0
    assert _files("back") == ["a.jpg", "a.png.jpg", "b.png.jpg", "inner/c.png.jpg"]
    assert Image.open("back/inner/c.png.jpg").format == "JPEG"


def test_streams_that_would_get_one_name_keep_their_own(folder):
    assert cli.main(["compress", "photos/a.png", *QUICK]) == 0
    assert cli.main(["compress", "photos/a.png", "-o", "photos/a.oslic", *QUICK]) == 0
    assert cli.main(["decompress", "photos", "-o", "out", "--quiet"]) == 0
    assert _files("out") == ["a.oslic.png", "a.png.oslic.png"]


def test_what_is_there_is_not_replaced_by_a_name_that_nobody_gave(folder, capsys):
    original = Path("photos/a.png").read_bytes()
    assert cli.main(["compress", "photos/a.png", *QUICK]) == 0
    stream = Path("photos/a.png.oslic").read_bytes()
    assert cli.main(["decompress", "photos/a.png.oslic"]) == 2
    assert "photos/a.png exists already: it is not replaced (--overwrite" in capsys.readouterr().err
    assert Path("photos/a.png").read_bytes() == original
    coarser = ["compress", "photos/a.png", "--quality", "10", *QUICK]
    assert cli.main(coarser) == 2
    assert cli.main([*coarser, "-o", "photos", "--no-overwrite"]) == 2
    assert Path("photos/a.png.oslic").read_bytes() == stream
    assert cli.main([*coarser, "--overwrite"]) == 0
    replaced = Path("photos/a.png.oslic").read_bytes()
    assert len(replaced) < len(stream)
    # A name that was given is replaced.
    assert cli.main(["compress", "photos/a.png", "-o", "photos", *QUICK]) == 0
    assert Path("photos/a.png.oslic").read_bytes() == stream


def test_a_job_goes_on_where_it_stopped(folder, capsys):
    assert cli.main(["compress", "photos", "-o", "out", *QUICK]) == 0
    whole = {name: (folder / "out" / name).read_bytes() for name in _files("out")}
    Path("out/b.png.oslic").unlink()
    Path("out/a.png.oslic").write_bytes(b"done before")
    capsys.readouterr()
    again = ["compress", "photos", "-o", "out", "--effort", "0", "--skip-existing"]
    assert cli.main(again) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1].startswith(" skipped") for line in lines] == [True, True, False]
    assert Path("out/b.png.oslic").read_bytes() == whole["b.png.oslic"]
    assert Path("out/a.png.oslic").read_bytes() == b"done before"
    assert cli.main([*again, "--json"]) == 0
    assert [row["skipped"] for row in json.loads(capsys.readouterr().out)["files"]] == [True] * 3
    # The same for the way back.
    assert cli.main(["decompress", "out/b.png.oslic", "-o", "back/", "--quiet"]) == 0
    assert cli.main(["decompress", "out/b.png.oslic", "-o", "back", "--skip-existing"]) == 0
    assert "skipped, back/b.png is there" in capsys.readouterr().out


def test_standard_input_and_output(folder):
    picture = Path("photos/a.png").read_bytes()
    stream = _oslic("compress", "-", "--effort", "0", input=picture)
    assert (stream.returncode, stream.stdout[:4]) == (0, b"\x8fOSL")
    assert b"/dev/stdin -> /dev/stdout: " in stream.stderr
    for words in (["compress", "-", "-o", "x.oslic"], ["compress", "photos/a.png", "-o", "x.oslic"]):
        assert _oslic(*words, *QUICK, input=picture).returncode == 0
        assert Path("x.oslic").read_bytes() == stream.stdout
    assert _oslic("compress", "photos/a.png", "-o", "-", *QUICK).stdout == stream.stdout
    back = _oslic("decompress", "-", input=stream.stdout)
    assert (back.returncode, back.stdout[:4]) == (0, b"\x89PNG")
    assert _oslic("decompress", "-", "--format", "webp", input=stream.stdout).stdout[8:12] == b"WEBP"
    assert json.loads(_oslic("info", "-", "--json", input=stream.stdout).stdout)["width"] == 56
    assert _oslic("verify", "-", input=stream.stdout).returncode == 0
    assert _oslic("compress", "-", "photos/a.png", "--quiet", input=picture).returncode == 2
    # What has been read of standard input before is no part of the picture.
    (folder / "more").write_bytes(b"line\n" + picture)
    with (folder / "more").open("rb") as more:
        os.read(more.fileno(), 5)
        done = _oslic("compress", "-", *QUICK, stdin=more)
    assert done.stdout == stream.stdout


def test_a_terminal_gets_no_binary_data(folder):
    main, terminal = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "oslic.cli.main", "compress", "photos/a.png", "-o", "-"],
        stdout=terminal, stderr=subprocess.PIPE, check=False,
    )  # fmt: skip
    os.close(terminal)
    os.close(main)
    assert done.returncode == 2
    assert b"standard output is a terminal" in done.stderr


def test_progress_is_shown_on_a_terminal_alone(folder):
    words = [sys.executable, "-m", "oslic.cli.main", "compress", "photos", "-o", "out", "--effort", "0"]

    def said(*more):
        main, terminal = pty.openpty()
        done = subprocess.run([*words, *more], stdout=subprocess.PIPE, stderr=terminal, check=False)
        os.close(terminal)
        text = b""
        try:
            while part := os.read(main, 1 << 16):
                text += part
        except OSError:  # the end, on Linux
            pass
        os.close(main)
        assert done.returncode == 0
        return text.decode()

    shown = said()
    assert re.search(r"\r\x1b\[K1/3, \d+\.\d\d files/s, \d+:\d\d left", shown)
    assert re.search(r"3 of 3 files in \d:\d\d\r\n$", shown)
    assert said("--quiet") == ""
    assert subprocess.run(words, capture_output=True, check=True).stderr == b""


def test_failed_files_are_told_at_the_end_with_the_code_of_their_kind(folder, capsys):
    Path("photos/bad.png").write_bytes(b"no picture")
    assert cli.main(["compress", "photos", "-o", "out", "--effort", "0"]) == 3
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 3
    assert said.err == "oslic compress: error: photos/bad.png is not an image that Pillow can read\n"
    Path("out/a.jpg.oslic").write_bytes(b"no stream")
    assert cli.main(["decompress", "out", "-o", "back", "--quiet"]) == 4
    assert _files("back") == ["a.png", "b.png"]
    assert cli.main(["verify", "out", "--quiet"]) == 4


@pytest.mark.parametrize("command", ["compress", "decompress", "verify", "labels", "info"])
def test_a_folder_that_holds_nothing_is_reported_and_the_others_are_done(folder, capsys, command):
    Path("empty/deep").mkdir(parents=True)
    Path("empty/notes.txt").write_text("no picture")
    good = "photos"
    if command != "compress":
        assert cli.main(["compress", "photos", "-o", "streams", *QUICK]) == 0
        good = "streams"
    more = {"compress": ["-o", "out"], "decompress": ["-o", "out"], "labels": ["-o", "out"]}.get(command, [])
    assert cli.main([command, "empty", good, *more]) == 2
    said = capsys.readouterr()
    what = "pictures" if command == "compress" else "streams"
    assert re.search(
        rf"error: the folder empty holds no {what} \(.*\); --recursive enters its folders\n$", said.err
    )
    assert said.err.count("\n") == 1
    assert len(re.findall("a.png", said.out)) >= 1


def test_links(folder, capsys):
    """Loops end, each folder is entered once, links into nowhere and around in a circle are errors of their own."""
    (folder / "photos" / "inner" / "up").symlink_to("..")
    (folder / "photos" / "again").symlink_to("inner")
    (folder / "photos" / "gone.png").symlink_to("nothing")
    (folder / "photos" / "circle.png").symlink_to("circle.png")
    assert cli.main(["compress", "photos", "-r", "-o", "out", *QUICK]) == 2
    error = capsys.readouterr().err
    assert "photos/gone.png: No such file or directory" in error
    assert "photos/circle.png: Too many levels of symbolic links" in error
    assert error.count("looked through already: not entered") == 2
    assert _files("out") == ["a.jpg.oslic", "a.png.oslic", "again/c.png.oslic", "b.png.oslic"]


def test_names_that_are_no_utf_8(folder, capsysbinary):
    name = os.fsdecode(b"gr\xfc\xdfe\x1b[31m.png")
    Path("photos/b.png").rename(Path("photos", name))
    assert cli.main(["compress", "photos", "-o", "out", "--effort", "0"]) == 0
    said = capsysbinary.readouterr()
    assert b"\x1b" not in said.out
    assert rb"gr\udcfc\udcdfe\x1b[31m.png" in said.out
    assert Path("out", f"{name}.oslic").is_file()
    assert cli.main(["decompress", "out", "-o", "back", "--json"]) == 0
    names = [row["output"] for row in json.loads(capsysbinary.readouterr().out)["files"]]
    assert all(Path(name).is_file() for name in names)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser looks into every folder")
def test_a_folder_that_may_not_be_entered(folder, capsys):
    Path("photos/inner").chmod(0)
    try:
        assert cli.main(["compress", "photos", "-r", "-o", "out", *QUICK]) == 2
    finally:
        Path("photos/inner").chmod(0o755)
    assert "cannot look into photos/inner: Permission denied" in capsys.readouterr().err
    assert len(_files("out")) == 3


def test_a_full_disk_in_the_middle(folder):
    """As `ulimit -f` makes it: the third file is too large, the others are whole, and nothing is left of it."""
    big = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    Image.fromarray(big).save("photos/a2.png")
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from oslic.cli import main as cli\n"
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    words = ["compress", "photos", "-o", "out", "--effort", "0", "--quality", "90", "--jobs", "2"]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "oslic compress: error: photos/a2.png: cannot write out/a2.png.oslic: File too large; "
        "no partial file was left\n"
    )
    assert _files("out") == ["a.jpg.oslic", "a.png.oslic", "b.png.oslic"]
    assert cli.main(["verify", "out", "--quiet"]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compress", "photos", "-o", "x.oslic"], "name a folder"),
        (
            ["compress", "photos/a.png", "photos/b.png", "-o", "photos/a.jpg"],
            "is one file, and there are 2 inputs",
        ),
        (["compress", "photos", "-o", "none/out"], "create it first"),
        (["compress", "photos", "photos2", "-o", "out"], "would both be written to out/a.png.oslic"),
        (["compress", "photos", "-"], "name one with -o"),
        (["compress", ""], "the name of an input is empty"),
        (["compress", "photos/a.png", "--page", "2"], "--page goes with --convert"),
        (["info", "photos/a.png", "photos/b.png", "--labels", "l.png"], "`oslic labels`"),
        (
            ["decompress", "photos/a.png", "-o", "x.png", "--format", "jpeg"],
            "says png, and jpeg was asked for",
        ),
        (["decompress", "photos/a.png", "-o", "x.png", "--quality", "90"], "png files have no quality"),
        (["decompress", "photos/a.png", "-o", "x.jpg", "--layer", "compact"], "no lossless image format"),
        (
            ["decompress", "photos/a.png", "--layer", "labels", "--format", "png"],
            "label maps have no --format",
        ),
    ],
)
def test_what_does_not_fit_is_one_line_before_any_work(folder, capsys, words, message):
    (folder / "photos2").mkdir()
    Image.open("photos/a.png").save("photos2/a.png")
    before = _files(folder)
    assert cli.main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert _files(folder) == before


def test_options_with_a_wrong_value(folder, capsys):
    for words, message in (
        (["--jobs", "0"], "0 is below 1"),
        (["--strip", "photos/b.png"], "write --strip=all"),
        (["--overwrite", "--skip-existing"], "not allowed with"),
        (["--quality", "high"], "not a number"),
    ):
        with pytest.raises(SystemExit) as caught:
            cli.main(["compress", "photos/a.png", *words])
        assert caught.value.code == 2
        assert message in capsys.readouterr().err


def test_info_of_many_is_one_object_a_line(folder, capsys):
    assert cli.main(["compress", "photos", "-o", "out", *QUICK]) == 0
    Path("out/bad.oslic").write_bytes(b"no stream")
    assert cli.main(["info", "out", "--json"]) == 4
    said = capsys.readouterr()
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert [row["input"] for row in rows] == [f"out/{n}.oslic" for n in ("a.jpg", "a.png", "b.png", "bad")]
    assert [row.get("exit_code", 0) for row in rows] == [0, 0, 0, 4]
    assert said.err.count("\n") == 1
    assert cli.main(["info", "out/a.jpg.oslic", "out/a.png.oslic"]) == 0
    assert re.findall(r"^out/.*:$", capsys.readouterr().out, re.MULTILINE) == [
        "out/a.jpg.oslic:",
        "out/a.png.oslic:",
    ]


def test_jobs_change_no_byte(folder):
    for jobs in ("1", "2", "3"):
        assert cli.main(["compress", "photos", "-r", "-o", f"out{jobs}", "--jobs", jobs, *QUICK]) == 0
    for name in _files("out1"):
        assert len({Path(f"out{jobs}", name).read_bytes() for jobs in "123"}) == 1
