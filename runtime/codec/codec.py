"""The codec: an image to an `.oslic` stream and back.

encoder                                             decoder
s  = segment(x)            SegNet, argmax           s  = FLIF decode
c  = analyse(x, s)         ComNet, quantized        c  = FLIF decode
e  = synthesise(c, s)      upsample x8 + GNet       e  = synthesise(c, s)
r  = x - p                                          r' = residual decode
stream = FLIF(s) FLIF(c) lossy(r)                   x' = clip(p + r')

The prediction p is e, at finer qualities drawn towards mid-gray; see `residual`. A large picture is worked on tile by
tile, several at a time.
"""

from __future__ import annotations

import threading
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, SupportsFloat

from .. import tiling
from ..backends import Options
from ..bundle.finder import find_bundle, open_bundle
from ..bundle.folder import Bundle
from ..bundle.manifest import OSLIC
from ..errors import BundleError, UsageError, VerificationError
from ..image.arrays import fill_hidden, join, layout_of, split
from ..image.metadata import Metadata
from ..limits import Limits
from ..memory import (
    MemoryUse,
    decoding_use,
    encoding_use,
    networks_use,
    residual_use,
    searching_use,
)
from .admission import Admission
from .container import Header, StreamReader
from .decoding import DECODER_GRAPHS, Decoded, Decoding, Layer
from .encoding import Encoded, Layers
from .finishing import finish_layers, reconstruct
from .label_map import LabelMap, read_labels
from .layering import make_layers
from .networks import Graphs
from .picture_source import PictureSource, read_picture
from .rate_control import highest_within, lowest_reaching
from .request import Request, make_request, require_original
from .search import wanted_search
from .settings import LayerMode, Settings, Tune
from .stream import (
    check_identity,
    fingerprint_of,
    is_of,
    open_stream,
)
from .stream_source import StreamSource, read_stream
from .streaming import DecodedStrip, RowSource, compress_rows, decompress_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from _typeshed import SupportsWrite

    from ..image.arrays import Pixels

# Below this limit on memory, ONNX Runtime keeps none of its own from image to image: an eighth of it would be taken.
_ROOMY: Final = 4 << 30


def backend_options(
    threads: int | None, precision: str | None, limits: Limits, options: Options | None
) -> Options:
    """What the backend of a codec is told.

    Args:
        threads: CPU threads the networks may use; None: as the options say.
        precision: of the engines; None: as the options say.
        limits: of the codec.
        options: all else; None: the defaults.

    Raises:
        UsageError: less than one thread.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}, must be at least 1")
    options = options or Options()
    return replace(
        options,
        threads=threads or options.threads,
        precision=precision or options.precision,
        keep_memory=options.keep_memory and limits.memory >= _ROOMY,
    )


class DriftWarning(UserWarning):
    """The decoder's estimate or residual is not, bit for bit, the encoder's."""


class Codec:
    """Compresses and decompresses pictures with one bundle on one backend. It may be used from several threads.

    Open one with `Codec.open`, as a context manager or with `close` at the end.

    Args:
        graphs: the graphs of the bundle, on a backend.
        limits: sizes beyond which input is refused.
        open_other: opens the graphs of another bundle, for streams that were made with it; None: such streams are
            refused.

    Attributes:
        graphs: the graphs of the bundle; `graphs.run(name, ...)` runs a single network.
        bundle: the bundle; `bundle.manifest` has its classes and groups.
        limits: sizes beyond which input is refused.
        encoding: predicted memory for compressing, in bytes by size.
        decoding: predicted memory for decompressing, in bytes by size.
    """

    def __init__(
        self, graphs: Graphs, limits: Limits, open_other: Callable[[Bundle], Graphs] | None = None
    ) -> None:
        self.graphs = graphs
        self.bundle = graphs.bundle
        self.limits = limits
        infos = self.bundle.manifest.graphs
        self.encoding = encoding_use(infos)
        self.decoding = decoding_use({name: infos[name] for name in DECODER_GRAPHS if name in infos})
        self._networks = networks_use(infos)
        self._searching = searching_use(infos)
        self._residual = residual_use(infos)
        self._admission = Admission(limits, self.bundle.manifest.multiple, self._networks.fixed)
        self._open_other = open_other
        self._others: dict[bytes, Graphs] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(
        cls,
        bundle: str | Path | Bundle | None = None,
        backend: str = "auto",
        threads: int | None = None,
        limits: Limits | None = None,
        precision: str | None = None,
        *,
        options: Options | None = None,
    ) -> Codec:
        """Open a codec.

        Args:
            bundle: a folder, the name of a shipped bundle, an opened one, or None: then the default one compresses, and
                a stream is decompressed with the networks that it names, if a known bundle has them (OSLIC_BUNDLES).
            backend: a name from `oslic backends`, or "auto" for the best that is present.
            threads: CPU threads the networks may use; None leaves it to the backend.
            limits: sizes beyond which input is refused; None: the defaults.
            precision: of the engines, such as `fp16`, see `backends.Options`; None: the fastest that the bundle holds.
            options: further options of the backend, such as a time limit; `threads` and `precision` override them.

        Raises:
            BundleError: no bundle there, or a damaged one.
            BackendError: the backend is not usable; the message says why.

        Warns:
            PassedOverWarning: "auto" took a slower backend than this machine or this bundle is meant for.
        """
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
        if opened.manifest.kind != OSLIC:
            raise BundleError(
                f"the bundle {opened.path} is of the kind {opened.manifest.kind!r}, not {OSLIC!r}: open it with "
                "oslic.runtime.open_codec"
            )
        limits = limits or Limits()
        options = backend_options(threads, precision, limits, options)

        def graphs(found: Bundle) -> Graphs:
            return Graphs(found, backend, options)

        return cls(graphs(opened), limits, graphs if bundle is None else None)

    def close(self) -> None:
        """Release the memory and the threads of the backend. The codec cannot be used afterwards."""
        for graphs in (self.graphs, *self._others.values()):
            graphs.close()

    @property
    def backend(self) -> str:
        """Name of the backend, such as `onnxruntime-cpu`."""
        return self.graphs.selection.backend.name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _use(self, settings: Settings, otherwise: MemoryUse) -> MemoryUse:
        """What making layers takes: that of a search, where there is one."""
        return self._searching if wanted_search(settings, self.bundle.manifest).steps else otherwise

    # -- encoding --------------------------------------------------------------------------------------------

    def layers(
        self,
        image: Pixels,
        settings: Settings | None = None,
        *,
        keep_invisible: bool = False,
        tile: int | None = None,
        halo: int = tiling.HALO,
    ) -> Layers:
        """Run the networks and code the lossless layers: everything that does not depend on the residual.

        To code one picture at several qualities, call `layers` once and `finish` for each quality.

        Args:
            image: uint8, (H, W), (H, W, 2), (H, W, 3) or (H, W, 4).
            settings: how it is to be coded; None: the defaults.
            keep_invisible: whether to keep color under alpha 0; otherwise it is replaced by what costs least.
            tile: side of the tiles in pixels, a multiple of 32; None: one tile up to 1 megapixel, then at most 896.
            halo: pixels around a tile that its estimate depends on, a multiple of 32.

        Raises:
            ImageError: another shape or dtype.
            LimitError: larger than the limits; the message names a size that fits.
            UsageError: a tile or halo that is not such a multiple.
        """
        layout = layout_of(image)
        height, width = image.shape[:2]
        grid = tiling.choose(width, height, tile, halo)
        settings = settings or Settings()
        self._admission.check_grid(grid, self._use(settings, self.encoding))
        if layout.has_alpha and not (keep_invisible or settings.keeps_all):
            color, alpha = split(image, layout)
            assert alpha is not None
            image = join(fill_hidden(color, alpha), alpha)
        with self._admission.pool(grid, self._use(settings, self._networks)) as pool:
            return make_layers(self.graphs, image, layout=layout, grid=grid, settings=settings, pool=pool)

    def finish(
        self,
        layers: Layers,
        *,
        quality: float | None = None,
        effort: int | None = None,
        metadata: Metadata | None = None,
    ) -> Encoded:
        """Code the residual and assemble the stream.

        Args:
            layers: from `layers`. At another quality than theirs, the compact image may be made coarser or finer, and
                the estimate is computed again.
            quality: 0..100; None: as the layers' settings say.
            effort: 0..9; None: as the layers' settings say.
            metadata: ICC, EXIF and so on to carry.

        Raises:
            UsageError: quality or effort out of range.
        """
        settings = layers.settings
        if quality is not None:
            settings = replace(settings, quality=quality)
        if effort is not None:
            settings = replace(settings, effort=effort)
        with self._admission.pool(layers.grid, self.encoding) as pool:
            return finish_layers(self.graphs, layers, settings, pool, metadata)

    def compress(
        self,
        image: PictureSource,
        quality: SupportsFloat | None = None,
        *,
        bpp: SupportsFloat | None = None,
        psnr: SupportsFloat | None = None,
        effort: SupportsFloat = Settings.effort,
        layers: LayerMode = Settings.layers,
        tune: Tune = Settings.tune,
        refine: bool = True,
        class_quality: Mapping[str, SupportsFloat] | None = None,
        focus: str | None = None,
        lossless: bool = False,
        max_error: SupportsFloat | None = None,
        rate_weight: SupportsFloat = Settings.rate_weight,
        metadata: Metadata | None = None,
        keep_invisible: bool = False,
    ) -> bytes:
        """Compress a picture.

        Args:
            image: uint8, (H, W) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB or (H, W, 4) RGBA, in this order of
                channels: arrays of `cv2` are BGR, give `cv2.cvtColor(image, cv2.COLOR_BGR2RGB)`. Or a Pillow image, the
                path of an image file, or such a file's bytes.
            quality: 0..100, a number of any real type; 0 stores no residual. None, and neither `bpp` nor `psnr`: 60.
            bpp: instead of the quality: the highest quality that takes at most so many bits per pixel, all bytes
                counted.
            psnr: instead of the quality: the lowest quality that reaches so many dB, over the visible colors; it
                implies the tune "psnr".
            effort: 0..9: larger takes longer and saves bytes, or makes better layers where these are all.
            layers: "always", "auto" or "never", see `Settings`.
            tune: "visual" or "psnr", see `Settings`.
            refine: whether the decoder refines the picture, if the bundle has a network for that.
            class_quality: points to add to the quality of classes or groups of classes, by name:
                `{"person": 25, "sky": -15}`; `Codec.bundle.manifest` has the names.
            focus: instead of `class_quality`: a class or group that is to look better than the rest at about the same
                file size, "person" or "person:mild".
            lossless: instead of a quality: the picture comes back bit for bit, color under alpha 0 included.
            max_error: 1..16, instead of a quality: no sample of the decoded picture is off by more.
            rate_weight: of layers alone at an effort that searches for better ones: what a bit per pixel is worth, see
                `Settings`.
            metadata: metadata to store. None: that of the Pillow image or the file; `Metadata()`: none.
            keep_invisible: whether to keep color under alpha 0; otherwise it is replaced by what costs least.

        Returns:
            The `.oslic` file's bytes.

        Raises:
            ImageError: another shape or dtype, or a file that is no image or of a kind that is not supported; a
                picture that had to be converted, and `lossless`.
            LimitError: larger than the limits: by default 64 megapixels, and half of the memory that was free when the
                codec was opened (`Codec.open(limits=...)`).
            RateError: the rate or the PSNR cannot be reached.
            UsageError: a setting out of its range, or a file that cannot be read.
        """
        request = make_request(
            quality,
            bpp=bpp,
            psnr=psnr,
            effort=effort,
            layers=layers,
            tune=tune,
            refine=refine,
            class_quality=class_quality,
            focus=focus,
            lossless=lossless,
            max_error=max_error,
            rate_weight=rate_weight,
            metadata=metadata,
            keep_invisible=keep_invisible,
        )
        return self.encode(image, request).data

    def encode(self, image: PictureSource, request: Request | None = None) -> Encoded:
        """Compress a picture, and return its layers and times with the file.

        Args:
            image: as for `compress`.
            request: the arguments of `compress` as one object; None: the defaults.

        Raises:
            ImageError, LimitError, RateError, UsageError: as `compress`.
        """
        request = request or make_request()
        picture = read_picture(image, self.limits, self.encoding)
        require_original(picture, request)
        metadata = picture.metadata if request.metadata is None else request.metadata
        layers = self.layers(
            picture.pixels, request.settings, keep_invisible=request.keep_invisible, tile=request.tile
        )
        if request.bpp is not None:
            return highest_within(self, layers, request.bpp, metadata=metadata)
        if request.psnr is not None:
            return lowest_reaching(self, layers, request.psnr, metadata=metadata)
        return self.finish(layers, metadata=metadata)

    async def compress_async(
        self, image: PictureSource, quality: SupportsFloat | None = None, **options: Any
    ) -> bytes:
        """As `compress`, on a thread, while the running event loop goes on with other tasks.

        A task that is canceled does not wait for the work, which runs to its end.

        Args:
            image: as for `compress`.
            quality: as for `compress`.
            options: the other arguments of `compress`.
        """
        import asyncio  # slow to load

        return await asyncio.to_thread(self.compress, image, quality, **options)

    def compress_rows(
        self,
        source: RowSource,
        target: SupportsWrite[bytes],
        settings: Settings | None = None,
        *,
        metadata: Metadata | None = None,
        keep_invisible: bool = False,
    ) -> dict[str, int]:
        """Compress an image that is read from top to bottom and is never in memory as a whole.

        Args:
            source: the image, for instance a `LargeImage`.
            target: a binary file, open for writing, or a pipe, that the `.oslic` file is written to.
            settings: how the image is coded; None: the defaults.
            metadata: as for `compress`.
            keep_invisible: as for `compress`.

        Returns:
            Payload bytes by section name.

        Raises:
            LimitError: too many pixels, or not even strips fit into the memory.
            UsageError: the layers are "auto", which strips cannot do.
        """
        settings = settings or Settings()
        use = self._use(settings, self.encoding)
        with self._admission.strip_pool(tiling.choose(source.width, source.height), use) as pool:
            return compress_rows(
                self.graphs,
                pool,
                source,
                target,
                settings=settings,
                metadata=metadata,
                keep_invisible=keep_invisible,
            )

    def reconstruct(self, encoded: Encoded) -> Pixels:
        """Return the picture that the decoder will make of `encoded`: uint8, in the shape of the image."""
        return reconstruct(self.graphs, encoded)

    # -- decoding --------------------------------------------------------------------------------------------

    def decompress(
        self,
        data: StreamSource,
        *,
        strict: bool = False,
        region: tuple[int, int, int, int] | None = None,
    ) -> Pixels:
        """Decompress a stream; `decode` returns its metadata as well.

        Args:
            data: the `.oslic` file's bytes (bytes, bytearray, memoryview or another buffer), or its path.
            strict: whether an estimate or residual that is not, bit for bit, the encoder's is an error.
            region: left, top, width and height, in pixels, of the part to decode; only the tiles that it touches are
                decoded. None: the whole picture.

        Returns:
            uint8, in the shape that was compressed, or that of the region: (H, W), (H, W, 2), (H, W, 3) or (H, W, 4);
            RGB.

        Raises:
            StreamError: damaged, truncated, or of another version.
            BundleError: made with another checkpoint.
            LimitError: larger than the limits.
            UsageError: the region is not inside the picture, or the file cannot be read.
            VerificationError: a digest does not match, and `strict` was asked for.

        Warns:
            DriftWarning: a digest does not match, or the encoder had another network to refine by.
        """
        decoded = self.decode(data, region=region)
        if decoded.refinement_note is not None:
            warnings.warn(decoded.refinement_note, DriftWarning, stacklevel=2)
        if decoded.drift is not None:
            message = f"{decoded.drift} on {self.graphs.selection.backend.name}"
            if decoded.is_wrong:
                raise VerificationError(message)
            if strict:
                raise VerificationError(f"{message}; without strict decoding this is a warning")
            warnings.warn(message, DriftWarning, stacklevel=2)
        return decoded.image

    def decode(
        self,
        data: StreamSource,
        *,
        region: tuple[int, int, int, int] | None = None,
        layer: Layer = "image",
        partial: bool = False,
        with_estimate: bool = False,
    ) -> Decoded:
        """Decompress a stream, and return its metadata, layers and times with the picture.

        A digest that differs raises nothing; see `Decoded.drift`.

        Args:
            data: as for `decompress`.
            region: as for `decompress`.
            layer: "image", or "estimate", which leaves the residual out.
            partial: whether to accept a truncated file: tiles without a residual show their estimates, tiles without a
                compact image are mid-gray, and `Decoded.missing` lists them.
            with_estimate: whether to return the estimate too.

        Raises:
            StreamError, BundleError, LimitError, UsageError: as `decompress`.
        """
        reader = open_stream(read_stream(data, self.limits), self.limits, partial=partial)
        header = reader.header
        graphs = self._graphs_for(header)
        grid = header.grid
        part = None if region is None else grid.part(tiling.region_box(region, grid.width, grid.height))
        if part is None:
            self._admission.check_grid(grid, self.decoding)
        else:
            self._admission.check_part(part, grid, self.decoding)
        with self._admission.pool(grid, self.decoding, part) as pool:
            return Decoding(graphs, reader, pool).decode(region, layer=layer, with_estimate=with_estimate)

    async def decompress_async(self, data: StreamSource, **options: Any) -> Pixels:
        """As `decompress`, on a thread; see `compress_async`.

        Args:
            data: as for `decompress`.
            options: the other arguments of `decompress`.
        """
        import asyncio  # slow to load

        return await asyncio.to_thread(self.decompress, data, **options)

    def _graphs_for(self, header: Header) -> Graphs:
        """The graphs of a stream's networks: ours, or those of a known bundle where none was asked for by name.

        Raises:
            BundleError: no known bundle has them, or another one was asked for.
        """
        if self._open_other is None or is_of(header, self.bundle):
            check_identity(header, self.bundle)
            return self.graphs
        with self._lock:
            key = fingerprint_of(header)
            if key not in self._others:
                self._others[key] = self._open_other(find_bundle(key))
            return self._others[key]

    def decompress_rows(self, reader: StreamReader) -> Iterator[DecodedStrip]:
        """Decompress a stream from top to bottom; the picture is never in memory as a whole.

        Args:
            reader: reader of the stream (`StreamReader.of_file`), whose sections were checked (`check_stream`).

        Yields:
            Strips of the picture, one row of tiles each.

        Raises:
            StreamError, BundleError, LimitError: as `decompress`.
        """
        header = reader.header
        graphs = self._graphs_for(header)
        with self._admission.strip_pool(header.grid, self.decoding) as pool:
            yield from decompress_rows(Decoding(graphs, reader, pool))

    def decode_labels(self, data: StreamSource) -> LabelMap:
        """Return the label map of a stream; no network runs. As `read_labels`, within the limits of this codec.

        Args:
            data: as for `decompress`.

        Raises:
            StreamError, BundleError, LimitError: as `decompress`.
        """
        data = read_stream(data, self.limits)
        header = open_stream(data, self.limits).header
        other = self._open_other is not None and not is_of(header, self.bundle)
        return read_labels(data, None if other else self.bundle, self.limits)
