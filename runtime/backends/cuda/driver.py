"""What the bindings of CUDA offer to the backends, and the GPUs that are there."""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from ...errors import BackendError

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]


_DRIVER_LIBRARIES: Final = ("libcuda.so.1", "nvcuda.dll")
_CAPABILITY_MAJOR: Final = 75  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR
_CAPABILITY_MINOR: Final = 76


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: as the driver gives it.
        capability: compute capability, such as `9.0`.
    """

    name: str
    capability: str


def driver_library() -> Any:
    """NVIDIA's driver library, initialized.

    Raises:
        BackendError: there is no driver, or it has no GPU.
    """
    for name in _DRIVER_LIBRARIES:
        with contextlib.suppress(OSError):
            library = ctypes.CDLL(name)
            break
    else:
        raise BackendError("no NVIDIA driver is installed")
    code = library.cuInit(0)
    if code:
        raise BackendError(f"the NVIDIA driver does not start (error {code})")
    return library


def driver_call(library: Any, name: str, *arguments: Any) -> None:
    """Call the NVIDIA driver; a BackendError with its words if it refuses."""
    code = getattr(library, name)(*arguments)
    if code:
        text = ctypes.c_char_p()
        library.cuGetErrorString(code, ctypes.byref(text))
        reason = text.value.decode() if text.value else "unknown error"
        raise BackendError(f"{name} failed: {reason} ({code})")


def gpus() -> tuple[list[Gpu], str]:
    """The GPUs of this machine, and why there are none."""
    try:
        library = driver_library()
        count = ctypes.c_int()
        driver_call(library, "cuDeviceGetCount", ctypes.byref(count))
        found = []
        for index in range(count.value):
            device, text = ctypes.c_int(), ctypes.create_string_buffer(256)
            driver_call(library, "cuDeviceGet", ctypes.byref(device), index)
            driver_call(library, "cuDeviceGetName", text, len(text), device)
            parts = []
            for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
                value = ctypes.c_int()
                driver_call(library, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
                parts.append(str(value.value))
            found.append(Gpu(text.value.decode(errors="replace"), ".".join(parts)))
    except BackendError as error:
        return [], str(error)
    return found, "" if found else "the NVIDIA driver finds no GPU"


class Driver(Protocol):
    """What a runner needs of CUDA on the first GPU; handles are numbers. Any call may raise `BackendError`."""

    name: str
    """Package and version."""

    def current(self) -> contextlib.AbstractContextManager[None]:
        """Make the GPU's primary context this thread's as long as the block runs.

        The methods below do that themselves. The products' libraries do not: they work in whatever context is current,
        which may be one of the caller's (`import pycuda.autoinit`) or another GPU's (`torch.cuda.set_device`).
        """

    def reaches(self, address: int) -> bool:
        """Whether device memory is of the primary context, so that what runs there can read it."""

    def allocate(self, size: int) -> int:
        """Device memory; returns its address."""

    def free(self, address: int) -> None:
        """Give device memory back."""

    def allocate_pinned(self, size: int) -> int:
        """Page-locked host memory; returns its address."""

    def free_pinned(self, address: int) -> None:
        """Give page-locked memory back."""

    def create_stream(self) -> int:
        """A stream that does not wait for the default stream."""

    def destroy_stream(self, stream: int) -> None:
        """Give a stream back."""

    def create_event(self) -> int:
        """An event that records times."""

    def destroy_event(self, event: int) -> None:
        """Give an event back."""

    def record(self, event: int, stream: int) -> None:
        """Put an event into a stream."""

    def elapsed(self, start: int, end: int) -> float:
        """Milliseconds between two events that have passed."""

    def to_device(self, address: int, source: Bytes, stream: int) -> None:
        """Copy host memory to the device, in the order of the stream."""

    def to_host(self, target: Bytes, address: int, stream: int) -> None:
        """Copy device memory to the host, in the order of the stream."""

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy device memory to device memory, in the order of the stream."""

    def synchronize(self, stream: int) -> None:
        """Wait until a stream is done, ours or somebody else's."""

    def begin_capture(self, stream: int) -> None:
        """Record what is launched into a stream from now on, instead of running it."""

    def end_capture(self, stream: int) -> int:
        """End the recording; returns an executable graph."""

    def launch(self, graph: int, stream: int) -> None:
        """Run an executable graph."""

    def destroy_graph(self, graph: int) -> None:
        """Give an executable graph back."""
