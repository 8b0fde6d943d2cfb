"""ONNX Runtime on NVIDIA GPUs: its CUDA provider, and its TensorRT providers."""

from __future__ import annotations

import base64
import contextlib
import functools
import importlib
import importlib.util
import io
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Final

from ...errors import BackendError, BundleError, LimitError
from ..base import Availability, Options
from ..cuda import driver as cuda_driver
from ..exactness import require_exact
from .sessions import (
    BoundRunner,
    HostRunner,
    Provider,
    find_onnxruntime,
    naming,
    on_device_thread,
    open_session,
    require_plain,
    require_ports,
    require_precision,
    session_options,
)

if TYPE_CHECKING:
    from ...bundle.folder import Bundle
    from ...bundle.manifest import GraphName
    from ...model.source import Model
    from ..base import Runner

# y = Relu(x), float, one dimension: what a provider is tried on.
_TRIAL: Final = base64.b64decode(
    "CAg6OQoMCgF4EgF5IgRSZWx1EgV0cmlhbFoQCgF4EgsKCQgBEgUKAxIBTmIQCgF5EgsKCQgBEgUKAxIBTkIECgAQDQ=="
)
_RTX_PLUGIN: Final = "onnxruntime_ep_nv_tensorrt_rtx"


class _OnnxRuntimeGpu:
    """What the providers for GPUs do alike."""

    name: ClassVar[str]
    provider: ClassVar[str]
    install: ClassVar[str]
    note: ClassVar[str]

    def __init__(self, bundle: Bundle, options: Options) -> None:
        self._bundle = bundle
        self._options = replace(options, plain_sums=options.plain_sums or bundle.manifest.exact)

    @classmethod
    def _provider(cls, onnxruntime: Any, options: Options) -> Provider | None:
        """The provider with its options, or None where this ONNX Runtime does not have it."""
        raise NotImplementedError

    @classmethod
    def probe(cls, bundle: Bundle | None, options: Options) -> Availability:
        """Say whether the provider is built in, a GPU is here, and the provider's libraries load."""
        module, _ = find_onnxruntime()
        version = None if module is None else str(module.__version__)
        found, no_gpu = cuda_driver.gpus()
        try:
            onnxruntime, provider = cls.require_present(options)
            if not found:
                raise BackendError(f"no GPU can be used: {no_gpu}")
            if bundle is not None:
                require_exact(bundle, cls.name)
                for graph in bundle.manifest.graphs:
                    require_precision(bundle, graph, cls.name, options)
            # Whether its libraries load is only known when it is asked to work.
            _open(onnxruntime, _TRIAL, provider, session_options(onnxruntime, 1))
            if bundle is not None and bundle.manifest.quantization is not None:
                cls._require_quantized(bundle)
        except BackendError as error:
            return Availability(False, version, str(error), expected=bool(found))
        return Availability(True, version, f"runs on {found[0].name}{cls.note}")

    @classmethod
    def _require_quantized(cls, bundle: Bundle) -> None:
        """Refuse a quantized bundle that the provider cannot run; here none.

        Raises:
            BackendError: saying why.
        """

    def load(self, graph: GraphName) -> Runner:
        """Load one graph: see `Backend.load`."""
        require_exact(self._bundle, self.name)
        require_precision(self._bundle, graph, self.name, self._options)
        data = self._bundle.read_graph(graph)
        try:
            onnxruntime, session = self.session(data, self._options)
            require_ports(session, self._bundle.manifest.graphs[graph])
        except (BackendError, BundleError, LimitError) as error:
            raise type(error)(f"{self._bundle.graph_path(graph)}: {error}") from error
        return self._runner(onnxruntime, session, graph)

    @classmethod
    def session(cls, data: bytes, options: Options) -> tuple[Any, Any]:
        """A session of any ONNX model on this provider.

        Returns:
            ONNX Runtime's module and the session.

        Raises:
            BackendError: the provider is missing, does not start, or does not take the whole model.
        """
        onnxruntime, provider = cls.require_present(options)
        chosen = session_options(onnxruntime, options.threads, optimize=options.optimize)
        return onnxruntime, _open(onnxruntime, data, provider, chosen, options.timeout)

    @classmethod
    def open(cls, model: Model, options: Options) -> HostRunner:
        """Load any ONNX graph: see `Backend.open`. ONNX Runtime copies inputs and outputs; nothing is recorded."""
        require_plain(model, cls.name, options)
        with naming(model):
            onnxruntime, session = cls.session(model.data, replace(options, cuda_graphs=False))
        return HostRunner(onnxruntime, session, model.name, timeout=options.timeout)

    @classmethod
    def require_present(cls, options: Options | None = None) -> tuple[Any, Provider]:
        """ONNX Runtime's module and the provider; whether it starts is seen when it is used.

        Raises:
            BackendError: ONNX Runtime is missing, or was built without the provider.
        """
        onnxruntime, reason = find_onnxruntime()
        if onnxruntime is None:
            raise BackendError(reason)
        provider = cls._provider(onnxruntime, options or Options())
        if provider is None:
            raise BackendError(f"this ONNX Runtime has no {cls.provider}: {cls.install}")
        return onnxruntime, provider

    def _runner(self, onnxruntime: Any, session: Any, graph: GraphName) -> Runner:
        return self._bound(onnxruntime, session, graph, capture=self._options.cuda_graphs)

    def _bound(self, onnxruntime: Any, session: Any, graph: GraphName, *, capture: bool) -> Runner:
        return BoundRunner(
            onnxruntime, session, graph, device="cuda", capture=capture, timeout=self._options.timeout
        )


def _open(
    onnxruntime: Any, data: bytes, provider: Provider, options: Any, timeout: float | None = None
) -> Any:
    """`open_session` where it disturbs no recording: it allocates, and waits for the device."""
    return on_device_thread(lambda: open_session(onnxruntime, data, provider, options, timeout=timeout))


def _built_in(onnxruntime: Any, name: str) -> bool:
    return name in onnxruntime.get_available_providers()


@functools.cache
def _preload(onnxruntime: Any) -> None:
    """Load the libraries of NVIDIA's Python packages, where the system's loader does not look for them.

    ONNX Runtime leaves this to the caller, and then says that CUDA or cuDNN are not installed.
    """
    load = getattr(onnxruntime, "preload_dlls", None)  # since 1.21
    if load is not None:
        # What is missing is printed; it shows when the provider is started.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            load()


def _flag(*, value: bool) -> str:
    return "1" if value else "0"


def _cuda_options(*, graphs: bool, plain_sums: bool) -> dict[str, str]:
    return {
        "device_id": "0",
        # TF32 would round the factors of float32 products to 10 bits.
        "use_tf32": "0",
        # Trying all of cuDNN's algorithms takes seconds for each new image size. The default one is a matrix product;
        # others are Winograd's, whose fractions round.
        "cudnn_conv_algo_search": "DEFAULT" if plain_sums else "HEURISTIC",
        "enable_cuda_graph": _flag(value=graphs),
    }


class OnnxRuntimeCuda(_OnnxRuntimeGpu):
    """ONNX Runtime's CUDA execution provider."""

    name: ClassVar[str] = "onnxruntime-cuda"
    provider: ClassVar[str] = "CUDAExecutionProvider"
    install: ClassVar[str] = "pip uninstall onnxruntime; pip install onnxruntime-gpu"
    note: ClassVar[str] = ""

    @classmethod
    def _provider(cls, onnxruntime: Any, options: Options) -> Provider | None:
        if not _built_in(onnxruntime, cls.provider):
            return None
        _preload(onnxruntime)
        return Provider(
            cls.provider, _cuda_options(graphs=options.cuda_graphs, plain_sums=options.plain_sums)
        )

    @classmethod
    def _require_quantized(cls, bundle: Bundle) -> None:
        graph = next(
            name for name in bundle.manifest.graph_names if bundle.manifest.graphs[name].precision == "int8"
        )
        try:
            cls.session(bundle.read_graph(graph), Options(cuda_graphs=False))
        except (BackendError, BundleError) as error:
            raise BackendError(
                f"{error}; int8 bundles run on GPUs as engines: oslic build {bundle.path} --backend tensorrt "
                "--precision int8-fp16"
            ) from error


class OnnxRuntimeTensorRt(_OnnxRuntimeGpu):
    """ONNX Runtime's TensorRT execution provider; nodes that TensorRT does not take run on CUDA.

    It records CUDA graphs for sessions whose inputs never change their shape; ours do, and record none.
    """

    name: ClassVar[str] = "onnxruntime-tensorrt"
    provider: ClassVar[str] = "TensorrtExecutionProvider"
    install: ClassVar[str] = "pip uninstall onnxruntime; pip install onnxruntime-gpu tensorrt"
    note: ClassVar[str] = ", builds its engines at the first image of each size"

    @classmethod
    def _provider(cls, onnxruntime: Any, options: Options) -> Provider | None:
        del options  # it records nothing
        if not _built_in(onnxruntime, cls.provider):
            return None
        _preload(onnxruntime)
        with contextlib.suppress(ImportError):  # it loads TensorRT's libraries in the same way
            importlib.import_module("tensorrt")
        own = {"device_id": "0", "trt_cuda_graph_enable": _flag(value=False)}
        helper = ("CUDAExecutionProvider", _cuda_options(graphs=False, plain_sums=False))
        return Provider(cls.provider, own, helpers=(helper,))

    def _runner(self, onnxruntime: Any, session: Any, graph: GraphName) -> Runner:
        return self._bound(onnxruntime, session, graph, capture=False)


class OnnxRuntimeTensorRtRtx(_OnnxRuntimeGpu):
    """ONNX Runtime's TensorRT-RTX provider: built in, or from the package of NVIDIA's plugin.

    It records CUDA graphs for sessions whose inputs never change their shape; ours do, and record none.
    """

    name: ClassVar[str] = "onnxruntime-tensorrt-rtx"
    provider: ClassVar[str] = "NvTensorRTRTXExecutionProvider"
    install: ClassVar[str] = "pip install onnxruntime-ep-nv-tensorrt-rtx"
    note: ClassVar[str] = ", compiles its engines at the first image"

    @classmethod
    def _provider(cls, onnxruntime: Any, options: Options) -> Provider | None:
        del options  # it records nothing
        given = {"device_id": "0", "enable_cuda_graph": _flag(value=False)}
        if _built_in(onnxruntime, cls.provider):
            return Provider(cls.provider, given)
        if importlib.util.find_spec(_RTX_PLUGIN) is None:
            return None
        try:
            plugin = importlib.import_module(_RTX_PLUGIN)
            name = str(plugin.get_ep_name())
            if all(device.ep_name != name for device in onnxruntime.get_ep_devices()):
                onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            raise BackendError(f"{_RTX_PLUGIN} does not load: {error}") from error
        devices = tuple(device for device in onnxruntime.get_ep_devices() if device.ep_name == name)
        if not devices:
            raise BackendError(f"{_RTX_PLUGIN} finds no GPU that it supports")
        return Provider(name, given, devices=devices[:1])

    def _runner(self, onnxruntime: Any, session: Any, graph: GraphName) -> Runner:
        # This provider copies inputs itself.
        return HostRunner(onnxruntime, session, graph, timeout=self._options.timeout)


KINDS: Final[dict[str, type[_OnnxRuntimeGpu]]] = {
    kind.name: kind for kind in (OnnxRuntimeCuda, OnnxRuntimeTensorRt, OnnxRuntimeTensorRtRtx)
}
"""The backends of this file by name."""
