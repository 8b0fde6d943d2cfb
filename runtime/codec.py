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

import threading
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self, cast

import numpy as np

from . import flif, residual
from .backends import Options, Runner, select
from .bundle import COMPACT_SCALE, Bundle, GraphName, default_bundle
from .errors import BundleError, ImageError, LimitError, RateError, StreamError, UsageError, VerificationError
from .images import Metadata
from .limits import Limits
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
# Pixels, estimate, residual, samples and the reconstruction, with their temporaries.
_ARRAY_BYTES_PER_PIXEL: Final = 32


class DriftWarning(UserWarning):
    """The decoder's estimate is not, bit for bit, the encoder's."""


class Stages:
    """Seconds of each stage, in the order in which they began.

    Attributes:
        seconds: wall-clock time.
        processor: processor time of the thread that ran the stage, without that of other threads that it used.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.processor: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the time spent inside the `with` block to the stage `name`."""
        self.seconds.setdefault(name, 0.0)
        self.processor.setdefault(name, 0.0)
        start, busy = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start
            self.processor[name] += time.thread_time() - busy


@dataclass(frozen=True)
class Layers:
    """Everything about an image that does not depend on the quality.

    Attributes:
        image: uint8, as given: (H, W), (H, W, 2), (H, W, 3) or (H, W, 4).
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
        return _split(self.image, self.layout)[0]


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
        metadata: ICC and EXIF.
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


def _layout_of(image: Pixels) -> Layout:
    if image.dtype != np.uint8:
        raise ImageError(f"the image has dtype {image.dtype}, must be uint8")
    channels = 1 if image.ndim == 2 else image.shape[2] if image.ndim == 3 else 0
    if channels not in (1, 2, 3, 4) or (image.ndim == 3 and channels == 1):
        raise ImageError(
            f"the image has shape {image.shape}, must be (H, W), (H, W, 2), (H, W, 3) or (H, W, 4)"
        )
    if image.shape[0] < 1 or image.shape[1] < 1:
        raise ImageError(f"the image has shape {image.shape}: both sides must be at least 1")
    return Layout(channels)


def _split(image: Pixels, layout: Layout) -> tuple[Pixels, Pixels | None]:
    """Return colour, (H, W) or (H, W, 3), and alpha, (H, W) or None."""
    if layout is Layout.GRAY_ALPHA:
        return np.ascontiguousarray(image[:, :, 0]), np.ascontiguousarray(image[:, :, 1])
    if layout is Layout.RGBA:
        return np.ascontiguousarray(image[:, :, :3]), np.ascontiguousarray(image[:, :, 3])
    return np.ascontiguousarray(image), None


def _luma(estimate: Pixels) -> Pixels:
    """Luma of RGB, (H, W, 3) -> (H, W), in whole numbers (BT.601 weights in 65536ths, rounded)."""
    red, green, blue = (estimate[:, :, i].astype(np.uint32) for i in range(3))
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16).astype(np.uint8)


def _extend(plane: Pixels, height: int, width: int) -> Pixels:
    """Extend (H, W) or (H, W, C) at the bottom and right to the given size, repeating the edge."""
    below, right = height - plane.shape[0], width - plane.shape[1]
    if below == 0 and right == 0:
        return np.ascontiguousarray(plane)
    return np.pad(plane, ((0, below), (0, right), *((0, 0),) * (plane.ndim - 2)), mode="edge")


def _ceil_div(value: int, divisor: int) -> int:
    return -(-value // divisor)


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


class Codec:
    """Compresses and decompresses with one bundle on one backend. Safe to use from several threads.

    Open one with `Codec.open`.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: str,
        threads: int | None,
        limits: Limits,
        precision: str | None = None,
    ) -> None:
        self.bundle = bundle
        self.limits = limits
        self.selection = select(backend, bundle, Options(threads=threads, precision=precision))
        self._runners: dict[GraphName, Runner] = {}
        self._loading = threading.Lock()

    @classmethod
    def open(
        cls,
        bundle: str | Path | Bundle | None = None,
        backend: str = "auto",
        threads: int | None = None,
        limits: Limits | None = None,
        precision: str | None = None,
    ) -> Codec:
        """Open a codec.

        Args:
            bundle: a folder, an opened bundle, or None for the shipped one.
            backend: a name from `oslic backends`, or "auto" for the best that is present.
            threads: CPU threads the networks may use; None leaves it to the backend.
            limits: what to refuse; None for the defaults.
            precision: `fp32`, `fp16`, ...: of the engines, see `backends.Options`; None for the fastest there.

        Raises:
            BundleError: no bundle there, or a damaged one.
            BackendError: the backend is not usable; the message says why.

        Warns:
            PassedOverWarning: "auto" took a slower backend than this machine or this bundle is meant for.
        """
        if threads is not None and threads < 1:
            raise UsageError(f"threads is {threads}, must be at least 1")
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle or default_bundle())
        return cls(opened, backend, threads, limits or Limits(), precision)

    def close(self) -> None:
        """Give back what the backend holds."""
        for runner in self._runners.values():
            runner.close()
        self._runners.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def load(self, *graphs: GraphName) -> None:
        """Load graphs ahead of their first use, so that it does not count into the first image's time."""
        with self._loading:
            for graph in graphs:
                if graph not in self._runners:
                    self._runners[graph] = self.selection.backend.load(graph)

    def _run(self, graph: GraphName, *inputs: Pixels) -> Pixels:
        self.load(graph)
        output: Pixels = self._runners[graph](*(x[np.newaxis] for x in inputs))[0]
        return output

    def _padded(self, height: int, width: int) -> tuple[int, int]:
        multiple = self.bundle.manifest.multiple
        return _ceil_div(height, multiple) * multiple, _ceil_div(width, multiple) * multiple

    def _check_memory(self, height: int, width: int, graphs: tuple[GraphName, ...]) -> None:
        padded = self._padded(height, width)
        infos = self.bundle.manifest.graphs
        most = max(infos[graph].working_bytes_per_pixel for graph in graphs)
        self.limits.check_memory(padded[1], padded[0], most + _ARRAY_BYTES_PER_PIXEL)

    # -- encoding --------------------------------------------------------------------------------------------

    def segment(self, image: Pixels) -> Pixels:
        """Return the label map as it is stored.

        Args:
            image: uint8 (H, W, 3).

        Returns:
            uint8 (ceil(H/S), ceil(W/S)), values below K.
        """
        height, width = image.shape[:2]
        scale = self.bundle.manifest.label_scale
        labels = self._run("segment", _extend(image, *self._padded(height, width)))
        return np.ascontiguousarray(labels[: _ceil_div(height, scale), : _ceil_div(width, scale)])

    def analyse(self, image: Pixels, labels: Pixels) -> Pixels:
        """Return the compact image as it is stored.

        Args:
            image: uint8 (H, W, 3).
            labels: as `segment` returns them.

        Returns:
            uint8 (ceil(H/8), ceil(W/8), 3), values 0..L-1.
        """
        height, width = image.shape[:2]
        padded = self._padded(height, width)
        compact = self._run("analyse", _extend(image, *padded), self._extended_labels(labels, padded))
        return np.ascontiguousarray(
            compact[: _ceil_div(height, COMPACT_SCALE), : _ceil_div(width, COMPACT_SCALE)]
        )

    def synthesise(self, compact: Pixels, labels: Pixels, height: int, width: int) -> Pixels:
        """Return the estimate.

        Args:
            compact: as `analyse` returns it.
            labels: as `segment` returns them.
            height: of the image.
            width: of the image.

        Returns:
            uint8 (height, width, 3).
        """
        padded = self._padded(height, width)
        extended = _extend(compact, padded[0] // COMPACT_SCALE, padded[1] // COMPACT_SCALE)
        estimate = self._run("synthesise", extended, self._extended_labels(labels, padded))
        return np.ascontiguousarray(estimate[:height, :width])

    def _extended_labels(self, labels: Pixels, padded: tuple[int, int]) -> Pixels:
        scale = self.bundle.manifest.label_scale
        return _extend(labels, padded[0] // scale, padded[1] // scale)

    def layers(self, image: Pixels) -> Layers:
        """Run the networks and code the lossless layers: all that does not depend on the quality.

        Args:
            image: uint8, (H, W), (H, W, 2), (H, W, 3) or (H, W, 4).

        Raises:
            ImageError: another shape or dtype.
            LimitError: larger than the limits; the message names a size that fits.
        """
        layout = _layout_of(image)
        height, width = image.shape[:2]
        self.limits.check_pixels(width, height)
        self._check_memory(height, width, ("segment", "analyse", "synthesise"))
        color, alpha = _split(image, layout)
        rgb = np.repeat(color[:, :, np.newaxis], 3, axis=2) if layout.is_gray else color
        stages = Stages()
        self.load("segment", "analyse", "synthesise")
        # The entropy coder of one layer works beside the network of the next.
        with ThreadPoolExecutor(1) as pool:
            with stages.measure("segment"):
                labels = self.segment(rgb)
            coded_labels = pool.submit(_encode_flif, labels, stages, "labels")
            with stages.measure("analyse"):
                compact = self.analyse(rgb, labels)
            coded_compact = pool.submit(_encode_flif, _drop_equal_planes(compact), stages, "compact")
            with stages.measure("synthesise"):
                estimate = self.synthesise(compact, labels, height, width)
            if layout.is_gray:
                estimate = _luma(estimate)
            sections = {
                SectionType.LABELS: coded_labels.result(),
                SectionType.COMPACT: coded_compact.result(),
            }
        if alpha is not None:
            sections[SectionType.ALPHA] = _encode_flif(alpha, stages, "alpha")
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
            metadata: ICC and EXIF to carry.
        """
        stages = Stages()
        stages.seconds.update(layers.stages.seconds)
        stages.processor.update(layers.stages.processor)
        sections = dict(layers.sections)
        coded = None
        if quality != 0:
            with stages.measure("residual"):
                coded = residual.encode(layers.color, layers.estimate, quality=quality, speed=speed)
            sections[SectionType.RESIDUAL] = coded.payload
        if metadata is not None:
            known = {SectionType.ICC: metadata.icc, SectionType.EXIF: metadata.exif}
            sections |= {kind: content for kind, content in known.items() if content}
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
    ) -> bytes:
        """Compress an image.

        Args:
            image: uint8, (H, W) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB or (H, W, 4) RGBA.
            quality: 0..100; 0 stores no residual.
            speed: 0..10 of the residual coder: larger is faster and costs bits.
            metadata: ICC and EXIF to carry.

        Returns:
            The `.oslic` file's bytes.

        Raises:
            ImageError: another shape or dtype.
            LimitError: larger than the limits.
            UsageError: quality or speed out of range.
        """
        return self.finish(self.layers(image), quality=quality, speed=speed, metadata=metadata).data

    def reconstruct(self, layers: Layers, encoded: Encoded) -> Pixels:
        """Return what the decoder will make of `encoded`, in the shape of the image."""
        color = (
            layers.estimate
            if encoded.residual is None
            else residual.decode(encoded.residual, layers.estimate)
        )
        return _join(color, _split(layers.image, layers.layout)[1])

    def search(
        self,
        layers: Layers,
        *,
        bits_per_pixel: float | None = None,
        min_psnr: float | None = None,
        speed: int = residual.DEFAULT_SPEED,
        metadata: Metadata | None = None,
    ) -> Encoded:
        """Find the quality that meets a target.

        The highest one that takes at most `bits_per_pixel`, or the lowest one that gives at least `min_psnr` dB:
        exactly one of them is given. The networks are not run again.

        Raises:
            RateError: below the floor of labels and compact image, or above what quality 100 reaches.
        """
        if (bits_per_pixel is None) == (min_psnr is None):
            raise UsageError("give either a number of bits per pixel or a PSNR")
        pixels = int(layers.image.shape[0]) * int(layers.image.shape[1])
        tried: dict[int, Encoded] = {}

        def attempt(quality: int) -> Encoded:
            if quality not in tried:
                tried[quality] = self.finish(layers, quality=quality, speed=speed, metadata=metadata)
            return tried[quality]

        def fits(quality: int) -> bool:
            """Whether the target is *not yet* passed at this quality; true, then false, as quality grows."""
            encoded = attempt(quality)
            if bits_per_pixel is not None:
                return len(encoded.data) * 8 <= bits_per_pixel * pixels
            assert min_psnr is not None
            return psnr(layers.image, self.reconstruct(layers, encoded)) < min_psnr

        if bits_per_pixel is not None and not fits(0):
            parts = ", ".join(f"{k} {v * 8 / pixels:.4f}" for k, v in attempt(0).section_bytes.items())
            raise RateError(
                f"{bits_per_pixel} bpp is below the floor of this image, {len(attempt(0).data) * 8 / pixels:.4f} bpp "
                f"({parts}): labels and compact image cost that much before any residual"
            )
        if min_psnr is not None and not fits(0):
            return attempt(0)
        low, high = 0, residual.MAX_QUALITY + 1  # fits(low) is true; high counts as passed
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if fits(middle) else (low, middle)
        if bits_per_pixel is not None:
            return attempt(low)
        if high > residual.MAX_QUALITY:
            reached = psnr(layers.image, self.reconstruct(layers, attempt(low)))
            raise RateError(f"{min_psnr} dB is out of reach: quality {low} gives {reached:.2f} dB")
        return attempt(high)

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
                f"the estimate differs from the encoder's on {self.selection.backend.name}: "
                "expect differences of a few grey levels"
            )
            if strict:
                raise VerificationError(f"{message}; without strict decoding this is a warning")
            warnings.warn(message, DriftWarning, stacklevel=2)
        return decoded.image

    def decode(self, data: bytes) -> Decoded:
        """Decompress a stream, and return its layers and times as well. A digest that differs raises nothing."""
        stages = Stages()
        info, parts = read_stream(data, self.limits)
        header = info.header
        self._check_fingerprint(header)
        height, width = header.height, header.width
        self._check_memory(height, width, ("synthesise",))
        self.load("synthesise")
        scale = self.bundle.manifest.label_scale
        label_shape = (_ceil_div(height, scale), _ceil_div(width, scale))
        compact_shape = (_ceil_div(height, COMPACT_SCALE), _ceil_div(width, COMPACT_SCALE))
        with stages.measure("labels"):
            labels = _decode_flif(parts[SectionType.LABELS], label_shape, "labels")
        with stages.measure("compact"):
            compact = _decode_flif(parts[SectionType.COMPACT], compact_shape, "compact")
        self._check_values(labels, len(self.bundle.manifest.classes), "labels")
        self._check_values(compact, self.bundle.manifest.levels, "compact")
        if compact.ndim == 2:
            compact = np.repeat(compact[:, :, np.newaxis], 3, axis=2)
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
                estimate = self.synthesise(compact, labels, height, width)
            if header.layout.is_gray:
                estimate = _luma(estimate)
            color = estimate
            if coded is not None:
                decoded_samples = samples.result()
                with stages.measure("add"):
                    color = residual.add(decoded_samples, coded, estimate)
        alpha = None
        if header.layout.has_alpha:
            with stages.measure("alpha"):
                alpha = _decode_flif(parts[SectionType.ALPHA], (height, width), "alpha")
        metadata = Metadata(parts.get(SectionType.ICC, b""), parts.get(SectionType.EXIF, b""))
        matches = estimate_digest(estimate) == header.digest
        return Decoded(
            _join(color, alpha),
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
        info, parts = read_stream(data, self.limits)
        self._check_fingerprint(info.header)
        scale = self.bundle.manifest.label_scale
        shape = (_ceil_div(info.header.height, scale), _ceil_div(info.header.width, scale))
        labels = _decode_flif(parts[SectionType.LABELS], shape, "labels")
        self._check_values(labels, len(self.bundle.manifest.classes), "labels")
        return labels

    def _check_fingerprint(self, header: Header) -> None:
        ours = bytes.fromhex(self.bundle.manifest.fingerprint)[:FINGERPRINT_BYTES]
        if header.fingerprint != ours:
            raise BundleError(
                f"the stream was made with the checkpoint {header.fingerprint.hex()}, the bundle "
                f"{self.bundle.path} holds {ours.hex()} ({self.bundle.manifest.name}): give the right one with --bundle"
            )

    @staticmethod
    def _check_values(plane: Pixels, count: int, what: str) -> None:
        largest = int(plane.max())
        if largest >= count:
            raise StreamError(
                f"the {what} section holds the value {largest}, the bundle has {count}: damaged stream"
            )


def _drop_equal_planes(compact: Pixels) -> Pixels:
    """Return (H, W) if the three planes are equal, as they can be for gray images; else the input."""
    first = compact[:, :, :1]
    return compact[:, :, 0].copy() if bool((compact == first).all()) else compact


def _encode_flif(plane: Pixels, stages: Stages, name: str) -> bytes:
    with stages.measure(name):
        # The container has checksums of its own.
        return flif.encode(plane, crc=False)


def _decode_residual(coded: residual.CodedResidual, shape: tuple[int, ...], stages: Stages) -> Pixels:
    with stages.measure("residual"):
        return residual.decode_samples(coded, shape)


def _decode_flif(data: bytes, shape: tuple[int, int], name: str) -> Pixels:
    """Decode a FLIF section; its size is checked before its pixels are."""
    try:
        found = flif.read_header(data)
        if (found.height, found.width) != shape:
            raise StreamError(
                f"the {name} section is {found.width}x{found.height}, the header calls for {shape[1]}x{shape[0]}"
            )
        plane = flif.decode(data, max_pixels=shape[0] * shape[1])
    except (flif.FlifError, LimitError) as error:
        raise StreamError(f"the {name} section is damaged: {error}") from error
    channels_fit = plane.ndim == 2 or (name == "compact" and plane.shape[2] == 3)
    if plane.dtype != np.uint8 or not channels_fit:
        raise StreamError(
            f"the {name} section has shape {plane.shape} and dtype {plane.dtype}: damaged stream"
        )
    return cast("Pixels", plane)


def _join(color: Pixels, alpha: Pixels | None) -> Pixels:
    if alpha is None:
        return color
    return np.dstack([color, alpha])


def psnr(image: Pixels, other: Pixels) -> float:
    """Return the PSNR over all channels of two uint8 images of one shape, in dB; infinite for equal ones."""
    difference = np.subtract(image, other, dtype=np.float32)
    error = float(np.mean(difference * difference))
    return float("inf") if error == 0 else 10 * float(np.log10(255 * 255 / error))
