"""An installed package, tried: `python try_wheel.py` compresses a generated picture with the shipped networks.

cibuildwheel runs it in an empty environment after each wheel; it needs no more than `oslic[cpu]`.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from oslic.runtime import Codec, flif, read_labels
from PIL import Image

LEAST_PSNR = 28
"""What the picture has at the default quality, less a margin; in dB."""


def picture() -> np.ndarray:
    """A picture of shades, an edge and some noise; uint8 (H, W, 3)."""
    y, x = np.mgrid[0:150, 0:200]
    shades = np.stack([x, y, 255 - x], axis=-1).astype(np.float64)
    shades[(x - 100) ** 2 + (y - 75) ** 2 < 40**2] = (200, 60, 40)
    noise = np.random.default_rng(0).normal(0, 2, shades.shape)
    return np.clip(shades + noise, 0, 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """In dB, of the installed pictures alone: the package is what is tried here."""
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def try_library(image: np.ndarray) -> None:
    """The codec there and back, label map, lossless file, and FLIF by itself."""
    with Codec.open() as codec:
        data = codec.compress(image)
        assert psnr(image, codec.decompress(data)) > LEAST_PSNR
        assert read_labels(data).shares()
        assert np.array_equal(codec.decompress(codec.compress(image, lossless=True)), image)
    assert np.array_equal(flif.decode(flif.encode(image)), image)


def try_commands(image: np.ndarray, folder: Path) -> None:
    """The command that the package installs, on a file."""
    Image.fromarray(image).save(folder / "picture.png")
    command = Path(sys.executable).with_name("oslic")
    for arguments in (
        ("compress", "picture.png"),
        ("decompress", "picture.png.oslic", "-o", "back.png"),
        ("verify", "picture.png.oslic"),
        ("doctor",),
    ):
        subprocess.run([command, *arguments], cwd=folder, check=True)
    assert psnr(image, np.asarray(Image.open(folder / "back.png"))) > LEAST_PSNR


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        try_library(picture())
        try_commands(picture(), Path(folder))
    print("the package works")
