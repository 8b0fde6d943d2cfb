"""The decoder in WebDataset pipelines."""

from __future__ import annotations

import copy
import io
import tarfile

import numpy as np
import pytest
from oslic.runtime import Codec
from oslic.runtime.errors import StreamError
from oslic.serving.webdataset import OslicDecoder

webdataset = pytest.importorskip("webdataset")


@pytest.fixture(scope="module")
def streams(photo):
    with Codec.open(threads=1) as codec:
        return [codec.compress(photo[top : top + 96, :128], effort=0) for top in (0, 100)]


@pytest.fixture
def shard(tmp_path, streams):
    path = tmp_path / "shard.tar"
    with tarfile.open(path, "w") as archive:
        for number, data in enumerate(streams):
            for name, body in ((f"{number}.oslic", data), (f"{number}.cls", str(number).encode())):
                entry = tarfile.TarInfo(name)
                entry.size = len(body)
                archive.addfile(entry, io.BytesIO(body))
    return path


def test_pictures_come_out_of_a_pipeline(shard, streams):
    dataset = webdataset.WebDataset(str(shard), shardshuffle=False).decode(OslicDecoder())
    found = list(dataset.to_tuple("oslic", "cls"))
    assert [label for _, label in found] == [0, 1]
    with Codec.open(threads=1) as codec:
        for (picture, _), data in zip(found, streams, strict=True):
            assert np.array_equal(picture, codec.decompress(data))


def test_it_can_be_sent_to_the_workers_of_a_loader(streams):
    decoder = OslicDecoder()
    first = decoder(".oslic", streams[0])
    sent = copy.deepcopy(decoder)  # what it is sent as is what it is copied by
    assert sent._codec is None
    assert np.array_equal(sent(".oslic", streams[0]), first)
    assert sent(".jpg", b"") is None


def test_damaged_members_are_errors_of_ours(streams):
    with pytest.raises(StreamError):
        OslicDecoder()(".oslic", streams[0][:-5])
