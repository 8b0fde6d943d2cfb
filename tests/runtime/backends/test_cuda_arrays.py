"""Arrays of other libraries: read where they lie, or refused."""

from __future__ import annotations

import gc
import sys

import numpy as np
import pytest
import torch
from oslic.runtime.backends.cuda.arrays import contiguous, view
from oslic.runtime.errors import BackendError
from stand_in_engines import Interface


def test_numpy_is_read_where_it_lies():
    array = np.arange(12, dtype=np.uint8).reshape(3, 4)
    found = view(array)
    assert (found.address, found.shape, found.on_device) == (array.ctypes.data, (3, 4), False)
    found.host()[5] = 99
    assert array[1, 1] == 99


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_dlpack_is_read_where_it_lies_and_kept_alive(library):
    class Wrapped:
        """A numpy array that shows nothing but DLPack."""

        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    source = torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4)
    if library == "numpy":
        source = Wrapped(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    found = view(source)
    assert found.shape == (2, 3, 4)
    assert not found.on_device
    if library == "torch":
        assert found.address == source.data_ptr()
    del source
    gc.collect()
    assert np.array_equal(found.host(), np.arange(24))


def test_a_producer_that_refuses_dlpack_is_named():
    class Refusing:
        def __dlpack__(self, **options):
            raise BufferError("it needs gradients")

        def __dlpack_device__(self):
            return (1, 0)

    with pytest.raises(BackendError, match="Refusing does not give its memory by DLPack: it needs gradients"):
        view(Refusing())


def test_a_dlpack_tensor_is_given_back_exactly_once():
    array = np.zeros(1000, np.uint8)

    class Counting:
        def __dlpack__(self, **options):
            return array.__dlpack__()

        def __dlpack_device__(self):
            return (1, 0)

    before = sys.getrefcount(array)
    for _ in range(50):
        found = view(Counting())
        assert sys.getrefcount(array) == before + 1
        del found
    assert sys.getrefcount(array) == before


def test_a_part_of_a_dlpack_tensor_starts_at_its_own_byte():
    source = torch.arange(20, dtype=torch.uint8)[5:]
    assert view(source).host()[0] == 5


def test_an_array_with_both_interfaces_is_told_the_stream_that_reads_it():
    """As torch's are: its array interface, of version 2, says nothing of the stream that its contents come by."""
    told = []

    class Both(Interface):
        def __dlpack__(self, *, stream):
            told.append(stream)
            return np.zeros((2, 3), np.uint8).__dlpack__()

        def __dlpack_device__(self):
            return (2, 0)

    array = Both(version=2)
    del array.__cuda_array_interface__["stream"]
    found = view(array, 5)
    assert (found.on_device, found.stream, told) == (True, None, [5])


def test_the_cuda_array_interface_is_read_without_a_copy():
    found = view(Interface())
    assert (found.address, found.shape, found.on_device, found.stream, found.size) == (
        0x7000,
        (2, 3),
        True,
        7,
        6,
    )
    assert view(Interface(strides=(3, 1))).shape == (2, 3)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2), np.float32), "is float32; the graphs take uint8"),
        (np.zeros((4, 4), np.uint8)[:, ::2], "not in C order"),
        (torch.zeros(3), "DLPack's type 2, 32 bits"),
        (torch.zeros((4, 4), dtype=torch.uint8).T[1:], "not in C order"),
        (Interface(typestr="<f4"), "<f4"),
        (Interface(strides=(1, 2)), "not in C order"),
        ([1, 2], "is a list; give a numpy array"),
    ],
)
def test_other_types_and_layouts_are_refused(array, message):
    with pytest.raises(BackendError, match=message):
        view(array)


def test_contiguity():
    assert contiguous((2, 3), (3, 1))
    assert contiguous((1, 3), (99, 1))
    assert contiguous((0, 3), (1, 1))
    assert not contiguous((2, 3), (4, 1))
