"""What `--strip` leaves of a file's metadata."""

from __future__ import annotations

import pytest
from oslic.cli import main as cli
from oslic.runtime import Codec
from oslic.runtime.errors import ImageError
from oslic.runtime.image.metadata import Metadata, Resolution, Unit
from oslic.runtime.image.stripping import strip
from PIL import Image, ImageCms

PLACED = b'<x:xmpmeta><rdf:Description exif:GPSLatitude="48,12.5N"/></x:xmpmeta>'
UNPLACED = b'<x:xmpmeta><rdf:Description dc:creator="me"/></x:xmpmeta>'


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x010F] = "maker"
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0x927C: b"SECRETPLACE"}
    exif[0x8825] = {1: "N", 2: (48.0, 12.0, 30.5)}
    return exif.tobytes()


FULL = Metadata(b"icc", _exif(), PLACED, ((b"sRGB", b"\0"),), Resolution(300, 300, Unit.INCH))


def test_all_keeps_what_colors_mean():
    assert strip(FULL, "all") == Metadata(b"icc", color=((b"sRGB", b"\0"),))
    assert strip(FULL, None) == FULL


def test_the_place_alone():
    kept = strip(FULL, "location")
    exif = Image.Exif()
    exif.load(kept.exif)
    assert exif[0x010F] == "maker"
    assert exif.get_ifd(0x8769) == {0x9003: "2020:01:02 03:04:05"}
    assert exif.get_ifd(0x8825) == {}
    assert b"SECRETPLACE" not in kept.exif
    assert kept.xmp == b""
    assert (kept.icc, kept.color, kept.resolution) == (FULL.icc, FULL.color, FULL.resolution)


def test_xmp_without_a_place_stays():
    assert strip(Metadata(xmp=UNPLACED), "location").xmp == UNPLACED
    assert strip(Metadata(xmp=PLACED.decode().encode("utf-16")), "location").xmp == b""
    assert strip(Metadata(), "location") == Metadata()


def test_a_damaged_block_is_refused():
    with pytest.raises(ImageError, match="strip all of it"):
        strip(Metadata(exif=b"Exif\0\0MM\0\x2c\0\0\0\x08"), "location")


def test_through_the_command_line(tmp_path, photo):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    source = tmp_path / "a.jpg"
    Image.fromarray(photo[:40, :48]).save(
        source, exif=_exif(), icc_profile=profile, xmp=PLACED, dpi=(300, 300)
    )
    found = {}
    with Codec.open() as codec:
        for name, words in (("none", []), ("all", ["--strip"]), ("place", ["--strip", "location"])):
            target = tmp_path / f"{name}.oslic"
            assert cli.main(["compress", str(source), "-o", str(target), "--effort", "0", *words]) == 0
            found[name] = codec.decode(target).metadata
            assert (b"SECRETPLACE" in target.read_bytes()) == (name == "none")
    assert found["none"].xmp == PLACED
    assert found["all"] == Metadata(icc=profile)
    assert found["place"].xmp == b""
    assert b"maker" in found["place"].exif
