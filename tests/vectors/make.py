"""Makes the streams of this folder, and `vectors.json`; see README.md.

python tests/vectors/make.py --shipped | --all
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent / "support"))

import stream_tools  # noqa: E402
from oslic.runtime.bundle.folder import Bundle, default_bundle  # noqa: E402
from oslic.runtime.codec import Codec, Settings, bounded  # noqa: E402
from oslic.runtime.codec.container import SectionType, digest  # noqa: E402
from oslic.runtime.codec.parameters import ResidualMode  # noqa: E402
from oslic.runtime.codec.settings import Tune  # noqa: E402
from oslic.runtime.image.metadata import Metadata, Resolution, Unit  # noqa: E402

BUNDLE = HERE / "bundle"
TABLE = HERE / "vectors.json"
METADATA = Metadata(
    icc=bytes(range(64)) * 2,
    exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0",
    xmp=b"<x:xmpmeta/>",
    color=((b"gAMA", (45455).to_bytes(4, "big")),),
    resolution=Resolution(300, 300, Unit.INCH),
)


@dataclass(frozen=True)
class Case:
    """One stream.

    Attributes:
        size: height and width.
        layout: L, LA, RGB or RGBA.
        settings: of the encoder.
        tile: side of the tiles; None: one tile.
        metadata: to carry.
        drawn: whether the picture is a drawing, not a photograph.
        shipped: whether the shipped bundle makes it.
        weight: of the estimate, for streams within a bound that are told from it whatever that costs; None: as the
            encoder likes.
    """

    size: tuple[int, int]
    settings: Settings
    layout: str = "RGB"
    tile: int | None = None
    metadata: Metadata = field(default_factory=Metadata)
    drawn: bool = False
    shipped: bool = False
    weight: int | None = None


def lossy(quality: float, tune: Tune = "psnr", **more: Any) -> Settings:
    return Settings(quality, tune=tune, **more)


CASES = {
    "layers-only": Case((64, 96), lossy(0)),
    "layers-only-gray": Case((40, 56), lossy(0), "L"),
    "one-pixel": Case((1, 1), lossy(60)),
    "one-row": Case((1, 77), lossy(60)),
    "one-column": Case((61, 1), lossy(60)),
    "odd-size": Case((47, 61), lossy(40)),
    "coarse": Case((64, 96), lossy(3)),
    "fine": Case((48, 64), lossy(95)),
    "quarter-of-a-quality": Case((48, 64), lossy(12.25)),
    "gray": Case((50, 70), lossy(50), "L"),
    "gray-alpha": Case((50, 70), lossy(50), "LA"),
    "rgba": Case((50, 70), lossy(50), "RGBA"),
    "for-the-eye": Case((64, 64), lossy(50, tune="visual")),
    "unrefined": Case((64, 64), lossy(50, refine=False)),
    "without-layers": Case((64, 64), lossy(50, layers="never")),
    "drawing": Case((64, 96), lossy(50), drawn=True),
    "class-quality": Case((96, 96), lossy(40, class_quality=(("1", 30.0), ("2", -20.0)))),
    "class-quality-gray": Case((64, 96), lossy(40, class_quality=(("1", 30.0),)), "L"),
    "metadata": Case((40, 40), lossy(30), metadata=METADATA),
    "tiles": Case((150, 200), lossy(30), tile=96),
    "tiles-rgba": Case((130, 100), lossy(30), "RGBA", tile=64),
    "tiles-layers-only": Case((150, 200), lossy(0), tile=64),
    "tiles-some-plain": Case((130, 200), lossy(45, layers="auto"), tile=64),
    "lossless": Case((64, 96), Settings(max_error=0)),
    "lossless-rgba": Case((47, 61), Settings(max_error=0), "RGBA"),
    "lossless-gray": Case((47, 61), Settings(max_error=0), "L"),
    "lossless-drawing": Case((64, 96), Settings(max_error=0), drawn=True),
    "lossless-tiles": Case((130, 100), Settings(max_error=0), tile=64),
    "lossless-by-estimate": Case((64, 96), Settings(max_error=0), weight=8),
    "lossless-by-part-of-the-estimate": Case((47, 61), Settings(max_error=0), "L", weight=3),
    "near-lossless-by-estimate": Case((64, 96), Settings(max_error=2), weight=5),
    "near-lossless-1": Case((64, 96), Settings(max_error=1)),
    "near-lossless-16": Case((64, 96), Settings(max_error=16), "LA"),
    "lite-photograph": Case((128, 192), lossy(50), shipped=True),
    "lite-layers-only": Case((128, 192), lossy(0), shipped=True),
    "lite-gray-tiles": Case((130, 190), lossy(30), "L", tile=96, shipped=True),
    "lite-lossless": Case((64, 96), Settings(max_error=0), shipped=True),
}


def picture(case: Case) -> np.ndarray:
    """Of a photograph, or a drawing of a few colors."""
    height, width = case.size
    if case.drawn:
        random = np.random.default_rng(1)
        small = random.integers(0, 256, (-(-height // 16), -(-width // 16), 3)).astype(np.uint8)
        rgb = small.repeat(16, 0).repeat(16, 1)[:height, :width]
    else:
        with Image.open(ROOT / "samples" / "chelsea.png") as image:
            rgb = np.asarray(image.convert("RGB"))[60 : 60 + height, 90 : 90 + width]
    alpha = np.where(rgb[..., 1] > 110, 255, rgb[..., 2] % 3 * 90).astype(np.uint8)
    planes = {
        "L": rgb[..., 0],
        "LA": np.dstack([rgb[..., 0], alpha]),
        "RGB": rgb,
        "RGBA": np.dstack([rgb, alpha]),
    }
    return np.ascontiguousarray(planes[case.layout])


def encode(codec: Codec, case: Case) -> bytes:
    layers = codec.layers(picture(case), case.settings, tile=case.tile, halo=32)
    data = codec.finish(layers, metadata=case.metadata).data
    if case.weight is None:
        return data
    bound, color = case.settings.max_error, layers.color
    coded = bounded._encode(color, layers.estimate, bound, case.weight, case.settings.coders.lossless)
    data = stream_tools.changed(data, SectionType.RESIDUAL, coded.payload)
    found = digest(coded.samples(color.shape))
    return stream_tools.with_record(
        data, mode=ResidualMode.FLIF_RESIDUAL, weight=case.weight, residual_digest=found
    )


def sha256(array: np.ndarray) -> str:
    """Of the samples and their shape."""
    return hashlib.sha256(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes()).hexdigest()


def facts(codec: Codec, data: bytes) -> dict[str, Any]:
    """What a stream decodes to."""
    decoded = codec.decode(data, with_estimate=True)
    assert decoded.digest_matches
    return {
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "labels": sha256(decoded.labels),
        "compact": sha256(decoded.compact),
        "estimate": sha256(decoded.estimate),
        "image": sha256(decoded.image),
    }


def make_bundle() -> None:
    """An exact bundle of small networks of random weights, with the sizes of its own documents left out."""
    import integer_graphs
    import small_bundle
    from oslic.cli.main import main

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        graphs = {"synthesise": integer_graphs.synthesise(), "refine": integer_graphs.refine()}
        small_bundle.write(place / "float", graphs, refines=True, coarseness=((16, 3),))
        (place / "pictures").mkdir()
        for name in ("chelsea.png", "coffee.png", "astronaut.png"):
            with Image.open(ROOT / "samples" / name) as image:
                image.convert("RGB").resize((160, 128)).save(place / "pictures" / name)
        arguments = ["calibrate", str(place / "float"), "--integer", "--graphs", "synthesise"]
        arguments += [
            "--images",
            str(place / "pictures"),
            "-o",
            str(place / "made"),
            "--cache",
            str(place / "cache"),
        ]
        if main(arguments):
            raise SystemExit("the bundle cannot be made")
        shutil.rmtree(BUNDLE, ignore_errors=True)
        shutil.copytree(place / "made", BUNDLE, ignore=shutil.ignore_patterns("calibration.*"))


def main() -> int:
    """Make them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--shipped", action="store_true", help="only those of the shipped bundle")
    which.add_argument("--all", action="store_true", help="all, and the bundle of the others")
    args = parser.parse_args()
    table = json.loads(TABLE.read_text(encoding="utf-8")) if args.shipped else {}
    if args.all:
        make_bundle()
    for shipped, folder in ((False, BUNDLE), (True, default_bundle())):
        if args.shipped and not shipped:
            continue
        with Codec.open(Bundle.open(folder), "onnxruntime-cpu", threads=1) as codec:
            if not codec.bundle.manifest.exact:
                print(f"{folder} is not exact: its streams are left out")
                continue
            for name, case in CASES.items():
                if case.shipped is shipped:
                    data = encode(codec, case)
                    (HERE / f"{name}.oslic").write_bytes(data)
                    table[name] = facts(codec, data)
    TABLE.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
    print(f"{len(table)} streams, {sum(row['bytes'] for row in table.values())} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
