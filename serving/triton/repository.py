"""Writing a bundle as a model repository of Triton Inference Server.

    oslic_encode/     config.pbtxt, 1/model.py, 1/manifest.json     what clients call
    oslic_decode/     likewise
    oslic_segment/    config.pbtxt, 1/model.plan | model.onnx | model.py, segment.onnx, manifest.json
    oslic_analyse/, oslic_synthesise/, oslic_refine/                likewise

The code of the Python models is this package's, which the server's Python must have.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from ...runtime.bundle.engine_files import (
    EngineInfo,
    choose_engine,
    engines_of,
    read_engine,
    wanted_precision,
)
from ...runtime.bundle.folder import Bundle
from ...runtime.bundle.manifest import MANIFEST_NAME, GraphName
from ...runtime.bundle.uint8_form import uint8_activations, weight_limit
from ...runtime.errors import BackendError, UsageError
from ...runtime.folders import restore, write_folder
from ...runtime.limits import Limits
from . import model_config, names
from .model_config import Literal as Word

GraphKind = Literal["python", "onnxruntime", "tensorrt"]
GRAPH_KINDS: Final[tuple[GraphKind, ...]] = get_args(GraphKind)
Device = Literal["cpu", "gpu"]
DEVICES: Final[tuple[Device, ...]] = get_args(Device)

SERVER_OPTIONS: Final = (
    # What is written says all: no process is started to ask the models.
    "--disable-auto-complete-config",
    "--backend-config=python,stub-timeout-seconds=300",
)
"""What `tritonserver` is started with."""

_CONFIG_NAME: Final = "config.pbtxt"
_MOST_CONFIG_BYTES: Final = 1 << 20
_TENSORRT: Final = "tensorrt"
# Shapes of the graphs' inputs and outputs without N, by name; see docs/reference/bundle.md.
_DIMS: Final[dict[str, list[int]]] = {
    "image": [-1, -1, 3],
    "labels": [-1, -1],
    "compact": [-1, -1, 3],
    "estimate": [-1, -1, 3],
    "decoded": [-1, -1, 3],
    "refined": [-1, -1, 3],
    "settings": [2],
}
_MODEL: Final = '''"""A model of the OSLIC codec; its code is the package's."""

from oslic.serving.triton.{module} import {kind} as TritonPythonModel

__all__ = ["TritonPythonModel"]
'''


@dataclass(frozen=True)
class Plan:
    """How a bundle is to be served.

    Attributes:
        prefix: what the names of the models begin with.
        graphs: what runs the graphs: Triton's TensorRT or ONNX Runtime backend, or its Python backend.
        device: where the graphs run.
        max_batch: most requests that a graph model runs at once. Networks in floating point give results that depend
            on it; see docs/guides/triton.md.
        queue_delay: microseconds that a request waits for others to make a batch with.
        instances: processes of each of the two models that clients call, and on CPUs of each graph.
        threads: CPU threads of an instance of a graph.
        tile: side of the tiles that pictures are cut into, a multiple of 32; None: as `oslic compress` cuts them.
        queue: requests that may wait for the encoder, and as many for the decoder; more are refused.
        max_pixels: of a picture.
        max_memory: bytes that an instance of the encoder or the decoder may take; None: a share of what is free.
        precision: of the engines; None: the fastest that the bundle holds.
        gpu: compute capability of the server's GPU; None: not checked.
        tensorrt: version of the server's TensorRT; None: not checked.
    """

    prefix: str = names.DEFAULT_PREFIX
    graphs: GraphKind = "python"
    device: Device = "cpu"
    max_batch: int = 1
    queue_delay: int = 0
    instances: int = 2
    threads: int = 1
    tile: int | None = None
    queue: int = 256
    max_pixels: int = Limits.pixels
    max_memory: int | None = None
    precision: str | None = None
    gpu: str | None = None
    tensorrt: str | None = None

    def __post_init__(self) -> None:
        if self.graphs == _TENSORRT and self.device != "gpu":
            raise UsageError("engines run on GPUs: --graphs tensorrt goes with --device gpu")


def write_repository(bundle: Bundle, folder: Path, plan: Plan, *, replace: bool = False) -> list[str]:
    """Write the models of a bundle into a model repository; other models that are there stay.

    Args:
        bundle: to be served.
        folder: the repository; made where there is none.
        plan: how.
        replace: whether models of the same names are replaced, if they are ours.

    Returns:
        Names of the models, in the order in which they were written: those that clients call come last.

    Raises:
        UsageError: it cannot be written, or there are models of these names.
        BackendError: there is no engine of a graph, or none that fits.
    """
    models = _models(bundle, plan)
    try:
        folder.mkdir(parents=False, exist_ok=True)
        for name in models:
            _require_free(folder / name, replace=replace)
        for name, files in models.items():
            write_folder(folder / name, files)
    except OSError as error:
        raise UsageError(f"cannot write the model repository {folder}: {error.strerror}") from error
    return list(models)


def _models(bundle: Bundle, plan: Plan) -> dict[str, dict[str, bytes]]:
    """Files of each model by its name."""
    manifest = bundle.manifest.to_json().encode("utf-8", "backslashreplace")
    make = {"python": _python_graph, "onnxruntime": _onnx_graph, _TENSORRT: _engine}[plan.graphs]
    models = {}
    for graph in bundle.manifest.graph_names:
        models[names.model_name(plan.prefix, graph)] = _files(*make(bundle, graph, plan))
    for part, kind in ((names.ENCODE, "EncodeModel"), (names.DECODE, "DecodeModel")):
        code = _MODEL.format(module="codec_models", kind=kind).encode()
        files = {"model.py": code, MANIFEST_NAME: manifest, **bundle.read_files()}
        models[names.model_name(plan.prefix, part)] = _files(_codec_config(part, plan), files)
    return models


def _files(config: Mapping[str, Any], version: Mapping[str, bytes]) -> dict[str, bytes]:
    text = model_config.text_of(config).encode()
    return {_CONFIG_NAME: text} | {f"{names.VERSION}/{name}": data for name, data in version.items()}


def _codec_config(part: str, plan: Plan) -> dict[str, Any]:
    given, made = (names.IMAGE, names.STREAM) if part == names.ENCODE else (names.STREAM, names.IMAGE)
    return {
        "name": names.model_name(plan.prefix, part),
        "backend": "python",
        # One request at a time: a small picture does not wait for a large one in the same batch.
        "max_batch_size": 1,
        "input": [model_config.tensor(given, "STRING", [1])],
        "output": [model_config.tensor(made, "STRING", [1]), model_config.tensor(names.INFO, "STRING", [1])],
        # Nothing is batched here; the batcher has the queue that can be limited.
        "dynamic_batching": {
            "default_queue_policy": {"allow_timeout_override": True, "max_queue_size": plan.queue}
        },
        "instance_group": [{"kind": Word("KIND_CPU"), "count": plan.instances}],
        "parameters": model_config.parameters(
            {
                names.PREFIX: plan.prefix,
                names.TILE: "" if plan.tile is None else str(plan.tile),
                names.MAX_PIXELS: str(plan.max_pixels),
                names.MAX_MEMORY: "" if plan.max_memory is None else str(plan.max_memory),
            }
        ),
    }


def _graph_config(bundle: Bundle, graph: GraphName, plan: Plan) -> dict[str, Any]:
    info = bundle.manifest.graphs[graph]
    on_gpu = plan.device == "gpu"
    config: dict[str, Any] = {
        "name": names.model_name(plan.prefix, graph),
        "max_batch_size": plan.max_batch,
        "input": [model_config.tensor(name, "UINT8", _DIMS[name]) for name in info.inputs],
        "output": [model_config.tensor(info.output, "UINT8", _DIMS[info.output])],
        "instance_group": [
            {"kind": Word("KIND_GPU" if on_gpu else "KIND_CPU"), "count": 1 if on_gpu else plan.instances}
        ],
        "parameters": model_config.parameters({names.PREFIX: plan.prefix, names.GRAPH: graph}),
    }
    if plan.max_batch > 1:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": plan.queue_delay}
    return config


def _python_graph(bundle: Bundle, graph: GraphName, plan: Plan) -> tuple[dict[str, Any], dict[str, bytes]]:
    config = {"backend": "python", **_graph_config(bundle, graph, plan)}
    backend = "onnxruntime-cpu" if plan.device == "cpu" else "onnxruntime-cuda"
    config["parameters"] += model_config.parameters(
        {names.BACKEND: backend, names.THREADS: str(plan.threads)}
    )
    files = {
        "model.py": _MODEL.format(module="graph_model", kind="GraphModel").encode(),
        MANIFEST_NAME: bundle.manifest.to_json().encode("utf-8", "backslashreplace"),
        bundle.manifest.graphs[graph].file: bundle.read_graph(graph),
    }
    return config, files


def _onnx_graph(bundle: Bundle, graph: GraphName, plan: Plan) -> tuple[dict[str, Any], dict[str, bytes]]:
    config = {"backend": "onnxruntime", **_graph_config(bundle, graph, plan)}
    data = bundle.read_graph(graph)
    if plan.device == "cpu":
        config["parameters"] += model_config.parameters({"intra_op_thread_count": str(plan.threads)})
        if weight_limit(bundle.manifest, graph) is not None:
            data = uint8_activations(data, f"{bundle.graph_path(graph)}: the {graph} graph")
    return config, {"model.onnx": data}


def _engine(bundle: Bundle, graph: GraphName, plan: Plan) -> tuple[dict[str, Any], dict[str, bytes]]:
    precision = plan.precision or wanted_precision(bundle, _TENSORRT)
    stated = [info for _, info in engines_of(bundle, graph, _TENSORRT) if info.precision == precision]
    version = plan.tensorrt or (stated[0].version if stated else "")
    path, info = choose_engine(
        bundle, graph, _TENSORRT, version=version, gpu=plan.gpu, precision=precision, trust=True
    )
    if info.stripped:
        raise BackendError(
            f"{path} holds no weights, which Triton cannot give it: build it again without --stripped"
        )
    most = min(shapes[2][0] for shapes in info.profiles[0].values())
    if plan.max_batch > most:
        raise BackendError(
            f"{path} takes batches of at most {most}, asked for are {plan.max_batch} (--max-batch): build it again "
            "with larger --shapes"
        )
    config = {"backend": _TENSORRT, **_graph_config(bundle, graph, plan)}
    config["instance_group"][0]["profile"] = [str(_widest(info))]
    return config, {"model.plan": read_engine(path, info)}


def _widest(info: EngineInfo) -> int:
    """Number of the profile that takes the largest inputs: Triton runs all requests of an instance by one profile."""

    def size(number: int) -> int:
        return sum(math.prod(shapes[2]) for shapes in info.profiles[number].values())

    return max(range(len(info.profiles)), key=size)


def _require_free(folder: Path, *, replace: bool) -> None:
    """Refuse a model that is there, unless it is ours and is to be replaced."""
    restore(Path(os.path.realpath(folder)))
    if not folder.exists():
        return
    if not replace:
        raise UsageError(
            f"the model {folder} exists; --force replaces it, --name gives the models another name"
        )
    config = folder / _CONFIG_NAME
    if not config.is_file() or names.MARK.encode() not in config.read_bytes()[:_MOST_CONFIG_BYTES]:
        raise UsageError(f"{folder} exists and is no model of `oslic triton`: it is not replaced")
