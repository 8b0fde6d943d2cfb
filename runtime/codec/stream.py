"""What an `.oslic` stream of the kind `oslic` holds, beside its pixels: networks, sections, label map, metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..bundle.finder import find_bundle, open_bundle
from ..bundle.folder import Bundle
from ..bundle.manifest import OSLIC
from ..errors import BundleError, StreamError
from ..image.arrays import ceil_div
from ..limits import Limits
from .container import Header, SectionType, StreamReader
from .lossless import decode_plane
from .parameters import Parameters, TileRecord
from .tile_networks import compact_shape

if TYPE_CHECKING:
    from pathlib import Path

    from ..image.arrays import Layout, Pixels
    from ..tiling import Grid

_FINGERPRINT_BYTES: Final = 5
_REFINEMENT_BYTES: Final = 3


def identity_of(bundle: Bundle, *, refined: bool = False) -> bytes:
    """The 8 bytes by which a stream names the networks of a bundle.

    Args:
        bundle: whose networks.
        refined: whether the picture is refined.
    """
    fingerprint = bytes.fromhex(bundle.manifest.fingerprint)
    refinement = bytes.fromhex(bundle.manifest.refinement or "") if refined else bytes(_REFINEMENT_BYTES)
    return fingerprint[:_FINGERPRINT_BYTES] + refinement[:_REFINEMENT_BYTES]


def header_of(layout: Layout, identity: bytes, grid: Grid, parameters: Parameters) -> Header:
    """The header of a stream that is to be written.

    Args:
        layout: channels of the picture.
        identity: from `identity_of`.
        grid: size and tiles of the picture.
        parameters: of the whole stream.
    """
    return Header(layout, OSLIC, identity, grid, parameters.to_bytes())


def open_stream(
    data: bytes | bytearray | memoryview, limits: Limits, *, partial: bool = False
) -> StreamReader:
    """A reader of an `.oslic` file's bytes whose sections are the ones that its kind needs.

    Args:
        data: the file.
        limits: what to refuse.
        partial: whether a truncated file is taken.

    Raises:
        StreamError: damaged, truncated, or of another version.
        LimitError: larger than the limits.
    """
    reader = StreamReader.of_bytes(data, limits, partial=partial)
    check_stream(reader)
    return reader


def check_all(reader: StreamReader) -> int:
    """Read every payload of a stream; returns how many checksums were right.

    Raises:
        StreamError: one is not, or an index or a record is damaged.
    """
    count = 1
    for section in reader.info.sections:
        count += section.index > 0
        for tile in range(len(reader.pieces(section.type))):
            reader.payload(section.type, tile)
            count += 1
    return count


def check_stream(reader: StreamReader) -> None:
    """Raise StreamError unless a stream is of the kind `oslic` and has its sections."""
    if reader.header.kind != OSLIC:
        raise StreamError(f"the stream is of the kind {reader.header.kind!r}, not {OSLIC!r}")
    refined = Parameters.from_bytes(reader.header.parameters).refined
    if not refined and any(reader.header.identity[_FINGERPRINT_BYTES:]):
        raise StreamError("the stream names a network that refines it, and is not refined: damaged")
    needed = {SectionType.LABELS, SectionType.COMPACT, SectionType.RESIDUAL}
    if reader.header.layout.has_alpha:
        needed.add(SectionType.ALPHA)
    reader.check_sections(needed)


def read_label_plane(reader: StreamReader, parameters: Parameters, bundle: Bundle) -> Pixels:
    """Decode the label map of an opened stream: uint8 (ceil(H/S), ceil(W/S))."""
    header, scale = reader.header, parameters.label_scale
    shape = ceil_div(header.height, scale), ceil_div(header.width, scale)
    return decode_plane(reader.payload(SectionType.LABELS), shape, "labels", len(bundle.manifest.classes))


def read_record(reader: StreamReader, tile: int, parameters: Parameters) -> TileRecord:
    """The record of a tile's residual.

    Raises:
        StreamError: it is damaged, or of another kind than the stream.
        MissingError: a truncated stream lacks it.
    """
    record = TileRecord.from_bytes(reader.pieces(SectionType.RESIDUAL)[tile].record)
    if record.mode.is_bounded != (parameters.max_error is not None):
        raise StreamError(
            f"tile {tile} is coded losslessly and the stream is not, or the other way round: damaged stream"
        )
    return record


def read_compact_tile(reader: StreamReader, tile: int, bundle: Bundle) -> Pixels:
    """Decode the compact image of a tile of an opened stream: uint8 (ceil(h/8), ceil(w/8), 3), values 0..L-1."""
    box = reader.header.grid.box(tile)
    data = reader.payload(SectionType.COMPACT, tile)
    return decode_plane(data, compact_shape(box.width, box.height), "compact", bundle.manifest.levels)


def fingerprint_of(header: Header) -> bytes:
    """The first 5 bytes of the fingerprint of the bundle that a stream was made with."""
    return header.identity[:_FINGERPRINT_BYTES]


def refinement_of(header: Header) -> bytes:
    """The first 3 bytes of what defines the network that refines a stream's picture; zeros: it is not refined."""
    return header.identity[_FINGERPRINT_BYTES:]


def is_of(header: Header, bundle: Bundle) -> bool:
    """Whether a stream was made with the networks of a bundle."""
    return fingerprint_of(header) == identity_of(bundle)[:_FINGERPRINT_BYTES]


def bundle_for(header: Header, name: str | Path | None) -> Bundle:
    """The bundle of a stream's networks.

    Args:
        header: of the stream.
        name: a folder or the name of a shipped bundle; None: the known one that the stream names.

    Raises:
        BundleError: no known bundle has them, or not the named one.
    """
    if name is None:
        return find_bundle(fingerprint_of(header))
    bundle = open_bundle(name)
    check_identity(header, bundle)
    return bundle


def check_identity(header: Header, bundle: Bundle) -> None:
    """Raise BundleError unless a stream was made with the networks of a bundle."""
    if not is_of(header, bundle):
        raise BundleError(
            f"the stream was made with the networks {fingerprint_of(header).hex()}, the bundle {bundle.path} holds "
            f"{identity_of(bundle)[:_FINGERPRINT_BYTES].hex()} ({bundle.manifest.name}): give the right one with "
            "--bundle"
        )
