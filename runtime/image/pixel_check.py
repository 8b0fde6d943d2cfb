"""Our limit on pixels in the place of Pillow's, for our own calls alone.

Pillow checks sizes as soon as it knows them, some before memory is taken, against `PIL.Image.MAX_IMAGE_PIXELS`: one
number for the whole process, which belongs to the program that we run in. So its check is asked through a function
that calls ours while one of our calls is running in this context (thread or task), and Pillow's own otherwise.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any, Final

from PIL import Image

_CHECK: Final = "_decompression_bomb_check"

_ours: ContextVar[Callable[[int, int], None] | None] = ContextVar("oslic_pixel_check", default=None)
_pillows: Final[Callable[..., None] | None] = getattr(Image, _CHECK, None)


def _check(size: tuple[int, int], *arguments: Any, **more: Any) -> None:
    ours = _ours.get()
    if ours is not None:
        ours(*size)
    elif _pillows is not None:
        _pillows(size, *arguments, **more)


# Private, and still the only place: there is no argument for it, and the number is read wherever a format is. Where a
# version has no such function, its own guard holds.
if _pillows is not None:
    setattr(Image, _CHECK, _check)


@contextlib.contextmanager
def checking_pixels(check: Callable[[int, int], None]) -> Iterator[None]:
    """While entered, Pillow asks `check` (width, height) and nothing else whether a size is allowed; it may raise."""
    token = _ours.set(check)
    try:
        yield
    finally:
        _ours.reset(token)
