"""Bytes and speed of lossless coders on what the codec stores losslessly: label maps and compact images."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from ...measure import environment
from ...measure.timing import Settings, Timing, measure, percentile, ratio
from ...runtime import flif
from ...runtime.errors import DataError, DependencyError, VerificationError
from ...runtime.image.files import open_stored
from ...runtime.ledger import note_inputs
from ...runtime.limits import Limits
from ..coders.libflif import LibFlif

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

    from ...runtime.image.arrays import Pixels

FORMAT: Final = "oslic-bench-flif"
VERSION: Final = 1
BOX: Final = 8
"""Side of the box average that stands for a compact image."""


@dataclass(frozen=True)
class Coder:
    """A lossless coder.

    Attributes:
        encode: pixels, uint8 (H, W) or (H, W, 3), to a file.
        decode: a file back to pixels.
    """

    encode: Callable[[Pixels], bytes]
    decode: Callable[[bytes], npt.NDArray[Any]]


def pillow_coder(kind: str, **options: Any) -> Coder:
    """A format of Pillow's.

    Args:
        kind: Pillow's name of it.
        options: for its writer.
    """

    def encode(pixels: Pixels) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **options)
        return file.getvalue()

    return Coder(encode, lambda data: np.asarray(Image.open(io.BytesIO(data))))


def own_coder(effort: int) -> Coder:
    """Return this project's FLIF codec; checksums on, as in the reference library."""
    return Coder(lambda pixels: flif.encode(pixels, effort=effort), flif.decode)


def coders(efforts: Sequence[int], libflif: str | None) -> dict[str, Coder]:
    """Return our codec at each effort and its peers by name.

    Args:
        efforts: of our encoder, 0..100.
        libflif: path of the reference library; None to look it up on the system, and do without it.

    Raises:
        DependencyError: the JPEG XL plugin is missing, or the library named cannot be used.
    """
    try:
        import pillow_jxl  # noqa: F401  (registers JPEG XL with Pillow)
    except ImportError as error:
        raise DependencyError("JPEG XL needs pillow-jxl-plugin: pip install 'oslic[bench]'") from error
    found = {f"ours-e{effort}": own_coder(effort) for effort in efforts}
    try:
        library = LibFlif(libflif)
        # The library returns RGBA rows for color; the channels are known from the measurement.
        found["libflif-gray"] = Coder(library.encode, lambda data: library.decode(data, 1))
        found["libflif-rgb"] = Coder(library.encode, lambda data: library.decode(data, 3))
    except DependencyError:
        if libflif is not None:
            raise
    found["jxl-e7"] = pillow_coder("JXL", lossless=True, effort=7, num_threads=1)
    found["jxl-e9"] = pillow_coder("JXL", lossless=True, effort=9, num_threads=1)
    found["webp"] = pillow_coder("WEBP", lossless=True, quality=100, method=6)
    found["png"] = pillow_coder("PNG", optimize=True)
    return found


def _pngs(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.glob("*.png") if path.is_file())
    note_inputs(*found)
    return found


def label_maps(folder: Path, limits: Limits | None = None) -> list[Pixels]:
    """Read label maps: gray or palette PNGs, whose values are class numbers.

    Raises:
        DataError: the folder holds none.
        LimitError: one is beyond the limits.
    """
    maps: list[Pixels] = []
    for path in _pngs(folder):
        with open_stored(path, limits or Limits()) as image:
            maps.append(np.asarray(image))
    if not maps:
        raise DataError(f"no label maps (*.png) in {folder}")
    return maps


def box_averages(folder: Path, levels: int, limits: Limits | None = None) -> list[Pixels]:
    """Return photographs averaged over boxes of 8x8 and rounded to `levels` values, uint8 (H/8, W/8, 3).

    Raises:
        DataError: the folder holds no photographs.
        LimitError: one is beyond the limits.
    """
    made = []
    for path in _pngs(folder):
        with open_stored(path, limits or Limits()) as opened:
            image = np.asarray(opened.convert("RGB"), np.float64)
        height, width = (side // BOX for side in image.shape[:2])
        boxes = image[: height * BOX, : width * BOX].reshape(height, BOX, width, BOX, 3).mean((1, 3))
        made.append(np.round(boxes * (levels - 1) / 255).astype(np.uint8))
    if not made:
        raise DataError(f"no photographs (*.png) in {folder}")
    return made


def _fits(name: str, pixels: Pixels) -> bool:
    return not name.startswith("libflif") or name == ("libflif-gray" if pixels.ndim == 2 else "libflif-rgb")


def _check(name: str, coder: Coder, data: bytes, pixels: Pixels) -> None:
    decoded = coder.decode(data)
    if pixels.ndim == 2 and decoded.ndim == 3:  # WebP has no gray: it comes back as equal channels
        pixels = np.broadcast_to(pixels[:, :, None], decoded.shape)
    if not np.array_equal(decoded, pixels):
        raise VerificationError(f"{name} does not give back the pixels of {pixels.shape}")


def _cpu_ratio(numerator: Timing, denominator: Timing) -> dict[str, float]:
    """Return the quartiles, over the rounds, of one candidate's processor time over another's of the same round.

    Processor time holds on a machine that does other work too; the quartiles say how well.
    """
    pairs = zip(numerator.cpu.samples, denominator.cpu.samples, strict=True)
    ratios = [a / b for a, b in pairs]
    return {name: percentile(ratios, p) for name, p in (("p25", 25), ("p50", 50), ("p75", 75))}


def compare(
    pictures: list[Pixels], candidates: Mapping[str, Coder], timed: int, settings: Settings
) -> dict[str, Any]:
    """Measure bytes on all pictures, and time on some.

    Args:
        pictures: what to store.
        candidates: coders by name.
        timed: how many pictures, evenly spread, one timed call codes one after the other.
        settings: when timing stops.

    Returns:
        By coder: mean bytes, bits per pixel, timings and, where the reference library is there, ratios to it.
    """
    usable = {name: coder for name, coder in candidates.items() if _fits(name, pictures[0])}
    files = {name: [coder.encode(p) for p in pictures] for name, coder in usable.items()}
    for name, coder in usable.items():
        for data, pixels in zip(files[name], pictures, strict=True):
            _check(name, coder, data, pixels)
    reference = next((name for name in usable if name.startswith("libflif")), None)
    if reference is not None:
        # The reference decoder reads our files too.
        for name in (n for n in usable if n.startswith("ours")):
            for data, pixels in zip(files[name], pictures, strict=True):
                _check(f"{reference} (a file of {name})", usable[reference], data, pixels)
    chosen = sorted({round(i * (len(pictures) - 1) / max(1, timed - 1)) for i in range(timed)})

    def all_of(call: Callable[[Any], object], inputs: list[Any]) -> Callable[[], None]:
        def once() -> None:
            for item in inputs:
                call(item)

        return once

    encode = measure(
        {n: all_of(c.encode, [pictures[i] for i in chosen]) for n, c in usable.items()}, settings
    )
    decode = measure(
        {n: all_of(c.decode, [files[n][i] for i in chosen]) for n, c in usable.items()}, settings
    )
    pixels = sum(p.shape[0] * p.shape[1] for p in pictures)
    rows: dict[str, Any] = {}
    for name in usable:
        total = sum(map(len, files[name]))
        rows[name] = {
            "mean_bytes": total / len(pictures),
            "bpp": 8 * total / pixels,
            "encode": encode[name].to_json(),
            "decode": decode[name].to_json(),
        }
        if reference is not None:
            rows[name]["bytes_of_reference"] = total / sum(map(len, files[reference]))
            rows[name]["encode_speed"] = ratio(encode[reference], encode[name])
            rows[name]["decode_speed"] = ratio(decode[reference], decode[name])
            rows[name]["encode_cpu_speed"] = _cpu_ratio(encode[reference], encode[name])
            rows[name]["decode_cpu_speed"] = _cpu_ratio(decode[reference], decode[name])
    return {"pictures": len(pictures), "shape": list(pictures[0].shape), "timed": len(chosen), "coders": rows}


def run_benchmark(
    sets: Mapping[str, list[Pixels]], candidates: Mapping[str, Coder], timed: int, settings: Settings
) -> dict[str, Any]:
    """Compare the coders on every set of pictures; the result is ready for JSON."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment.describe(),
        "sets": {name: compare(pictures, candidates, timed, settings) for name, pictures in sets.items()},
    }
