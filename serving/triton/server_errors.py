"""Errors of ours as Triton's, and what Triton says of a model that was called as one of ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...runtime.errors import (
    BackendError,
    BundleError,
    DependencyError,
    DeviceError,
    OslicError,
    one_line,
    out_of_memory,
    printable,
)

if TYPE_CHECKING:
    from types import ModuleType

# All others are about what the client sent.
_OURS = (BackendError, DependencyError, DeviceError)


def code_name(error: OslicError) -> str:
    """Name of Triton's code for an error: `INVALID_ARG` where the client can do something about it."""
    return "INTERNAL" if isinstance(error, _OURS) else "INVALID_ARG"


def as_ours(error: Exception) -> OslicError:
    """An error of ours for whatever went wrong; what nobody foresaw names its type."""
    if isinstance(error, OslicError):
        return error
    if isinstance(error, MemoryError):
        return out_of_memory(error)
    return BackendError(f"unexpected {type(error).__name__}: {one_line(error)}")


def as_triton(error: Exception, pb_utils: ModuleType) -> Any:
    """A `TritonError` that says the kind of the error and its message, in one line."""
    ours = as_ours(error)
    code = "UNAVAILABLE" if isinstance(error, MemoryError) else code_name(ours)
    message = printable(f"{type(ours).__name__}: {one_line(ours)}")
    return pb_utils.TritonError(message, getattr(pb_utils.TritonError, code))


def of_model(model: str, message: str) -> OslicError:
    """The error of a model that was called and failed."""
    kind, _, rest = message.partition(": ")
    known = {"BundleError": BundleError, "BackendError": BackendError}.get(kind)
    return (
        BackendError(f"the model {model} failed: {message}") if known is None else known(f"{model}: {rest}")
    )
