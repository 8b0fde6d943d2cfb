"""The codec for numcodecs, and so for Zarr arrays of pictures (format 2), under the identifier `oslic`.

See docs/guides/batch.md. It is lossy: what is read is what the decoder makes of the stream.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numcodecs.abc import Codec as NumCodec
from numcodecs.compat import ndarray_copy

from ..runtime.codec import Codec, Settings
from ..runtime.errors import ImageError

if TYPE_CHECKING:
    import numpy.typing as npt


@cache
def _codec(bundle: str | None) -> Codec:
    return Codec.open(bundle)


class OslicCodec(NumCodec):  # type: ignore[misc]  # numcodecs has no types
    """Compresses chunks that hold one picture each.

    Args:
        quality: 1..100, as for `Codec.compress`.
        effort: 0..9.
        bundle: that compresses, and decompresses; None: the shipped one, and that which a stream names.
    """

    codec_id: ClassVar[str] = "oslic"

    def __init__(
        self, quality: float = Settings.quality, effort: int = Settings.effort, bundle: str | None = None
    ) -> None:
        self.quality = quality
        self.effort = effort
        self.bundle = bundle

    def encode(self, buf: Any) -> bytes:
        """Compress a chunk.

        Args:
            buf: uint8, (H, W) or (H, W, C) with 2 to 4 channels, with or without leading axes of length 1.

        Raises:
            ImageError: another shape or dtype.
        """
        array = np.asarray(buf)
        while array.ndim > 2 and array.shape[0] == 1:
            array = array[0]
        if array.dtype != np.uint8 or array.ndim not in {2, 3}:
            raise ImageError(
                f"a chunk of {array.dtype} {np.shape(buf)} is no picture: chunks must hold one each, uint8 (1, H, W, C)"
            )
        return _codec(self.bundle).compress(np.ascontiguousarray(array), self.quality, effort=self.effort)

    def decode(self, buf: Any, out: Any = None) -> npt.NDArray[np.uint8]:
        """Decompress a chunk: uint8, the picture that was compressed, without the leading axes.

        Raises:
            StreamError, BundleError: as `Codec.decompress`.
        """
        image: npt.NDArray[np.uint8] = _codec(self.bundle).decompress(memoryview(buf).tobytes())
        return image if out is None else ndarray_copy(image, out)
