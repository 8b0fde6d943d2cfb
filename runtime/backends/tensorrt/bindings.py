"""The Python bindings of TensorRT and TensorRT-RTX: loading, logging, making objects, types."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...bundle.engine_files import (
    PRODUCTS,
    EngineInfo,
    Product,
    read_engine,
)
from ...errors import BackendError

PACKAGES: Final[dict[Product, str]] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx-cu13"}
"""What to install for each product."""


class Log:
    """What a product said, by severity."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.errors: list[str] = []

    def reasons(self) -> str:
        """The errors in one line."""
        return "; ".join(self.errors) or "no reason given"


def logger(trt: Any, log: Log) -> Any:
    """A logger of the product `trt` that collects into `log`."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity in {trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR}:
                log.errors.append(message)
            elif severity == trt.ILogger.WARNING:
                log.warnings.append(message)

    return Logger()


def make(trt: Any, kind: str, *arguments: Any, log: Log) -> Any:
    """One of the objects of the product `trt`: a `Runtime`, a `Builder`, ...

    Where the library behind it gives none (mostly because CUDA does not start), the bindings raise a `TypeError` about
    a factory function.

    Raises:
        BackendError: with what the product said of it.
    """
    try:
        return getattr(trt, kind)(*arguments)
    except TypeError as error:
        said = "; ".join((*log.errors, *log.warnings)) or str(error)
        raise BackendError(f"{trt.__name__} gives no {kind}: {said}") from error


def numpy_type(trt: Any, name: str, kind: Any) -> np.dtype[Any]:
    """NumPy's type for that of an engine's tensor.

    Raises:
        BackendError: NumPy has none, as for bfloat16.
    """
    try:
        found: np.dtype[Any] = np.dtype(trt.nptype(kind))
    except TypeError as error:
        raise BackendError(
            f"{name} is {kind}, which NumPy does not have: build it in fp16 or fp32"
        ) from error
    return found


def load_product(product: Product) -> Any:
    """Import a product's bindings.

    Raises:
        BackendError: it is not installed, or its libraries do not load.
    """
    try:
        return importlib.import_module(PRODUCTS[product])
    except ImportError as error:
        raise BackendError(f"{product} cannot be used ({error}): pip install {PACKAGES[product]}") from error


def require_gpu(trt: Any, product: Product, capability: str) -> None:
    """Refuse a GPU that TensorRT-RTX has no kernels for; TensorRT's engines say themselves what they are for.

    Raises:
        BackendError: naming those that it has.
    """
    if product != "tensorrt-rtx":
        return
    # Datacenter GPUs between those of its list, such as 9.0, are no part of it: newer ones do not follow older ones.
    names = getattr(trt, "ComputeCapability", None)
    known = [name[2:] for name in getattr(names, "__members__", {}) if re.fullmatch(r"SM\d+", name)]
    if known and capability.replace(".", "") not in known:
        listed = ", ".join(f"{number[:-1]}.{number[-1]}" for number in known)
        raise BackendError(
            f"{product} {trt.__version__} has no kernels for compute capability {capability}, only for {listed}: take "
            "tensorrt"
        )


def require_valid(trt: Any, path: Path, info: EngineInfo) -> None:
    """Ask the product, where it can be asked, whether this GPU can run an engine; nothing is loaded.

    Raises:
        BackendError: it cannot.
    """
    log = Log()
    runtime = make(trt, "Runtime", logger(trt, log), log=log)
    ask = getattr(runtime, "get_engine_validity", None)
    if ask is None:
        return
    validity, diagnostics = ask(read_engine(path, info))
    if validity == trt.EngineValidity.INVALID:
        reasons = "; ".join(log.errors) or f"diagnostics {int(diagnostics):#x}"
        raise BackendError(f"{info.backend} {trt.__version__} cannot run {path} on this GPU: {reasons}")


def make_context(trt: Any, engine: Any, *, cuda_graphs: bool) -> tuple[Any, bool]:
    """An execution context of an engine.

    Args:
        trt: the product's module.
        engine: the deserialized engine.
        cuda_graphs: whether a product that records CUDA graphs inside is to do so.

    Returns:
        The context, None if the product gives none; and whether the product records CUDA graphs inside, as
        TensorRT-RTX does, whose kernels change while it runs: nothing must be recorded around it then.
    """
    make = getattr(engine, "create_runtime_config", None)
    config = None if make is None else make()
    if config is None or not hasattr(config, "cuda_graph_strategy"):
        return engine.create_execution_context(), False
    strategies = trt.CudaGraphStrategy
    config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if cuda_graphs else strategies.DISABLED
    return engine.create_execution_context(config), True
