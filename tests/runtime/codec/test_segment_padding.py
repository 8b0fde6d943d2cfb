"""What SegNet sees beyond the picture is more of the picture."""

import numpy as np
from oslic.runtime import Codec
from oslic.runtime.image.arrays import mirror


def test_mirrored_beyond_the_edge():
    plane = np.arange(12, dtype=np.uint8).reshape(3, 4)
    found = mirror(plane, 5, 6)
    assert np.array_equal(found[:3, :4], plane)
    assert found[:, 4].tolist() == [3, 7, 11, 11, 7]
    assert found[3].tolist() == [8, 9, 10, 11, 11, 10]
    assert mirror(plane, 3, 4) is not None
    assert np.array_equal(mirror(plane, 3, 4), plane)


def test_a_picture_smaller_than_what_is_added():
    plane = np.array([[[1, 2, 3]], [[4, 5, 6]]], np.uint8)
    found = mirror(plane, 32, 32)
    assert found.shape == (32, 32, 3)
    assert found[:5, 7, 0].tolist() == [1, 4, 4, 1, 1]


def test_the_label_map_is_of_the_mirrored_picture(photo):
    picture = photo[:200, :250]
    with Codec.open(threads=1) as codec:
        scale = codec.bundle.manifest.label_scale
        found = codec.graphs.segment(picture)
        whole = codec.graphs.segment(np.pad(picture, ((0, 24), (0, 6), (0, 0)), mode="symmetric"))
        edged = codec.graphs.segment(np.pad(picture, ((0, 24), (0, 6), (0, 0)), mode="edge"))
    rows, columns = -(-200 // scale), -(-250 // scale)
    assert np.array_equal(found, whole[:rows, :columns])
    assert found.shape == (rows, columns)
    assert not np.array_equal(whole, edged)
