"""Bundles of CompressAI's networks beside CompressAI itself: seconds and bytes, in turn on the same cores.

CompressAI answers from an environment of its own, whose Python is named; both keep their networks loaded.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from ...export.bundle_checks import read_crops, samples
from ...export.compressai import from_compressai, untranslated
from ...export.kind_bundle import export_kind
from ...measure import environment
from ...measure.metrics import psnr
from ...measure.timing import Settings, Timing, measure, ratio
from ...networks.transform.checkpoint import read
from ...runtime.errors import BackendError, one_line
from ...runtime.image.files import read_image
from ...runtime.kinds.opening import open_codec
from ...runtime.limits import Limits
from ..report.layer_images import as_rgb

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ...runtime.image.arrays import Pixels
    from ...runtime.kinds.opening import AnyCodec


FORMAT: Final = "oslic-bench-compressai"
VERSION: Final = 1
_CHILD: Final = Path(__file__).with_name("compressai_child.py")
_THREADS: Final = 2
_MULTIPLE: Final = 64


class _Child:
    """CompressAI in its own process."""

    def __init__(self, words: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            list(words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, line: str) -> dict[str, Any]:
        """Have it do something.

        Raises:
            BackendError: it ended.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer: dict[str, Any] = json.loads(process.stdout.readline())
        except (OSError, ValueError) as error:
            raise BackendError(f"CompressAI's process ended: {one_line(error)}") from error
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


@contextmanager
def _child(*words: str) -> Iterator[_Child]:
    child = _Child(words)
    try:
        yield child
    finally:
        child.close()


def run(
    python: str,
    architecture: str,
    checkpoint: Path | None,
    images: Sequence[Path],
    progress: Callable[[str], Any],
    *,
    channels: tuple[int, int] = (128, 192),
    settings: Settings | None = None,
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Code images with both, and time the first of them.

    Args:
        python: of an environment with CompressAI.
        architecture: CompressAI's name.
        checkpoint: of a transform codec of ours; None: random weights.
        images: photographs whose sides are multiples of 64.
        progress: gets lines for the user.
        channels: of random weights: all layers, and the latents.
        settings: when the timing stops.
        limits: on the images.

    Returns:
        The result file.

    Raises:
        BackendError: CompressAI's process fails.
    """
    with tempfile.TemporaryDirectory(prefix="oslic-") as place:
        folder = Path(place)
        state = folder / "state.pth"
        limits = limits or Limits()
        pictures = {path.stem: as_rgb(read_image(path, limits).pixels) for path in images}
        np.savez(folder / "pictures.npz", **pictures)  # type: ignore[arg-type]
        if checkpoint is None:
            _write_random(python, architecture, channels, folder, next(iter(pictures.items())))
        else:
            found = read(checkpoint)
            channels = found.config.channels, found.config.latents
            torch.save(untranslated(found.networks()), state)
        crops = read_crops(samples(), _MULTIPLE, limits)
        source = from_compressai(f"compressai:{architecture}", state, None, crops)
        export_kind(source, folder / "bundle", samples(), progress=lambda _: None)
        child = (python, str(_CHILD), "times", architecture, str(state), *map(str, channels))
        with (
            open_codec(folder / "bundle", "onnxruntime-cpu", threads=_THREADS, limits=limits) as codec,
            _child(*child, str(folder / "pictures.npz")) as theirs,
        ):
            rows = [_coded(codec, theirs, name, pixels, progress) for name, pixels in pictures.items()]
            name, pixels = next(iter(pictures.items()))
            timings = _timed(codec, theirs, name, pixels, settings)
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment.describe(),
        "settings": {
            "architecture": architecture,
            "channels": list(channels),
            "weights": "random" if checkpoint is None else source.identity(),
            "threads": _THREADS,
            "timed": name,
        },
        "rows": rows,
        "bytes_ratio": sum(r["bytes"] for r in rows) / sum(r["compressai_bytes"] for r in rows),
        "speed": {
            what: ratio(timings[f"compressai/{what}"], timings[what]) for what in ("compress", "decompress")
        },
        "timings": {key: timing.to_json() for key, timing in timings.items()},
    }


def _write_random(
    python: str, architecture: str, channels: tuple[int, int], folder: Path, first: tuple[str, Pixels]
) -> None:
    """Have CompressAI write random weights, whose tables it makes when it runs once."""
    np.savez(folder / "first.npz", **{first[0]: first[1]})  # type: ignore[arg-type]
    words = [python, str(_CHILD), "forward", architecture, *map(str, channels), "first.npz", "."]
    subprocess.run(words, check=True, cwd=folder)


def _coded(
    codec: AnyCodec, theirs: _Child, name: str, pixels: Pixels, progress: Callable[[str], Any]
) -> dict[str, Any]:
    """What a picture takes with both."""
    encoded = codec.encode(pixels)
    other = theirs.ask(f"compress {name}")["bytes"]
    progress(f"{name}: {len(encoded.data)} bytes, CompressAI {other}")
    return {
        "image": name,
        "bytes": len(encoded.data),
        "compressai_bytes": other,
        "psnr": psnr(pixels, codec.decode(encoded.data).image),
    }


def _timed(
    codec: AnyCodec, theirs: _Child, name: str, pixels: Pixels, settings: Settings | None
) -> dict[str, Timing]:
    """Both directions of both, in turn."""
    data = codec.encode(pixels).data

    def compress() -> None:
        codec.encode(pixels)

    def decompress() -> None:
        codec.decode(data)

    def asks(what: str) -> Callable[[], None]:
        def ask() -> None:
            theirs.ask(f"{what} {name}")

        return ask

    return measure(
        {
            "compress": compress,
            "compressai/compress": asks("compress"),
            "decompress": decompress,
            "compressai/decompress": asks("decompress"),
        },
        settings,
    )


def described(result: dict[str, Any]) -> str:
    """The result in two lines."""
    speed = result["speed"]
    return (
        f"compress {speed['compress']:.2f}x and decompress {speed['decompress']:.2f}x as fast as CompressAI "
        f"({result['settings']['architecture']}, {result['settings']['threads']} threads)\n"
        f"bytes: {100 * (result['bytes_ratio'] - 1):+.2f} % over {len(result['rows'])} images"
    )
