"""Jobs of many files: killed at any moment, and a thousand files in a row."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from oslic.cli import main as cli
from PIL import Image

OSLIC = [sys.executable, "-m", "oslic.cli.main"]
WORDS = ["compress", "photos", "-r", "-o", "out", "--effort", "0", "--quiet"]


@pytest.fixture
def folder(tmp_path, photo, monkeypatch):
    for index in range(24):
        place = tmp_path / "photos" / str(index % 3)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo[index : index + 96, 5 * index : 5 * index + 128]).save(place / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_killed_at_twenty_moments(folder):
    """Whole files only, nothing else; and the second run completes the rest."""
    start = time.monotonic()
    assert subprocess.run([*OSLIC, *WORDS], check=False).returncode == 0
    took = time.monotonic() - start
    whole = _files(folder / "out")
    assert len(whole) == 24
    stopped_inside = 0
    moments = random.Random(1)
    for _ in range(20):
        for path in (folder / "out").rglob("*.oslic"):
            path.unlink()
        process = subprocess.Popen([*OSLIC, *WORDS])
        # The first third is the start of Python.
        time.sleep(moments.uniform(0.3, 1.0) * took)
        process.kill()
        process.wait()
        left = _files(folder / "out")
        assert left.items() <= whole.items()
        stopped_inside += 0 < len(left) < 24
    assert stopped_inside >= 5
    for name in ("0/0.png.oslic", "1/1.png.oslic"):
        (folder / "out" / name).write_bytes(b"done before")
    assert subprocess.run([*OSLIC, *WORDS, "--skip-existing"], check=False).returncode == 0
    again = _files(folder / "out")
    assert {name for name, data in again.items() if data != whole[name]} == {"0/0.png.oslic", "1/1.png.oslic"}


def test_interrupted_it_says_how_to_go_on(folder):
    """Ctrl-C while files are in work: what is done is whole, and the rest is named."""
    process = subprocess.Popen([*OSLIC, *WORDS, "--jobs", "1"], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(Path("out").rglob("*.oslic")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    _, said = process.communicate(timeout=60)
    if process.returncode == 0:
        pytest.skip("it was done before the signal came")
    assert process.returncode == 143
    assert (
        said
        == "what is done is whole; the same command with --skip-existing goes on\nterminated by SIGTERM\n"
    )
    assert all(name.endswith(".oslic") for name in _files(folder / "out"))
    assert cli.main(["verify", "out", "-r", "--checksums", "--quiet"]) == 0


def _resident(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_a_thousand_files_in_a_row(tmp_path, photo, command):
    """The process holds as much memory over the last fifth, in the median, as over the second, within 5 %."""
    source, words = tmp_path / "in", ["--quiet"]
    source.mkdir()
    one = tmp_path / "one.png"
    Image.fromarray(photo[:128, :160]).save(one)
    suffix = ".png"
    if command == "decompress":
        assert cli.main(["compress", str(one), "-o", str(tmp_path / "one.oslic"), "--effort", "0"]) == 0
        one, suffix = tmp_path / "one.oslic", ".oslic"
    else:
        words += ["--effort", "0"]
    for index in range(1000):
        (source / f"{index:04}{suffix}").hardlink_to(one)
    target = tmp_path / "out"
    target.mkdir()
    process = subprocess.Popen([*OSLIC, command, str(source), "-o", str(target), *words])
    held: dict[int, list[int]] = {}
    while process.poll() is None:
        done = len(list(target.iterdir()))
        try:
            held.setdefault(done // 200, []).append(_resident(process.pid))
        except (OSError, IndexError):
            break
        time.sleep(0.02)
    assert process.wait() == 0
    assert len(list(target.iterdir())) == 1000
    early, late = statistics.median(held[1]), statistics.median(held[4])
    assert abs(late / early - 1) < 0.05, f"{early / 2**20:.1f} MiB, then {late / 2**20:.1f} MiB"
