"""Tensors inside a TensorRT engine: the engine is built again with them as outputs, and run once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ...export import engines
from ...runtime.backends.cuda import bindings as cuda
from ...runtime.backends.cuda.driver import Driver
from ...runtime.backends.cuda.memory import Resource
from ...runtime.backends.tensorrt.bindings import Log, load_product, logger, make, make_context
from ...runtime.bundle.engine_files import Product, Shapes
from ...runtime.errors import BackendError

if TYPE_CHECKING:
    import numpy.typing as npt

    Arrays = Mapping[str, npt.NDArray[Any]]


def values(product: Product, data: bytes, names: Sequence[str], feeds: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Build an engine for these inputs and run it once.

    Args:
        product: with which product.
        data: a serialized ONNX model in the engine's types; `names` are among its outputs.
        names: of the outputs wanted.
        feeds: inputs by name.

    Returns:
        Outputs by name.

    Raises:
        BackendError: the product is missing, refuses the model, or fails.
    """
    trt = load_product(product)
    shapes: dict[str, Shapes] = {name: (x.shape,) * 3 for name, x in feeds.items()}
    plan = engines.build_plan(trt, data, [shapes], engines.Options(optimization_level=1))
    driver = cuda.open_driver()
    with driver.current():
        found = run_once(trt, plan, driver, feeds)
    return {name: found[name] for name in names}


@dataclass(frozen=True)
class Loaded:
    """An engine that was loaded.

    Attributes:
        context: its execution context.
        engine: the engine.
        records_itself: whether the product records CUDA graphs inside, see `make_context`.
        log: what the product says.
    """

    context: Any
    engine: Any
    records_itself: bool
    log: Log


def load_plan(trt: Any, plan: bytes, *, cuda_graphs: bool) -> Loaded:
    """Load a serialized engine that belongs to no bundle.

    Args:
        trt: the product's module.
        plan: the serialized engine.
        cuda_graphs: whether a product that records CUDA graphs inside is to do so.

    Raises:
        BackendError: the product refuses it.
    """
    log = Log()
    engine = make(trt, "Runtime", logger(trt, log), log=log).deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError(f"{trt.__name__} cannot load the engine here: {log.reasons()}")
    context, records_itself = make_context(trt, engine, cuda_graphs=cuda_graphs)
    if context is None:
        raise BackendError(f"{trt.__name__} gives no execution context: {log.reasons()}")
    return Loaded(context, engine, records_itself, log)


def run_once(trt: Any, plan: bytes, driver: Driver, feeds: Arrays) -> dict[str, npt.NDArray[Any]]:
    """Load an engine, run it once on inputs by name, and return all its outputs; the driver's context is current.

    Raises:
        BackendError: it cannot be loaded, fails, or has outputs of a type that numpy lacks.
    """
    loaded = load_plan(trt, plan, cuda_graphs=False)
    context, engine, log = loaded.context, loaded.engine, loaded.log
    stream = Resource(driver.create_stream(), driver.destroy_stream)
    memory: dict[str, Resource] = {}

    def place(name: str, size: int) -> int:
        memory[name] = Resource(driver.allocate(max(1, size)), driver.free)
        context.set_tensor_address(name, memory[name].handle)
        return memory[name].handle

    for name, x in feeds.items():
        address = place(name, x.nbytes)
        driver.to_device(address, np.ascontiguousarray(x).reshape(-1).view(np.uint8), stream.handle)
        context.set_input_shape(name, x.shape)
    missing = context.infer_shapes()
    if missing:
        raise BackendError(f"{trt.__name__} knows no shape for {', '.join(missing)}")
    tensors = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    results: dict[str, npt.NDArray[Any]] = {}
    for name in tensors:
        if name in feeds:
            continue
        kind = engine.get_tensor_dtype(name)
        try:
            dtype = np.dtype(trt.nptype(kind))
        except TypeError as error:
            raise BackendError(
                f"{name} is {kind}, which numpy does not have: compare in fp16 or fp32"
            ) from error
        shape = tuple(int(size) for size in context.get_tensor_shape(name))
        results[name] = np.empty(shape, dtype)
        place(name, results[name].nbytes)
    if not context.execute_async_v3(stream.handle):
        raise BackendError(f"{trt.__name__} failed: {log.reasons()}")
    for name, array in results.items():
        driver.to_host(cast("Any", array.reshape(-1).view(np.uint8)), memory[name].handle, stream.handle)
    driver.synchronize(stream.handle)
    return results
