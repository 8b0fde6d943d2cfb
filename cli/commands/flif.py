"""`oslic flif`: encode, decode and examine FLIF files."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ...runtime.errors import ImageError
from ..file_arguments import output_file
from ..limit_arguments import add_limit_arguments, limits_of
from ..numbers import at_least

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ...runtime.limits import Limits


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    encode = actions.add_parser("encode", help="turn an image file into a FLIF file")
    encode.add_argument("input", metavar="IN", help="PNG (8 or 16 bit) or another 8-bit image file")
    encode.add_argument("output", type=output_file("a FLIF image"), metavar="OUT.flif")
    encode.add_argument(
        "--effort", type=at_least(0), default=60, metavar="N", help="0 (fastest) .. 100 (smallest); 60"
    )
    encode.add_argument("--interlaced", action="store_true", help="store the image from coarse to fine")
    encode.add_argument("--no-crc", action="store_true", help="leave out the checksum")
    encode.add_argument("--drop-invisible", action="store_true", help="forget the color under alpha 0")
    encode.add_argument(
        "--strip",
        action="store_true",
        help="leave out ICC profile and EXIF (those of 16-bit PNG files are never kept)",
    )
    decode = actions.add_parser("decode", help="turn a FLIF file into a PNG file")
    decode.add_argument("input", metavar="IN.flif")
    decode.add_argument("output", type=output_file("an image"), metavar="OUT.png")
    info = actions.add_parser("info", help="show what a FLIF file says about itself")
    info.add_argument("input", metavar="IN.flif")
    info.add_argument("--json", action="store_true", help="as JSON")
    for action in (encode, decode, info):
        add_limit_arguments(action)


def _read_picture(path: str, limits: Limits) -> tuple[npt.NDArray[Any], dict[str, bytes]]:
    from ...runtime.files import read_file
    from ...runtime.image.deep_png import decode_deep_png, deep_png_size, is_deep_png
    from ...runtime.image.files import decode_image
    from ...runtime.memory import LOSSLESS

    data = read_file(path, "image", limits.image_bytes)
    if is_deep_png(data):
        limits.check_memory(*deep_png_size(data), LOSSLESS)
        return decode_deep_png(data, limits.pixels, path), {}
    picture = decode_image(data, limits, path, use=LOSSLESS)
    pixels = picture.pixels
    if pixels.ndim == 3 and pixels.shape[2] == 2:
        pixels = pixels[:, :, [0, 0, 0, 1]]  # FLIF has no gray with alpha
    metadata = {"iCCP": picture.metadata.icc, "eXif": picture.metadata.exif}
    return pixels, {name: content for name, content in metadata.items() if content}


def _read_flif(args: argparse.Namespace, limits: Limits) -> bytes:
    """Read a FLIF file; of any other file only the head, which the decoder refuses."""
    from ...runtime.files import read_file

    most = limits.image_bytes
    return read_file(
        args.input, "FLIF file", most, expected=lambda head: most if head.startswith(b"FLIF") else len(head)
    )


def _encode(args: argparse.Namespace) -> None:
    from ...runtime import flif
    from ...runtime.errors import UsageError
    from ...runtime.files import write_atomically

    if args.effort > 100:
        raise UsageError(f"effort {args.effort} is out of range 0..100")
    pixels, metadata = _read_picture(args.input, limits_of(args))
    data = flif.encode(
        pixels,
        effort=args.effort,
        interlaced=args.interlaced,
        crc=not args.no_crc,
        keep_invisible=not args.drop_invisible,
        metadata={} if args.strip else metadata,
    )
    write_atomically(args.output, data)
    print(f"{args.output}: {len(data)} bytes, {8 * len(data) / (pixels.shape[0] * pixels.shape[1]):.3f} bpp")


def _decode(args: argparse.Namespace) -> None:
    import numpy as np
    from PIL import Image

    from ...runtime import flif
    from ...runtime.errors import UsageError
    from ...runtime.files import write_atomically
    from ...runtime.image.deep_png import encode_deep_png
    from ...runtime.memory import LOSSLESS
    from ..codec_arguments import image_name

    if image_name(Path(args.output)).suffix.lower() != ".png":
        raise UsageError(f"cannot write {args.output}: FLIF files are decoded to PNG; end the name in .png")
    limits = limits_of(args)
    data = _read_flif(args, limits)
    header = flif.read_header(data, max_pixels=limits.pixels)
    limits.check_memory(header.width, header.height, LOSSLESS)
    pixels = flif.decode(data, max_pixels=limits.pixels)
    if pixels.dtype == np.uint16:
        write_atomically(args.output, encode_deep_png(cast("npt.NDArray[np.uint16]", pixels)))
        return
    metadata = flif.read_metadata(data, max_pixels=limits.pixels)
    extras = {"icc_profile": metadata.get("iCCP"), "exif": metadata.get("eXif")}
    file = io.BytesIO()
    try:
        Image.fromarray(pixels).save(file, "PNG", **{key: value for key, value in extras.items() if value})
    except (OSError, ValueError) as error:
        raise ImageError(f"cannot write {args.output}: {error}") from error
    write_atomically(args.output, file.getvalue())


def _info(args: argparse.Namespace) -> None:
    from ...runtime import flif

    limits = limits_of(args)
    data = _read_flif(args, limits)
    header = flif.read_header(data, max_pixels=limits.pixels)
    kinds = {1: "gray", 3: "RGB", 4: "RGBA"}
    facts: dict[str, Any] = {
        "width": header.width,
        "height": header.height,
        "channels": header.channels,
        "bit_depth": header.bit_depth,
        "scan": "interlaced" if header.interlaced else "non-interlaced",
        "alpha_zero": header.alpha_zero,
        "chances": header.custom_chances,
        "transforms": list(header.transforms),
        "metadata": {chunk.name: chunk.size for chunk in header.chunks},
        "bytes": len(data),
        "bpp": 8 * len(data) / (header.width * header.height),
    }
    if args.json:
        print(json.dumps(facts))
        return
    print(f"{args.input}: {header.width}x{header.height} {kinds[header.channels]}, {header.bit_depth} bit,")
    print(f"  {facts['scan']}, {len(data)} bytes, {facts['bpp']:.3f} bpp")
    print(f"  transforms: {', '.join(header.transforms) or 'none'}")
    if header.custom_chances:
        print(f"  chances: cutoff {header.custom_chances[0]}, divisor {header.custom_chances[1]}")
    for chunk in header.chunks:
        print(f"  metadata {chunk.name}: {chunk.size} bytes deflated")


def run(args: argparse.Namespace) -> int:
    {"encode": _encode, "decode": _decode, "info": _info}[args.action](args)
    return 0
