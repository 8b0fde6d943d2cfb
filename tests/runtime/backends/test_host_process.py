"""The process that uses the runtime keeps its settings, and finds nothing new below its home."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from oslic.runtime.errors import LimitError
from oslic.runtime.image.files import decode_image
from oslic.runtime.limits import Limits
from PIL import Image

WHOLE = """
import os, signal, sys, warnings
import numpy as np
from PIL import Image
before = (Image.MAX_IMAGE_PIXELS, dict(os.environ), signal.getsignal(signal.SIGTERM), list(warnings.filters))
import oslic.runtime
from oslic.runtime import Codec
with Codec.open() as codec:
    codec.decompress(codec.compress(np.zeros((64, 64, 3), np.uint8)))
after = (Image.MAX_IMAGE_PIXELS, dict(os.environ), signal.getsignal(signal.SIGTERM), list(warnings.filters))
print(before == after)
"""


def _environment(home):
    gone = {
        "ORT_DISABLE_TELEMETRY",
        "XDG_CACHE_HOME",
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "CI",
        "GITHUB_ACTIONS",
    }
    return {**{k: v for k, v in os.environ.items() if k not in gone}, "HOME": str(home)}


def _files(folder):
    return [str(path.relative_to(folder)) for path in folder.rglob("*")]


def test_the_process_keeps_its_settings_and_its_home_stays_empty(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WHOLE], env=_environment(tmp_path), capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("True\n", "")
    assert _files(tmp_path) == []


@pytest.mark.parametrize(
    "words",
    [
        ["backends"],
        ["inspect"],
        ["fuse", "{graph}", "-o", "{out}/fused.onnx", "--multiple", "32"],
        ["cast", "{bundle}", "-o", "{out}/half", "--images", "{photos}"],
        [
            "bench",
            "int8",
            "{bundle}",
            "{bundle}",
            "-o",
            "{out}/x.json",
            "--image",
            "{photo}",
            "--timeout",
            "1",
        ],
    ],
    ids=lambda words: words[0],
)
def test_no_command_writes_below_the_home(tmp_path, words, samples):
    """ONNX Runtime left a device id and a database of events there, whoever imported it."""
    from oslic.runtime.bundle.folder import default_bundle

    home, out, photos = (tmp_path / name for name in ("home", "out", "photos"))
    for folder in (home, out, photos):
        folder.mkdir()
    photo = photos / "a.png"
    Image.open(samples / "chelsea.png").convert("RGB").crop((0, 0, 96, 64)).save(photo)
    names = {
        "graph": default_bundle() / "analyse.onnx", "bundle": default_bundle(), "out": out, "photos": photos,
        "photo": photo,
    }  # fmt: skip
    command = [sys.executable, "-m", "oslic.cli.main", *(word.format(**names) for word in words)]
    done = subprocess.run(command, env=_environment(home), capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert _files(home) == []


def test_a_choice_of_the_user_about_telemetry_stays(monkeypatch):
    from oslic.runtime.dependencies import without_telemetry

    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    with without_telemetry():
        assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    with without_telemetry():
        assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
    assert "ORT_DISABLE_TELEMETRY" not in os.environ


def _file(kind, size=(300, 200), **options):
    file = io.BytesIO()
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_the_guard_of_pillow_neither_warns_nor_raises_for_us(monkeypatch, kind):
    """Whatever the host has set: 1000 pixels would be refused, 40,000 warned of."""
    data = _file(kind)
    for most in (1000, 40000, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", most)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert decode_image(data, Limits()).pixels.shape[:2] == (200, 300)
        assert most == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"])
def test_our_limit_stands_in_its_place(kind):
    with pytest.raises(LimitError, match="the image is 300x200 = 60000 pixels, more than the limit of 59999"):
        decode_image(_file(kind), Limits(pixels=59999))


def test_the_guard_of_the_host_holds_for_the_host_while_we_work(monkeypatch):
    """On another thread, at the same time."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    data, refused, stop = _file("PNG"), [], threading.Event()

    def host():
        while not stop.is_set():
            try:
                Image.open(io.BytesIO(data))
                refused.append(False)
            except Image.DecompressionBombError:
                refused.append(True)

    thread = threading.Thread(target=host)
    thread.start()
    try:
        for _ in range(200):
            assert decode_image(data, Limits()).pixels.shape == (200, 300, 3)
    finally:
        stop.set()
        thread.join()
    assert refused
    assert all(refused)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(io.BytesIO(data))


@pytest.mark.parametrize("mebibytes", [700, 900])
def test_too_little_memory_is_one_line_and_an_exit_code(tmp_path, mebibytes):
    """Wherever it is missed: by NumPy, Pillow, FLIF or ONNX Runtime, whose own log says nothing."""
    photo = tmp_path / "a.png"
    Image.fromarray(np.zeros((3000, 3000, 3), np.uint8)).save(photo)
    command = [
        sys.executable,
        "-m",
        "oslic.cli.main",
        "compress",
        str(photo),
        "-o",
        str(tmp_path / "a.oslic"),
    ]
    done = subprocess.run(
        ["bash", "-c", f"ulimit -v {mebibytes << 10}; exec \"$@\"", "bash", *command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 7
    assert done.stderr.startswith(f"oslic compress: error: {photo}: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == [photo]
    debugged = subprocess.run(
        ["bash", "-c", f"ulimit -v {mebibytes << 10}; exec \"$@\"", "bash", *command, "--debug"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" in debugged.stderr
