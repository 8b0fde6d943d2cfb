"""`oslic demo`: photographs through the codec and back, as numbers and as a picture."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from ...bench.report.layer_images import as_rgb, layer_sheet, with_alpha_of
from ...measure.metrics import ms_ssim, psnr
from ...runtime.codec import DEFAULT_QUALITY, Codec
from ...runtime.errors import UsageError, printable
from ...runtime.files import write_atomically
from ...runtime.image.files import read_image
from ...runtime.ledger import declare_outputs
from ..limit_arguments import add_limit_arguments, limits_of

_ENDINGS = (".oslic", ".layers.png")
_STAGES = ("segment", "analyse", "synthesise", "labels", "compact", "residual")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("inputs", nargs="+", metavar="IN", help="images")
    parser.add_argument(
        "-o", "--output", required=True, metavar="FOLDER", help="where streams and pictures go"
    )
    parser.add_argument(
        "--bundle", metavar="BUNDLE", help="the networks (default: the shipped `lite` bundle)"
    )
    parser.add_argument("--backend", default="auto", metavar="NAME")
    parser.add_argument("--quality", type=int, default=DEFAULT_QUALITY, metavar="Q", help="0..100")
    add_limit_arguments(parser)


def _measure(codec: Codec, source: Path, folder: Path, quality: int) -> dict[str, Any]:
    picture = read_image(source, codec.limits, use=codec.encoding)
    image = picture.pixels
    encoded = codec.finish(codec.layers(image), quality=quality, metadata=picture.metadata)
    write_atomically(folder / f"{source.stem}{_ENDINGS[0]}", encoded.data)
    decoded = codec.decode(encoded.data, with_estimate=True)
    pixels = image.shape[0] * image.shape[1]
    sizes = encoded.section_bytes
    assert decoded.estimate is not None
    estimate = with_alpha_of(decoded.estimate, image)
    row = {
        "image": source.name,
        "size": f"{image.shape[1]}x{image.shape[0]}",
        "sizes": sizes,
        "bytes": len(encoded.data),
        "bpp": len(encoded.data) * 8 / pixels,
        "estimate_psnr": psnr(as_rgb(image), as_rgb(estimate)),
        "psnr": psnr(as_rgb(image), as_rgb(decoded.image)),
        "ms_ssim": ms_ssim(as_rgb(image), as_rgb(decoded.image)) if min(image.shape[:2]) > 160 else None,
        "encode": encoded.stages,
        "decode": decoded.stages,
        "digest_matches": decoded.digest_matches,
    }
    captions = {
        "labels": f"{sizes['labels']} bytes",
        "compact": f"{sizes['compact']} bytes",
        "estimate": f"{row['estimate_psnr']:.2f} dB",
        "residual": f"{sizes.get('residual', 0)} bytes",
        "reconstruction": f"{row['bpp']:.3f} bpp, {row['psnr']:.2f} dB",
    }
    sheet = io.BytesIO()
    layer_sheet(image, decoded, codec.bundle.manifest, captions).save(sheet, "PNG")
    write_atomically(folder / f"{source.stem}{_ENDINGS[1]}", sheet.getvalue())
    return row


def _print(rows: list[dict[str, Any]]) -> None:
    print("\nBytes per layer, rate and quality")
    print(
        f"{'image':<20}{'size':>10}{'labels':>8}{'compact':>9}{'residual':>10}{'total':>8}{'bpp':>8}"
        f"{'est. dB':>9}{'PSNR dB':>9}{'MS-SSIM':>9}  digest"
    )
    for row in rows:
        sizes, similarity = row["sizes"], row["ms_ssim"]
        print(
            f"{row['image']:<20}{row['size']:>10}{sizes['labels']:>8}{sizes['compact']:>9}"
            f"{sizes.get('residual', 0):>10}{row['bytes']:>8}{row['bpp']:>8.3f}{row['estimate_psnr']:>9.2f}"
            f"{row['psnr']:>9.2f}{'-' if similarity is None else f'{similarity:.4f}':>9}"
            f"  {'ok' if row['digest_matches'] else 'DIFFERS'}"
        )
    print("\nMilliseconds per stage (labels and compact: FLIF, in the encoder beside the networks)")
    print(f"{'image':<20}{'':<12}" + "".join(f"{name:>12}" for name in _STAGES))
    for row in rows:
        for side in ("encode", "decode"):
            cells = (f"{row[side][s] * 1e3:.1f}" if s in row[side] else "-" for s in _STAGES)
            print(f"{row['image']:<20}{side:<12}" + "".join(f"{cell:>12}" for cell in cells))


def run(args: argparse.Namespace) -> int:
    folder = Path(args.output)
    if not folder.is_dir():
        raise UsageError(f"the output folder {folder} does not exist; create it first")
    declare_outputs(
        *(folder / f"{Path(source).stem}{ending}" for source in args.inputs for ending in _ENDINGS)
    )
    with Codec.open(args.bundle, args.backend, limits=limits_of(args)) as codec:
        codec.graphs.load(*codec.bundle.manifest.graph_names)
        name = printable(codec.bundle.manifest.name)
        print(f"bundle {codec.bundle.path} ({name}), {codec.graphs.selection.reason}")
        rows = [_measure(codec, Path(source), folder, args.quality) for source in args.inputs]
    _print(rows)
    print(f"\nStreams and pictures of all layers: {folder}/*.oslic, {folder}/*.layers.png")
    return 0
