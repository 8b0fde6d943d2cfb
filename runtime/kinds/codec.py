"""Compressing and decompressing with a bundle of any kind but `oslic`: what is the same for all of them."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import numpy as np

from .. import tiling
from ..backends import Options
from ..codec.admission import Admission
from ..codec.container import Payload, SectionWriter, SharedSection, StreamReader, write_stream
from ..codec.lossless import decode_plane, encode_plane
from ..codec.metadata_sections import metadata_writers, read_metadata
from ..codec.picture_source import read_picture
from ..codec.request import Request, make_request, require_original
from ..codec.settings import Settings
from ..codec.stage_timer import Stages
from ..codec.stream_source import read_stream
from ..errors import BundleError, OslicError, StreamError, UsageError, one_line
from ..image.arrays import extend, fill_hidden, join, layout_of, luma, split, three_channels
from ..memory import kind_use
from . import stream
from .graphs import KindGraphs
from .registry import kind_of
from .runs import DecodingRun, EncodingRun

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..bundle.folder import Bundle
    from ..codec.container import Header
    from ..codec.picture_source import PictureSource
    from ..codec.stream_source import StreamSource
    from ..image.arrays import Layout, Pixels
    from ..image.metadata import Metadata
    from ..limits import Limits
    from ..tiling import Box, Grid

_Result = TypeVar("_Result")
_NO_HALO: Final = 0


@dataclass(frozen=True)
class KindEncoded:
    """A finished stream.

    Attributes:
        data: the whole file.
        image: what was coded, uint8, in its layout; colors under alpha 0 as they were coded.
        layout: of its channels.
        grid: size and tiles.
        section_bytes: payload bytes by section.
        stages: seconds of each stage, summed over the tiles.
        processor: processor seconds of each stage.
    """

    data: bytes
    image: Pixels
    layout: Layout
    grid: Grid
    section_bytes: dict[str, int]
    stages: dict[str, float]
    processor: dict[str, float]

    @property
    def overhead_bytes(self) -> int:
        """Bytes of the file that belong to no payload."""
        return len(self.data) - sum(self.section_bytes.values())

    def details(self) -> dict[str, Any]:
        """What is to be told of it beyond sizes and times: nothing that the toolkit knows of."""
        return {}


@dataclass(frozen=True)
class KindDecoded:
    """A decoded stream, or a part of it. What the kind had checked was right, or it had raised.

    Attributes:
        image: uint8, the part that was asked for, in the layout that was compressed.
        metadata: ICC, EXIF and so on.
        header: of the stream.
        stages: seconds of each stage, summed over the tiles.
        processor: processor seconds of each stage.
        drift: None, as for streams whose digests match.
        is_wrong: whether a digest that does not match is an error.
        refinement_note: None: nothing is refined.
        missing: nothing: truncated streams are refused.
    """

    image: Pixels
    metadata: Metadata
    header: Header
    stages: dict[str, float]
    processor: dict[str, float]
    drift: str | None = None
    is_wrong: bool = True
    refinement_note: str | None = None

    @property
    def missing(self) -> dict[str, tuple[int, ...]]:
        """By section, numbers of the tiles that a truncated stream lacks: none."""
        return {}

    @property
    def digest_matches(self) -> bool:
        """Whether all that is checked is the encoder's."""
        return True


class KindCodec:
    """Compresses and decompresses with one bundle on one backend. Safe to use from several threads.

    Tiles of a large picture are coded each by itself.

    Args:
        bundle: of any kind but `oslic`.
        backend: a name from `oslic backends`, or "auto".
        limits: what to refuse.
        options: of the backend.

    Attributes:
        bundle: as given.
        graphs: the bundle's graphs on the backend.
        limits: as given.
        encoding: memory that compressing an image takes.
        decoding: memory that decompressing a stream takes.

    Raises:
        BundleError: the bundle's kind is not installed, or the bundle is damaged.
        BackendError: the backend is not usable.
        DependencyError: the kind lacks a package.
    """

    def __init__(self, bundle: Bundle, backend: str, limits: Limits, options: Options) -> None:
        self.bundle = bundle
        self.limits = limits
        self.kind = kind_of(bundle)
        self.graphs = KindGraphs(bundle, backend, options)
        infos = bundle.manifest.graphs
        self.encoding = kind_use(infos)
        self.decoding = kind_use({name: infos[name] for name in self.kind.decoding_graphs})
        self._unit = math.lcm(tiling.UNIT, bundle.manifest.multiple)
        self._admission = Admission(limits, bundle.manifest.multiple, self.encoding.fixed)

    def close(self) -> None:
        """Give back what the backend holds."""
        self.graphs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def backend(self) -> str:
        """Name of the backend."""
        return self.graphs.selection.backend.name

    # -- encoding --------------------------------------------------------------------------------------------

    def compress(
        self, image: PictureSource, *, metadata: Metadata | None = None, keep_invisible: bool = False
    ) -> bytes:
        """Compress a picture.

        Args:
            image: an array, a Pillow image, a path or a file's bytes; see `Codec.compress`.
            metadata: to carry. None: what the Pillow image or the file has.
            keep_invisible: whether color under alpha 0 is coded as it is; else by what is cheap.

        Returns:
            The `.oslic` file's bytes.

        Raises:
            ImageError: no picture of a kind that is supported.
            LimitError: larger than the limits.
        """
        return self.encode(image, make_request(metadata=metadata, keep_invisible=keep_invisible)).data

    def encode(self, image: PictureSource, request: Request | None = None) -> KindEncoded:
        """Compress a picture, and return what it took as well.

        Args:
            image: as for `compress`.
            request: what is asked for; None: the defaults. Nothing that chooses a quality: the networks have one.

        Raises:
            ImageError, LimitError: as `compress`.
            UsageError: the request asks for what the kind does not have.
        """
        request = request or make_request()
        self._require_plain(request)
        picture = read_picture(image, self.limits, self.encoding)
        require_original(picture, request)
        pixels, stages = picture.pixels, Stages()
        layout = layout_of(pixels)
        height, width = pixels.shape[:2]
        grid = tiling.choose(width, height, request.tile, _NO_HALO, self._unit)
        self._admission.check_grid(grid, self.encoding)
        color, alpha = split(pixels, layout)
        if alpha is not None and not request.keep_invisible:
            color = fill_hidden(color, alpha)
        numbers = dict(self.kind.sections)
        writers = {number: SectionWriter() for number in (*numbers.values(), SharedSection.CHECKS)}
        if alpha is not None:
            writers[SharedSection.ALPHA] = SectionWriter()

        def code(tile: int) -> dict[int, bytes]:
            return self._encode_tile(color, alpha, grid.box(tile), stages)

        with self._admission.pool(grid, self.encoding) as pool:
            for payloads in pool.run(code, range(grid.count)):
                for number, data in payloads.items():
                    writers[number].add(Payload(data))
        if not writers[SharedSection.CHECKS].length:
            del writers[SharedSection.CHECKS]
        metadata = picture.metadata if request.metadata is None else request.metadata
        file = io.BytesIO()
        sizes = write_stream(
            file, stream.header_of(layout, self.bundle, grid), writers | metadata_writers(metadata)
        )
        # Sections of the kind have no names in the container.
        names = {f"0x{number:02x}": name for name, number in numbers.items()}
        return KindEncoded(
            file.getvalue(),
            join(color, alpha),
            layout,
            grid,
            {names.get(key, key): size for key, size in sizes.items()},
            stages.seconds,
            stages.processor,
        )

    def _require_plain(self, request: Request) -> None:
        settings, plain = request.settings, Settings()
        given = {
            "--bpp": request.bpp is not None,
            "--psnr": request.psnr is not None,
            "--quality": settings.quality != plain.quality,
            "--lossless and --max-error": settings.max_error is not None,
            "--focus and --class-quality": bool(settings.class_quality),
            "--layers": settings.layers != plain.layers,
            "--effort": settings.effort != plain.effort,
            "--rate-weight": settings.rate_weight != plain.rate_weight,
            "--tune": settings.tune != plain.tune,
            "--no-refine": not settings.refine,
        }
        for name, present in given.items():
            if present:
                raise UsageError(
                    f"{name} says nothing to a codec of the kind {self.kind.kind!r}: its networks have one rate, take "
                    "another bundle for another"
                )

    def _encode_tile(self, color: Pixels, alpha: Pixels | None, box: Box, stages: Stages) -> dict[int, bytes]:
        part = box.of(color)
        height, width = self._padded(box)
        run = EncodingRun(self.graphs, height, width, stages)
        image = np.ascontiguousarray(extend(three_channels(part), height, width)).view()
        image.flags.writeable = False  # it may be the caller's own
        sections = self._encoded(image, run)
        payloads = {self.kind.sections[name]: bytes(data) for name, data in sections.items()}
        payloads[SharedSection.CHECKS] = run.digests
        if alpha is not None:
            with stages.measure("alpha"):
                payloads[SharedSection.ALPHA] = encode_plane(np.ascontiguousarray(box.of(alpha)))
        return payloads

    def _encoded(self, image: Pixels, run: EncodingRun) -> Mapping[str, bytes]:
        """The sections that the kind makes, its own exceptions as the library's.

        Raises:
            BundleError: it fails, or makes other sections than it states.
        """
        name = self.kind.kind
        try:
            sections = self.kind.encode(image, run)
        except (OslicError, MemoryError):
            raise
        except Exception as error:
            raise BundleError(
                f"the kind {name!r} cannot encode: {type(error).__name__}: {one_line(error, 200)}"
            ) from error
        if not isinstance(sections, Mapping):
            raise BundleError(
                f"the kind {name!r} returned {type(sections).__name__}, must be sections by name"
            )
        if set(sections) != set(self.kind.sections):
            raise BundleError(
                f"the kind {name!r} made the sections {sorted(sections)}, it states {sorted(self.kind.sections)}"
            )
        for section, data in sections.items():
            if not isinstance(data, bytes | bytearray | memoryview):
                raise BundleError(
                    f"the kind {name!r} made {type(data).__name__} of the section {section!r}, must be bytes"
                )
        return sections

    def _padded(self, box: Box) -> tuple[int, int]:
        multiple = self.bundle.manifest.multiple
        return -(-box.height // multiple) * multiple, -(-box.width // multiple) * multiple

    def reconstruct(self, encoded: KindEncoded) -> Pixels:
        """Return what the decoder will make of `encoded`, in the shape of the image."""
        return self.decode(encoded.data).image

    # -- decoding --------------------------------------------------------------------------------------------

    def decompress(self, data: StreamSource, *, region: tuple[int, int, int, int] | None = None) -> Pixels:
        """Decompress a stream; `decode` returns its metadata as well.

        Args:
            data: the `.oslic` file's bytes, or its path.
            region: left, top, width and height of the part that is wanted; None: all.

        Returns:
            uint8, the shape that was compressed, or that of the region; color as RGB.

        Raises:
            StreamError: damaged, truncated, or of another version.
            BundleError: made with another bundle.
            LimitError: larger than the limits.
            VerificationError: what decoding computes here is not what the encoder did.
        """
        return self.decode(data, region=region).image

    def decode(
        self,
        data: StreamSource,
        *,
        region: tuple[int, int, int, int] | None = None,
        layer: str = "image",
        partial: bool = False,
        with_estimate: bool = False,
    ) -> KindDecoded:
        """Decompress a stream, and return its metadata and times as well.

        Args:
            data: as for `decompress`.
            region: as for `decompress`.
            layer: "image": the kind has no other layer that the toolkit knows.
            partial: False: a truncated file is refused.
            with_estimate: says nothing here: there is none.

        Raises:
            StreamError, BundleError, LimitError, VerificationError: as `decompress`.
            UsageError: the region is not inside the picture, or another layer or a part was asked for.
        """
        del with_estimate
        reader = StreamReader.of_bytes(read_stream(data, self.limits), self.limits)
        header, grid = reader.header, reader.header.grid
        stream.check_identity(header, self.bundle)
        if layer != "image" or partial:
            what = "--partial" if partial else f"--layer {layer}"
            raise UsageError(f"{what} says nothing to a stream of the kind {header.kind!r}")
        stream.check_sections(reader, type(self.kind))
        self._admission.check_grid(grid, self.decoding)
        box = tiling.region_box(region, header.width, header.height)
        channels = () if int(header.layout) == 1 else (int(header.layout),)
        image = np.empty((box.height, box.width, *channels), np.uint8)
        stages = Stages()

        def decode(tile: int) -> tuple[Box, Pixels]:
            return grid.box(tile), self._decode_tile(reader, tile, stages)

        with self._admission.pool(grid, self.decoding) as pool:
            for where, pixels in pool.run(decode, list(grid.touching(box))):
                both = where.overlap(box)
                assert both is not None
                image[both.within(box)] = pixels[both.within(where)]
        return KindDecoded(image, read_metadata(reader), header, stages.seconds, stages.processor)

    def _decode_tile(self, reader: StreamReader, tile: int, stages: Stages) -> Pixels:
        box = reader.header.grid.box(tile)
        height, width = self._padded(box)
        run = DecodingRun(self.graphs, height, width, stages, stream.read_checks(reader, tile))
        sections = stream.read_sections(reader, type(self.kind), tile)
        color = self._guarded(lambda: self.kind.decode(sections, run), tile)
        run.finish()
        if not isinstance(color, np.ndarray) or color.dtype != np.uint8 or color.shape != (height, width, 3):
            found = f"{color.dtype} {color.shape}" if isinstance(color, np.ndarray) else type(color).__name__
            raise BundleError(
                f"the kind {self.kind.kind!r} decoded tile {tile} to {found}, must be uint8 {(height, width, 3)}"
            )
        color = color[: box.height, : box.width]
        if reader.header.layout.is_gray:
            color = luma(color)
        if not reader.header.layout.has_alpha:
            return color
        with stages.measure("alpha"):
            payload = reader.payload(SharedSection.ALPHA, tile)
            alpha = decode_plane(payload, (box.height, box.width), "alpha")
        return join(color, alpha)

    def _guarded(self, decode: Callable[[], _Result], tile: int) -> _Result:
        """What a kind returns, with its own exceptions as the library's: it reads what strangers wrote."""
        try:
            return decode()
        except (OslicError, MemoryError):
            raise
        except Exception as error:
            raise StreamError(
                f"the kind {self.kind.kind!r} cannot decode tile {tile}: {type(error).__name__}: "
                f"{one_line(error, 200)}"
            ) from error
