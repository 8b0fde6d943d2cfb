"""The reference FLIF library through its public C interface, where one is installed on the machine."""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ...runtime.errors import DependencyError

if TYPE_CHECKING:
    import numpy.typing as npt

_POINTER, _U32, _I32, _SIZE = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int32, ctypes.c_size_t
_IMPORTERS: Final = {1: "GRAY", 3: "RGB", 4: "RGBA"}
_PROTOTYPES: Final[dict[str, tuple[Any, list[Any]]]] = {
    "flif_create_encoder": (_POINTER, []),
    "flif_destroy_encoder": (None, [_POINTER]),
    "flif_encoder_add_image_move": (None, [_POINTER, _POINTER]),
    "flif_encoder_encode_memory": (_I32, [_POINTER, _POINTER, ctypes.POINTER(_SIZE)]),
    "flif_encoder_set_interlaced": (None, [_POINTER, _U32]),
    "flif_encoder_set_crc_check": (None, [_POINTER, _U32]),
    "flif_create_decoder": (_POINTER, []),
    "flif_destroy_decoder": (None, [_POINTER]),
    "flif_decoder_set_crc_check": (None, [_POINTER, _I32]),
    "flif_decoder_decode_memory": (_I32, [_POINTER, _POINTER, _SIZE]),
    "flif_decoder_get_image": (_POINTER, [_POINTER, _SIZE]),
    "flif_image_get_width": (_U32, [_POINTER]),
    "flif_image_get_height": (_U32, [_POINTER]),
    "flif_image_read_row_GRAY8": (None, [_POINTER, _U32, _POINTER, _SIZE]),
    "flif_image_read_row_RGBA8": (None, [_POINTER, _U32, _POINTER, _SIZE]),
    "flif_destroy_image": (None, [_POINTER]),
    "flif_free_memory": (None, [_POINTER]),
    **{f"flif_import_image_{kind}": (_POINTER, [_U32, _U32, _POINTER, _U32]) for kind in _IMPORTERS.values()},
}


class LibFlif:
    """Encoder at its default settings (effort 60) and decoder, for uint8 pictures.

    Args:
        path: the shared library; None to look it up on the system.

    Raises:
        DependencyError: there is no such library, or it lacks a function.
    """

    def __init__(self, path: str | None = None) -> None:
        name = path or ctypes.util.find_library("flif")
        if name is None:
            raise DependencyError(
                "no FLIF library is installed on this machine; name one with --libflif PATH"
            )
        try:
            library = ctypes.CDLL(name)
            for function, (result, arguments) in _PROTOTYPES.items():
                prototype = getattr(library, function)
                prototype.restype, prototype.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            raise DependencyError(f"{name} cannot be used as a FLIF library: {error}") from error
        self._library = library

    def encode(
        self, pixels: npt.NDArray[np.uint8], *, interlaced: bool = False, crc: bool = True, **options: int
    ) -> bytes:
        """Encode (H, W), (H, W, 3) or (H, W, 4), uint8; `options` go to the setters `flif_encoder_set_*`."""
        library = self._library
        channels = 1 if pixels.ndim == 2 else pixels.shape[2]
        pixels = np.ascontiguousarray(pixels)
        height, width = pixels.shape[:2]
        importer = getattr(library, f"flif_import_image_{_IMPORTERS[channels]}")
        image = importer(width, height, pixels.ctypes.data, width * channels)
        encoder = library.flif_create_encoder()
        try:
            library.flif_encoder_set_interlaced(encoder, int(interlaced))
            library.flif_encoder_set_crc_check(encoder, int(crc))
            for name, value in options.items():
                setter = getattr(library, f"flif_encoder_set_{name}")
                setter.argtypes = [_POINTER, _I32]
                setter(encoder, value)
            library.flif_encoder_add_image_move(encoder, image)
            buffer, size = ctypes.c_void_p(), ctypes.c_size_t()
            if not library.flif_encoder_encode_memory(encoder, ctypes.byref(buffer), ctypes.byref(size)):
                raise RuntimeError("the FLIF library could not encode the picture")
            data = ctypes.string_at(buffer, size.value)
            library.flif_free_memory(buffer)
            return data
        finally:
            library.flif_destroy_image(image)
            library.flif_destroy_encoder(encoder)

    def decode(self, data: bytes, channels: int) -> npt.NDArray[np.uint8]:
        """Decode to (H, W), (H, W, 3) or (H, W, 4), uint8; the checksum is verified."""
        library = self._library
        decoder = library.flif_create_decoder()
        try:
            library.flif_decoder_set_crc_check(decoder, 1)
            if not library.flif_decoder_decode_memory(decoder, data, len(data)):
                raise RuntimeError("the FLIF library could not decode the file")
            image = library.flif_decoder_get_image(decoder, 0)
            width, height = library.flif_image_get_width(image), library.flif_image_get_height(image)
            stored = 1 if channels == 1 else 4
            rows = np.empty((height, width, stored), np.uint8)
            read = library.flif_image_read_row_GRAY8 if stored == 1 else library.flif_image_read_row_RGBA8
            for row in range(height):
                read(image, row, rows[row].ctypes.data, rows[row].nbytes)
            return rows[:, :, 0] if channels == 1 else rows[:, :, :channels]
        finally:
            library.flif_destroy_decoder(decoder)
