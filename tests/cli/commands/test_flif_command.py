"""`oslic flif` on real files."""

import io
import json
import struct
import sys
import zlib

import numpy as np
import pytest
from oslic.cli.main import main
from oslic.runtime import flif
from oslic.runtime.errors import ImageError
from oslic.runtime.image.deep_png import decode_deep_png, encode_deep_png
from PIL import Image


def test_round_trip_of_a_photograph(samples, tmp_path, capsys, photo):
    source = tmp_path / "in.png"
    exif = Image.Exif()
    exif[0x010E] = "a cat"
    Image.fromarray(photo[:40, :50]).save(source, exif=exif.tobytes(), icc_profile=b"profile")
    assert main(["flif", "encode", str(source), str(tmp_path / "a.flif")]) == 0
    assert main(["flif", "decode", str(tmp_path / "a.flif"), str(tmp_path / "back.png")]) == 0
    back = Image.open(tmp_path / "back.png")
    assert np.array_equal(np.asarray(back), photo[:40, :50])
    assert back.getexif()[0x010E] == "a cat"
    assert back.info["icc_profile"] == b"profile"
    capsys.readouterr()
    assert main(["flif", "info", "--json", str(tmp_path / "a.flif")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["width"], facts["height"], facts["channels"], facts["bit_depth"]) == (50, 40, 3, 8)
    assert facts["metadata"].keys() == {"iCCP", "eXif"}


@pytest.mark.parametrize("shape", [(9, 13), (9, 13, 3), (9, 13, 4)])
def test_16_bit_png(tmp_path, shape):
    pixels = np.random.default_rng(5).integers(0, 1 << 16, shape, dtype=np.uint16)
    (tmp_path / "in.png").write_bytes(encode_deep_png(pixels))
    assert main(["flif", "encode", "--interlaced", str(tmp_path / "in.png"), str(tmp_path / "a.flif")]) == 0
    assert np.array_equal(flif.decode((tmp_path / "a.flif").read_bytes()), pixels)
    assert main(["flif", "decode", str(tmp_path / "a.flif"), str(tmp_path / "out.png")]) == 0
    assert np.array_equal(decode_deep_png((tmp_path / "out.png").read_bytes(), 1 << 20), pixels)


def test_16_bit_png_without_opencv(tmp_path, monkeypatch, capsys):
    (tmp_path / "in.png").write_bytes(encode_deep_png(np.zeros((9, 13), np.uint16)))
    (tmp_path / "a.flif").write_bytes(flif.encode(np.zeros((9, 13), np.uint16)))
    monkeypatch.setitem(sys.modules, "cv2", None)
    for words in (["encode", "in.png", "b.flif"], ["decode", "a.flif", "out.png"]):
        assert main(["flif", words[0], *(str(tmp_path / word) for word in words[1:])]) == 11
        assert "16-bit PNG files needs OpenCV: pip install 'oslic[cpu]'" in capsys.readouterr().err
    assert not {"b.flif", "out.png"} & {path.name for path in tmp_path.iterdir()}


def test_16_bit_png_with_every_filter():
    # Pillow chooses filters adaptively for 16-bit gray.
    pixels = np.add.outer(np.arange(40) ** 2 * 9, np.arange(50) * 300).astype(np.uint16)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    assert np.array_equal(decode_deep_png(file.getvalue(), 1 << 20), pixels)


def test_errors_have_exit_codes(tmp_path, capsys):
    (tmp_path / "bad.flif").write_bytes(b"FLIF31")
    assert main(["flif", "decode", str(tmp_path / "bad.flif"), str(tmp_path / "x.png")]) == 4
    assert main(["flif", "decode", str(tmp_path / "none.flif"), str(tmp_path / "x.png")]) == 2
    assert main(["flif", "decode", str(tmp_path / "bad.flif"), str(tmp_path / "x.jpg")]) == 2
    (tmp_path / "big.flif").write_bytes(flif.encode(np.zeros((100, 100), np.uint8)))
    options = ["--max-pixels", "99", str(tmp_path / "big.flif"), str(tmp_path / "x.png")]
    assert main(["flif", "decode", *options]) == 7
    assert not (tmp_path / "x.png").exists()
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "header", [struct.pack(">IIB", 4, 4, 16), struct.pack(">IIBBBBB", 4, 0, 16, 2, 0, 0, 0)]
)
def test_16_bit_png_with_an_impossible_header(header):
    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    bomb = chunk(b"IDAT", zlib.compress(bytes(1 << 20)))
    with pytest.raises(ImageError, match=r"x is a damaged PNG: its (header|size)"):
        decode_deep_png(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + bomb + chunk(b"IEND", b""), 99, "x")


def test_arguments_out_of_range(tmp_path, capsys):
    Image.new("L", (9, 9)).save(tmp_path / "in.png")
    words = [str(tmp_path / "in.png"), str(tmp_path / "a.flif")]
    assert main(["flif", "encode", *words, "--effort", "101"]) == 2
    assert "effort 101 is out of range 0..100" in capsys.readouterr().err
    assert main(["flif", "encode", *words]) == 0
    assert main(["flif", "info", words[1], "--max-pixels", str(10**30)]) == 0
    with pytest.raises(SystemExit):
        main(["flif", "info", words[1], "--max-pixels", "-1"])
    assert "-1 is below 1" in capsys.readouterr().err


def test_damaged_16_bit_png(tmp_path, capsys):
    data = encode_deep_png(np.zeros((3, 3), np.uint16))
    for cut in (30, len(data) - 20):
        (tmp_path / "in.png").write_bytes(data[:cut])
        assert main(["flif", "encode", str(tmp_path / "in.png"), str(tmp_path / "a.flif")]) == 3
    assert "PNG" in capsys.readouterr().err
