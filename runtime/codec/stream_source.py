"""The streams that callers hand to the codec: as bytes or files."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from ..errors import UsageError
from ..files import read_file
from .container import read_info

if TYPE_CHECKING:
    from ..limits import Limits

StreamSource: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str]
"""The bytes (any contiguous buffer) of an `.oslic` file, or its path."""


def read_stream(source: StreamSource, limits: Limits) -> bytes | bytearray | memoryview:
    """The bytes of a stream.

    Of a file that is no stream the head is read, of one that goes on behind its end one byte more; a truncated one is
    read as far as it goes.

    Args:
        source: any contiguous buffer of bytes (bytes, bytearray, memoryview, ...), or the path of a file.
        limits: on what is read.

    Raises:
        UsageError: the file cannot be read, or the source is none of these.
        StreamError, LimitError: as `container.read_info` of the file's first bytes.
    """
    if isinstance(source, str | os.PathLike):
        return read_file(
            os.fspath(source),
            "stream",
            limits.stream_bytes,
            expected=lambda head: read_info(head, limits).total_bytes,
        )
    if isinstance(source, bytes | bytearray):
        return source
    try:
        return memoryview(source).cast("B")
    except TypeError as error:
        raise UsageError(
            f"a stream cannot be a {type(source).__name__}: give its bytes or the path of a file ({error})"
        ) from error
