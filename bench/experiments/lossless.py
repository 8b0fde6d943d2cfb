"""Lossless and near-lossless pictures: this codec beside FLIF of the picture alone, and beside other formats."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from ...measure import environment
from ...measure.metrics import psnr
from ...runtime import flif
from ...runtime.errors import BackendError, DependencyError, VerificationError
from ...runtime.image.files import read_image
from .lossless_layers import Coder, pillow_coder

if TYPE_CHECKING:
    import numpy.typing as npt

    from ...runtime.codec import Codec
    from ...runtime.image.arrays import Pixels

FORMAT: Final = "oslic-bench-lossless"
VERSION: Final = 1
OURS: Final = "oslic"
FLIF: Final = "flif"
"""FLIF of the picture alone, at the same effort: what the layers are added to."""
# cwebp's levels of near-lossless: each takes one bit more from what varies.
_WEBP_LEVELS: Final = (80, 60, 40, 20, 0)
_WEBP: Final = pillow_coder("WEBP")


def lossless_coders(codec: Codec, effort: int) -> dict[str, Coder]:
    """Ours, and its peers by name.

    Args:
        codec: of a bundle.
        effort: of ours.

    Raises:
        DependencyError: the JPEG XL plugin is missing.
    """
    try:
        import pillow_jxl  # noqa: F401  (registers JPEG XL with Pillow)
    except ImportError as error:
        raise DependencyError("JPEG XL needs pillow-jxl-plugin: pip install 'oslic[bench]'") from error
    return {
        OURS: Coder(lambda x: codec.compress(x, lossless=True, effort=effort), codec.decompress),
        FLIF: Coder(lambda x: flif.encode(x, effort=_flif_effort(effort), crc=False), flif.decode),
        "jxl-e7": pillow_coder("JXL", lossless=True, effort=7, num_threads=1),
        "webp": pillow_coder("WEBP", lossless=True, quality=100, method=6),
        "png": pillow_coder("PNG", optimize=True),
    }


def _flif_effort(effort: int) -> int:
    from ...runtime.codec.effort import EFFORTS

    return EFFORTS[effort].lossless


def bounded_coders(codec: Codec, effort: int, bound: int) -> dict[str, Coder]:
    """Ours with a largest error, JPEG-LS, and WebP where `cwebp` is installed.

    Args:
        codec: of a bundle.
        effort: of ours.
        bound: the largest error.

    Raises:
        DependencyError: JPEG-LS is missing.
    """
    try:
        import imagecodecs
    except ImportError as error:
        raise DependencyError("JPEG-LS needs imagecodecs: pip install 'oslic[bench]'") from error
    found = {
        OURS: Coder(lambda x: codec.compress(x, max_error=bound, effort=effort), codec.decompress),
        "jpeg-ls": Coder(
            lambda x: bytes(imagecodecs.jpegls_encode(np.ascontiguousarray(x), level=bound)),
            imagecodecs.jpegls_decode,
        ),
    }
    if shutil.which("cwebp"):
        found["webp-near-lossless"] = Coder(lambda x: _near_lossless_webp(x, bound), _WEBP.decode)
    return found


def _near_lossless_webp(pixels: Pixels, bound: int) -> bytes:
    """The smallest of cwebp's near-lossless files that keeps the bound."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.png", Path(folder) / "out.webp"
        Image.fromarray(pixels).save(source, compress_level=0)
        kept: list[bytes] = []
        for level in (100, *_WEBP_LEVELS):
            command = [
                "cwebp",
                "-quiet",
                "-near_lossless",
                str(level),
                "-m",
                "6",
                str(source),
                "-o",
                str(target),
            ]
            try:
                subprocess.run(command, check=True, capture_output=True)
            except subprocess.CalledProcessError as error:
                raise BackendError(
                    f"cwebp failed: {error.stderr.decode(errors='replace').strip()}"
                ) from error
            data = target.read_bytes()
            if _largest_error(_WEBP.decode(data), pixels) > bound:
                break
            kept.append(data)
        return min(kept, key=len)


def _largest_error(one: npt.NDArray[Any], other: Pixels) -> int:
    return int(np.abs(one.astype(np.int16) - other).max())


def measure(pictures: Mapping[str, Pixels], coders: Mapping[str, Coder], bound: int) -> dict[str, Any]:
    """Code every picture with every coder, and see that none is off by more than the bound.

    Args:
        pictures: by name.
        coders: by name.
        bound: the largest error; 0: lossless.

    Returns:
        By coder bits per pixel, bytes of each picture, largest error, PSNR (None: infinite), processor seconds.

    Raises:
        VerificationError: a coder does not keep the bound.
    """
    rows = {}
    pixels = sum(p.shape[0] * p.shape[1] for p in pictures.values())
    for name, coder in coders.items():
        sizes, errors, qualities = {}, 0, []
        encoding = decoding = 0.0
        for picture, image in pictures.items():
            start = time.process_time()
            data = coder.encode(image)
            middle = time.process_time()
            decoded = coder.decode(data)
            encoding, decoding = encoding + middle - start, decoding + time.process_time() - middle
            error = _largest_error(decoded, image)
            if error > bound:
                raise VerificationError(f"{name} gives {picture} back with an error of {error}")
            sizes[picture], errors = len(data), max(errors, error)
            qualities.append(psnr(image, decoded))
        rows[name] = {
            "bpp": 8 * sum(sizes.values()) / pixels,
            "bytes": sizes,
            "largest_error": errors,
            "psnr": float(np.mean(qualities)) if bound else None,
            "encode_cpu_s": encoding,
            "decode_cpu_s": decoding,
        }
    return rows


def parts(codec: Codec, pictures: Mapping[str, Pixels], effort: int) -> dict[str, float]:
    """What the sections of our lossless files take, in bits per pixel."""
    totals: dict[str, int] = {}
    from ...runtime.codec.request import make_request

    request = make_request(lossless=True, effort=effort)
    for image in pictures.values():
        encoded = codec.encode(image, request)
        for name, size in (*encoded.section_bytes.items(), ("overhead", encoded.overhead_bytes)):
            totals[name] = totals.get(name, 0) + size
    pixels = sum(p.shape[0] * p.shape[1] for p in pictures.values())
    return {name: 8 * total / pixels for name, total in totals.items()}


def run(codec: Codec, files: Sequence[Path], bounds: Sequence[int], effort: int) -> dict[str, Any]:
    """The whole measurement, ready for JSON.

    Args:
        codec: of a bundle.
        files: the pictures.
        bounds: largest errors of near-lossless coding.
        effort: of ours.
    """
    pictures = {path.name: read_image(path, codec.limits).pixels for path in files}
    lossless = measure(pictures, lossless_coders(codec, effort), 0)
    alone = lossless[FLIF]["bytes"]
    ratios = [size / alone[name] - 1 for name, size in lossless[OURS]["bytes"].items()]
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment.describe(),
        "bundle": {
            "name": codec.bundle.manifest.name,
            "fingerprint": codec.bundle.manifest.fingerprint,
            "exact": codec.bundle.manifest.exact,
        },
        "effort": effort,
        "pictures": len(pictures),
        "lossless": lossless,
        "above_flif_percent": 100 * float(np.mean(ratios)),
        "parts_bpp": parts(codec, pictures, effort),
        "near_lossless": {
            str(bound): measure(pictures, bounded_coders(codec, effort, bound), bound) for bound in bounds
        },
    }
