"""A process's peak of memory beside the prediction that images are refused by."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from ...measure import environment
from ...measure.processes import run_python
from ...runtime.bundle.folder import Bundle
from ...runtime.codec.decoding import DECODER_GRAPHS
from ...runtime.errors import UsageError
from ...runtime.image.files import read_image
from ...runtime.image.metadata import Metadata
from ...runtime.image.writing import encode_image
from ...runtime.limits import Limits
from ...runtime.memory import decoding_use, encoding_use, resident_memory
from ...runtime.threads import default_jobs, most_workers
from ..report.layer_images import as_rgb

FORMAT: Final = "oslic-bench-memory"
VERSION: Final = 1
_MANY: Final = 3
"""Files of a command that has several."""


def peak(arguments: Sequence[str]) -> int:
    """The most memory that an `oslic` command holds, run in a process of its own, in bytes.

    Raises:
        OslicError: the command fails.
    """
    printed = run_python(
        ["-m", f"{__package__.partition('.')[0]}.cli.peak", *arguments], f"oslic {arguments[0]}"
    )
    return int(printed.splitlines()[-1])


def predictions(bundle: Bundle, width: int, height: int, cores: int) -> dict[tuple[str, int], int]:
    """Bytes by command and number of files, in work at a time as `oslic` has them, each with a tile on every core."""
    in_work = min(3, default_jobs())
    infos = bundle.manifest.graphs
    encoding, decoding = (
        encoding_use(infos),
        decoding_use({name: infos[name] for name in DECODER_GRAPHS if name in infos}),
    )
    return {
        ("compress", 1): encoding.for_picture(width, height, cores),
        ("compress", 3): in_work * encoding.for_picture(width, height, cores)
        - (in_work - 1) * encoding.fixed,
        ("decompress", 1): decoding.for_picture(width, height, cores),
        ("decompress", 3): in_work * decoding.for_picture(width, height, cores)
        - (in_work - 1) * decoding.fixed,
    }


def run(
    bundle: Bundle,
    image: Path,
    megapixels: Sequence[float],
    *,
    threads: int | None,
    runs: int,
    progress: Callable[[str], Any],
) -> dict[str, Any]:
    """Measure compressing and decompressing, one file and three.

    Args:
        bundle: the networks.
        image: a photograph; it is scaled to every size.
        megapixels: sizes.
        threads: of the networks.
        runs: of each command; which phases of the tiles in work meet is chance, so the most of them counts.
        progress: gets a line for the user as each row is done.

    Returns:
        The result file: rows of command, files, size, predicted bytes, those of each run and the most of these.

    Raises:
        UsageError: this system does not say how much memory a process holds.
    """
    if resident_memory() is None:
        raise UsageError("this system does not say how much memory a process holds: run it on Linux")
    source = Image.fromarray(as_rgb(read_image(image, Limits()).pixels))
    options = [
        "--bundle",
        str(bundle.path),
        "--backend",
        "onnxruntime-cpu",
        "--max-memory",
        "1T",
        "--overwrite",
    ]
    options += [] if threads is None else ["--threads", str(threads)]
    rows = []
    for size in megapixels:
        height = math.isqrt(int(size * 1e6 * 3 / 4))
        width = height * 4 // 3
        scaled = source.resize((width, height), Image.Resampling.BICUBIC)
        with tempfile.TemporaryDirectory() as folder:
            commands = _commands(scaled, Path(folder), options)
            for key, predicted in predictions(bundle, width, height, most_workers()).items():
                command, files = key
                peaks = [peak(commands[key]) for _ in range(runs)]
                rows.append(
                    {
                        "command": command,
                        "files": files,
                        "width": width,
                        "height": height,
                        "predicted_bytes": predicted,
                        "measured_bytes": max(peaks),
                        "runs_bytes": peaks,
                    }
                )
                progress(describe(rows[-1]))
    return {
        "format": FORMAT,
        "version": VERSION,
        "bundle": {"name": bundle.manifest.name, "fingerprint": bundle.manifest.fingerprint},
        "threads": threads,
        "cores": most_workers(),
        "environment": environment.describe(),
        "rows": rows,
    }


def _commands(picture: Image.Image, work: Path, options: Sequence[str]) -> dict[tuple[str, int], list[str]]:
    """Commands on one file and on three, as words by command and number of files; the pictures are written.

    Decompressing reads what compressing wrote, so it comes after that.
    """
    coded, back = work / "coded", work / "back"
    for folder in (coded, back):
        folder.mkdir()
    sources = [work / f"{i}.png" for i in range(_MANY)]
    for source in sources:
        source.write_bytes(encode_image(np.asarray(picture), Metadata(), source))
    streams = [coded / f"{source.name}.oslic" for source in sources]
    return {
        (command, files): [command, *map(str, inputs[:files]), "-o", str(output), *options]
        for command, inputs, output in (("compress", sources, coded), ("decompress", streams, back))
        for files in (1, _MANY)
    }


def describe(row: dict[str, Any]) -> str:
    """A row as a line."""
    predicted, measured = row["predicted_bytes"], row["measured_bytes"]
    return (
        f"{row['command']:<10} {row['files']} x {row['width']}x{row['height']}: measured {measured >> 20} MiB, "
        f"predicted {predicted >> 20} MiB ({100 * (predicted / measured - 1):+.1f} %)"
    )
