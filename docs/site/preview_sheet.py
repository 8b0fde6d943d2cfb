"""Previews of both bundles, searched for, beside the best AVIF of the same size: parts of twelve photographs of Kodak.

python docs/site/preview_sheet.py KODAK_FOLDER docs/pictures/previews.jpg
"""

from __future__ import annotations

import io
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from oslic.bench.experiments.rate_distortion import METRICS
from oslic.runtime import Codec
from PIL import Image, ImageDraw

# Photograph, left and top of the part that is shown: faces, text, foliage, buildings, animals.
PARTS = (
    ("kodim04", 130, 60),
    ("kodim15", 330, 90),
    ("kodim18", 90, 120),
    ("kodim09", 120, 60),
    ("kodim01", 250, 100),
    ("kodim06", 380, 180),
    ("kodim05", 380, 130),
    ("kodim08", 240, 120),
    ("kodim24", 360, 130),
    ("kodim07", 330, 120),
    ("kodim23", 80, 40),
    ("kodim20", 280, 150),
)
SIDE, GAP, HEAD = 240, 6, 22
# With what a bit is worth, so that the files of both have about the same size.
BUNDLES = {"lite-preview": 1.0, "lite-preview-sharp": 2.0}
COLUMNS = ("original", *BUNDLES, "best AVIF")
EFFORT = 7


def best_avif(image: Image.Image, size: int) -> Image.Image:
    """The AVIF of at most `size` bytes that SSIMULACRA 2 likes best, of three tunes and two subsamplings."""
    best: tuple[float, Image.Image] | None = None
    pixels = np.asarray(image)
    for tune in ("psnr", "ssim", "iq"):
        for subsampling in ("4:4:4", "4:2:0"):
            fitting = None
            low, high = 0, 40
            while low <= high:
                quality = (low + high) // 2
                stored = io.BytesIO()
                image.save(
                    stored, "AVIF", quality=quality, speed=6, subsampling=subsampling, advanced={"tune": tune}
                )
                if len(stored.getvalue()) <= size:
                    fitting, low = stored, quality + 1
                else:
                    high = quality - 1
            if fitting is None:
                continue
            shown = Image.open(fitting).convert("RGB")
            score = METRICS["ssimulacra2"](pixels, np.asarray(shown))
            if best is None or score > best[0]:
                best = score, shown
    assert best is not None, "no AVIF is that small"
    return best[1]


def main(folder: Path, output: Path) -> None:
    """Draw the sheet."""
    across = len(COLUMNS)
    width = 2 * (across * SIDE + (across + 1) * GAP)
    height = HEAD + (len(PARTS) // 2) * (SIDE + GAP)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for half in (0, width // 2):
        for column, text in enumerate(COLUMNS):
            draw.text((half + GAP + column * (SIDE + GAP), 5), text, fill="black")
    with ExitStack() as stack:
        codecs = {stack.enter_context(Codec.open(name)): weight for name, weight in BUNDLES.items()}
        for number, (name, x0, y0) in enumerate(PARTS):
            image = Image.open(folder / f"{name}.png").convert("RGB")
            left, top = min(x0, image.width - SIDE), min(y0, image.height - SIDE)
            streams = {
                codec: codec.compress(np.asarray(image), quality=0, effort=EFFORT, rate_weight=weight)
                for codec, weight in codecs.items()
            }
            shown = (
                image,
                *(Image.fromarray(codec.decompress(stream)) for codec, stream in streams.items()),
                best_avif(image, max(map(len, streams.values()))),
            )
            x, y = (number % 2) * (width // 2) + GAP, HEAD + (number // 2) * (SIDE + GAP)
            for column, picture in enumerate(shown):
                part = picture.crop((left, top, left + SIDE, top + SIDE))
                sheet.paste(part, (x + column * (SIDE + GAP), y))
    sheet.save(output, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
