"""Pictures from 1 to 200 megapixels: time, memory, and what of a stream is payload; each command in a fresh process."""

from __future__ import annotations

import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from ...measure import environment
from ...measure.processes import run_python
from ...runtime.bundle.folder import Bundle
from ...runtime.codec.container import StreamReader
from ...runtime.image.files import read_image
from ...runtime.limits import Limits
from ..report.layer_images import as_rgb

FORMAT: Final = "oslic-bench-scale"
VERSION: Final = 1
_REGION: Final = 512
_STREAM: Final = "coded.oslic"
_PEERS: Final = {
    "avifenc": ("avifenc", "-s", "6", "-q", "60", "-y", "444", "{input}", "{output}.avif"),
    "cjxl": ("cjxl", "-e", "7", "-q", "80", "{input}", "{output}.jxl"),
}


def picture(source: Image.Image, megapixels: float) -> Image.Image:
    """A picture of 3:2 and so many megapixels: a photograph, mirrored side by side and one above the other."""
    height = math.isqrt(int(megapixels * 1e6 * 2 / 3))
    width = height * 3 // 2
    tile = np.asarray(source)
    columns, rows = (-(-side // part) for side, part in ((width, tile.shape[1]), (height, tile.shape[0])))
    row = np.concatenate([tile[:, :: 1 if i % 2 == 0 else -1] for i in range(columns)], axis=1)[:, :width]
    whole = np.concatenate([row[:: 1 if i % 2 == 0 else -1] for i in range(rows)])[:height]
    return Image.fromarray(whole)


def measured(arguments: Sequence[str]) -> dict[str, float]:
    """Wall-clock seconds and peak memory of a command in a process of its own, which may keep compiled bytecode.

    Raises:
        OslicError: it fails.
    """
    code = (
        "import os, resource, subprocess, sys, time; os.environ.pop('PYTHONDONTWRITEBYTECODE', None);"
        "start = time.perf_counter();"
        "done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True);"
        "print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss,"
        "resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime);"
        "sys.stderr.write(done.stderr); sys.exit(done.returncode)"
    )
    printed = run_python(["-c", code, *arguments], " ".join(arguments[:4]))
    seconds, kilobytes, user = (float(value) for value in printed.split())
    return {"seconds": seconds, "user_seconds": user, "peak_bytes": kilobytes * 1024}


def _oslic(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "oslic.cli.main", *arguments]


def run(
    bundle: Bundle,
    image: Path,
    megapixels: Sequence[float],
    strips: Sequence[float],
    *,
    memory: str,
    positions: int,
    progress: Callable[[str], Any],
) -> dict[str, Any]:
    """Measure sizes one after the other.

    Args:
        bundle: the networks.
        image: a photograph, which fills the pictures.
        megapixels: sizes that are compressed and decompressed at the default settings.
        strips: sizes that are compressed and decompressed in strips, within `memory`.
        memory: as `--max-memory` takes it.
        positions: of regions of 512x512, in the largest of `megapixels`, if they fit into it.
        progress: gets a line for the user as each row is done.

    Returns:
        The result file.
    """
    source = Image.fromarray(as_rgb(read_image(image, Limits()).pixels))
    rows: list[dict[str, Any]] = []
    parts: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        stream = work / _STREAM
        for size in (*megapixels, *strips):
            in_strips = size in strips and size not in megapixels
            made = picture(source, size)
            for name, command in _commands(bundle, made, work, memory if in_strips else None).items():
                row = {
                    "command": name,
                    "strips": in_strips,
                    "width": made.width,
                    "height": made.height,
                    "megapixels": made.width * made.height / 1e6,
                    **measured(command),
                }
                if name == "compress":
                    row["bytes"] = stream.stat().st_size
                    row["overhead_bytes"] = _overhead(stream)
                rows.append(row)
                progress(describe(row))
            if size == max(megapixels, default=0) and min(made.size) > _REGION:
                parts = _regions(bundle, stream, positions)
                progress(
                    f"a region of {_REGION}x{_REGION} takes {100 * parts['share_of_whole']:.1f} % of the whole picture"
                )
    return {
        "format": FORMAT,
        "version": VERSION,
        "bundle": {"name": bundle.manifest.name, "fingerprint": bundle.manifest.fingerprint},
        "image": image.name,
        "memory": memory,
        "environment": environment.describe(),
        "rows": rows,
        "regions": parts,
    }


def _commands(bundle: Bundle, made: Image.Image, work: Path, memory: str | None) -> dict[str, list[str]]:
    """What is measured of a picture, by name, in the order in which it is run; its files are written.

    Args:
        bundle: the networks.
        made: the picture.
        work: folder of files.
        memory: the limit within which it is worked on in strips; None: as a whole, with peers beside it.
    """
    # libvips, which reads strips, knows TIFF in every build; PPM costs least to read whole.
    file = work / ("in.ppm" if memory is None else "in.tif")
    stream = work / _STREAM
    made.save(file)
    options = ["--bundle", str(bundle.path), "--max-pixels", str(made.width * made.height)]
    options += ["--max-memory", memory or "64G"]
    commands = {
        "compress": _oslic("compress", str(file), "-o", str(stream), *options),
        "decompress": _oslic("decompress", str(stream), "-o", str(work / "back.tif"), *options),
    }
    if memory is not None:
        return commands
    small = str(work / "small.png")
    commands["thumbnail"] = _oslic("decompress", str(stream), "-o", small, "--scale", "1/8", *options)
    png = work / "in.png"
    for name, words in _PEERS.items():
        if shutil.which(words[0]):
            made.save(png, compress_level=1)
            commands[name] = [word.format(input=png, output=work / "peer") for word in words]
    return commands


def _overhead(stream: Path) -> int:
    with stream.open("rb") as file:
        info = StreamReader.of_file(file, Limits(pixels=1 << 40)).info
    return info.total_bytes - sum(section.length - section.index for section in info.sections)


_REGION_CODE: Final = """
import json, sys, time
import numpy as np
from oslic.runtime import Codec
from oslic.runtime.limits import Limits
path, bundle, side, positions = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
data = open(path, "rb").read()
draw = np.random.default_rng(1)
with Codec.open(bundle, limits=Limits(pixels=1 << 40, memory=1 << 40)) as codec:
    codec.decompress(data, region=(0, 0, 64, 64))
    start = time.perf_counter(); whole = codec.decompress(data); seconds = time.perf_counter() - start
    height, width = whole.shape[:2]
    times, equal = [], True
    for _ in range(positions):
        left, top = int(draw.integers(0, width - side)), int(draw.integers(0, height - side))
        start = time.perf_counter()
        part = codec.decompress(data, region=(left, top, side, side))
        times.append(time.perf_counter() - start)
        equal = equal and np.array_equal(part, whole[top:top + side, left:left + side])
print(json.dumps({"whole_seconds": seconds, "region_seconds": times, "equal": bool(equal)}))
"""


def _regions(bundle: Bundle, stream: Path, positions: int) -> dict[str, Any]:
    """Times of random regions beside the whole picture's, in one process."""
    start = time.perf_counter()
    words = ["-c", _REGION_CODE, str(stream), str(bundle.path), str(_REGION), str(positions)]
    found: dict[str, Any] = json.loads(run_python(words, "decoding regions"))
    mean = float(np.mean(found["region_seconds"]))
    return {
        **found,
        "side": _REGION,
        "share_of_whole": mean / found["whole_seconds"],
        "all_seconds": time.perf_counter() - start,
    }


def describe(row: dict[str, Any]) -> str:
    """A row as a line."""
    size = f"{row['width']}x{row['height']}"
    return (
        f"{row['command']:<10} {size:<12} {row['seconds']:8.2f} s, {row['seconds'] / row['megapixels']:6.3f} s/MP, "
        f"peak {row['peak_bytes'] / 2**20:7.0f} MiB{', in strips' if row['strips'] else ''}"
    )
