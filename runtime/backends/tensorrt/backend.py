"""The backends `tensorrt` and `tensorrt-rtx`: engines that `oslic build` made, on an NVIDIA GPU."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ...bundle import engine_trust
from ...bundle.engine_files import (
    EngineInfo,
    Product,
    choose_engine,
    choose_engine_of,
    engines_of,
    read_engine,
    rebuild_command,
    rebuild_model_command,
)
from ...errors import BackendError, OslicError
from ...files import read_regular_file
from ..base import Availability, Options
from ..cuda import bindings as cuda
from ..cuda import driver as cuda_driver

if TYPE_CHECKING:
    from ...bundle.folder import Bundle
    from ...bundle.manifest import GraphName
    from ...model.source import EngineFile, Model
from .bindings import Log, load_product, logger, make, make_context, require_gpu, require_valid
from .runner import TensorRtRunner

_MOST_GRAPH_BYTES: Final = (1 << 31) - 1


class _TensorRt:
    """What both products do alike."""

    name: ClassVar[str]
    product: ClassVar[Product]

    def __init__(self, bundle: Bundle, options: Options) -> None:
        self._bundle = bundle
        self._options = options
        self._loader = _Loader(self.product, options)

    @classmethod
    def probe(cls, bundle: Bundle | None, options: Options) -> Availability:
        """Say whether product, GPU, CUDA package and, for a bundle, fitting engines of all graphs are here."""
        version: str | None = None
        meant = False
        try:
            if bundle is not None:
                meant = any(engines_of(bundle, graph, cls.product) for graph in bundle.manifest.graph_names)
            if not options.optimize:
                raise BackendError(
                    f"engines of {cls.product} are optimized when they are built, not when they run"
                )
            if options.timeout is not None:
                raise BackendError(
                    f"an engine of {cls.product} cannot be interrupted: leave the time limit out"
                )
            found, reason = cuda_driver.gpus()
            meant = meant and bool(found)  # engines in a bundle do not promise a GPU
            no_gpu = f"no GPU can be used: {reason}"
            if bundle is not None and not found:
                # The libraries take some 100 MB and a tenth of a second: not for a codec that cannot use them.
                raise BackendError(no_gpu)
            trt = load_product(cls.product)
            version = str(trt.__version__)
            if not found:
                raise BackendError(no_gpu)
            require_gpu(trt, cls.product, found[0].capability)
            driver = cuda.open_driver()
            if bundle is None:
                return Availability(
                    True, version, f"runs on {found[0].name}, with engines from `oslic build`"
                )
            infos = []
            for graph in bundle.manifest.graph_names:
                path, info = choose_engine(
                    bundle,
                    graph,
                    cls.product,
                    version=version,
                    gpu=found[0].capability,
                    precision=options.precision,
                    trust=options.trust_engines,
                )
                with driver.current():
                    require_valid(trt, path, info)
                infos.append(info)
        except OslicError as error:
            return Availability(False, version, str(error), expected=meant)
        precisions = ", ".join(sorted({info.precision for info in infos}))
        return Availability(True, version, f"engines of this bundle in {precisions}, on {found[0].name}")

    def load(self, graph: GraphName) -> TensorRtRunner:
        """Load one graph's engine: see `Backend.load`."""
        loader, ports = self._loader, self._bundle.manifest.graphs[graph]
        path, info = choose_engine(
            self._bundle,
            graph,
            self.product,
            version=loader.version,
            gpu=_capability(),
            precision=self._options.precision,
            trust=self._options.trust_engines,
        )
        return loader.runner(
            path,
            info,
            names=(ports.inputs, (ports.output,)),
            weights=lambda: self._bundle.read_graph(graph),
            rebuild=rebuild_command(self._bundle.path, info),
        )

    @classmethod
    def open(cls, model: Model, options: Options) -> TensorRtRunner:
        """Load the engine that `oslic build` made of an ONNX graph, from `engines/` beside it: see `Backend.open`."""
        loader = _Loader(cls.product, options)
        path, info = choose_engine_of(
            model.path,
            model.name,
            model.file_sha256,
            cls.product,
            version=loader.version,
            gpu=_capability(),
            precision=options.precision,
            trust=options.trust_engines,
        )
        return loader.runner(
            path,
            info,
            names=(tuple(p.name for p in model.inputs), tuple(p.name for p in model.outputs)),
            weights=lambda: model.data,
            rebuild=rebuild_model_command(model.path, info),
            pixels=False,
        )

    @classmethod
    def open_engine(cls, engine: EngineFile, options: Options) -> TensorRtRunner:
        """Load an engine by itself.

        Args:
            engine: the engine and its sidecar.
            options: how.

        Raises:
            BackendError: it does not fit this machine, was not built here and is not trusted, or cannot be loaded.
        """
        loader = _Loader(cls.product, options)
        info, path = engine.info, engine.path
        reason = info.misfit(info.graph_sha256, loader.version, _capability())
        if reason is None and not options.trust_engines and not engine_trust.built_here(info):
            reason = engine_trust.UNTRUSTED
        if reason is not None:
            raise BackendError(f"the engine {path} cannot be used: {reason}")
        return loader.runner(
            path,
            info,
            names=None,
            weights=lambda: _graph_beside(path, info),
            rebuild=f"build {path} again",
            pixels=False,
        )


def _capability() -> str:
    found, reason = cuda_driver.gpus()
    if not found:
        raise BackendError(f"no GPU can be used: {reason}")
    return found[0].capability


def _graph_beside(path: Path, info: EngineInfo) -> bytes:
    """The graph that an engine without weights was built from, where `oslic build` writes engines: one folder up."""
    for folder in (path.parent, path.parent.parent):
        graph = folder / f"{info.graph}.onnx"
        if graph.is_file():
            data = read_regular_file(graph, "graph", _MOST_GRAPH_BYTES, BackendError)
            if hashlib.sha256(data).hexdigest() == info.graph_sha256:
                return data
    raise BackendError(
        f"the engine {path} holds no weights, and the graph {info.graph}.onnx that it takes them from is not beside it"
    )


class _Loader:
    """Loads engines of one product.

    Attributes:
        version: of the product.
    """

    def __init__(self, product: Product, options: Options) -> None:
        self._product = product
        self._options = options
        self._trt = load_product(product)
        self.version = str(self._trt.__version__)
        _capability()
        self._driver = cuda.open_driver()
        self._log = Log()
        with self._driver.current():
            self._runtime = make(self._trt, "Runtime", logger(self._trt, self._log), log=self._log)

    def runner(
        self,
        path: Path,
        info: EngineInfo,
        *,
        names: tuple[tuple[str, ...], tuple[str, ...]] | None,
        weights: Callable[[], bytes],
        rebuild: str,
        pixels: bool = True,
    ) -> TensorRtRunner:
        """Load an engine that fits and is trusted.

        Args:
            path: of the engine.
            info: its sidecar.
            names: of inputs and outputs; None: those of the engine, in its order.
            weights: gives the graph that an engine without weights takes them from.
            rebuild: how it is built again, for messages.
            pixels: see `TensorRtRunner`.

        Raises:
            BackendError: it cannot be loaded.
        """
        with self._driver.current():
            engine = self._deserialize(path, info, weights, rebuild)
            context, records_itself = make_context(self._trt, engine, cuda_graphs=self._options.cuda_graphs)
        if context is None:
            raise BackendError(f"{path}: no execution context: {self._log.reasons()}")
        return TensorRtRunner(
            self._trt,
            engine,
            context,
            self._driver,
            info=info,
            names=names or self._names(engine),
            rebuild=rebuild,
            capture=self._options.cuda_graphs and not records_itself,
            log=self._log,
            pixels=pixels,
        )

    def _names(self, engine: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        names = [str(engine.get_tensor_name(i)) for i in range(engine.num_io_tensors)]
        modes = {name: engine.get_tensor_mode(name) for name in names}
        taken = tuple(name for name in names if modes[name] == self._trt.TensorIOMode.INPUT)
        return taken, tuple(name for name in names if name not in taken)

    def _deserialize(self, path: Path, info: EngineInfo, weights: Callable[[], bytes], rebuild: str) -> Any:
        data = read_engine(path, info)
        # An engine that carries a runtime of its own version carries code. The caller has let through only what this
        # user built with that option, or trusts: the sidecar alone allows nothing.
        self._runtime.engine_host_code_allowed = info.version_compatible
        engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise BackendError(f"{self._product} cannot load {path}: {self._log.reasons()}; {rebuild}")
        if info.stripped:
            self._refit(engine, weights(), path)
        return engine

    def _refit(self, engine: Any, graph: bytes, path: Path) -> None:
        """Put the graph's weights into an engine that was built without them."""
        talk = logger(self._trt, self._log)
        refitter = make(self._trt, "Refitter", engine, talk, log=self._log)
        parser = make(self._trt, "OnnxParserRefitter", refitter, talk, log=self._log)
        if not parser.refit_from_bytes(graph) or not refitter.refit_cuda_engine():
            raise BackendError(f"{path} cannot be given the weights of its graph: {self._log.reasons()}")


class TensorRt(_TensorRt):
    """TensorRT: engines for one kind of GPU."""

    name: ClassVar[str] = "tensorrt"
    product: ClassVar[Product] = "tensorrt"


class TensorRtRtx(_TensorRt):
    """TensorRT-RTX: engines for all GPUs that it supports, whose kernels it compiles when they are first run."""

    name: ClassVar[str] = "tensorrt-rtx"
    product: ClassVar[Product] = "tensorrt-rtx"
