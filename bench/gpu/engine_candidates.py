"""Engines of TensorRT products as something that can be timed, inputs on the device. No torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from ...export.engines import Options, build_plan
from ...export.onnx_export import ports
from ...measure import timing
from ...runtime.backends.cuda import bindings as cuda
from ...runtime.backends.cuda import driver as cuda_driver
from ...runtime.backends.cuda.driver import Driver
from ...runtime.backends.cuda.memory import Resource
from ...runtime.backends.tensorrt.bindings import load_product, require_gpu
from ...runtime.backends.tensorrt.runner import DeviceArray, TensorRtRunner
from ...runtime.bundle.engine_files import EngineInfo, Product, Shapes
from ...runtime.errors import BackendError, DependencyError
from ...runtime.files import write_atomically
from ..agreement.engine_tensors import Loaded, load_plan

if TYPE_CHECKING:
    from ...runtime.bundle.manifest import GraphName
    from ...runtime.image.arrays import Pixels

SEED: Final = 0


@dataclass(frozen=True)
class Candidate:
    """Something that can be timed.

    Attributes:
        run: one run on inputs that lie on the device, which has ended when this returns; TensorRT's also tells the
            seconds between its first and its last kernel, as the stage "device".
        output: the output of one run, on the host.
        notes: what must be said beside the figures.
    """

    run: timing.Candidate
    output: Callable[[], Pixels]
    notes: dict[str, str]


def random_pixels(
    graph: GraphName, height: int, width: int, *, label_scale: int, classes: int, levels: int
) -> dict[str, Pixels]:
    """Inputs of a graph by name, for one image: whole numbers in the range that each may have.

    Args:
        graph: which graph.
        height: of the image, a multiple of the graph's.
        width: of the image.
        label_scale: how many times smaller the label map is.
        classes: number of labels.
        levels: of the compact image.
    """
    random = np.random.default_rng(SEED)
    most = {"image": 256, "labels": classes, "compact": levels}
    found, _ = ports(label_scale)[graph]
    return {
        port.name: random.integers(0, most[port.name], port.shape(1, height, width), np.uint8)
        for port in found
    }


@dataclass(frozen=True)
class Source:
    """What an engine is made from.

    Attributes:
        name: of its file.
        graph: which graph of the codec.
        data: a serialized ONNX model in the types that the engine is to have.
        precision: of its heavy layers.
        feeds: inputs by name, whose shapes are the only ones that it takes.
        output: name of the output.
    """

    name: str
    graph: GraphName
    data: bytes
    precision: str
    feeds: Mapping[str, Pixels]
    output: str

    @property
    def shapes(self) -> dict[str, Shapes]:
        """Its one optimization profile."""
        return {name: (x.shape,) * 3 for name, x in self.feeds.items()}


def require_product(product: Product) -> None:
    """Say before anything is built that a product is not installed here, or not made for this GPU.

    Raises:
        DependencyError: naming what to install.
    """
    try:
        trt = load_product(product)
        cuda.open_driver()
        require_gpu(trt, product, cuda_driver.gpus()[0][0].capability)
    except BackendError as error:
        raise DependencyError(str(error)) from error


def plan_of(product: Product, source: Source, folder: Path, options: Options) -> bytes:
    """An engine, built, or read where `folder` has it already.

    Raises:
        BackendError: the product is missing or refuses the graph.
    """
    trt = load_product(product)
    key = hashlib.sha256(source.data).hexdigest()[:16]
    variant = f"{options.optimization_level}{'-layers' if options.layers else ''}"
    capability = cuda_driver.gpus()[0][0].capability
    file = folder / f"{source.name}-{product}-{trt.__version__}-{capability}-{variant}-{key}.engine"
    if not file.is_file():
        write_atomically(file, build_plan(trt, source.data, [source.shapes], options))
    return file.read_bytes()


@dataclass(frozen=True)
class Opened:
    """A loaded engine, and its runner.

    Attributes:
        runner: runs it.
        loaded: the engine and its context.
        placed: its inputs, on the device.
        driver: CUDA.
    """

    runner: TensorRtRunner
    loaded: Loaded
    placed: list[DeviceArray]
    driver: Driver


def open_plan(product: Product, source: Source, plan: bytes, *, cuda_graphs: bool) -> Opened:
    """Load an engine, and put its inputs onto the device.

    Args:
        product: of which product.
        source: what it was made from.
        plan: the engine.
        cuda_graphs: whether its launches are to be recorded.

    Raises:
        BackendError: the product refuses it.
    """
    trt = load_product(product)
    driver = cuda.open_driver()
    with driver.current():
        loaded = load_plan(trt, plan, cuda_graphs=cuda_graphs)
    info = EngineInfo(
        file=source.name,
        sha256="",
        graph=source.graph,
        graph_sha256="",
        backend=product,
        version=str(trt.__version__),
        precision=source.precision,
        gpu=cuda_driver.gpus()[0][0].capability,
        profiles=(source.shapes,),
    )
    runner = TensorRtRunner(
        trt,
        loaded.engine,
        loaded.context,
        driver,
        info=info,
        names=(tuple(source.feeds), (source.output,)),
        rebuild="",
        capture=cuda_graphs and not loaded.records_itself,
        log=loaded.log,
    )
    return Opened(runner, loaded, [_on_device(driver, x) for x in source.feeds.values()], driver)


def engine_candidate(
    product: Product, source: Source, folder: Path, options: Options, *, cuda_graphs: bool
) -> Candidate:
    """An engine as a candidate.

    Args:
        product: of which product.
        source: what it is made from.
        folder: for the built engine, which is read from there if it is needed again.
        options: how to build.
        cuda_graphs: with or without.

    Raises:
        BackendError: it cannot be built or loaded here, or not be recorded.
    """
    opened = open_plan(product, source, plan_of(product, source, folder, options), cuda_graphs=cuda_graphs)
    runner = opened.runner
    notes = {"optimization_level": str(options.optimization_level), "cuda": opened.driver.name}

    def launch() -> timing.StageTimes:
        runner.launch(*opened.placed)
        return timing.StageTimes({"device": runner.device_milliseconds / 1e3})

    if cuda_graphs and not opened.loaded.records_itself:
        for _ in range(2):  # plain, then recorded
            launch()
        if not runner.records_graphs:
            raise BackendError(f"{product} cannot record the engine's launches as a CUDA graph")
    return Candidate(launch, lambda: runner(*opened.placed), notes)


def _on_device(driver: Driver, array: Pixels) -> DeviceArray:
    memory = Resource(driver.allocate(array.nbytes), driver.free)
    stream = Resource(driver.create_stream(), driver.destroy_stream)
    driver.to_device(memory.handle, array.reshape(-1), stream.handle)
    driver.synchronize(stream.handle)
    return DeviceArray(memory, array.shape)
