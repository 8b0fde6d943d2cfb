"""Pictures of the codec's layers, for people to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..runtime.pixels import join, layout_of, split

if TYPE_CHECKING:
    import numpy.typing as npt

    from ..runtime.bundle import Manifest
    from ..runtime.codec import Decoded

    Pixels = npt.NDArray[np.uint8]

_CAPTION_HEIGHT: Final = 26
_GAP: Final = 8
_COLUMNS: Final = 3


def as_rgb(image: Pixels) -> Pixels:
    """Return gray, gray with alpha, RGB or RGBA as RGB over white, uint8 (H, W, 3)."""
    channels = np.atleast_3d(image)
    color = channels[:, :, :3] if channels.shape[2] >= 3 else channels[:, :, :1]
    rgb = np.broadcast_to(color, (*image.shape[:2], 3))
    if channels.shape[2] in (2, 4):
        alpha = channels[:, :, -1:].astype(np.uint16)
        rgb = ((rgb * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(rgb)


def color_labels(labels: Pixels, scale: int, manifest: Manifest, height: int, width: int) -> Pixels:
    """Return a label map of 1/`scale` in its classes' colors at full size, uint8 (height, width, 3)."""
    colors = np.array([c.color for c in manifest.classes], dtype=np.uint8)
    return np.ascontiguousarray(colors[labels.repeat(scale, axis=0).repeat(scale, axis=1)[:height, :width]])


def enlarge_compact(compact: Pixels, levels: int, height: int, width: int) -> Pixels:
    """Return the compact image stretched to 0..255 and to full size by repetition, uint8 (height, width, 3)."""
    stretched = (compact.astype(np.uint32) * 255 // (levels - 1)).astype(np.uint8)
    return np.ascontiguousarray(stretched.repeat(8, axis=0).repeat(8, axis=1)[:height, :width])


def with_alpha_of(color: Pixels, image: Pixels) -> Pixels:
    """Return the colour of an image, uint8 (H, W) or (H, W, 3), with the alpha of another one, if that has any."""
    return join(color, split(image, layout_of(image))[1])


def show_residual(image: Pixels, estimate: Pixels) -> Pixels:
    """Return image - estimate around mid-gray, clipped to -128..127, uint8, the shape of `as_rgb(image)`."""
    shown: Pixels = np.clip(as_rgb(image).astype(np.int16) - as_rgb(estimate) + 128, 0, 255).astype(np.uint8)
    return shown


def contact_sheet(panels: list[tuple[str, Pixels]]) -> Image.Image:
    """Put captioned pictures of one size side by side, three in a row."""
    height, width = panels[0][1].shape[:2]
    rows = -(-len(panels) // _COLUMNS)
    columns = min(_COLUMNS, len(panels))
    cell = (width + _GAP, height + _CAPTION_HEIGHT + _GAP)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(16)
    for index, (caption, pixels) in enumerate(panels):
        left = _GAP + index % _COLUMNS * cell[0]
        top = _GAP + index // _COLUMNS * cell[1]
        draw.text((left, top), caption, fill="black", font=font)
        sheet.paste(Image.fromarray(as_rgb(pixels)), (left, top + _CAPTION_HEIGHT))
    return sheet


def layer_sheet(image: Pixels, decoded: Decoded, manifest: Manifest, captions: dict[str, str]) -> Image.Image:
    """Return original, labels, compact image, estimate, residual and reconstruction side by side.

    Args:
        image: the original, uint8.
        decoded: what the decoder made of its stream.
        manifest: of the bundle.
        captions: text to put behind a panel's name (`original`, `labels`, `compact`, ...), where there is any.
    """
    height, width = image.shape[:2]
    assert decoded.estimate is not None
    estimate = with_alpha_of(decoded.estimate, image)
    panels = {
        "original": image,
        "labels": color_labels(decoded.labels, decoded.parameters.label_scale, manifest, height, width),
        "compact": enlarge_compact(decoded.compact, manifest.levels, height, width),
        "estimate": estimate,
        "residual": show_residual(image, estimate),
        "reconstruction": decoded.image,
    }
    named = [(f"{name}  {captions.get(name, '')}".rstrip(), pixels) for name, pixels in panels.items()]
    return contact_sheet(named)
