"""What a stream of any kind but `oslic` holds beside the kind's own sections. See docs/reference/stream.md."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ..codec.container import DIGEST_BYTES, IDENTITY_BYTES, Header, SharedSection, StreamReader
from ..errors import BundleError, StreamError

if TYPE_CHECKING:
    from ..bundle.folder import Bundle
    from ..image.arrays import Layout
    from ..tiling import Grid
    from .contract import LearnedCodec

_MOST_PACKAGE: Final = 64
_MOST_CHECKS: Final = 64


def identity_of(bundle: Bundle) -> bytes:
    """The 8 bytes by which a stream names the networks of a bundle: the beginning of its fingerprint."""
    return bytes.fromhex(bundle.manifest.fingerprint)[:IDENTITY_BYTES]


def header_of(layout: Layout, bundle: Bundle, grid: Grid) -> Header:
    """The header of a stream that is to be written.

    Args:
        layout: channels of the picture.
        bundle: whose networks make it.
        grid: size and tiles of the picture.
    """
    manifest = bundle.manifest
    package = manifest.package.encode("ascii", "ignore")[:_MOST_PACKAGE]
    return Header(layout, manifest.kind, identity_of(bundle), grid, package)


def package_of(header: Header) -> str:
    """Name of the distribution that brings a stream's kind; "": this one, or nobody says.

    Raises:
        StreamError: it is no name.
    """
    name = header.parameters.decode("ascii", "replace")
    if len(name) > _MOST_PACKAGE or not all(c.isascii() and (c.isalnum() or c in "-_.") for c in name):
        raise StreamError("the name of the package that brings the stream's kind is none: damaged stream")
    return name


def check_identity(header: Header, bundle: Bundle) -> None:
    """Raise BundleError unless a stream was made with the networks of a bundle."""
    manifest = bundle.manifest
    if header.kind != manifest.kind:
        raise BundleError(
            f"the stream is of the kind {header.kind!r}, the bundle {bundle.path} of {manifest.kind!r}: give the right "
            "one with --bundle"
        )
    if header.identity != identity_of(bundle):
        raise BundleError(
            f"the stream was made with the networks {header.identity.hex()}, the bundle {bundle.path} holds "
            f"{identity_of(bundle).hex()} ({manifest.name}): give the right one with --bundle"
        )


def check_sections(reader: StreamReader, kind: type[LearnedCodec]) -> None:
    """Raise StreamError unless a stream has the critical sections that its kind and its layout need."""
    needed = set(kind.sections.values())
    if reader.header.layout.has_alpha:
        needed.add(SharedSection.ALPHA)
    if reader.has(SharedSection.CHECKS):  # a kind need not check anything
        needed.add(SharedSection.CHECKS)
    reader.check_sections(needed)


def read_sections(reader: StreamReader, kind: type[LearnedCodec], tile: int) -> Mapping[str, bytes]:
    """A tile's sections by name, their checksums verified."""
    return {name: reader.payload(number, tile) for name, number in kind.sections.items()}


def read_checks(reader: StreamReader, tile: int) -> tuple[bytes, ...]:
    """Digests of what the encoder had checked in a tile.

    Raises:
        StreamError: they are no digests, or more than anybody needs.
    """
    if not reader.has(SharedSection.CHECKS):
        return ()
    data = reader.payload(SharedSection.CHECKS, tile)
    if len(data) % DIGEST_BYTES or len(data) > _MOST_CHECKS * DIGEST_BYTES:
        raise StreamError(f"the checks of tile {tile} have {len(data)} bytes: damaged stream")
    return tuple(data[i : i + DIGEST_BYTES] for i in range(0, len(data), DIGEST_BYTES))
