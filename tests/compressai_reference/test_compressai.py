"""Bundles of CompressAI's weights against CompressAI itself, which answers from an environment of its own.

`make test-compressai` sets that up: CompressAI 1.2.8 wants an older NumPy than we do. Files are exchanged.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from oslic.export.compressai import ARCHITECTURES
from oslic.runtime.image.arrays import psnr
from oslic.runtime.image.files import read_image
from oslic.runtime.image.metadata import Metadata
from oslic.runtime.image.writing import encode_image
from oslic.runtime.kinds.opening import open_codec
from oslic.runtime.limits import Limits

PYTHON = os.environ.get("OSLIC_COMPRESSAI")
CHILD = Path(__file__).parent.parent.parent / "bench" / "experiments" / "compressai_child.py"
SAMPLES = Path(__file__).parent.parent.parent / "samples"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        PYTHON is None, reason="OSLIC_COMPRESSAI names no Python with CompressAI: make test-compressai"
    ),
]


@pytest.fixture(scope="module")
def pictures():
    coffee, cat = (read_image(SAMPLES / name, Limits()).pixels for name in ("coffee.png", "chelsea.png"))
    return {"coffee": coffee[:256, :320], "chelsea": cat[-192:, -256:]}


@pytest.mark.parametrize(
    ("architecture", "quality"), [*((name, None) for name in ARCHITECTURES), ("mbt2018-mean", 3)]
)
def test_the_bundle_answers_as_compressai_does(architecture, quality, pictures, tmp_path, monkeypatch):
    np.savez(tmp_path / "pictures.npz", **pictures)
    sizes = ("48", "64") if quality is None else ("128", "192")
    subprocess.run(
        [
            PYTHON,
            CHILD,
            "forward",
            architecture,
            *sizes,
            "pictures.npz",
            ".",
        ],
        check=True,
        cwd=tmp_path,
    )
    words = [] if quality is None else ["--quality", str(quality)]
    export = ["oslic", "export", f"compressai:{architecture}", "--state", "state.pth", "-o", "bundle", *words]
    subprocess.run(export, check=True, cwd=tmp_path)
    with np.load(tmp_path / "answers.npz") as answers, open_codec(tmp_path / "bundle") as codec:
        for name, pixels in pictures.items():
            encoded = codec.encode(pixels)
            decoded = codec.decode(encoded.data).image
            assert psnr(decoded, answers[f"{name}/picture"]) > 60
            bits = 8 * sum(encoded.section_bytes.get(section, 0) for section in ("hyper", "latents"))
            assert bits == pytest.approx(float(answers[f"{name}/bits"]), rel=0.01)


def test_the_decoder_in_another_process_gives_equal_pixels(pictures, tmp_path):
    np.savez(tmp_path / "pictures.npz", **pictures)
    reference = [
        PYTHON,
        CHILD,
        "forward",
        "bmshj2018-hyperprior",
        "48",
        "64",
    ]
    subprocess.run([*reference, "pictures.npz", "."], check=True, cwd=tmp_path)
    for name, pixels in pictures.items():
        (tmp_path / f"{name}.png").write_bytes(encode_image(pixels, Metadata(), f"{name}.png"))
    bundle = ("--bundle", "bundle")
    commands = (
        ("export", "compressai:bmshj2018-hyperprior", "--state", "state.pth", "-o", "bundle"),
        ("compress", *(f"{name}.png" for name in pictures), "-o", "streams", *bundle),
        ("decompress", "streams", "-o", "one", "--threads", "1", *bundle),
        ("decompress", "streams", "-o", "two", "--threads", "2", *bundle),
    )
    (tmp_path / "streams").mkdir()
    for command in commands:
        subprocess.run(["oslic", *command], check=True, cwd=tmp_path)
    for name in pictures:
        one, two = (
            read_image(next((tmp_path / folder).glob(f"{name}*")), Limits()).pixels
            for folder in ("one", "two")
        )
        assert np.array_equal(one, two)
