"""Photographs as arrays for a graph of one image input, with a preprocessing that is stated and not guessed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image

from ..errors import DataError, UsageError
from ..image.files import find_images, read_image
from ..limits import Limits
from .header import Dimension, Port

if TYPE_CHECKING:
    import numpy.typing as npt

LAYOUTS: Final = ("nchw", "nhwc")
_GRAY: Final = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Preprocessing:
    """From the pixels of a photograph, 0 to 255, to what a network takes: (pixel * scale - mean) / std.

    Attributes:
        layout: `nchw` or `nhwc`; None: where the input has its 1 or 3 channels.
        size: (width, height) that the photograph is brought to; None: the input's, or the photograph's own.
        fit: `resize` (bicubic, the ratio of the sides is not kept) or `crop` (the middle).
        scale: factor of the pixels; None: 1 for uint8 inputs, 1/255 for floats.
        mean: by channel, subtracted after scaling.
        std: by channel, divided by.
        bgr: blue, green, red in place of red, green, blue.
    """

    layout: str | None = None
    size: tuple[int, int] | None = None
    fit: str = "resize"
    scale: float | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    bgr: bool = False

    def stated(self, port: Port) -> dict[str, Any]:
        """What is done for an input, as plain JSON types."""
        layout, channels = self._layout(port)
        return asdict(self) | {"layout": layout, "channels": channels, "scale": self._scale(port)}

    def _scale(self, port: Port) -> float:
        if self.scale is not None:
            return self.scale
        return 1 / 255 if port.numpy.kind == "f" else 1.0

    def _layout(self, port: Port) -> tuple[str, int]:
        """The layout and the number of channels of an input."""
        shape = port.shape
        if shape is None or len(shape) != 4:
            raise UsageError(f"the input {port} takes no batch of images (four dimensions): give arrays")
        places: dict[str, Dimension] = {"nchw": shape[1], "nhwc": shape[3]}
        fitting = [name for name, size in places.items() if size in {1, 3}]
        layout = self.layout or (fitting[0] if len(fitting) == 1 else None)
        if layout is None:
            raise UsageError(
                f"the layout of the input {port} cannot be told: give --layout nchw or --layout nhwc"
            )
        channels = places[layout]
        if isinstance(channels, int) and channels not in {1, 3}:
            raise UsageError(
                f"the input {port} has {channels} channels as {layout}; photographs have 1 or 3: give arrays"
            )
        return layout, channels if isinstance(channels, int) else 3

    def array(self, pixels: npt.NDArray[np.uint8], port: Port, name: str) -> npt.NDArray[Any]:
        """One photograph as a batch of one.

        Args:
            pixels: uint8 (H, W), or (H, W, C) with alpha last.
            port: the input.
            name: of the file, for messages.

        Raises:
            UsageError: the input takes no images, or no size is known that it takes.
        """
        layout, channels = self._layout(port)
        shape = port.shape or ()
        rows, columns = (shape[2], shape[3]) if layout == "nchw" else (shape[1], shape[2])
        height, width = pixels.shape[:2]
        if self.size is not None:
            width, height = self.size
        for what, own, size in (("height", rows, height), ("width", columns, width)):
            if self.size is not None and isinstance(own, int) and own != size:
                raise UsageError(f"--size {width}x{height}: the {what} of the input {port} is {own}")
        height = rows if isinstance(rows, int) else height
        width = columns if isinstance(columns, int) else width
        x = _fitted(_with_channels(pixels, channels), width, height, self.fit, name)
        if self.bgr:
            x = x[..., ::-1]
        for given, what in ((self.mean, "--mean"), (self.std, "--std")):
            if len(given) not in {0, 1, channels}:
                raise UsageError(f"{what} has {len(given)} values; the input {port} has {channels} channels")
        values = x.astype(np.float64) * self._scale(port)
        values = (values - (self.mean or (0.0,))) / (self.std or (1.0,))
        if port.numpy.kind != "f":
            info = np.iinfo(port.numpy)
            if values.min(initial=0) < info.min or values.max(initial=0) > info.max:
                raise UsageError(
                    f"{name}: values beyond {port.dtype}; leave --scale, --mean and --std out for the input {port}"
                )
            values = np.rint(values)
        batch = values.astype(port.numpy)[np.newaxis]
        return np.ascontiguousarray(batch.transpose(0, 3, 1, 2) if layout == "nchw" else batch)


def _with_channels(pixels: npt.NDArray[np.uint8], channels: int) -> npt.NDArray[np.uint8]:
    """uint8 (H, W, channels); alpha is left out, color becomes gray by its luma, and gray is repeated."""
    plain = pixels[..., np.newaxis] if pixels.ndim == 2 else pixels
    plain = plain[..., : 3 if plain.shape[2] >= 3 else 1]
    if plain.shape[2] == channels:
        return plain
    if channels == 3:
        return np.repeat(plain, 3, axis=2)
    luma: npt.NDArray[np.uint8] = np.rint(plain @ np.array(_GRAY))[..., np.newaxis].astype(np.uint8)
    return luma


def _fitted(
    pixels: npt.NDArray[np.uint8], width: int, height: int, fit: str, name: str
) -> npt.NDArray[np.uint8]:
    if pixels.shape[:2] == (height, width):
        return pixels
    if fit == "crop":
        top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
        if top < 0 or left < 0:
            raise DataError(
                f"{name} has {pixels.shape[1]}x{pixels.shape[0]} pixels, too few to crop {width}x{height}"
            )
        return pixels[top : top + height, left : left + width]
    planes = [
        np.asarray(Image.fromarray(pixels[..., c]).resize((width, height), Image.Resampling.BICUBIC))
        for c in range(pixels.shape[2])
    ]
    return np.stack(planes, axis=-1)


def spread(paths: list[Path], count: int) -> list[Path]:
    """At most `count` of the paths, evenly spread."""
    return [paths[i * len(paths) // count] for i in range(count)] if len(paths) > count else paths


def read_pictures(
    folder: Path, port: Port, preprocessing: Preprocessing, count: int, limits: Limits | None = None
) -> list[npt.NDArray[Any]]:
    """Photographs of a folder as arrays for an input, evenly spread over the names.

    Args:
        folder: image files; others are passed over, sub-folders are not entered.
        port: the input.
        preprocessing: how.
        count: how many at the most.
        limits: what to refuse; None for the defaults.

    Raises:
        DataError: no folder, no images.
        ImageError: a file that is no image.
        UsageError: as `Preprocessing.array`.
    """
    chosen = spread(find_images(folder), count)
    return [
        preprocessing.array(read_image(path, limits or Limits()).pixels, port, str(path)) for path in chosen
    ]
