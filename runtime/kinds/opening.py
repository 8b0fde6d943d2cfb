"""Codecs of any kind by the same name, and the right one for each stream."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Protocol, Self

from ..backends import Options
from ..bundle.finder import find_bundle, open_bundle
from ..bundle.folder import Bundle
from ..bundle.manifest import OSLIC
from ..codec import Codec
from ..codec.codec import backend_options
from ..errors import BundleError
from ..limits import Limits
from .registry import find_kind
from .stream import package_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ..codec.container import Header
    from ..codec.picture_source import PictureSource
    from ..codec.request import Request
    from ..codec.stream_source import StreamSource
    from ..image.arrays import Layout, Pixels
    from ..image.metadata import Metadata
    from ..memory import MemoryUse
    from ..tiling import Grid


class AnyEncoded(Protocol):
    """A finished stream of any kind; see `KindEncoded`."""

    @property
    def data(self) -> bytes: ...  # noqa: D102
    @property
    def image(self) -> Pixels: ...  # noqa: D102
    @property
    def layout(self) -> Layout: ...  # noqa: D102
    @property
    def grid(self) -> Grid: ...  # noqa: D102
    @property
    def section_bytes(self) -> dict[str, int]: ...  # noqa: D102
    @property
    def overhead_bytes(self) -> int: ...  # noqa: D102
    @property
    def stages(self) -> dict[str, float]: ...  # noqa: D102
    @property
    def processor(self) -> dict[str, float]: ...  # noqa: D102
    def details(self) -> dict[str, Any]: ...  # noqa: D102


class AnyDecoded(Protocol):
    """A decoded stream of any kind; see `KindDecoded`."""

    @property
    def image(self) -> Pixels: ...  # noqa: D102
    @property
    def metadata(self) -> Metadata: ...  # noqa: D102
    @property
    def header(self) -> Header: ...  # noqa: D102
    @property
    def missing(self) -> Mapping[str, tuple[int, ...]]: ...  # noqa: D102
    @property
    def digest_matches(self) -> bool | None: ...  # noqa: D102
    @property
    def drift(self) -> str | None: ...  # noqa: D102
    @property
    def is_wrong(self) -> bool: ...  # noqa: D102
    @property
    def refinement_note(self) -> str | None: ...  # noqa: D102
    @property
    def stages(self) -> dict[str, float]: ...  # noqa: D102
    @property
    def processor(self) -> dict[str, float]: ...  # noqa: D102


class AnyCodec(Protocol):
    """A codec of any kind: `Codec` or `KindCodec`, which say what the methods do."""

    limits: Limits
    bundle: Bundle
    encoding: MemoryUse
    decoding: MemoryUse

    @property
    def backend(self) -> str: ...  # noqa: D102
    def encode(self, image: PictureSource, request: Request | None = None) -> AnyEncoded: ...  # noqa: D102
    def reconstruct(self, encoded: Any) -> Pixels: ...  # noqa: D102
    def decode(  # noqa: D102
        self,
        data: StreamSource,
        *,
        region: tuple[int, int, int, int] | None = None,
        layer: Any = "image",
        partial: bool = False,
        with_estimate: bool = False,
    ) -> AnyDecoded: ...
    def close(self) -> None: ...  # noqa: D102
    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...


def open_codec(
    bundle: str | Path | Bundle | None = None,
    backend: str = "auto",
    threads: int | None = None,
    limits: Limits | None = None,
    precision: str | None = None,
    *,
    options: Options | None = None,
) -> AnyCodec:
    """Open a codec of whatever kind the bundle is.

    Args:
        bundle: a folder, the name of a shipped bundle, an opened one, or None for the default one.
        backend: a name from `oslic backends`, or "auto" for the best that is present.
        threads: CPU threads the networks may use; None leaves it to the backend.
        limits: what to refuse; None for the defaults.
        precision: of the engines; None for the fastest there.
        options: what else the backend is told.

    Raises:
        BundleError: no bundle there, a damaged one, or one of a kind that is not installed.
        BackendError: the backend is not usable; the message says why.
        DependencyError: the kind needs a package that is not installed.
    """
    if bundle is None:  # the default one is of ours
        return Codec.open(None, backend, threads, limits, precision, options=options)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    if opened.manifest.kind == OSLIC:
        return Codec.open(opened, backend, threads, limits, precision, options=options)
    limits = limits or Limits()
    from .codec import KindCodec  # streams of the kind `oslic` start faster without it

    return KindCodec(opened, backend, limits, backend_options(threads, precision, limits, options))


class Codecs:
    """The codec that was asked for, and one for each stream.

    Args:
        bundle: a folder or the name of a shipped bundle: all streams must be of it; None: the default one compresses,
            and streams are decoded with the networks that they name, if a known bundle has them.
        backend: as for `open_codec`; so are the others.

    Attributes:
        first: the codec of the bundle.
        limits: what is refused.

    Raises:
        as `open_codec`.
    """

    def __init__(
        self,
        bundle: str | Path | None,
        backend: str,
        *,
        threads: int | None,
        limits: Limits,
        precision: str | None,
        options: Options,
    ) -> None:
        self.first = open_codec(bundle, backend, threads, limits, precision, options=options)
        self.limits = limits
        self._is_named = bundle is not None
        self._settings = (backend, threads, limits, precision)
        self._options = options
        self._others: dict[bytes, AnyCodec] = {}
        self._lock = threading.Lock()

    def for_stream(self, header: Header) -> AnyCodec:
        """The codec that decodes a stream.

        Raises:
            BundleError: its kind is not installed, or no known bundle has its networks.
            DependencyError: its kind needs a package that is not installed.
        """
        if self._is_named or header.kind == OSLIC:
            if header.kind != OSLIC and isinstance(self.first, Codec):
                find_kind(header.kind, package_of(header))
                raise BundleError(
                    f"the stream is of the kind {header.kind!r}, the bundle {self.first.bundle.path} of {OSLIC!r}: "
                    "give the right one with --bundle"
                )
            return self.first
        with self._lock:
            key = header.identity
            if key not in self._others:
                find_kind(header.kind, package_of(header))
                self._others[key] = open_codec(find_bundle(key), *self._settings, options=self._options)
            return self._others[key]

    def close(self) -> None:
        """Give back what the backends hold."""
        for codec in (self.first, *self._others.values()):
            codec.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
