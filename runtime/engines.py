"""Engines: graphs that were built for one product, and the sidecar that says what each of them fits.

An engine lies in a bundle's `engines/` beside a JSON file of the same stem. Export writes both, the TensorRT backend
reads them; neither guesses.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from .errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .bundle import Bundle, GraphName

FORMAT: Final = "oslic-engine"
VERSION: Final = 1

Product = Literal["tensorrt", "tensorrt-rtx"]
PRODUCTS: Final[dict[Product, str]] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
"""Product and the Python module that binds it; both offer the same API."""

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class EngineInfo:
    """What an engine was built from and for.

    Attributes:
        file: name of the engine file beside the sidecar.
        sha256: of the engine file, 64 hexadecimal digits.
        graph: which graph of the bundle.
        graph_sha256: hash of the graph file that it was built from.
        backend: the product.
        version: the product's version, which must be the same when it is loaded unless `version_compatible`.
        precision: `fp32`, `fp16`, `bf16` or `int8`.
        gpu: compute capability that it was built for, such as `9.0`; `any` if the product compiles on the
            target.
        profiles: for each optimisation profile, the smallest, best and largest shape of each input.
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
        try:
            body = json.loads(path.read_text(encoding="utf-8"))
            if body.pop("format") != FORMAT or body.pop("format_version") != VERSION:
                raise BackendError(f"{path} is of another version; `oslic build` writes it again")
            unknown = sorted(set(body) - {f.name for f in fields(cls)})
            if unknown:
                raise BackendError(f"{path} has unknown fields {', '.join(unknown)}; install a newer oslic")
            body["profiles"] = tuple(
                {name: tuple(tuple(map(int, s)) for s in shapes) for name, shapes in profile.items()}
                for profile in body["profiles"]
            )
            return cls(**body)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackendError(f"{path} cannot be read as an engine's sidecar: {error}") from error

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
        if self.gpu != "any" and gpu is not None and self.gpu != gpu:
            return f"built for compute capability {self.gpu}, here is {gpu}"
        return None

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


def rebuild_command(bundle: Path, backend: str, precision: str) -> str:
    """The command that builds a bundle's engines again."""
    return f"oslic build {bundle} --backend {backend} --precision {precision}"


def engines_of(bundle: Bundle, graph: GraphName, backend: Product) -> list[tuple[Path, EngineInfo]]:
    """The engines of a graph that a bundle holds, by file name.

    Raises:
        BackendError: a sidecar is damaged.
    """
    found = [(path, EngineInfo.read(path)) for path in sorted((bundle.path / "engines").glob("*.json"))]
    return [
        (p.parent / info.file, info) for p, info in found if (info.graph, info.backend) == (graph, backend)
    ]


def read_engine(path: Path, info: EngineInfo) -> bytes:
    """Read an engine and check it against its sidecar.

    Raises:
        BackendError: it is missing or was altered.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BackendError(f"the engine {path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(data).hexdigest() != info.sha256:
        raise BackendError(f"the engine {path} was altered; build it again")
    return data
