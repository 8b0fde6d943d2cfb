from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

class Error(ValueError): ...
class LimitError(Error): ...

def decode(data: npt.NDArray[np.uint8], *, max_pixels: int) -> npt.NDArray[Any]: ...
def encode(
    pixels: npt.NDArray[Any],
    *,
    effort: int,
    interlaced: bool,
    crc: bool,
    keep_invisible: bool,
    chunks: Sequence[tuple[str, bytes]],
) -> bytes: ...
def read_header(data: npt.NDArray[np.uint8], *, max_pixels: int) -> dict[str, Any]: ...
