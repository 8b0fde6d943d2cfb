"""What a command can be pointed at: an ONNX file, an engine with its sidecar, or a bundle of several ONNX files."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..bundle.engine_files import EngineInfo
from ..bundle.finder import open_bundle
from ..bundle.folder import Bundle
from ..bundle.graph_safety import require_self_contained
from ..bundle.manifest import COMPACT_SCALE, MANIFEST_NAME, OSLIC, GraphName
from ..bundle.uint8_form import weight_limit
from ..errors import BackendError, BundleError, DependencyError, UsageError, one_line
from ..files import read_regular_file, require_regular_file
from .header import NO_TENSOR, Header, Port, read_header

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HALVES: Final = {"float16": "fp16", "bfloat16": "bf16"}
ENGINE_SUFFIXES: Final = frozenset({".engine", ".plan"})
_TYPICAL: Final = (512, 768)
_MOST_BYTES: Final = (1 << 31) - 1  # of a protobuf message


@dataclass(frozen=True)
class Model:
    """An ONNX graph, read whole, with all its weights inside.

    Attributes:
        name: the file's without its ending; of a bundle's graph, its name in the manifest.
        path: of the file.
        data: the serialized model.
        header: what it states.
        file_sha256: of the file's bytes, 64 hexadecimal digits: what its engines are tied to.
        weight_limit: of a graph in int8 that a bundle holds (`runtime.bundle.uint8_form`); None for all others, which
            run as they are.
        ranges: values that its inputs take, by name, as (low, high), where the bundle says so.
        shapes: of its inputs for a picture of 768x512, by name, where the bundle says so.
    """

    name: str
    path: Path
    data: bytes = field(repr=False)
    header: Header
    file_sha256: str
    weight_limit: int | None = None
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """The inputs, in order."""
        return self.header.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        """The outputs, in order."""
        return self.header.outputs

    @property
    def precision(self) -> str:
        """What the heavy layers compute in, as far as the weights tell: `int8`, `fp16`, `bf16` or `fp32`."""
        if self.header.quantized:
            return "int8"
        weights = self.header.parameters
        return next((short for kind, short in _HALVES.items() if weights.get(kind)), "fp32")

    def require_tensors(self) -> None:
        """Refuse a graph whose outputs are sequences, maps or optional values.

        Raises:
            UsageError: naming the output.
        """
        for port in self.outputs:
            if port.dtype == NO_TENSOR:
                raise UsageError(
                    f"{self.path}: the output {port.name} is no tensor (a sequence, a map, or optional), and only "
                    "tensors can be given out: export the graph without it"
                )

    def with_data(self, data: bytes) -> Model:
        """The same graph in another form, such as other types; its inputs and outputs keep their names."""
        return replace(self, data=data, header=read_header(data, self.path))


@dataclass(frozen=True)
class EngineFile:
    """A built engine.

    Attributes:
        path: of the engine.
        info: its sidecar.
    """

    path: Path
    info: EngineInfo

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


@dataclass(frozen=True)
class Source:
    """What a command was pointed at.

    Attributes:
        path: as it was given.
        bundle: where it is one.
        engine: where it is one.
    """

    path: Path
    bundle: Bundle | None = None
    engine: EngineFile | None = None

    @functools.cached_property
    def models(self) -> tuple[Model, ...]:
        """The ONNX graphs: one, or those of the bundle in the order in which they run; none for an engine.

        Raises:
            UsageError: the file is no ONNX graph, or one without outputs.
            BundleError: a graph of the bundle is missing or was altered.
        """
        if self.engine is not None:
            return ()
        if self.bundle is None:
            return (read_model(self.path),)
        return tuple(model_of(self.bundle, name) for name in self.bundle.manifest.graphs)

    def model(self, name: str) -> Model:
        """The graph of that name."""
        return next(model for model in self.models if model.name == name)

    def chosen(self, names: Sequence[str]) -> tuple[Model, ...]:
        """Some of the graphs; all where no name is given.

        Raises:
            UsageError: a name that none of them has.
        """
        known = [model.name for model in self.models]
        for name in names:
            if name not in known:
                raise UsageError(f"no graph {name!r} in {self.path}; it has {', '.join(known)}")
        return tuple(model for model in self.models if not names or model.name in names)


def open_source(path: str | Path | None) -> Source:
    """Open an ONNX file, an engine, or a bundle.

    Args:
        path: a file; a folder with a manifest, or the name of a shipped bundle; None: the shipped bundle.

    Raises:
        UsageError: there is nothing there.
        BundleError: a bundle that cannot be read.
        BackendError: an engine whose sidecar is missing or damaged.
    """
    place = Path() if path is None else Path(path)
    if path is None or _is_bundle(place):
        bundle = open_bundle(path)
        return Source(bundle.path, bundle=bundle)
    if place.suffix in ENGINE_SUFFIXES:
        return Source(place, engine=open_engine(place))
    require_regular_file(place, "graph")
    return Source(place)


def _is_bundle(path: Path) -> bool:
    try:
        if path.is_dir():
            if not (path / MANIFEST_NAME).exists():
                raise UsageError(
                    f"{path} is a folder without {MANIFEST_NAME}, so no bundle; name an ONNX file, an engine or "
                    "a bundle"
                )
            return True
        return not path.exists() and not path.suffix
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {one_line(error)}") from error


def open_engine(path: Path) -> EngineFile:
    """Read the sidecar of an engine.

    Raises:
        UsageError: there is no such file.
        BackendError: the sidecar is missing, damaged, or of another engine.
    """
    require_regular_file(path, "engine")
    sidecar = path.with_suffix(".json")
    if not sidecar.exists():
        raise BackendError(
            f"{path} has no sidecar {sidecar.name} that says what it fits; `oslic build` writes both"
        )
    info = EngineInfo.read(sidecar)
    if info.file != path.name:
        raise BackendError(
            f"the sidecar {sidecar} is that of {info.file}, not of {path.name}; build the engine again"
        )
    return EngineFile(path, info)


def read_model(path: Path) -> Model:
    """Read an ONNX file; weights in files beside it are taken in.

    Raises:
        UsageError: it cannot be read, is no ONNX graph or one without outputs, or has weights elsewhere than beside it.
        DependencyError: it has weights in files beside it, and the `onnx` package is not installed.
    """
    data = read_regular_file(path, "graph", _MOST_BYTES)
    digest = hashlib.sha256(data).hexdigest()
    header = read_header(data, path)
    if header.external:
        data = _with_weights(path, header.external)
        header = read_header(data, path)
    try:
        require_self_contained(data, str(path))
    except BundleError as error:
        raise UsageError(f"{path} cannot be used: {str(error).removeprefix(f'{path} ')}") from error
    return Model(path.stem, path, data, header, digest)


def _with_weights(path: Path, external: tuple[str, ...]) -> bytes:
    """The serialized model with its external data inside; only files beside it, or below, are read."""
    for location in external:
        place = Path(location)
        if place.is_absolute() or ".." in place.parts:
            raise UsageError(f"{path} has weights in {place}: only files beside the graph are read")
        require_regular_file(path.parent / place, "weights")
    try:
        import onnx
    except ImportError as error:
        raise DependencyError(
            f"{path} has weights in other files, which the package onnx reads: pip install 'oslic[onnx]'"
        ) from error
    try:
        model: Any = onnx.load(str(path))
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf's, onnx's and the system's errors have no common base but this
        raise UsageError(f"weights of {path} that lie beside it cannot be read: {one_line(error)}") from error


def model_of(bundle: Bundle, name: GraphName) -> Model:
    """One graph of a bundle.

    Raises:
        BundleError: the file is missing, was altered, or is no graph.
    """
    path, manifest = bundle.graph_path(name), bundle.manifest
    data = bundle.read_graph(name)
    try:
        header = read_header(data, path)
    except UsageError as error:
        raise BundleError(f"{error}; export the bundle again") from error
    names = {port.name for port in header.inputs}
    if manifest.kind == OSLIC:
        highest = {"labels": len(manifest.classes) - 1, "compact": manifest.levels - 1}
        typical = bundle_shapes(manifest.label_scale, 1, *_TYPICAL)
    else:
        highest, typical = {}, kind_shapes(header.inputs, manifest.graphs[name].scales, 1, *_TYPICAL)
    return Model(
        name,
        path,
        data,
        header,
        manifest.graphs[name].sha256,
        weight_limit(manifest, name),
        {port: (0.0, float(most)) for port, most in highest.items() if port in names},
        {port: shape for port, shape in typical.items() if port in names},
    )


def kind_shapes(
    ports: Sequence[Port], scales: Mapping[str, int], count: int, height: int, width: int
) -> dict[str, tuple[int, ...]]:
    """Shapes of what a graph of a kind other than `oslic` takes, by input, for pictures of one size.

    Args:
        ports: the graph's inputs, of rank 4: of the four dimensions the first is the number of pictures; of the others
            those that are not fixed are height and width, in this order.
        scales: by how much each input's sides are smaller than the pictures'; 1 where it does not say.
        count: pictures in a batch.
        height: of the pictures, a multiple of the manifest's number.
        width: of the pictures, too.
    """
    shapes = {}
    for port in ports:
        if port.shape is None or len(port.shape) != 4:
            continue
        sides = iter(-(-side // scales.get(port.name, 1)) for side in (height, width))
        rest = [size if isinstance(size, int) else next(sides, 1) for size in port.shape[1:]]
        shapes[port.name] = (count, *rest)
    return shapes


def bundle_shapes(label_scale: int, count: int, height: int, width: int) -> dict[str, tuple[int, ...]]:
    """Shapes of what a bundle's graphs take, by input, for pictures of one size.

    Args:
        label_scale: the manifest's.
        count: pictures in a batch.
        height: of the pictures, a multiple of the manifest's number.
        width: of the pictures, too.
    """
    return {
        **dict.fromkeys(("image", "decoded", "estimate"), (count, height, width, 3)),
        "labels": (count, height // label_scale, width // label_scale),
        "compact": (count, height // COMPACT_SCALE, width // COMPACT_SCALE, 3),
        "settings": (count, 2),
    }
