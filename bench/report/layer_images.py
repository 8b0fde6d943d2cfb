"""Pictures of the codec's layers, for people to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ...runtime.codec.label_map import LabelMap
from ...runtime.errors import printable
from ...runtime.image.arrays import join, layout_of, split

if TYPE_CHECKING:
    from ...runtime.bundle.manifest import Manifest
    from ...runtime.codec import Decoded
    from ...runtime.image.arrays import Pixels

_CAPTION_HEIGHT: Final = 26
_FONT_SIZE: Final = 16
_GAP: Final = 8
_COLUMNS: Final = 3
_LINE: Final = 22
_SWATCH: Final = 14
_LEAST_SHARE: Final = 0.01
_MOST_CHARACTERS: Final = 24


def as_rgb(image: Pixels) -> Pixels:
    """Return gray, gray with alpha, RGB or RGBA as RGB over white, uint8 (H, W, 3)."""
    channels = np.atleast_3d(image)
    color = channels[:, :, :3] if channels.shape[2] >= 3 else channels[:, :, :1]
    rgb = np.broadcast_to(color, (*image.shape[:2], 3))
    if channels.shape[2] in (2, 4):
        alpha = channels[:, :, -1:].astype(np.uint16)
        rgb = ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(rgb)


def color_labels(labels: LabelMap) -> Pixels:
    """Return a label map in its classes' colors at the picture's size, uint8 (H, W, 3)."""
    return labels.colors[labels.full()]


def legend(labels: LabelMap, height: int) -> Image.Image:
    """Color, name and share of the largest classes of a label map, one below the other.

    Args:
        labels: of a picture.
        height: of the legend, in pixels; classes that find no room, and those below 1 %, are "others".
    """
    room = max(1, height // _LINE)
    pairs = sorted(zip(labels.classes, labels.shares().values(), strict=True), key=lambda pair: -pair[1])
    shown = [(entry, share) for entry, share in pairs if share >= _LEAST_SHARE]
    shown = shown[: room if len(shown) <= room else max(1, room - 1)]
    lines = [f"{printable(entry.name)[:_MOST_CHARACTERS]}  {100 * share:.1f} %" for entry, share in shown]
    others = 100 * (1 - sum(share for _, share in shown))
    if round(others, 1) > 0 and len(lines) < room:
        lines.append(f"others  {others:.1f} %")
    font = ImageFont.load_default(_FONT_SIZE)
    width = _SWATCH + _GAP + max(round(font.getlength(line)) for line in lines) + 1
    drawn = Image.new("RGB", (width, max(height, _LINE)), "white")
    draw = ImageDraw.Draw(drawn)
    for index, line in enumerate(lines):
        top = index * _LINE
        if index < len(shown):
            draw.rectangle((0, top + 3, _SWATCH, top + 3 + _SWATCH), shown[index][0].color, "black")
        draw.text((_SWATCH + _GAP, top), line, fill="black", font=font)
    return drawn


def enlarge_compact(compact: Pixels, levels: int, height: int, width: int) -> Pixels:
    """Return the compact image stretched to 0..255 and to full size by repetition, uint8 (height, width, 3)."""
    stretched = (compact.astype(np.uint32) * 255 // (levels - 1)).astype(np.uint8)
    return np.ascontiguousarray(stretched.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])


def with_alpha_of(color: Pixels, image: Pixels) -> Pixels:
    """Return the color of an image, uint8 (H, W) or (H, W, 3), with the alpha of another one, if that has any."""
    return join(color, split(image, layout_of(image))[1])


def show_residual(image: Pixels, estimate: Pixels) -> Pixels:
    """Return image - estimate around mid-gray, clipped to -128..127, uint8, the shape of `as_rgb(image)`."""
    shown: Pixels = np.clip(as_rgb(image).astype(np.int16) - as_rgb(estimate) + 128, 0, 255).astype(np.uint8)
    return shown


def contact_sheet(panels: list[tuple[str, Pixels]], beside: Image.Image | None = None) -> Image.Image:
    """Put captioned pictures of one size side by side, three in a row.

    Args:
        panels: captions and pictures.
        beside: drawn at the right of the first row, at the height of its pictures.
    """
    height, width = panels[0][1].shape[:2]
    rows = -(-len(panels) // _COLUMNS)
    columns = min(_COLUMNS, len(panels))
    cell = (width + _GAP, height + _CAPTION_HEIGHT + _GAP)
    right = columns * cell[0] + _GAP
    more = 0 if beside is None else beside.width + _GAP
    sheet = Image.new("RGB", (right + more, rows * cell[1] + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT_SIZE)
    for index, (caption, pixels) in enumerate(panels):
        left = _GAP + index % _COLUMNS * cell[0]
        top = _GAP + index // _COLUMNS * cell[1]
        draw.text((left, top), caption, fill="black", font=font)
        sheet.paste(Image.fromarray(as_rgb(pixels)), (left, top + _CAPTION_HEIGHT))
    if beside is not None:
        sheet.paste(beside, (right, _GAP + _CAPTION_HEIGHT))
    return sheet


def layer_sheet(image: Pixels, decoded: Decoded, manifest: Manifest, captions: dict[str, str]) -> Image.Image:
    """Return original, compact image, labels with their legend, estimate, residual and reconstruction side by side.

    Args:
        image: the original, uint8.
        decoded: what the decoder made of its stream.
        manifest: of the bundle.
        captions: text to put behind a panel's name (`original`, `labels`, `compact`, ...), where there is any.
    """
    height, width = image.shape[:2]
    assert decoded.estimate is not None
    estimate = with_alpha_of(decoded.estimate, image)
    labels = LabelMap(
        decoded.labels, decoded.parameters.label_scale, width, height, manifest.classes, manifest.groups
    )
    panels = {
        "original": image,
        "compact": enlarge_compact(decoded.compact, manifest.levels, height, width),
        "labels": color_labels(labels),
        "estimate": estimate,
        "residual": show_residual(image, estimate),
        "reconstruction": decoded.image,
    }
    named = [(f"{name}  {captions.get(name, '')}".rstrip(), pixels) for name, pixels in panels.items()]
    return contact_sheet(named, legend(labels, height))
