"""What the graphs of a bundle are checked on, and what may differ; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from ..runtime.bundle.manifest import GraphName
from ..runtime.errors import UsageError
from ..runtime.image.files import read_image
from ..runtime.limits import Limits
from .verify import Tolerance

if TYPE_CHECKING:
    import numpy.typing as npt

# A rounding to whole levels can tip either way, by one.
PLAIN_PIXELS: Final = Tolerance(atol=0, rtol=0, share=2e-3, limit=1)
# Where the two sides compute in different precisions, more of them tip.
MIXED_PIXELS: Final = Tolerance(atol=1, rtol=0, share=1e-2, limit=16)

TOLERANCES: Final[dict[GraphName, Tolerance]] = {
    # An argmax between two classes that are equal but for rounding can tip either way.
    "segment": Tolerance(atol=0, rtol=0, share=1e-3),
    "analyse": PLAIN_PIXELS,
    "synthesise": PLAIN_PIXELS,
    "refine": PLAIN_PIXELS,
}

MIXED_TOLERANCES: Final[dict[GraphName, Tolerance]] = {
    "segment": Tolerance(atol=0, rtol=0, share=2e-2),
    "analyse": Tolerance(atol=0, rtol=0, share=5e-2, limit=1),
    "synthesise": MIXED_PIXELS,
    "refine": MIXED_PIXELS,
}


def samples() -> list[Path]:
    """The photographs of the repository, or none where the package stands alone."""
    folder = Path(__file__).parent.parent / "samples"
    return sorted(p for p in folder.glob("*") if p.suffix in {".png", ".jpg"}) if folder.is_dir() else []


def read_crops(
    images: Sequence[Path], multiple: int, limits: Limits | None = None
) -> list[npt.NDArray[np.uint8]]:
    """Crops of real images, of two sizes, as batches.

    Args:
        images: image files; the first two are used.
        multiple: what heights and widths must be multiples of.
        limits: on the images; None for the defaults.

    Returns:
        uint8, 1 x H x W x 3 and 2 x H' x W' x 3.

    Raises:
        UsageError: there are none, or one cannot be read.
        ImageError: one is no picture of a kind that is supported.
        LimitError: one is beyond the limits.
    """
    if not images:
        raise UsageError(
            "export checks its graphs on real images: name a folder of photographs (--images DIR)"
        )
    pixels = []
    for path in (*images, *images)[:2]:
        image = np.atleast_3d(read_image(path, limits or Limits()).pixels)
        pixels.append(image[:, :, :3] if image.shape[2] > 2 else image[:, :, :1].repeat(3, axis=2))

    def crop(image: npt.NDArray[np.uint8], rows: int, columns: int) -> npt.NDArray[np.uint8]:
        pad = ((0, max(0, rows - image.shape[0])), (0, max(0, columns - image.shape[1])), (0, 0))
        return np.ascontiguousarray(np.pad(image, pad, mode="edge")[:rows, :columns])

    def near(size: int) -> int:
        return max(1, round(size / multiple)) * multiple

    first = crop(pixels[0], near(320), near(256))[None]
    second = np.stack([crop(image, near(128), near(192)) for image in pixels])
    return [first, second]


def example_inputs(image: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.uint8]]:
    """What a bundle's graphs take that no other graph gives, by name, for a check on real images.

    The decoded picture that `refine` takes is the image with its lowest four bits gone: what coarse coding leaves.

    Args:
        image: uint8, N x H x W x 3.
    """
    settings = np.zeros((len(image), 2), np.uint8)
    settings[:, 0] = 40
    decoded: npt.NDArray[np.uint8] = (image & np.uint8(0xF0)) + np.uint8(8)
    return {"image": image, "decoded": decoded, "settings": settings}
