"""The codec: an image to an `.oslic` stream and back.

encoder                                             decoder
s  = segment(x)            SegNet, argmax           s  = FLIF decode
c  = analyse(x, s)         ComNet, quantised        c  = FLIF decode
e  = synthesise(c, s)      upsample x8 + GNet       e  = synthesise(c, s)
r  = x - p                                          r' = residual decode
stream = FLIF(s) FLIF(c) lossy(r)                   x' = clip(p + r')

The prediction p is e, at finer qualities drawn towards mid-grey; see `residual`.
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import numpy as np

from . import residual
from .backends import Options
from .bundle import COMPACT_SCALE, GRAPH_NAMES, Bundle, Manifest, default_bundle
from .errors import BundleError, UsageError, VerificationError
from .graphs import Graphs
from .limits import Limits
from .memory import MemoryBudget, MemoryUse, decoding_use, encoding_use, networks_use, residual_use
from .metadata import Metadata, from_sections, to_sections
from .pixels import ceil_div, fill_hidden, join, layout_of, luma, split
from .planes import decode_plane, encode_plane
from .stages import Stages
from .stream import (
    FINGERPRINT_BYTES,
    MAX_WEIGHT,
    Header,
    Layout,
    ResidualCodec,
    SectionType,
    estimate_digest,
    read_stream,
    write_stream,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    Pixels = npt.NDArray[np.uint8]

DEFAULT_QUALITY: Final = 60
# Below this limit on memory, ONNX Runtime keeps none of its own from image to image: an eighth of it would be taken.
_ROOMY: Final = 4 << 30


class DriftWarning(UserWarning):
    """The decoder's estimate is not, bit for bit, the encoder's."""


@dataclass(frozen=True)
class Layers:
    """Everything about an image that does not depend on the quality.

    Attributes:
        image: uint8, (H, W), (H, W, 2), (H, W, 3) or (H, W, 4): as given, but for colour that nobody sees.
        layout: the channels of `image`.
        labels: s, uint8 (ceil(H/S), ceil(W/S)).
        compact: c, uint8 (ceil(H/8), ceil(W/8), 3), values 0..L-1.
        estimate: e, uint8 (H, W, 3), or (H, W) for gray layouts.
        digest: of `estimate`.
        sections: the coded sections: labels, compact, and alpha if there is one.
        stages: time spent so far.
    """

    image: Pixels
    layout: Layout
    labels: Pixels
    compact: Pixels
    estimate: Pixels
    digest: bytes
    sections: dict[SectionType, bytes]
    stages: Stages = field(default_factory=Stages)

    @property
    def color(self) -> Pixels:
        """The image without alpha, in the shape of `estimate`."""
        return split(self.image, self.layout)[0]


@dataclass(frozen=True)
class Encoded:
    """A finished stream.

    Attributes:
        data: the whole file.
        residual: the coded residual inside it; None for quality 0.
        quality: what the residual was coded with.
        section_bytes: payload bytes by section name.
        overhead_bytes: bytes of the file that belong to no payload.
        stages: wall-clock seconds of each stage.
        processor: processor seconds of each stage, see `Stages`.
    """

    data: bytes
    residual: residual.CodedResidual | None
    quality: int
    section_bytes: dict[str, int]
    overhead_bytes: int
    stages: dict[str, float]
    processor: dict[str, float]


@dataclass(frozen=True)
class Decoded:
    """A decoded stream.

    Attributes:
        image: uint8, the shape that was compressed.
        metadata: what travels beside the pixels.
        header: of the stream.
        labels: s, uint8.
        compact: c, uint8.
        estimate: e, uint8.
        digest_matches: whether the estimate is, bit for bit, the encoder's.
        stages: wall-clock seconds of each stage; "residual" runs beside "synthesise", "add" sums both up.
        processor: processor seconds of each stage, see `Stages`.
    """

    image: Pixels
    metadata: Metadata
    header: Header
    labels: Pixels
    compact: Pixels
    estimate: Pixels
    digest_matches: bool
    stages: dict[str, float]
    processor: dict[str, float]


def stream_header(
    shape: tuple[int, ...],
    layout: Layout,
    fingerprint: str,
    coded: residual.CodedResidual | None,
    digest: bytes,
) -> Header:
    """The header of an image's stream.

    Args:
        shape: of the image: (H, W, ...).
        layout: of its samples.
        fingerprint: of the bundle, in hexadecimal digits.
        coded: the residual; None: the stream has none.
        digest: of the estimate, 8 bytes.
    """
    return Header(
        width=shape[1],
        height=shape[0],
        layout=layout,
        fingerprint=bytes.fromhex(fingerprint)[:FINGERPRINT_BYTES],
        residual_codec=ResidualCodec.NONE if coded is None else ResidualCodec.AVIF,
        residual_scale=1 if coded is None else coded.scale,
        residual_weight=MAX_WEIGHT if coded is None else coded.weight,
        digest=digest,
    )


def check_settings(quality: int, speed: int) -> None:
    """Raise UsageError unless a quality, 0..100, and a speed of the residual coder, 0..10, are within their ranges."""
    if not 0 <= quality <= residual.MAX_QUALITY:
        raise UsageError(f"quality {quality} is out of range 0..{residual.MAX_QUALITY}")
    if not 0 <= speed <= residual.MAX_SPEED:
        raise UsageError(f"speed {speed} is out of range 0..{residual.MAX_SPEED}")


def decode_labels(data: bytes, bundle: Bundle, limits: Limits) -> Pixels:
    """Return only the label map of a stream, uint8 (ceil(H/S), ceil(W/S)); no network runs, no backend is needed.

    Args:
        data: the `.oslic` file's bytes.
        bundle: that it was made with.
        limits: what to refuse.

    Raises:
        StreamError: damaged, truncated or of a newer version.
        BundleError: made with another checkpoint.
        LimitError: larger than the limits.
    """
    info, parts = read_stream(data, limits)
    _check_fingerprint(info.header, bundle)
    return _labels(info.header, parts[SectionType.LABELS], bundle.manifest)


class Codec:
    """Compresses and decompresses with one bundle on one backend. Safe to use from several threads.

    Open one with `Codec.open`.

    Args:
        graphs: the bundle's graphs on a backend.
        limits: what to refuse.

    Attributes:
        graphs: as given.
        bundle: of the graphs.
        limits: as given.
        encoding: memory that compressing an image takes.
        decoding: memory that decompressing a stream takes.
    """

    def __init__(self, graphs: Graphs, limits: Limits) -> None:
        self.graphs = graphs
        self.bundle = graphs.bundle
        self.limits = limits
        infos = self.bundle.manifest.graphs
        self.encoding = encoding_use(infos.values())
        self.decoding = decoding_use([infos["synthesise"]])
        self._networks = networks_use(infos.values())
        self._residual = residual_use(infos.values())
        # What is fixed is taken once, whatever number of images is in work.
        self._budget = MemoryBudget(limits.memory - self._networks.fixed)

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
            bundle: a folder, an opened bundle, or None for the shipped one.
            backend: a name from `oslic backends`, or "auto" for the best that is present.
            threads: CPU threads the networks may use; None leaves it to the backend.
            limits: what to refuse; None for the defaults.
            precision: `fp32`, `fp16`, ...: of the engines, see `backends.Options`; None for the fastest there.
            options: what else the backend is told, such as a time limit; `threads` and `precision` stand above it.

        Raises:
            BundleError: no bundle there, or a damaged one.
            BackendError: the backend is not usable; the message says why.

        Warns:
            PassedOverWarning: "auto" took a slower backend than this machine or this bundle is meant for.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}, must be at least 1")
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle or default_bundle())
        limits = limits or Limits()
        options = options or Options()
        options = replace(
            options,
            threads=threads or options.threads,
            precision=precision or options.precision,
            keep_memory=options.keep_memory and limits.memory >= _ROOMY,
        )
        return cls(Graphs(opened, backend, options), limits)

    def close(self) -> None:
        """Give back what the backend holds."""
        self.graphs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def check_size(self, width: int, height: int, use: MemoryUse) -> None:
        """Refuse an image that is too large, before anything is taken for it.

        Args:
            width: of the image.
            height: of the image.
            use: `encoding` or `decoding`, what the work takes.

        Raises:
            LimitError: too many pixels, or too much memory; the message names a size that fits.
        """
        self.limits.check_pixels(width, height)
        self.limits.check_memory(width, height, use, self.bundle.manifest.multiple)

    def _reserve(self, width: int, height: int, use: MemoryUse) -> AbstractContextManager[None]:
        """Wait until there is memory for this image beside those that other threads work on."""
        return self._budget.reserve(use.at(width * height) - use.fixed)

    # -- encoding --------------------------------------------------------------------------------------------

    def layers(self, image: Pixels, *, keep_invisible: bool = False) -> Layers:
        """Run the networks and code the lossless layers: all that does not depend on the quality.

        Args:
            image: uint8, (H, W), (H, W, 2), (H, W, 3) or (H, W, 4).
            keep_invisible: whether colour under alpha 0 is coded as it is; else by what is cheap.

        Raises:
            ImageError: another shape or dtype.
            LimitError: larger than the limits; the message names a size that fits.
        """
        layout = layout_of(image)
        height, width = image.shape[:2]
        self.check_size(width, height, self.encoding)
        with self._reserve(width, height, self._networks):
            return self._layers(image, layout, keep_invisible)

    def _layers(self, image: Pixels, layout: Layout, keep_invisible: bool) -> Layers:
        height, width = image.shape[:2]
        color, alpha = split(image, layout)
        if alpha is not None and not keep_invisible:
            color = fill_hidden(color, alpha)
            image = join(color, alpha)
        rgb = np.repeat(color[:, :, np.newaxis], 3, axis=2) if layout.is_gray else color
        stages = Stages()
        self.graphs.load(*GRAPH_NAMES)
        # The entropy coder of one layer works beside the network of the next.
        with ThreadPoolExecutor(1) as pool:
            with stages.measure("segment"):
                labels = self.graphs.segment(rgb)
            coded_labels = pool.submit(_encode, labels, stages, "labels")
            with stages.measure("analyse"):
                compact = self.graphs.analyse(rgb, labels)
            coded_compact = pool.submit(_encode, compact, stages, "compact")
            with stages.measure("synthesise"):
                estimate = self.graphs.synthesise(compact, labels, height, width)
            if layout.is_gray:
                estimate = luma(estimate)
            sections = {
                SectionType.LABELS: coded_labels.result(),
                SectionType.COMPACT: coded_compact.result(),
            }
        if alpha is not None:
            sections[SectionType.ALPHA] = _encode(alpha, stages, "alpha")
        return Layers(image, layout, labels, compact, estimate, estimate_digest(estimate), sections, stages)

    def finish(
        self,
        layers: Layers,
        *,
        quality: int,
        speed: int = residual.DEFAULT_SPEED,
        metadata: Metadata | None = None,
    ) -> Encoded:
        """Code the residual and put the stream together.

        Args:
            layers: from `layers`.
            quality: 1..100 for the residual; 0 leaves it out, the reconstruction is then the estimate.
            speed: 0..10 of the residual coder.
            metadata: to carry.

        Raises:
            UsageError: quality or speed out of range.
        """
        check_settings(quality, speed)
        stages = Stages()
        stages.seconds.update(layers.stages.seconds)
        stages.processor.update(layers.stages.processor)
        sections = dict(layers.sections)
        coded = None
        if quality != 0:
            height, width = layers.image.shape[:2]
            with self._reserve(width, height, self._residual), stages.measure("residual"):
                coded = residual.encode(layers.color, layers.estimate, quality=quality, speed=speed)
            sections[SectionType.RESIDUAL] = coded.payload
        if metadata is not None:
            sections |= to_sections(metadata)
        header = stream_header(
            layers.image.shape, layers.layout, self.bundle.manifest.fingerprint, coded, layers.digest
        )
        data = write_stream(header, sections)
        sizes = {kind.name.lower(): len(content) for kind, content in sections.items()}
        overhead = len(data) - sum(sizes.values())
        return Encoded(data, coded, quality, sizes, overhead, stages.seconds, stages.processor)

    def compress(
        self,
        image: Pixels,
        quality: int = DEFAULT_QUALITY,
        *,
        speed: int = residual.DEFAULT_SPEED,
        metadata: Metadata | None = None,
        keep_invisible: bool = False,
    ) -> bytes:
        """Compress an image.

        Args:
            image: uint8, (H, W) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB or (H, W, 4) RGBA.
            quality: 0..100; 0 stores no residual.
            speed: 0..10 of the residual coder: larger is faster and costs bits.
            metadata: to carry.
            keep_invisible: whether colour under alpha 0 is coded as it is; else by what is cheap.

        Returns:
            The `.oslic` file's bytes.

        Raises:
            ImageError: another shape or dtype.
            LimitError: larger than the limits.
            UsageError: quality or speed out of range.
        """
        layers = self.layers(image, keep_invisible=keep_invisible)
        return self.finish(layers, quality=quality, speed=speed, metadata=metadata).data

    def reconstruct(self, layers: Layers, encoded: Encoded) -> Pixels:
        """Return what the decoder will make of `encoded`, in the shape of the image."""
        color = (
            layers.estimate
            if encoded.residual is None
            else residual.decode(encoded.residual, layers.estimate)
        )
        return join(color, split(layers.image, layers.layout)[1])

    # -- decoding --------------------------------------------------------------------------------------------

    def decompress(self, data: bytes, *, strict: bool = False) -> Pixels:
        """Decompress a stream.

        Args:
            data: the `.oslic` file's bytes.
            strict: whether an estimate that is not, bit for bit, the encoder's is an error.

        Returns:
            uint8, the shape that was compressed.

        Raises:
            StreamError: damaged, truncated or of a newer version.
            BundleError: made with another checkpoint.
            LimitError: larger than the limits.
            VerificationError: the digest does not match, and `strict` was asked for.

        Warns:
            DriftWarning: the digest does not match.
        """
        decoded = self.decode(data)
        if not decoded.digest_matches:
            message = (
                f"the estimate differs from the encoder's on {self.graphs.selection.backend.name}: "
                "expect differences of a few grey levels"
            )
            if strict:
                raise VerificationError(f"{message}; without strict decoding this is a warning")
            warnings.warn(message, DriftWarning, stacklevel=2)
        return decoded.image

    def decode(self, data: bytes) -> Decoded:
        """Decompress a stream, and return its layers and times as well. A digest that differs raises nothing."""
        info, parts = read_stream(data, self.limits)
        header = info.header
        _check_fingerprint(header, self.bundle)
        self.check_size(header.width, header.height, self.decoding)
        with self._reserve(header.width, header.height, self.decoding):
            return self._decode(header, parts)

    def _decode(self, header: Header, parts: dict[SectionType, bytes]) -> Decoded:
        stages = Stages()
        height, width = header.height, header.width
        self.graphs.load("synthesise")
        compact_shape = (ceil_div(height, COMPACT_SCALE), ceil_div(width, COMPACT_SCALE), 3)
        with stages.measure("labels"):
            labels = _labels(header, parts[SectionType.LABELS], self.bundle.manifest)
        with stages.measure("compact"):
            compact = decode_plane(
                parts[SectionType.COMPACT], compact_shape, "compact", self.bundle.manifest.levels
            )
        coded = None
        if header.residual_codec is ResidualCodec.AVIF:
            payload = parts[SectionType.RESIDUAL]
            coded = residual.CodedResidual(payload, header.residual_scale, header.residual_weight)
        # What of the residual needs no estimate is decoded beside the network.
        with ThreadPoolExecutor(1) as pool:
            if coded is not None:
                color_shape = (height, width) if header.layout.is_gray else (height, width, 3)
                samples = pool.submit(_decode_residual, coded, color_shape, stages)
            with stages.measure("synthesise"):
                estimate = self.graphs.synthesise(compact, labels, height, width)
            if header.layout.is_gray:
                estimate = luma(estimate)
            color = estimate
            if coded is not None:
                decoded_samples = samples.result()
                with stages.measure("add"):
                    color = residual.add(decoded_samples, coded, estimate)
        alpha = None
        if header.layout.has_alpha:
            with stages.measure("alpha"):
                alpha = decode_plane(parts[SectionType.ALPHA], (height, width), "alpha")
        metadata = from_sections(parts)
        matches = estimate_digest(estimate) == header.digest
        return Decoded(
            join(color, alpha),
            metadata,
            header,
            labels,
            compact,
            estimate,
            matches,
            stages.seconds,
            stages.processor,
        )

    def decode_labels(self, data: bytes) -> Pixels:
        """Return only the label map of a stream, uint8 (ceil(H/S), ceil(W/S)); no network runs."""
        return decode_labels(data, self.bundle, self.limits)


def _labels(header: Header, data: bytes, manifest: Manifest) -> Pixels:
    shape = (ceil_div(header.height, manifest.label_scale), ceil_div(header.width, manifest.label_scale))
    return decode_plane(data, shape, "labels", len(manifest.classes))


def _check_fingerprint(header: Header, bundle: Bundle) -> None:
    ours = bytes.fromhex(bundle.manifest.fingerprint)[:FINGERPRINT_BYTES]
    if header.fingerprint != ours:
        raise BundleError(
            f"the stream was made with the checkpoint {header.fingerprint.hex()}, the bundle "
            f"{bundle.path} holds {ours.hex()} ({bundle.manifest.name}): give the right one with --bundle"
        )


def _encode(plane: Pixels, stages: Stages, name: str) -> bytes:
    with stages.measure(name):
        return encode_plane(plane)


def _decode_residual(coded: residual.CodedResidual, shape: tuple[int, ...], stages: Stages) -> Pixels:
    with stages.measure("residual"):
        return residual.decode_samples(coded, shape)
