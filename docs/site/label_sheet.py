"""A sheet of photographs beside their label maps, with a legend.

python docs/site/label_sheet.py docs/pictures/labels.jpg PHOTO...
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from oslic.runtime import Codec, LabelMap
from PIL import Image, ImageDraw, ImageFont

COLUMNS = 3
CELL = (240, 180)
MARGIN = 8


def fitted(image: Image.Image, resample: Image.Resampling) -> Image.Image:
    """The image within a cell, on white."""
    scale = min(CELL[0] / image.width, CELL[1] / image.height)
    small = image.resize((round(image.width * scale), round(image.height * scale)), resample)
    cell = Image.new("RGB", CELL, "white")
    cell.paste(small, ((CELL[0] - small.width) // 2, (CELL[1] - small.height) // 2))
    return cell


def map_of(labels: LabelMap) -> Image.Image:
    """A label map in the colors of its classes."""
    return Image.fromarray(labels.colors[labels.full()])


def main(target: Path, photographs: list[Path]) -> None:
    """Draw the sheet."""
    with Codec.open() as codec:
        pairs = []
        for path in photographs:
            image = Image.open(path).convert("RGB")
            labels = codec.decode_labels(codec.compress(np.asarray(image), 0))
            pairs.append(
                (fitted(image, Image.Resampling.LANCZOS), fitted(map_of(labels), Image.Resampling.NEAREST))
            )
        classes = codec.bundle.manifest.classes
    step = 2 * CELL[0] + 2 * MARGIN
    rows, legend = -(-len(pairs) // COLUMNS), 22 * -(-len(classes) // 6) + MARGIN
    sheet = Image.new("RGB", (COLUMNS * step, rows * (CELL[1] + MARGIN) + legend), "white")
    for i, (photo, labels) in enumerate(pairs):
        left, top = i % COLUMNS * step + MARGIN, i // COLUMNS * (CELL[1] + MARGIN)
        sheet.paste(photo, (left, top))
        sheet.paste(labels, (left + CELL[0], top))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for i, entry in enumerate(classes):
        left = MARGIN + i % 6 * (sheet.width // 6)
        top = rows * (CELL[1] + MARGIN) + 22 * (i // 6)
        draw.rectangle((left, top, left + 16, top + 16), fill=entry.color, outline="black")
        draw.text((left + 22, top), entry.name, fill="black", font=font)
    sheet.save(target, quality=88)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]])
