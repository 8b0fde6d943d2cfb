"""Building TensorRT engines, through the API that `tensorrt` and `tensorrt-rtx` share."""

from __future__ import annotations

import hashlib
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast

import onnx_ir as ir

from ..runtime.backends.cuda import driver as cuda_driver
from ..runtime.backends.tensorrt.bindings import Log, logger, make
from ..runtime.backends.tensorrt.bindings import load_product as import_product
from ..runtime.bundle import engine_trust
from ..runtime.bundle.engine_files import LAYERS_SUFFIX, EngineInfo, Product, Shapes
from ..runtime.bundle.manifest import OSLIC
from ..runtime.errors import BackendError, DependencyError, DeviceError, UsageError
from ..runtime.files import read_regular_file, write_atomically
from ..runtime.model.feeds import require_names
from ..runtime.model.header import read_header, shape_text
from ..runtime.model.source import bundle_shapes, kind_shapes
from .graph_files import parse_graph
from .ir_queries import serialize
from .normal_form import OLDEST_OPSET
from .precision import require_buildable, rest_to_half, to_half
from .quantized import int8_form

if TYPE_CHECKING:
    from ..runtime.bundle.folder import Bundle
    from ..runtime.model.header import Port
    from ..runtime.model.source import Model

Precision = Literal["fp32", "tf32", "fp16", "bf16", "int8", "int8-fp16"]

# Warnings of the parser after which the engine would compute other numbers than the graph.
_MOST_CACHE_BYTES: Final = 1 << 30
_CHANGES_NUMBERS: Final = re.compile(
    r"uint8.*int8|clamp|out of range|truncat|will be cast|precision loss", re.IGNORECASE
)


# How TensorRT says that the sizes of a profile do not fit the graph.
_SIZES_DIFFER: Final = re.compile(r"dimensions? (must be equal|mismatch)|broadcast", re.IGNORECASE)
# What TensorRT converts uint8 from and to.
_OF_UINT8: Final = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})


@dataclass(frozen=True)
class Profile:
    """Image sizes of one optimization profile, each as (N, height, width).

    Attributes:
        least: smallest.
        best: for which kernels are chosen.
        most: largest.
    """

    least: tuple[int, int, int]
    best: tuple[int, int, int]
    most: tuple[int, int, int]

    @classmethod
    def parse(cls, text: str) -> Profile:
        """`1x64x64,1x512x768,4x1088x1920`.

        Raises:
            UsageError: another form, or sizes that do not rise.
        """
        try:
            parts = [tuple(int(size) for size in part.lower().split("x")) for part in text.split(",")]
            least, best, most = (cast("tuple[int, int, int]", part) for part in parts)
        except ValueError:
            parts = []
        if not parts or any(len(part) != 3 for part in parts):
            raise UsageError(f"--shapes {text} is not of the form MIN,OPT,MAX with N x height x width each")
        if not all(0 < a <= b <= c for a, b, c in zip(least, best, most, strict=True)):
            raise UsageError(f"--shapes {text}: sizes must not fall from MIN over OPT to MAX")
        return cls(least, best, most)

    def shapes(
        self,
        names: Sequence[str],
        multiple: int,
        shapes_for: Callable[[int, int, int], Mapping[str, tuple[int, ...]]],
    ) -> dict[str, Shapes]:
        """Shapes of inputs of a bundle's graph.

        Args:
            names: of the inputs.
            multiple: image sizes are rounded up to multiples of it.
            shapes_for: shapes of all inputs, by name, for N images of a height and a width.
        """

        def padded(size: tuple[int, int, int]) -> tuple[int, int, int]:
            n, height, width = size
            return n, -(-height // multiple) * multiple, -(-width // multiple) * multiple

        sizes = [shapes_for(*padded(size)) for size in (self.least, self.best, self.most)]
        return {name: cast("Shapes", tuple(shapes[name] for shapes in sizes)) for name in names}


DEFAULT_PROFILE: Final = Profile((1, 32, 32), (1, 512, 768), (4, 1088, 1920))


@dataclass(frozen=True)
class Options:
    """How to build.

    Attributes:
        optimization_level: 0 to 5; higher takes longer.
        version_compatible: the engine is to load in later versions too.
        hardware_compatible: it is to run on later GPUs too.
        stripped: without weights, where the product offers it.
        timing_cache: file of the timing cache, read and written; None: none.
        workspace: bytes that kernels may use for intermediate results; None: the product's default.
        tf32: whether the factors of float32 products may be rounded to 10 bits; the products do so by default.
        layers: also write what became of each layer, as `NAME.layers.json` beside the engine; this needs a GPU.
    """

    optimization_level: int = 3
    version_compatible: bool = False
    hardware_compatible: bool = False
    stripped: bool = False
    timing_cache: Path | None = None
    workspace: int | None = None
    tf32: bool = False
    layers: bool = False


def load_product(product: Product) -> Any:
    """Import a product's bindings.

    Raises:
        DependencyError: it is not installed, or its libraries do not load.
    """
    try:
        return import_product(product)
    except BackendError as error:
        raise DependencyError(str(error)) from error


def require_supported(trt: Any, product: Product, precision: Precision, options: Options) -> None:
    """Say before a build what the product cannot do.

    Raises:
        UsageError: naming the option.
        DeviceError: an option needs a GPU, and there is none.
    """
    if options.timing_cache is not None and product == "tensorrt-rtx":
        raise UsageError("tensorrt-rtx compiles its kernels on the target; it has no timing cache to share")
    if options.hardware_compatible and product == "tensorrt-rtx":
        raise UsageError(
            "engines of tensorrt-rtx run on all GPUs that it supports; leave --hardware-compatible out"
        )
    if options.layers and compute_capability() is None:
        raise DeviceError(
            "what became of the layers is read from the loaded engine: --layers needs a GPU, here is none"
        )
    flags = {"version_compatible": "VERSION_COMPATIBLE", "stripped": "STRIP_PLAN"}
    for option, flag in flags.items():
        if getattr(options, option) and not hasattr(trt.BuilderFlag, flag):
            raise UsageError(f"{product} {trt.__version__} does not offer {option}")
    if options.stripped and precision in {"fp16", "bf16", "int8-fp16"}:
        raise UsageError(
            f"an engine without weights takes them from the bundle's graph when it is loaded, and that is not "
            f"{precision}: leave --stripped or --precision {precision} out"
        )
    if precision == "bf16" and not hasattr(trt.DataType, "BF16"):
        raise UsageError(f"{product} {trt.__version__} has no bfloat16")


def _monitor(trt: Any, report: Callable[[str], Any]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            if parent_phase is None:
                report(f"{phase_name} ({num_steps} steps)")

        def step_complete(self, phase_name: str, step: int) -> bool:
            report(f"{phase_name} {step + 1}/{self._steps.get(phase_name, 0)}")
            return True  # go on

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


def _configure(trt: Any, builder: Any, options: Options) -> Any:
    config = builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.stripped:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.layers:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    return config


def bridge_casts(data: bytes) -> bytes:
    """A model whose uint8 tensors are cast to and from float32 or float16 only, which changes no number.

    TensorRT documents no other conversions of uint8 (`DataType::kUINT8`); labels are cast to whole numbers and back.

    Args:
        data: a serialized ONNX model.
    """
    model = parse_graph(data)
    graph = model.graph
    changed = False
    for node in [node for node in graph if node.op_type == "Cast" and not node.domain]:
        value = node.inputs[0]
        to = ir.DataType(node.attributes.get_int("to", 0))
        if value is None or ir.DataType.UINT8 not in {value.dtype, to} or {value.dtype, to} & _OF_UINT8:
            continue
        cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name=f"{value.name}.bridge")
        graph.insert_before(node, cast)
        cast.outputs[0].name = f"{value.name}.bridged"
        cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        node.replace_input_with(0, cast.outputs[0])
        changed = True
    return serialize(model) if changed else data


def build_plan(
    trt: Any,
    data: bytes,
    profiles: Sequence[Mapping[str, Shapes]],
    options: Options,
    progress: Callable[[str], Any] | None = None,
) -> bytes:
    """Build an engine from a serialized ONNX model.

    Args:
        trt: the product's module, see `load_product`.
        data: the model, with the types that the engine is to have.
        profiles: for each optimization profile, smallest, best and largest shape of each input.
        options: how to build.
        progress: gets lines while the build runs.

    Returns:
        The serialized engine.

    Raises:
        BackendError: the product refuses the graph, or would compute other numbers than it.
        UsageError: the shapes do not fit the graph.
    """
    log = Log()
    talk = logger(trt, log)
    builder = make(trt, "Builder", talk, log=log)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, talk)
    if not parser.parse(bridge_casts(data)):
        reasons = [str(parser.get_error(i).desc()) for i in range(parser.num_errors)]
        raise BackendError(
            f"{trt.__name__} cannot read the graph: {'; '.join(reasons or log.errors)}{_hint(data)}"
        )
    changing = [message for message in log.warnings if _CHANGES_NUMBERS.search(message)]
    if changing:
        raise BackendError(f"{trt.__name__} would compute other numbers than the graph: {changing[0]}")
    config = _configure(trt, builder, options)
    cache = None
    if options.timing_cache is not None:
        path = options.timing_cache
        known = read_regular_file(path, "timing cache", _MOST_CACHE_BYTES) if path.exists() else b""
        cache = config.create_timing_cache(known)
        config.set_timing_cache(cache, ignore_mismatch=False)
    for shapes in profiles:
        profile = builder.create_optimization_profile()
        for name, (least, best, most) in shapes.items():
            profile.set_shape(name, least, best, most)
        if config.add_optimization_profile(profile) < 0:
            raise UsageError(f"{trt.__name__} refuses the shapes {dict(shapes)}: {'; '.join(log.errors)}")
    monitor = None
    if progress is not None:
        monitor = _monitor(trt, progress)
        config.progress_monitor = monitor
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        why = log.reasons()
        if _SIZES_DIFFER.search(why):
            raise UsageError(f"{trt.__name__} could not build an engine for these --shapes: {why}")
        raise BackendError(f"{trt.__name__} could not build the engine: {why}")
    if cache is not None and options.timing_cache is not None:
        write_atomically(options.timing_cache, bytes(cache.serialize()))
    return bytes(plan)


def _hint(data: bytes) -> str:
    """What may help where a parser does not read a graph of an old operator set."""
    opset = read_header(data, "the graph").opsets.get("", OLDEST_OPSET)
    if opset >= OLDEST_OPSET:
        return ""
    return (
        f"; its operator set is {opset}, an old one: `oslic fuse IN.onnx -o OUT.onnx --form keep` writes the graph in "
        f"version {OLDEST_OPSET}, or export it again with a newer one"
    )


def compute_capability() -> str | None:
    """Compute capability of the first GPU, such as `9.0`; None where there is none."""
    found, _ = cuda_driver.gpus()
    return found[0].capability if found else None


def prepare(data: bytes, precision: Precision) -> bytes:
    """A graph in the types that the engine is to have; graphs of integers in their int8 form.

    Raises:
        UsageError: the graph does not fit the precision, or has what TensorRT lacks.
    """
    model = parse_graph(data)
    signed = int8_form(model)
    if signed is not None:
        if precision == "int8-fp16":
            raise UsageError(
                "the graph is one of integers, the same on every machine; in half precision what stands between them "
                "would not be: build it with --precision int8"
            )
        model, data = signed, serialize(signed)
    require_buildable(model, precision)
    if precision == "fp16" or precision == "bf16":  # noqa: PLR1714 - narrows the type
        return serialize(to_half(model, precision))
    if precision == "int8-fp16":
        return serialize(rest_to_half(model, "fp16"))
    return data


def profiles_of(
    model: Model,
    *,
    named: Sequence[tuple[str, Shapes]] = (),
    sizes: Sequence[Profile] = (),
    bundle: Bundle | None = None,
) -> list[dict[str, Shapes]]:
    """The optimization profiles of a graph.

    Args:
        model: the graph.
        named: smallest, best and largest shape by input; an input that is named again begins another profile.
        sizes: image sizes, for the graphs of a bundle.
        bundle: that holds the graph; None: nobody does.

    Returns:
        For each profile the shapes of all inputs. Inputs of fixed size need none; where a bundle's graph is given
        nothing, it gets `DEFAULT_PROFILE`.

    Raises:
        UsageError: a name that no input has, a shape that does not fit, or an input whose size is open and not given.
    """
    require_names([name for name, _ in named], model.inputs, "--shapes")
    if sizes and bundle is None:
        raise UsageError(
            f"--shapes {_size_text(sizes[0])}: image sizes are for bundles; name the inputs: {_example(model)}"
        )
    if bundle is not None and not named:
        manifest = bundle.manifest
        scales = manifest.graphs[model.name].scales

        def shapes_for(n: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
            if manifest.kind == OSLIC:
                return bundle_shapes(manifest.label_scale, n, height, width)
            return kind_shapes(model.inputs, scales, n, height, width)

        names = [port.name for port in model.inputs]
        return [p.shapes(names, manifest.multiple, shapes_for) for p in sizes or (DEFAULT_PROFILE,)]
    groups: list[dict[str, Shapes]] = [{}]
    for name, shapes in named:
        if name in groups[-1]:
            groups.append({})
        groups[-1][name] = shapes
    return [_complete(group, model) for group in groups]


def _complete(group: Mapping[str, Shapes], model: Model) -> dict[str, Shapes]:
    """The shapes of all inputs, where some are given: dimensions of one symbolic name have one size."""
    sizes: dict[str, tuple[int, int, int]] = {}
    for port in model.inputs:
        for i, own in enumerate(port.shape or () if port.name in group else ()):
            if isinstance(own, str) and all(i < len(shape) for shape in group[port.name]):
                least, best, most = group[port.name]
                sizes[own] = (least[i], best[i], most[i])
    return {port.name: _shapes_of(port, group.get(port.name), sizes, model) for port in model.inputs}


def _shapes_of(
    port: Port, given: Shapes | None, sizes: Mapping[str, tuple[int, int, int]], model: Model
) -> Shapes:
    if given is None:
        found = []
        for i, own in enumerate(port.shape if port.shape is not None else (None, None)):
            if isinstance(own, int):
                found.append((own, own, own))
            elif own is not None and own in sizes:
                found.append(sizes[own])
            elif i == 0:  # a batch of one, as for `oslic run`
                found.append((1, 1, 1))
            else:
                raise UsageError(
                    f"the input {port} has no fixed size: give its shapes, such as {_example(model)}"
                )
        least, best, most = (tuple(size[i] for size in found) for i in range(3))
        return least, best, most
    for shape in given:
        if not port.takes(shape):
            raise UsageError(f"--shapes {port.name}={shape_text(shape)} does not fit the input {port}")
    return given


def _size_text(profile: Profile) -> str:
    return ",".join("x".join(map(str, size)) for size in (profile.least, profile.best, profile.most))


def _example(model: Model) -> str:
    """What `--shapes` could say, for messages."""
    words = []
    for port in model.inputs:
        if port.shape is None or any(not isinstance(size, int) for size in port.shape):
            marks = port.shape if port.shape is not None else ("N", "C", "H", "W")
            sizes = [
                "x".join(
                    str(s) if isinstance(s, int) else str(n if i == 0 else side) for i, s in enumerate(marks)
                )
                for n, side in ((1, 64), (1, 256), (4, 512))
            ]
            words.append(f"--shapes {port.name}={','.join(sizes)}")
    return " ".join(words) or "no --shapes at all: its inputs are of fixed size"


def build_engine(
    model: Model,
    product: Product,
    precision: Precision,
    profiles: Sequence[Mapping[str, Shapes]],
    folder: Path,
    *,
    options: Options,
    progress: Callable[[str], Any] | None = None,
) -> tuple[Path, EngineInfo]:
    """Build the engine of a graph into a folder.

    Args:
        model: the graph: any ONNX file's, or one of a bundle's.
        product: with which product.
        precision: of the heavy layers.
        profiles: shapes of the inputs, see `profiles_of`.
        folder: where to; it is made if it does not exist.
        options: how to build.
        progress: gets lines while the build runs.

    Returns:
        The engine's path, and its sidecar, which lies beside it.

    Raises:
        BackendError: the product refuses the graph.
        UsageError: what the product cannot do, the folder cannot be made, or no record can be kept of engines built
            here.
        DependencyError: it is not installed.
        DeviceError: what is asked for needs a GPU, and there is none.
    """
    trt = load_product(product)
    require_supported(trt, product, precision, options)
    engine_trust.require_recordable()
    gpu = compute_capability()
    if product == "tensorrt" and gpu is None:
        raise DeviceError("tensorrt builds engines only on the GPU that they are for; here is none")
    try:
        data = prepare(model.data, precision)
        start = time.perf_counter()
        plan = build_plan(trt, data, profiles, replace(options, tf32=precision == "tf32"), progress)
    except (BackendError, UsageError) as error:
        raise type(error)(f"{model.path}: {error}") from error
    stem = f"{model.name}.{product}.{precision}"
    sidecar = EngineInfo(
        file=f"{stem}.engine",
        sha256=hashlib.sha256(plan).hexdigest(),
        graph=model.name,
        graph_sha256=model.file_sha256,
        backend=product,
        version=str(trt.__version__),
        precision=precision,
        gpu=_runs_on(product, gpu, options),
        profiles=tuple(dict(shapes) for shapes in profiles),
        version_compatible=options.version_compatible,
        stripped=options.stripped,
        optimization_level=options.optimization_level,
        build_seconds=round(time.perf_counter() - start, 3),
    )
    _write(folder, stem, plan, sidecar)
    if options.layers:
        write_atomically(folder / f"{stem}{LAYERS_SUFFIX}", describe_layers(trt, plan).encode())
    return folder / sidecar.file, sidecar


def _write(folder: Path, stem: str, plan: bytes, sidecar: EngineInfo) -> None:
    """Write an engine and its sidecar, and record that it was built here.

    Raises:
        UsageError: the folder cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"the folder {folder} cannot be made: {error.strerror}") from error
    write_atomically(folder / sidecar.file, plan)
    engine_trust.record(sidecar)
    write_atomically(folder / f"{stem}.json", sidecar.to_json().encode())


def _runs_on(product: Product, gpu: str | None, options: Options) -> str:
    """What the sidecar says of the GPUs that an engine is for; see `EngineInfo.gpu`."""
    if product == "tensorrt-rtx" or gpu is None:
        return "any"
    return "8.0+" if options.hardware_compatible else gpu


def describe_layers(trt: Any, plan: bytes) -> str:
    """Per-layer information of an engine as JSON, in the product's own words.

    Args:
        trt: the product's module, see `load_product`.
        plan: the engine, built with `Options.layers`.

    Raises:
        BackendError: the engine does not load on this machine.
    """
    log = Log()
    runtime = make(trt, "Runtime", logger(trt, log), log=log)
    # Engines for later versions too carry code of their own; this one was built here.
    runtime.engine_host_code_allowed = True
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise BackendError(f"{trt.__name__} does not load the engine that it built: {log.reasons()}")
    return layer_information(trt, engine)


def layer_information(trt: Any, engine: Any) -> str:
    """What a product tells of the layers of a loaded engine, as JSON; it must have been built with `Options.layers`."""
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def show(line: str) -> None:
    """A line of progress on the terminal, over the one before."""
    if sys.stderr.isatty():
        print(f"\r\033[K{line[:100]}", end="", file=sys.stderr, flush=True)
