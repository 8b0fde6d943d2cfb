"""A picture for the documentation: a photograph, its label map with a legend, and what few and what more bytes give.

python docs/site/layer_strip.py docs/pictures/astronaut.jpg samples/astronaut.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import numpy as np
from oslic.runtime import Codec, LabelMap
from PIL import Image, ImageDraw, ImageFont

_WIDTH: Final = 400
_GAP: Final = 8
_TITLE: Final = 26
_LINE: Final = 24
_LEAST: Final = 0.02  # of the picture: smaller classes are not in the legend


def _panel(pixels: Image.Image, title: str, resample: Image.Resampling) -> Image.Image:
    """A picture below its title."""
    height = round(pixels.height * _WIDTH / pixels.width)
    panel = Image.new("RGB", (_WIDTH, height + _TITLE), "white")
    panel.paste(pixels.resize((_WIDTH, height), resample), (0, _TITLE))
    ImageDraw.Draw(panel).text((0, 3), title, fill="black", font=ImageFont.load_default(17))
    return panel


def _legend(labels: LabelMap, width: int) -> Image.Image:
    """Colors, names and shares of the classes, the largest first."""
    shares = sorted(labels.shares().items(), key=lambda item: -item[1])
    shown = [(name, share) for name, share in shares if share >= _LEAST]
    image = Image.new("RGB", (width, _LINE), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    left = 0.0
    for name, share in shown:
        color = tuple(int(c) for c in labels.colors[labels.names.index(name)])
        draw.rectangle((left, 5, left + 15, 20), fill=color, outline="black")
        text = f"{name} {share:.0%}"
        draw.text((left + 21, 3), text, fill="black", font=font)
        left += 21 + draw.textlength(text, font=font) + 18
    return image


def strip(photograph: Path) -> Image.Image:
    """Four panels in two rows, and the legend below."""
    image = Image.open(photograph).convert("RGB")
    with Codec.open() as codec:
        few, more = (codec.compress(np.asarray(image), quality) for quality in (0, 60))
        labels = codec.decode_labels(more)
        panels = [
            _panel(image, f"photograph, {image.width} x {image.height}", Image.Resampling.LANCZOS),
            _panel(Image.fromarray(labels.colors[labels.full()]), "label map", Image.Resampling.NEAREST),
            _panel(
                Image.fromarray(codec.decompress(few)),
                f"quality 0: {len(few):,} bytes",
                Image.Resampling.LANCZOS,
            ),
            _panel(
                Image.fromarray(codec.decompress(more)),
                f"quality 60: {len(more):,} bytes",
                Image.Resampling.LANCZOS,
            ),
        ]
    width, height = 2 * _WIDTH + _GAP, panels[0].height
    legend = _legend(labels, width)
    sheet = Image.new("RGB", (width, 2 * height + _GAP + legend.height), "white")
    for number, panel in enumerate(panels):
        row, column = divmod(number, 2)
        sheet.paste(panel, (column * (_WIDTH + _GAP), row * (height + _GAP)))
    sheet.paste(legend, (0, 2 * height + _GAP))
    return sheet


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("target", type=Path)
    parser.add_argument("photograph", type=Path)
    args = parser.parse_args()
    strip(args.photograph).save(args.target, quality=88)


if __name__ == "__main__":
    main()
