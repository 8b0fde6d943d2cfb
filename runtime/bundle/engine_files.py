"""Engines: graphs that were built for one product, and the sidecar that says what each of them fits.

An engine lies in a bundle's `engines/` beside a JSON file of the same stem. Export writes both, the TensorRT backend
reads them; neither guesses.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from ..errors import BackendError
from ..files import read_regular_file
from ..plain_json import parse_object
from . import engine_trust
from .manifest import COMPACT_SCALE, is_plain_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .folder import Bundle
    from .manifest import GraphName

FORMAT: Final = "oslic-engine"
VERSION: Final = 1

Product = Literal["tensorrt", "tensorrt-rtx"]
PRODUCTS: Final[dict[Product, str]] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Product and the Python module that binds it; both offer the same API."""

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

PRECISIONS: Final = ("int8-fp16", "int8", "fp16", "bf16", "tf32", "fp32")
"""What engines can be built in, the fastest first."""

FOLDER: Final = "engines"
"""The folder of a bundle that holds its engines."""
LAYERS_SUFFIX: Final = ".layers.json"
"""Ending of what `oslic build --layers` writes beside an engine."""

_MOST_SIDECAR_BYTES: Final = 1 << 20
_MOST_ENGINE_BYTES: Final = 1 << 36
_MOST_SIDE: Final = 1 << 28
_HEX256: Final = re.compile(r"[0-9a-f]{64}")
# What the fields of a sidecar may be, by how they are annotated.
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "str": (str,),
    "Product": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
}

# Inputs whose height and width say how large the image is, and by what factor they are smaller than it.
_IMAGE_SCALES: Final = {"image": 1, "compact": COMPACT_SCALE}


@dataclass(frozen=True)
class EngineInfo:
    """What an engine was built from and for.

    Attributes:
        file: name of the engine file beside the sidecar.
        sha256: of the engine file, 64 hexadecimal digits.
        graph: which graph of the bundle, or the name of the ONNX file without its ending.
        graph_sha256: hash of the graph file that it was built from.
        backend: the product.
        version: the product's version, which must be the same when it is loaded unless `version_compatible`.
        precision: one of `PRECISIONS`.
        gpu: compute capability that it was built for, such as `9.0`; `8.0+` for that and all later ones; `any` if
            the product compiles on the target.
        profiles: for each optimization profile, the smallest, best and largest shape of each input.
        version_compatible: later versions of the product load it too.
        stripped: it holds no weights; they are taken from the graph when it is loaded.
        optimization_level: the builder's.
        build_seconds: how long the build took.
    """

    file: str
    sha256: str
    graph: str
    graph_sha256: str
    backend: Product
    version: str
    precision: str
    gpu: str
    profiles: tuple[dict[str, Shapes], ...]
    version_compatible: bool = False
    stripped: bool = False
    optimization_level: int = 3
    build_seconds: float = 0.0

    def to_json(self) -> str:
        """The sidecar's text."""
        return json.dumps({"format": FORMAT, "format_version": VERSION, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> EngineInfo:
        """Read a sidecar.

        Raises:
            BackendError: it is missing, damaged, or of another version.
        """
        data = read_regular_file(path, "engine's sidecar", _MOST_SIDECAR_BYTES, BackendError)
        body = parse_object(data, f"the engine's sidecar {path}", BackendError)
        try:
            if body.pop("format") != FORMAT or body.pop("format_version") != VERSION:
                raise BackendError(f"{path} is of another version; `oslic build` writes it again")
            unknown = sorted(set(body) - {f.name for f in fields(cls)})
            if unknown:
                raise BackendError(f"{path} has unknown fields {unknown}; install a newer oslic")
            body["profiles"] = tuple(
                {name: tuple(tuple(_side(n) for n in s) for s in shapes) for name, shapes in profile.items()}
                for profile in body["profiles"]
            )
            info = cls(**body)
            info._check()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackendError(f"{path} cannot be read as an engine's sidecar: {error}") from error
        return info

    def _check(self) -> None:
        """Raise ValueError if the fields do not say what they must."""
        for f in fields(self):
            value = getattr(self, f.name)
            kinds = _KINDS.get(str(f.type))
            if kinds is not None and (
                not isinstance(value, kinds) or (type(value) is bool and bool not in kinds)
            ):
                raise ValueError(f"{f.name} is {value!r:.80}, must be {f.type}")
        if not is_plain_name(self.file):
            raise ValueError(f"file is {self.file!r:.80}, must be the name of a file beside the sidecar")
        for name in ("sha256", "graph_sha256"):
            if not _HEX256.fullmatch(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r:.80}, not 64 hexadecimal digits")
        if not re.fullmatch(r"any|\d{1,4}(\.\d{1,4}){0,3}\+?", self.gpu):
            raise ValueError(f"gpu is {self.gpu!r:.80}, not a compute capability")
        for name, known in (("backend", PRODUCTS), ("precision", PRECISIONS)):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"{name} is {value!r:.80}; known are {', '.join(known)}")
        if not is_plain_name(self.graph):
            raise ValueError(f"graph is {self.graph!r:.80}, must be a name")
        if not self.profiles:
            raise ValueError("it has no profile")
        for profile in self.profiles:
            _check_profile(profile)

    def misfit(self, graph_sha256: str, version: str, gpu: str | None) -> str | None:
        """Why the engine cannot be used, or None if it can.

        Args:
            graph_sha256: hash of the graph that is to be run.
            version: the product's version here.
            gpu: compute capability here; None where it is not known.
        """
        if self.graph_sha256 != graph_sha256:
            return f"built from another graph ({self.graph_sha256[:12]}, the bundle has {graph_sha256[:12]})"
        same_major = self.version.split(".")[0] == version.split(".", maxsplit=1)[0]
        if self.version != version and not (self.version_compatible and same_major):
            return f"built with {self.backend} {self.version}, here is {version}"
        if gpu is not None and not self._runs_on(gpu):
            return f"built for compute capability {self.gpu}, here is {gpu}"
        return None

    def _runs_on(self, gpu: str) -> bool:
        if self.gpu == "any":
            return True
        least, here = ([int(part) for part in text.split(".")] for text in (self.gpu.rstrip("+"), gpu))
        return here >= least if self.gpu.endswith("+") else here == least

    def profile_for(self, shapes: Mapping[str, Sequence[int]]) -> int | None:
        """The profile whose best shape is nearest among those that take the shapes, or None.

        Args:
            shapes: shape of each input by name.
        """
        best: tuple[float, int] | None = None
        for i, profile in enumerate(self.profiles):
            inside = all(
                all(low <= size <= high for low, size, high in zip(least, shapes[name], most, strict=True))
                for name, (least, _, most) in profile.items()
            )
            if inside:
                distance = float(
                    sum(
                        abs(size - wanted) / wanted
                        for name, (_, opt, _) in profile.items()
                        for size, wanted in zip(shapes[name], opt, strict=True)
                    )
                )
                best = min(best or (distance, i), (distance, i))
        return None if best is None else best[1]


def _check_profile(profile: Mapping[str, Shapes]) -> None:
    """Raise ValueError if the shapes of a profile are not three of each input, in order."""
    if not profile:
        raise ValueError("a profile has no shapes")
    for name, shapes in profile.items():
        if len(shapes) != 3 or len({len(shape) for shape in shapes}) != 1:
            raise ValueError(f"a profile's shapes of {name!r:.80} are not three of equal rank")
        if not all(0 < least <= best <= most for least, best, most in zip(*shapes, strict=True)):
            raise ValueError(f"a profile's shapes of {name!r:.80} are not in order: {shapes!s:.200}")


def _side(value: object) -> int:
    """A side of a profile's shape."""
    if not isinstance(value, int) or not 0 <= value <= _MOST_SIDE:
        raise ValueError(f"a side of a profile's shape is {value!r:.80}, must be 0 to {_MOST_SIDE}")
    return value


def build_command(bundle: Path, product: Product, precision: str | None = None) -> str:
    """The command that builds a bundle's engines, all graphs for the default sizes."""
    chosen = "" if precision is None else f" --precision {precision}"
    return f"oslic build {bundle} --backend {product}{chosen}"


def rebuild_command(bundle: Path, info: EngineInfo) -> str:
    """The command that builds an engine again as it was built: same graph, precision, sizes and options."""
    words = [build_command(bundle, info.backend, info.precision), f"--graph {info.graph}"]
    for profile in info.profiles:
        sized = next(((n, s) for n, s in profile.items() if n in _IMAGE_SCALES and len(s[0]) > 2), None)
        if sized is None:
            words.append(_named_shapes(profile))
            continue
        scale = _IMAGE_SCALES[sized[0]]
        sizes = (f"{n}x{scale * height}x{scale * width}" for n, height, width, *_ in sized[1])
        words.append(f"--shapes {','.join(sizes)}")
    return " ".join((*words, *_option_words(info)))


def rebuild_model_command(graph: Path, info: EngineInfo) -> str:
    """The command that builds an engine of an ONNX file again as it was built: same precision, shapes and options."""
    words = [build_command(graph, info.backend, info.precision), *map(_named_shapes, info.profiles)]
    return " ".join((*words, *_option_words(info)))


def _named_shapes(profile: Mapping[str, Shapes]) -> str:
    """`--shapes NAME=MIN,OPT,MAX` of every input."""
    return " ".join(
        f"--shapes {name}={','.join('x'.join(map(str, shape)) for shape in shapes)}"
        for name, shapes in profile.items()
    )


def _option_words(info: EngineInfo) -> list[str]:
    words = []
    if info.optimization_level != EngineInfo.optimization_level:
        words.append(f"--optimization-level {info.optimization_level}")
    flags = {
        "--version-compatible": info.version_compatible,
        "--hardware-compatible": info.gpu.endswith("+"),
        "--stripped": info.stripped,
    }
    return words + [flag for flag, given in flags.items() if given]


def sidecars(bundle: Bundle) -> list[Path]:
    """The sidecars of the engines that a bundle holds, by file name."""
    return sidecars_in(bundle.path / FOLDER)


def sidecars_in(folder: Path) -> list[Path]:
    """The sidecars in a folder of engines, by file name."""
    return [file for file in sorted(folder.glob("*.json")) if not file.name.endswith(LAYERS_SUFFIX)]


def engines_of(bundle: Bundle, graph: GraphName, backend: Product) -> list[tuple[Path, EngineInfo]]:
    """The engines of a graph that a bundle holds, by file name.

    Raises:
        BackendError: a sidecar is damaged.
    """
    found = [(path, EngineInfo.read(path)) for path in sidecars(bundle)]
    return [
        (p.parent / info.file, info) for p, info in found if (info.graph, info.backend) == (graph, backend)
    ]


def wanted_precision(bundle: Bundle, product: Product) -> str | None:
    """The fastest precision in which a bundle holds an engine of any graph; None if it holds none.

    Raises:
        BackendError: a sidecar is damaged.
    """
    found = {
        info.precision
        for graph in bundle.manifest.graph_names
        for _, info in engines_of(bundle, graph, product)
    }
    return next((precision for precision in PRECISIONS if precision in found), None)


def choose_engine(
    bundle: Bundle,
    graph: GraphName,
    product: Product,
    *,
    version: str,
    gpu: str | None,
    precision: str | None,
    trust: bool = False,
) -> tuple[Path, EngineInfo]:
    """The engine of a graph that is to be run here. There is no falling back to one of another precision.

    Args:
        bundle: the bundle.
        graph: which graph.
        product: which product runs it.
        version: the product's version here.
        gpu: compute capability here; None where it is not known.
        precision: of the engine; None for the fastest that the bundle holds of any graph.
        trust: whether it may be one that this user did not build on this machine.

    Returns:
        The engine's path and its sidecar.

    Raises:
        BackendError: there is none, or it does not fit; the message says why, and the command that builds it.
    """
    wanted = precision or wanted_precision(bundle, product)
    found = engines_of(bundle, graph, product)
    if wanted is None or not found:
        raise BackendError(
            f"the bundle {bundle.path} has no {product} engine of {graph}; build it: "
            f"{build_command(bundle.path, product, wanted)}"
        )
    return _fitting(
        found,
        wanted,
        graph_sha256=bundle.manifest.graphs[graph].sha256,
        version=version,
        gpu=gpu,
        trust=trust,
        build=f"{build_command(bundle.path, product, wanted)} --graph {graph}",
        rebuild=lambda info: rebuild_command(bundle.path, info),
    )


def choose_engine_of(
    graph: Path,
    name: str,
    graph_sha256: str,
    product: Product,
    *,
    version: str,
    gpu: str | None,
    precision: str | None,
    trust: bool = False,
) -> tuple[Path, EngineInfo]:
    """The engine of an ONNX file that is to be run here, from `engines/` beside it; see `choose_engine`.

    Args:
        graph: the file.
        name: its name without the ending.
        graph_sha256: of the file.
        product: which product runs it.
        version: the product's version here.
        gpu: compute capability here; None where it is not known.
        precision: of the engine; None for the fastest that there is.
        trust: whether it may be one that this user did not build on this machine.

    Raises:
        BackendError: there is none, or it does not fit.
    """
    folder = graph.parent / FOLDER
    infos = [(folder / info.file, info) for info in map(EngineInfo.read, sidecars_in(folder))]
    found = [(path, info) for path, info in infos if (info.graph, info.backend) == (name, product)]
    held = {info.precision for _, info in found}
    wanted = precision or next((p for p in PRECISIONS if p in held), None)
    if wanted is None or not found:
        raise BackendError(
            f"there is no {product} engine of {graph} in {folder}; build it: "
            f"{build_command(graph, product, wanted)}, or name an engine file"
        )
    return _fitting(
        found,
        wanted,
        graph_sha256=graph_sha256,
        version=version,
        gpu=gpu,
        trust=trust,
        build=build_command(graph, product, wanted),
        rebuild=lambda info: rebuild_model_command(graph, info),
    )


def _fitting(
    found: list[tuple[Path, EngineInfo]],
    wanted: str,
    *,
    graph_sha256: str,
    version: str,
    gpu: str | None,
    trust: bool,
    build: str,
    rebuild: Callable[[EngineInfo], str],
) -> tuple[Path, EngineInfo]:
    """The first engine of the wanted precision that can be used; else all the reasons why not."""
    fitting = [(path, info) for path, info in found if info.precision == wanted]
    if not fitting:
        others = ", ".join(sorted({info.precision for _, info in found}))
        _, info = found[0]
        raise BackendError(
            f"the {info.backend} engine of {info.graph} is {others}, not {wanted}; build it: {build}"
        )
    reasons = []
    for path, info in fitting:
        reason = info.misfit(graph_sha256, version, gpu)
        if reason is None and not trust and not engine_trust.built_here(info):
            reason = engine_trust.UNTRUSTED
        if reason is None:
            return path, info
        reasons.append(f"the engine {path} cannot be used: {reason}; {rebuild(info)}")
    raise BackendError("; ".join(reasons))


def read_engine(path: Path, info: EngineInfo) -> bytes:
    """Read an engine and check it against its sidecar.

    Raises:
        BackendError: it is missing or was altered.
    """
    data = read_regular_file(path, "engine", _MOST_ENGINE_BYTES, BackendError)
    if hashlib.sha256(data).hexdigest() != info.sha256:
        raise BackendError(f"the engine {path} was altered, its SHA-256 is not its sidecar's; build it again")
    return data
