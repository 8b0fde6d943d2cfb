"""Backends that compute graphs of integers exactly, and the options that they need (docs/concepts/exactness.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import BackendError

if TYPE_CHECKING:
    from ..bundle.folder import Bundle

_INEXACT: Final = {
    "openvino": "it rounds between layers in other places than the graph says",
    "onnxruntime-tensorrt": "it takes uint8 as int8; build engines, which take the int8 form: `oslic build`",
    "onnxruntime-tensorrt-rtx": "it takes uint8 as int8; build engines, which take the int8 form: `oslic build`",
}


def require_exact(bundle: Bundle, backend: str) -> None:
    """Refuse a backend on which an exact bundle would not be exact.

    Raises:
        BackendError: saying why.
    """
    if bundle.manifest.exact and backend in _INEXACT:
        raise BackendError(
            f"the bundle {bundle.manifest.name} gives the same bytes on every machine, and {backend} would not: "
            f"{_INEXACT[backend]}; take onnxruntime-cpu, or a float bundle"
        )
