"""Work on several pictures at a time, with the results in the order of the pictures.

    >>> from oslic.runtime import Codec, compress_many, decompress_many
    >>> codec = Codec.open()
    >>> streams = list(compress_many(codec, ["photo.jpg", "photo.png"], quality=60))
    >>> [image.shape for image in decompress_many(codec, streams)]
    [(256, 256, 3), (256, 256, 3)]

Networks, FLIF and AV1 spend their time outside the interpreter's lock, so threads are enough. On a CPU a codec with one
thread for its networks (`Codec.open(threads=1)`) is the fastest then: pictures beside each other use the cores better
than the parts of one picture do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, SupportsFloat

from ..threads import default_jobs, in_order
from .request import make_request

if TYPE_CHECKING:
    from ..errors import OslicError
    from ..image.arrays import Pixels
    from . import Codec
    from .picture_source import PictureSource
    from .stream_source import StreamSource


def compress_many(
    codec: Codec,
    images: Iterable[PictureSource],
    quality: SupportsFloat | None = None,
    *,
    jobs: int | None = None,
    **options: Any,
) -> Iterator[bytes | OslicError]:
    """Compress many pictures, several at a time.

    Args:
        codec: from `Codec.open`; on a CPU best with `threads=1`.
        images: an iterable of what `Codec.compress` takes: arrays, Pillow images, paths. At most twice as many as there
            are jobs are held at a time.
        quality: as for `Codec.compress`.
        jobs: number of pictures to process at a time; None: two for each core, at most 16.
        options: the other arguments of `Codec.compress`: `bpp`, `psnr`, `effort`, `focus`, `class_quality`, ...

    Yields:
        In the order of the pictures, the bytes of the `.oslic` file, or the error of that picture, which does not stop
        the others.

    Raises:
        UsageError: a setting out of its range; at the first picture.
    """
    request = make_request(quality, **options)
    for _, outcome in in_order(
        images, lambda image: codec.encode(image, request).data, jobs or default_jobs()
    ):
        yield outcome


def decompress_many(
    codec: Codec, streams: Iterable[StreamSource], *, jobs: int | None = None, **options: Any
) -> Iterator[Pixels | OslicError]:
    """Decompress many streams, several at a time.

    Args:
        codec: from `Codec.open`; on a CPU best with `threads=1`.
        streams: an iterable of what `Codec.decompress` takes: contents or paths of `.oslic` files. At most twice as
            many as there are jobs are held at a time.
        jobs: number of streams to process at a time; None: two for each core, at most 16.
        options: the other arguments of `Codec.decompress`: `strict`, `region`.

    Yields:
        In the order of the streams, the picture, uint8, or the error of that stream, which does not stop the others.
    """
    for _, outcome in in_order(
        streams, lambda data: codec.decompress(data, **options), jobs or default_jobs()
    ):
        yield outcome
