"""A second reader, written from docs/reference/stream.md alone, sees and refuses the same as the runtime."""

from __future__ import annotations

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_bundle
import stream_reader
from oslic.runtime._native import crc32c
from oslic.runtime.codec import Codec, Settings
from oslic.runtime.codec.container import Payload, SectionType, StreamReader, varint
from oslic.runtime.codec.metadata_sections import read_metadata
from oslic.runtime.codec.parameters import Parameters, ResidualMode, TileRecord
from oslic.runtime.codec.stream import check_all, check_stream, read_label_plane, read_record
from oslic.runtime.errors import OslicError
from oslic.runtime.image.arrays import Layout
from oslic.runtime.image.metadata import Metadata, Resolution, Unit
from oslic.runtime.limits import Limits
from oslic.runtime.segmentation_size import reduce_image
from PIL import Image
from stream_tools import changed, put_together, take_apart, with_record

FAST = 0
LIMITS = Limits(memory=1 << 30)
COLOR = (
    (b"cICP", bytes((9, 16, 0, 1))),
    (b"sRGB", b"\0"),
    (b"gAMA", (45455).to_bytes(4, "big")),
    (b"cHRM", bytes(range(32))),
)
EVERYTHING = Metadata(
    icc=bytes(range(200)) * 3,
    exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0",
    xmp="<x:xmpmeta>\u00e4</x:xmpmeta>".encode(),
    color=COLOR,
    resolution=Resolution(300, 299, Unit.INCH),
)


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    bundle = small_bundle.write(tmp_path_factory.mktemp("bundles") / "small")
    with Codec.open(bundle, threads=1) as opened:
        yield opened


def picture(photo, width, height, layout):
    """A photograph of some size, uint8 in one of the layouts."""
    rgb = np.asarray(Image.fromarray(photo).resize((width, height)))
    planes = {
        Layout.GRAY: rgb[..., 0],
        Layout.GRAY_ALPHA: rgb[..., :2],
        Layout.RGB: rgb,
        Layout.RGBA: np.dstack([rgb, 255 - rgb[..., 1]]),
    }
    return np.ascontiguousarray(planes[layout])


class Rows:
    """An array as a source of rows."""

    def __init__(self, image):
        self.image, self.row = image, 0
        self.height, self.width = image.shape[:2]
        self.layout = Layout.RGB

    def reduced(self, factor):
        return reduce_image(self.image, factor)

    def rows(self, count):
        self.row += count
        return self.image[self.row - count : self.row]


def runtime_reads(data):
    """Everything that the runtime checks without decoding a picture."""
    reader = StreamReader.of_bytes(data, LIMITS)
    check_stream(reader)
    check_all(reader)
    parameters = Parameters.from_bytes(reader.header.parameters)
    for tile in range(reader.header.grid.count):
        read_record(reader, tile, parameters)
    read_metadata(reader)
    return reader


def assert_same(data):
    """Both readers say the same of a stream, and the second one has walked all of it."""
    ours, other = runtime_reads(data), stream_reader.read(data)
    header, grid = ours.header, ours.header.grid
    parameters = Parameters.from_bytes(header.parameters)
    assert other.walked == len(data)
    assert other.header == ours.info.header_bytes
    assert (other.width, other.height, other.layout) == (header.width, header.height, header.layout)
    assert (other.kind, other.identity) == (header.kind, header.identity)
    assert other.tiled is grid.is_tiled
    assert other.boxes() == [
        (box.left, box.top, box.right, box.bottom) for box in map(grid.box, range(grid.count))
    ]
    assert (other.quality, other.label_scale) == (parameters.quality, parameters.label_scale)
    assert bool(other.flags & 2) is parameters.visual
    assert bool(other.flags & 16) is parameters.exact
    assert other.bound == parameters.max_error
    if grid.is_tiled:
        assert (other.tile, other.halo) == ((grid.tile_width, grid.tile_height), grid.halo)
    assert list(other.sections) + list(other.unknown) == [section.type for section in ours.info.sections]
    # Where each byte of the file belongs: no gap, no overlap, nothing behind.
    covered = [(0, other.header)]
    for section in ours.info.sections:
        if section.type in other.unknown:
            assert other.unknown[section.type] == ours.payload(section.type)
            covered.append((section.offset, section.end))
            continue
        found = other.sections[section.type]
        assert (found.offset, found.length, found.index) == (section.offset, section.length, section.index)
        covered.append((found.offset, found.offset + found.index))
        pieces = ours.pieces(section.type)
        assert len(found.pieces) == len(pieces)
        for tile, (piece, expected) in enumerate(zip(found.pieces, pieces, strict=True)):
            assert piece.offset == expected.offset
            assert piece.data == ours.payload(section.type, tile)
            covered.append((piece.offset, piece.offset + len(piece.data)))
            if piece.record is None:
                assert expected.record == b""
                continue
            record = TileRecord.from_bytes(expected.record)
            assert (piece.record.mode, piece.record.scale) == (record.mode, record.scale)
            assert (piece.record.weight, piece.record.plain) == (record.weight, record.plain)
            assert piece.record.unrefined == record.unrefined
            assert piece.record.estimate == record.estimate_digest
            assert piece.record.residual == record.residual_digest
    ends = [0, *(end for _, end in covered)]
    assert [start for start, _ in covered] == ends[:-1]
    assert ends[-1] == len(data)
    return other


def assert_both_refuse(data):
    with pytest.raises(OslicError):
        runtime_reads(data)
    with pytest.raises(stream_reader.Refused):
        stream_reader.read(data)


def test_it_stands_alone():
    """It imports the standard library only, and its checksum is that of the runtime."""
    path = Path(stream_reader.__file__)
    assert len(path.read_text(encoding="utf-8").splitlines()) < 340
    code = (
        f"import sys; before = set(sys.modules); sys.path.insert(0, {str(path.parent)!r}); import stream_reader; "
        "print(sorted(m for m in set(sys.modules) - before if m.split('.')[0] not in sys.stdlib_module_names))"
    )
    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['stream_reader']"
    for data in (b"", b"123456789", bytes(range(256))):
        assert stream_reader.crc(data) == crc32c(data).to_bytes(4, "little")


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize(
    ("size", "quality"), [((1, 1), 60), ((37, 53), 0), ((129, 65), 12.25), ((64, 33), 100)]
)
def test_whole_pictures(codec, photo, size, quality, layout):
    data = codec.compress(picture(photo, *size, layout), quality, effort=FAST)
    found = assert_same(data)
    assert (found.width, found.height, found.quality) == (*size, quality)
    assert not found.tiled
    (residual,) = found.sections[stream_reader.RESIDUAL].pieces
    assert (residual.record.mode == ResidualMode.NONE) is (quality == 0)
    assert (residual.data == b"") is (quality == 0)


@pytest.mark.parametrize("layout", list(Layout))
def test_pictures_of_several_tiles(codec, photo, layout):
    image = picture(photo, 451, 301, layout)
    for quality in (0, 45):
        made = codec.layers(image, tile=192, halo=32)
        found = assert_same(codec.finish(made, quality=quality, effort=FAST).data)
        assert found.tiled
        assert len(found.sections[stream_reader.COMPACT].pieces) == made.grid.count > 1


@pytest.mark.parametrize("layout", list(Layout))
@pytest.mark.parametrize("bound", [0, 1, 16])
def test_lossless_and_near_lossless(codec, photo, layout, bound):
    request = {"max_error": bound} if bound else {"lossless": True}
    found = assert_same(codec.compress(picture(photo, 61, 47, layout), effort=FAST, **request))
    (residual,) = found.sections[stream_reader.RESIDUAL].pieces
    assert (found.bound, residual.record.mode) == (bound, ResidualMode.FLIF_PICTURE)


def test_bounds_are_judged_behind_a_right_checksum(codec, photo):
    data = codec.compress(picture(photo, 61, 47, Layout.RGB), effort=FAST, max_error=3)
    assert stream_reader.read(data).bound == 3
    # 13 flags, 14:16 quality, 16 label scale, 17 the bound.
    assert with_body(data, lambda body: body) == data
    assert_both_refuse(with_body(data, lambda body: body[:17] + bytes([17]) + body[18:]))
    for flag in (1, 2):
        assert_both_refuse(with_body(data, lambda body, flag=flag: body[:13] + bytes([4 | flag]) + body[14:]))
    lossy = with_body(data, lambda body: body[:12] + bytes([4, 0]) + body[14:17] + body[18:])
    assert_both_refuse(lossy)
    assert_both_refuse(with_record(data, weight=1))
    assert_both_refuse(with_record(data, scale=2))


def test_streams_written_strip_by_strip(codec, photo):
    image = picture(photo, 1210, 1003, Layout.RGB)
    file = io.BytesIO()
    codec.compress_rows(Rows(image), file, Settings(30, FAST))
    assert assert_same(file.getvalue()).tiled


@pytest.mark.parametrize(
    "metadata",
    [
        EVERYTHING,
        *(Metadata(**{key: getattr(EVERYTHING, key)}) for key in ("icc", "exif", "xmp", "resolution")),
        *(Metadata(color=COLOR[i : i + 2]) for i in range(4)),
    ],
    ids=str,
)
def test_metadata(codec, photo, metadata):
    data = codec.compress(picture(photo, 48, 40, Layout.RGB), 20, effort=FAST, metadata=metadata)
    found = assert_same(data)

    def content(kind):
        return found.sections[kind].pieces[0].data if kind in found.sections else b""

    assert content(stream_reader.ICC) == metadata.icc
    assert content(stream_reader.EXIF) == metadata.exif
    assert content(stream_reader.XMP) == metadata.xmp
    assert content(stream_reader.COLOR) == b"".join(name + value for name, value in metadata.color)
    assert (content(stream_reader.RESOLUTION) == b"") is (metadata.resolution is None)


def test_unknown_ancillary_sections_are_skipped_by_both(stream):
    header, parts = take_apart(stream)
    data = put_together(header, {**parts, 0xC3: [Payload(b"later")]})
    assert assert_same(data).unknown == {0xC3: b"later"}
    data = data[:8] + b"\x21" + data[9:]
    end = 10 + data[9]
    assert_same(data[:end] + crc32c(data[:end]).to_bytes(4, "little") + data[end + 4 :])


@pytest.fixture(scope="module")
def stream(codec, photo):
    image = picture(photo, 61, 47, Layout.RGB)
    return codec.compress(image, 40, effort=FAST, metadata=EVERYTHING)


@pytest.fixture(scope="module")
def tiled(codec, photo):
    made = codec.layers(picture(photo, 251, 190, Layout.RGBA), tile=96, halo=32)
    return codec.finish(made, quality=20, effort=FAST).data


@pytest.mark.parametrize("name", ["stream", "tiled"])
def test_flipped_bytes_are_refused_by_both(name, request):
    data = request.getfixturevalue(name)
    info = stream_reader.read(data)
    places = list(range(info.header))
    for section in info.sections.values():
        places += range(section.offset, section.offset + section.index)
        places += [section.offset + section.index, section.offset + section.length - 1]
    for place in places:
        if section.length:
            assert_both_refuse(data[:place] + bytes([data[place] ^ 0x11]) + data[place + 1 :])


@pytest.mark.parametrize("name", ["stream", "tiled"])
def test_cut_and_lengthened_files_are_refused_by_both(name, request):
    data = request.getfixturevalue(name)
    for length in (0, 5, 9, 10, 40, len(data) // 2, len(data) - 1):
        assert_both_refuse(data[:length])
    assert_both_refuse(data + b"\0")


def with_body(data, change):
    """A stream with another body of its header, and a right checksum."""
    cursor = stream_reader.Cursor(data, 9, len(data), "the file")
    body = change(cursor.take(cursor.varint()))
    head = data[:9] + varint(len(body)) + body
    return head + crc32c(head).to_bytes(4, "little") + data[cursor.at + 4 :]


# The body of the plain stream: 0 width, 1 height, 2 layout, 3 kind, 4:12 identity, 12 length of the parameters, 13
# flags, 14:16 quality (160), 16 label scale, 17 type of the labels, 18 their length, ...
@pytest.mark.parametrize(
    ("at", "old", "new"),
    [
        (0, 1, b"\x00"),
        (0, 1, b"\xbd\x00"),
        (0, 1, b"\x81\x80\x80\x80\x08"),
        (0, 1, b"\x80" * 9 + b"\x01"),
        (2, 1, b"\x00"),
        (2, 1, b"\x05"),
        (2, 1, b"\x13"),
        (2, 1, b"\x83"),
        (2, 1, b"\x0b"),
        (3, 1, b"\x03abc"),
        (3, 1, b"\x21"),
        (12, 1, b"\x03"),
        (12, 1, b"\x05"),
        (13, 1, b"\x04"),
        (13, 1, b"\x08"),
        (13, 1, b"\x20"),
        (14, 2, b"\x91\x03"),
        (16, 1, b"\x00"),
        (17, 1, b"\x05"),
        (17, 1, b"\x00"),
        (17, 1, b"\x02"),
        (18, 1, b"\x00"),
    ],
)
def test_fields_are_judged_behind_a_right_checksum(stream, at, old, new):
    plain = stream_reader.read(stream)
    assert with_body(stream, lambda body: body) == stream
    assert plain.quality == 40
    assert_both_refuse(with_body(stream, lambda body: body[:at] + new + body[at + old :]))


def test_grids_are_judged_behind_a_right_checksum(tiled):
    # 0:2 width, 2:4 height, 4 layout, 5 kind, 6:14 identity, then width and height of a tile, and halo.
    found = stream_reader.read(tiled)
    assert (found.width, found.height) == (251, 190)
    assert with_body(tiled, lambda body: body)[:40] == tiled[:40]
    for grid in (
        b"\x00\x03\x01",
        b"\x03\x00\x01",
        b"\x03\x03\x04",
        b"\x08\x06\x01",
        b"\x02\x03\x01",
        b"\x83\x00\x03\x01",
    ):
        assert_both_refuse(with_body(tiled, lambda body, grid=grid: body[:14] + grid + body[17:]))


def with_index(data, kind, change):
    """A stream with another index of a section, and right checksums and lengths in the header."""
    section = stream_reader.read(data).sections[kind]
    index = data[section.offset : section.offset + section.index]
    changed_index = change(index)
    old = varint(section.index) + varint(section.length) + stream_reader.crc(index)
    extra = len(changed_index) - len(index)
    new = varint(section.index + extra) + varint(section.length + extra) + stream_reader.crc(changed_index)
    whole = data[: section.offset] + changed_index + data[section.offset + section.index :]
    return with_body(whole, lambda body: body.replace(old, new))


def test_indices_are_judged_behind_a_right_checksum(tiled):
    kind = stream_reader.COMPACT
    assert with_index(tiled, kind, lambda index: index) == tiled
    changes = (
        lambda index: bytes([index[0] + 1]) + index[1:],
        lambda index: bytes([index[0] - 1]) + index[1:],
        lambda index: index + b"\0",
        lambda index: index[:-1],
        lambda index: index[5:] + index[:5],
    )
    for change in changes:
        assert_both_refuse(with_index(tiled, kind, change))


def test_sections_must_be_those_of_the_picture(stream, tiled):
    for data in (stream, tiled):
        header, parts = take_apart(data)
        for kind in (SectionType.LABELS, SectionType.COMPACT, SectionType.RESIDUAL):
            assert_both_refuse(put_together(header, {k: v for k, v in parts.items() if k != kind}))
    header, parts = take_apart(tiled)
    assert_both_refuse(put_together(replace(header, layout=Layout.RGB), parts))
    assert_both_refuse(put_together(header, {k: v for k, v in parts.items() if k != SectionType.ALPHA}))


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        (SectionType.COLOR, b"gAMA\0\0\0\1sRGB\0"),
        (SectionType.COLOR, b"sRGB\0sRGB\0"),
        (SectionType.COLOR, b"tEXt\0"),
        (SectionType.COLOR, b"gAMA\0"),
        (SectionType.RESOLUTION, bytes(9)),
        (SectionType.RESOLUTION, b"\4\1\0\0\0\1\0\0\0"),
        (SectionType.RESOLUTION, b"\1\1\0\0\0\0\0\0\x80"),
        (SectionType.RESOLUTION, b"\1\1\0\0\0"),
    ],
)
def test_metadata_that_cannot_be_are_refused_by_both(stream, kind, content):
    assert_both_refuse(changed(stream, kind, content))


def test_records_that_cannot_be_are_refused_by_both(stream, tiled):
    assert_both_refuse(with_record(stream, weight=9))
    assert_both_refuse(with_record(tiled, 2, weight=15))
    header, parts = take_apart(stream)
    (payload,) = parts[SectionType.RESIDUAL]
    for bits in (2, 3, 8):
        record = bytes([payload.record[0] & ~3 | bits]) + payload.record[1:]
        assert_both_refuse(
            put_together(header, {**parts, SectionType.RESIDUAL: [replace(payload, record=record)]})
        )


def test_planes_of_another_size_are_refused_by_both(codec, stream, tiled):
    """The sizes in the FLIF files are those that the header calls for."""
    _, parts = take_apart(stream)
    compact = parts[SectionType.COMPACT][0].data
    wrong = changed(stream, SectionType.LABELS, compact)
    with pytest.raises(stream_reader.Refused):
        stream_reader.read(wrong)
    reader = runtime_reads(wrong)
    with pytest.raises(OslicError):
        read_label_plane(reader, Parameters.from_bytes(reader.header.parameters), codec.bundle)
    _, parts = take_apart(tiled)
    last = parts[SectionType.COMPACT][-1].data
    wrong = changed(tiled, SectionType.COMPACT, last, tile=0)
    with pytest.raises(stream_reader.Refused):
        stream_reader.read(wrong)
    with pytest.raises(OslicError):
        codec.decode(wrong)
