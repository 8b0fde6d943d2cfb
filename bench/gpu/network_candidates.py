"""What `oslic bench gpu` measures: a network in one form on one engine, its inputs on the device already."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
import onnx
import onnx_ir as ir
import torch
import torch._dynamo.config as dynamo
from torch import nn

from ...export.engines import Options as BuildOptions
from ...export.form_selection import Fixed
from ...export.fusion import LOWERINGS, fuse
from ...export.half_bundle import half_graph
from ...export.ir_queries import serialize
from ...export.onnx_export import export_graph, ports
from ...networks import octconv
from ...networks.codec import CodecNetworks, create
from ...networks.comnet import quantize
from ...networks.config import ModelConfig, preset
from ...networks.deploy import deployable
from ...runtime.backends.base import Options
from ...runtime.backends.onnxruntime import cpu as onnxruntime_cpu
from ...runtime.backends.onnxruntime.gpu import OnnxRuntimeCuda
from ...runtime.bundle.engine_files import PRODUCTS, Product
from ...runtime.bundle.manifest import GraphName
from ...runtime.errors import BackendError, DependencyError
from ...runtime.files import write_atomically
from ..experiments.fusion import export_static, twin
from .engine_candidates import SEED, Candidate, Source, engine_candidate, random_pixels, require_product

if TYPE_CHECKING:
    from ...runtime.image.arrays import Pixels

Device = Literal["cuda", "cpu"]
Precision = Literal["fp32", "fp16"]
FUSED: Final[dict[str, Fixed]] = {
    "fused:pooled": Fixed("pooled", "merged", "stacked"),
    "fused:transposed": Fixed("transposed", "merged", "stacked"),
    "fused:phases": Fixed("phases", "merged", "stacked"),
    "fused:merged": Fixed("merged", "stacked"),
}
"""Forms that fusion can give a graph; which is fastest depends on the engine, so all are measured."""
FORMS: Final = (
    "naive",
    "fused:pooled",
    "plain",
    "fused:transposed",
    "convolve_first",
    "fused:phases",
    "fused:merged",
)
"""In the order of their weight: what is cut off when time runs out comes last."""

UNFUSED: Final = ("naive", "plain", "convolve_first")
"""What fused forms are held against."""
SAME_NUMBERS: Final = frozenset({"naive", *FUSED})
"""Forms of one network, whose outputs can be compared."""


@dataclass(frozen=True)
class Work:
    """One network at one size.

    Attributes:
        network: name of the configuration; random weights.
        graph: which graph.
        height: of the image, a multiple of the configuration's.
        width: of the image.
        precision: `fp32` (TF32 off) or `fp16`.
        device: where.
    """

    network: str
    graph: GraphName
    height: int
    width: int
    precision: Precision
    device: Device

    @property
    def config(self) -> ModelConfig:
        """The configuration."""
        return preset(self.network)

    def forms(self) -> tuple[str, ...]:
        """Forms that this graph has: SegNet has no octave convolutions."""
        return ("naive",) if self.graph == "segment" else FORMS

    def inputs(self) -> dict[str, Pixels]:
        """Inputs by name."""
        config = self.config
        return random_pixels(
            self.graph,
            self.height,
            self.width,
            label_scale=config.label_scale,
            classes=len(config.classes),
            levels=config.levels,
        )


def _segment(work: Work, folder: Path) -> ir.Model:
    """SegNet at one size.

    Only the dynamo exporter writes its unpooling in ONNX operators, and it takes its time: the graph with dynamic
    sizes is kept for the other sizes.
    """
    config = work.config
    path = folder / f"{work.network}-segment-dynamic.onnx"
    if not path.is_file():
        module = deployable(create(config, SEED))["segment"]
        exported = export_graph(module, "segment", config.label_scale, config.multiple)
        lowered, _ = fuse(exported, lambda _: Fixed(), rules=LOWERINGS)
        write_atomically(path, serialize(lowered))
    model = ir.from_proto(onnx.load_model(path))
    inputs, output = ports(config.label_scale)["segment"]
    for values, found in ((model.graph.inputs, inputs), (model.graph.outputs, (output,))):
        for value, port in zip(values, found, strict=True):
            value.shape = ir.Shape(port.shape(1, work.height, work.width))
    return model


def model_file(work: Work, form: str, folder: Path) -> Path:
    """The ONNX file of a form, exported once and kept in `folder`.

    Args:
        work: which network, size and precision.
        form: one of `FORMS`.
        folder: for files that later sections read again.
    """
    name = f"{work.network}-{work.graph}-{work.width}x{work.height}-{form.replace(':', '-')}"
    path = folder / f"{name}-{work.precision}.onnx"
    if path.is_file():
        return path
    if work.precision == "fp16":
        whole = Work(work.network, work.graph, work.height, work.width, "fp32", work.device)
        data = half_graph(model_file(whole, form, folder).read_bytes(), "fp16")
    else:
        size = (work.height, work.width)
        if form in FUSED:
            naive = ir.from_proto(onnx.load_model(model_file(work, "naive", folder)))
            model, _ = fuse(naive, lambda _: FUSED[form])
        elif work.graph == "segment":
            model = _segment(work, folder)
        else:
            exported = export_static(twin(work.config, form), work.graph, size, SEED)
            model, _ = fuse(exported, lambda _: Fixed(), rules=LOWERINGS)
        data = serialize(model)
    write_atomically(path, data)
    return path


# -- PyTorch ----------------------------------------------------------------------------------------------------------


class _Half(nn.Module):
    """A deployable graph whose network runs in float16, pixels in and out."""

    def __init__(self, networks: CodecNetworks, graph: GraphName) -> None:
        super().__init__()
        parts = {"segment": networks.segnet, "analyse": networks.comnet, "synthesise": networks.gnet}
        self.part = parts[graph].half()
        self.graph = graph

    def forward(self, first: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        x = first.to(torch.float16).permute(0, 3, 1, 2)
        if self.graph == "segment":
            return cast("torch.Tensor", cast("Any", self.part).labels(x / 256))
        if self.graph == "analyse":
            y = quantize(self.part(x / 256, labels), cast("int", self.part.levels))
        else:
            y = torch.clamp(torch.round(self.part(x, labels).float() * 256), 0, 255)
        return y.permute(0, 2, 3, 1).to(torch.uint8)


def torch_module(work: Work, form: str) -> nn.Module:
    """The deployable module of a form, on the device.

    Raises:
        BackendError: this form or precision is not measured with PyTorch.
    """
    if form in FUSED and form != "fused:transposed":
        raise BackendError("the fused PyTorch module has only the transposed form")
    if work.precision == "fp16" and work.device == "cpu":
        raise BackendError("PyTorch in float16 is measured on GPUs only")
    networks = create(twin(work.config, form), SEED)
    if form in FUSED:
        octconv.fuse(networks)
    if work.precision == "fp16":
        module: nn.Module = _Half(networks, work.graph)
    else:
        module = deployable(networks)[work.graph]
    return module.eval().to(work.device)


def torch_candidate(work: Work, form: str, *, compiled: bool, cuda_graphs: bool) -> Candidate:
    """PyTorch, eager or compiled."""
    # float32 means float32 in every candidate.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    module = torch_module(work, form)
    feeds = [torch.from_numpy(x).to(work.device) for x in work.inputs().values()]
    call: Callable[..., Any] = module
    if compiled:
        # All forms share their code, and beyond a number of variants of one code PyTorch runs it eagerly, in silence.
        dynamo.recompile_limit = max(dynamo.recompile_limit, 2 * len(FORMS))
        dynamo.fail_on_recompile_limit_hit = True
        call = torch.compile(module, mode="reduce-overhead" if cuda_graphs else "default")

    def wait() -> None:
        if work.device == "cuda":
            torch.cuda.synchronize()

    if cuda_graphs and not compiled:
        call = _recorded(module, feeds)

    def run() -> None:
        with torch.inference_mode():
            call(*feeds)
        wait()

    def output() -> Pixels:
        with torch.inference_mode():
            y = call(*feeds)
        wait()
        return cast("Pixels", y.cpu().numpy())

    return Candidate(run, output, {})


def _recorded(module: nn.Module, feeds: Sequence[torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A module's launches on these inputs as one CUDA graph.

    The recording reads weights and inputs where they lie: the result keeps both.
    """
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.inference_mode(), torch.cuda.stream(stream):
        for _ in range(3):  # libraries choose their kernels, which cannot be recorded
            module(*feeds)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.inference_mode(), torch.cuda.graph(graph):
        y = module(*feeds)

    def replay(_: object, *__: torch.Tensor) -> torch.Tensor:
        graph.replay()
        return cast("torch.Tensor", y)

    return functools.partial(replay, (module, feeds))


# -- ONNX Runtime -----------------------------------------------------------------------------------------------------


def onnxruntime_candidate(work: Work, path: Path, *, cuda_graphs: bool) -> Candidate:
    """ONNX Runtime, on its CUDA provider, or on the CPU."""
    data = path.read_bytes()
    if work.device == "cpu":
        session = onnxruntime_cpu.open_session(data, None)
        feeds = work.inputs()

        def on_cpu() -> Pixels:
            return cast("Pixels", session.run(None, feeds)[0])

        return Candidate(lambda: _discard(on_cpu()), on_cpu, {})
    api, session = OnnxRuntimeCuda.session(data, Options(cuda_graphs=cuda_graphs))
    binding = session.io_binding()
    values = [api.OrtValue.ortvalue_from_numpy(x, work.device, 0) for x in work.inputs().values()]
    for port, value in zip(session.get_inputs(), values, strict=True):
        binding.bind_ortvalue_input(port.name, value)
    (port,) = session.get_outputs()
    result = api.OrtValue.ortvalue_from_shape_and_type(_output_shape(work), np.uint8, work.device, 0)
    binding.bind_ortvalue_output(port.name, result)
    options = api.RunOptions()

    def run() -> None:
        session.run_with_iobinding(binding, options)
        binding.synchronize_outputs()

    def output() -> Pixels:
        run()
        return np.array(result.numpy())

    return Candidate(run, output, {})


def _discard(_: object) -> None:
    """What is timed returns nothing."""


def _output_shape(work: Work) -> list[int]:
    _, port = ports(work.config.label_scale)[work.graph]
    return list(port.shape(1, work.height, work.width))


# -- TensorRT products ------------------------------------------------------------------------------------------------


def tensorrt_candidate(
    work: Work, path: Path, product: Product, folder: Path, *, cuda_graphs: bool, level: int
) -> Candidate:
    """An engine of a TensorRT product, built for this size; kept in `folder` and loaded again."""
    _, output = ports(work.config.label_scale)[work.graph]
    source = Source(path.stem, work.graph, path.read_bytes(), work.precision, work.inputs(), output.name)
    return engine_candidate(
        product, source, folder, BuildOptions(optimization_level=level), cuda_graphs=cuda_graphs
    )


# -- all of them ------------------------------------------------------------------------------------------------------


def require_engine(engine: str, device: Device) -> None:
    """Say before anything is exported that an engine is not installed here, or not made for this GPU.

    Raises:
        DependencyError: naming what to install.
    """
    try:
        if engine in PRODUCTS:
            require_product(engine)
        elif engine == "onnxruntime" and device == "cuda":
            OnnxRuntimeCuda.require_present()
        elif engine.startswith("torch-") and device == "cuda" and not torch.cuda.is_available():
            raise BackendError(f"torch {torch.__version__} has no CUDA here: pip install torch")
    except BackendError as error:
        raise DependencyError(str(error)) from error


def make(work: Work, engine: str, form: str, folder: Path, *, cuda_graphs: bool, level: int = 3) -> Candidate:
    """Make one candidate ready: export, build, load.

    Args:
        work: which network, size, precision and device.
        engine: one of `runner.ENGINES`.
        form: one of `work.forms()`.
        folder: for graphs and engines that are used again.
        cuda_graphs: with or without.
        level: TensorRT's optimization level.

    Raises:
        BackendError: it cannot be had here; the message says why.
    """
    if engine.startswith("torch-"):
        return torch_candidate(work, form, compiled=engine == "torch-compile", cuda_graphs=cuda_graphs)
    path = model_file(work, form, folder)
    if engine == "onnxruntime":
        return onnxruntime_candidate(work, path, cuda_graphs=cuda_graphs)
    product = cast("Product", engine)
    return tensorrt_candidate(work, path, product, folder, cuda_graphs=cuda_graphs, level=level)


def agreement(candidates: Mapping[str, Candidate], reference: str) -> dict[str, dict[str, float]]:
    """How far the outputs of candidates lie from one of them: largest difference, and the share that differs."""
    wanted = candidates[reference].output()
    found = {}
    for name, candidate in candidates.items():
        y = candidate.output()
        distance = np.abs(y.astype(np.int16) - wanted)
        found[name] = {"maximum": float(distance.max()), "differing": float((distance > 0).mean())}
    return found
