"""The lean runtime: compress and decompress images with a bundle, without torch.

    >>> from oslic.runtime import Codec, compress_many, read_labels
    >>> codec = Codec.open()  # the shipped bundle, the best backend that is installed
    >>> data = codec.compress("photo.jpg", quality=60)  # a path, a Pillow image, or uint8 (H, W, 3), RGB
    >>> codec.decompress(data).shape  # from bytes or a path to uint8 (H, W, 3), RGB
    (256, 256, 3)
    >>> max(read_labels(data).shares().values()) < 1  # what the picture shows, without decoding it
    True
    >>> for data in compress_many(codec, ["photo.jpg", "photo.png"], quality=60):  # several at a time, in order
    ...     assert isinstance(data, bytes)

Names are loaded when they are first used, so that `import oslic.runtime` costs next to nothing and
`oslic.runtime.flif` needs nothing but numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy_names import lazy_names

if TYPE_CHECKING:
    from .bundle.folder import Bundle, default_bundle
    from .codec import Codec, LabelMap, read_labels
    from .codec.batch import compress_many, decompress_many
    from .errors import OslicError
    from .image.metadata import Metadata
    from .kinds.opening import open_codec

__all__ = [
    "Bundle",
    "Codec",
    "LabelMap",
    "Metadata",
    "OslicError",
    "compress_many",
    "decompress_many",
    "default_bundle",
    "open_codec",
    "read_labels",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "Bundle": "bundle.folder",
        "Codec": "codec",
        "LabelMap": "codec",
        "Metadata": "image.metadata",
        "OslicError": "errors",
        "compress_many": "codec.batch",
        "decompress_many": "codec.batch",
        "default_bundle": "bundle.folder",
        "open_codec": "kinds.opening",
        "read_labels": "codec",
    },
)
