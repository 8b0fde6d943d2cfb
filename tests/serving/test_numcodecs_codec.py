"""The codec in numcodecs and Zarr."""

from __future__ import annotations

import numcodecs
import numpy as np
import pytest
from oslic.runtime import Codec
from oslic.runtime.errors import ImageError
from oslic.runtime.image.arrays import psnr
from oslic.serving.numcodecs import OslicCodec

zarr = pytest.importorskip("zarr")


def test_numcodecs_finds_it_by_its_identifier():
    found = numcodecs.get_codec({"id": "oslic", "quality": 80, "effort": 0})
    assert isinstance(found, OslicCodec)
    assert found.get_config() == {"id": "oslic", "quality": 80, "effort": 0, "bundle": None}


def test_pictures_of_a_zarr_array_are_streams(tmp_path, photo):
    pictures = np.stack([photo[:128, :192], photo[64:192, 100:292]])
    array = zarr.create_array(
        str(tmp_path / "photos.zarr"),
        shape=(2, 128, 192, 3),
        chunks=(1, 128, 192, 3),
        dtype="uint8",
        zarr_format=2,
        filters=None,
        compressors=OslicCodec(quality=90, effort=0),
    )
    array[:] = pictures
    chunks = [path for path in (tmp_path / "photos.zarr").iterdir() if path.name[0].isdigit()]
    assert len(chunks) == 2
    with Codec.open() as codec:
        assert all(codec.decode(path.read_bytes()).digest_matches for path in chunks)
    read = zarr.open_array(str(tmp_path / "photos.zarr"), mode="r")[:]
    assert read.shape == pictures.shape
    assert 34 < psnr(pictures[0], read[0]) < 60
    assert sum(path.stat().st_size for path in chunks) < pictures.nbytes / 4


def test_decoding_into_a_given_array(photo):
    codec = OslicCodec(quality=90, effort=0)
    data = codec.encode(photo[None, :96, :96])
    out = np.zeros((1, 96, 96, 3), np.uint8)
    codec.decode(data, out)
    assert np.array_equal(out[0], codec.decode(bytearray(data)))


@pytest.mark.parametrize("chunk", [np.zeros((2, 8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.float32)])
def test_chunks_that_are_no_picture_are_refused(chunk):
    with pytest.raises(ImageError, match="is no picture"):
        OslicCodec().encode(chunk)
