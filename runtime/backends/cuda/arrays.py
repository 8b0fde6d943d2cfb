"""Arrays of other libraries, read where they lie: numpy, `__cuda_array_interface__`, DLPack."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ...errors import BackendError

_CPU: Final = 1
_CUDA: Final = 2
_CUDA_HOST: Final = 3
_CUDA_MANAGED: Final = 13
# DLPack's type codes by NumPy's kinds.
_DLPACK_KINDS: Final = {"i": 0, "u": 1, "f": 2, "b": 6}
_CAPSULE: Final = b"dltensor"
_USED: Final = b"used_dltensor"


def as_bytes(memory: Any) -> npt.NDArray[np.uint8]:
    """A flat array over a ctypes array of bytes, which the result keeps alive."""
    flat: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
    return flat


@dataclass(frozen=True)
class View:
    """An array in C order that somebody else owns.

    Attributes:
        address: of its first element.
        shape: its shape.
        on_device: whether the address is a GPU's.
        device: which GPU; 0 for host memory.
        owner: what must stay alive while the address is used.
        stream: handle of the CUDA stream on which its contents become valid; None where there is nothing to wait for.
        itemsize: bytes of an element.
    """

    address: int
    shape: tuple[int, ...]
    on_device: bool
    device: int
    owner: object
    stream: int | None = None
    itemsize: int = 1

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.itemsize

    def host(self) -> npt.NDArray[np.uint8]:
        """Host memory as a flat array over the same bytes; `owner` must outlive it."""
        assert not self.on_device
        return as_bytes((ctypes.c_uint8 * self.size).from_address(self.address))


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    pass


# Python-API calling: the lock is held, which a deleter may need.
_Deleter = ctypes.PYFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


class _Capsule:
    """A DLPack tensor that was taken over: given back exactly once, at the latest when this object goes."""

    def __init__(self, capsule: object) -> None:
        api = ctypes.pythonapi
        get: Callable[..., int] = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
            ("PyCapsule_GetPointer", api)
        )
        rename: Callable[..., int] = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(
            ("PyCapsule_SetName", api)
        )
        self._address = get(capsule, _CAPSULE)
        self.tensor = _Managed.from_address(self._address).tensor
        # A capsule under this name no longer frees its tensor: that is our work now.
        rename(capsule, _USED)

    def __del__(self) -> None:
        managed = _Managed.from_address(self._address)
        if managed.deleter:
            managed.deleter(ctypes.pointer(managed))


def contiguous(shape: tuple[int, ...], strides: tuple[int, ...] | None) -> bool:
    """Whether strides, in elements, are those of C order; None means that they are."""
    if strides is None or 0 in shape:
        return True
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _require(*, fits: bool, in_order: bool, found: str, wanted: np.dtype[Any]) -> None:
    if not fits:
        raise BackendError(f"an input is {found}; the graphs take {wanted}")
    if not in_order:
        raise BackendError("an input is not in C order; copy it into a contiguous array first")


def _from_numpy(array: np.ndarray[Any, Any], dtype: np.dtype[Any]) -> View:
    _require(
        fits=array.dtype == dtype,
        in_order=bool(array.flags.c_contiguous),
        found=str(array.dtype),
        wanted=dtype,
    )
    return View(
        array.ctypes.data, array.shape, on_device=False, device=0, owner=array, itemsize=dtype.itemsize
    )


def _device_number(array: Any) -> int:
    """The interface does not say on which GPU the memory lies; the arrays of torch and CuPy do."""
    device = getattr(array, "device", None)
    return int(getattr(device, "index", None) or getattr(device, "id", None) or 0)


def _from_cuda_interface(array: Any, dtype: np.dtype[Any]) -> View:
    described = array.__cuda_array_interface__
    shape = tuple(int(size) for size in described["shape"])
    strides = described.get("strides")
    _require(
        fits=described["typestr"] == dtype.str,
        # Strides of the interface are in bytes.
        in_order=contiguous(shape, None if strides is None else tuple(s // dtype.itemsize for s in strides)),
        found=described["typestr"],
        wanted=dtype,
    )
    # 1 and 2 name the legacy and the per-thread default stream; None asks for no waiting.
    return View(
        int(described["data"][0]),
        shape,
        on_device=True,
        device=_device_number(array),
        owner=array,
        stream=described.get("stream"),
        itemsize=dtype.itemsize,
    )


def _from_dlpack(array: Any, stream: int | None, dtype: np.dtype[Any]) -> View:
    def ask(question: Callable[[], Any]) -> Any:
        try:
            return question()
        except Exception as error:  # a producer refuses in whatever way it likes
            raise BackendError(
                f"a {type(array).__name__} does not give its memory by DLPack: {error or type(error).__name__}"
            ) from error

    kind, index = (int(part) for part in ask(array.__dlpack_device__))
    on_device = kind in {_CUDA, _CUDA_MANAGED}
    if not on_device and kind not in {_CPU, _CUDA_HOST}:
        raise BackendError(f"an input lies on a device of DLPack's kind {kind}; give host or CUDA memory")
    # The producer makes its data valid on the stream that it is told.
    produced = ask(lambda: array.__dlpack__(stream=stream) if on_device else array.__dlpack__())
    capsule = _Capsule(produced)
    tensor = capsule.tensor
    shape = tuple(int(tensor.shape[i]) for i in range(tensor.ndim))
    strides = tuple(int(tensor.strides[i]) for i in range(tensor.ndim)) if tensor.strides else None
    kind_ = tensor.dtype
    _require(
        fits=(kind_.code, kind_.bits, kind_.lanes) == (_DLPACK_KINDS.get(dtype.kind), 8 * dtype.itemsize, 1),
        in_order=contiguous(shape, strides),
        found=f"of DLPack's type {kind_.code}, {kind_.bits} bits",
        wanted=dtype,
    )
    address = (tensor.data or 0) + int(tensor.byte_offset)
    return View(
        address,
        shape,
        on_device=on_device,
        device=index if on_device else 0,
        owner=capsule,
        itemsize=dtype.itemsize,
    )


def view(array: Any, stream: int | None = None, dtype: npt.DTypeLike = np.uint8) -> View:
    """Where an array lies; nothing is copied.

    Args:
        array: a numpy array, or anything with `__cuda_array_interface__` or `__dlpack__`; C order.
        stream: handle of the CUDA stream that will read it; producers of DLPack wait for what they need.
        dtype: what its elements must be.

    Raises:
        BackendError: another type, layout or device.
    """
    wanted = np.dtype(dtype)
    if isinstance(array, np.ndarray):
        return _from_numpy(array, wanted)
    # DLPack before the interface: what torch shows by the latter names no stream, and is not valid yet.
    if hasattr(array, "__dlpack__"):
        return _from_dlpack(array, stream, wanted)
    if hasattr(array, "__cuda_array_interface__"):
        return _from_cuda_interface(array, wanted)
    raise BackendError(
        f"an input is a {type(array).__name__}; give a numpy array, or one with __cuda_array_interface__ or DLPack"
    )
