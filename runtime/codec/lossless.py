"""The lossless layers: planes as FLIF, checked against what the stream's header and the bundle allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from .. import flif
from ..errors import LimitError, StreamError
from ..image.arrays import three_channels

if TYPE_CHECKING:
    from ..image.arrays import Pixels


def encode_plane(plane: Pixels, effort: int = flif.DEFAULT_EFFORT) -> bytes:
    """Code the samples of a layer.

    Args:
        plane: uint8, (H, W) or (H, W, 3). Three equal planes are coded as one: a gray
            image's compact image can have them.
        effort: of FLIF, 0..100.
    """
    if plane.ndim == 3 and bool((plane == plane[:, :, :1]).all()):
        plane = plane[:, :, 0].copy()
    # The container has checksums of its own.
    return flif.encode(plane, effort=effort, crc=False)


def decode_plane(data: bytes, shape: tuple[int, ...], name: str, count: int = 256) -> Pixels:
    """Decode the samples of a layer; its size is checked before its pixels are decoded.

    Args:
        data: FLIF.
        shape: what the header calls for: (H, W) or (H, W, 3); for the latter three equal planes may be coded as one.
        name: of the section, for messages.
        count: all values are below it.

    Returns:
        uint8, of the given shape.

    Raises:
        StreamError: damaged, or not what the header calls for.
    """
    height, width = shape[:2]
    try:
        # FLIF's own limit is below that of streams; a larger plane than the header's is refused by its size.
        found = flif.read_header(data, max_pixels=max(height * width, flif.DEFAULT_MAX_PIXELS))
        if (found.height, found.width) != (height, width):
            raise StreamError(
                f"the {name} section is {found.width}x{found.height}, the header calls for {width}x{height}"
            )
        plane = flif.decode(data, max_pixels=height * width)
    except (flif.FlifError, LimitError) as error:
        raise StreamError(f"the {name} section is damaged: {error}") from error
    if plane.dtype != np.uint8 or plane.shape not in {shape, shape[:2]}:
        raise StreamError(
            f"the {name} section has shape {plane.shape} and dtype {plane.dtype}: damaged stream"
        )
    largest = int(plane.max())
    if largest >= count:
        raise StreamError(
            f"the {name} section holds the value {largest}, the bundle has {count}: damaged stream"
        )
    samples = cast("Pixels", plane)
    return samples if samples.shape == shape else three_channels(samples)
