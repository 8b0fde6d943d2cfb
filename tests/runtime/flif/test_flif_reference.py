"""Our files through the reference decoder, and its files through ours, where its library is on the machine.

`OSLIC_LIBFLIF` names the library; without it the system is searched.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from oslic.bench.coders.libflif import LibFlif
from oslic.runtime import flif
from oslic.runtime.errors import DependencyError
from PIL import Image


@pytest.fixture(scope="module")
def reference():
    try:
        return LibFlif(os.environ.get("OSLIC_LIBFLIF"))
    except DependencyError as error:
        pytest.skip(f"{error} (OSLIC_LIBFLIF)")


def _pictures(folder):
    photo = np.asarray(Image.open(folder / "chelsea.png").convert("RGB"))
    crop = photo[40:137, 60:251]
    blocks = crop[:96, :184].reshape(12, 8, 23, 8, 3).mean((1, 3))
    labels = (crop[..., 0] // 40 + (crop[..., 1] > 120) * 3).astype(np.uint8)
    ramp = np.broadcast_to(np.arange(191, dtype=np.uint8), (97, 191))
    ghost = np.dstack([crop, np.where(labels > 4, 0, ramp)])
    return {
        "photograph": crop,
        "compact": np.clip(np.rint(blocks / 8), 0, 31).astype(np.uint8),
        "labels": labels,
        "few colors": crop // 64 * 64,
        "alpha": ghost,
        "one pixel": crop[:1, :1],
        "one row": crop[:1],
        "one color": np.full((5, 7, 3), 200, np.uint8),
    }


NAMES = ("photograph", "compact", "labels", "few colors", "alpha", "one pixel", "one row", "one color")


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("effort", [0, 7, 30, 60, 100])
@pytest.mark.parametrize("name", NAMES)
def test_the_reference_decoder_reads_what_we_write(reference, samples, name, effort, interlaced):
    pixels = _pictures(samples)[name]
    data = flif.encode(pixels, effort=effort, interlaced=interlaced)
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    assert np.array_equal(reference.decode(data, channels), pixels)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_we_read_what_the_reference_encoder_writes(reference, samples, name, interlaced):
    pixels = _pictures(samples)[name]
    decoded = flif.decode(reference.encode(pixels, interlaced=interlaced))
    if name == "alpha":  # the reference clears the color that nobody sees
        pixels = pixels * (pixels[..., 3:] > 0)
        decoded = decoded * (decoded[..., 3:] > 0)
    assert np.array_equal(decoded, pixels)
