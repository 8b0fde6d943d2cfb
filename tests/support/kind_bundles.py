"""Bundles of the kind `transform` with hand-written graphs: block averages in place of trained networks."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from oslic.runtime.bundle.folder import Bundle, write_bundle
from oslic.runtime.bundle.manifest import FileInfo, GraphInfo, Manifest
from small_bundle import IMAGE, Writer

LATENTS = 4
HYPER = 2


def _model(
    w: Writer, name: str, given: dict[str, tuple[int, list[Any]]], output: str, kind: int
) -> onnx.ModelProto:
    ports = [helper.make_tensor_value_info(port, dtype, dims) for port, (dtype, dims) in given.items()]
    graph = helper.make_graph(
        w.nodes, name, ports, [helper.make_tensor_value_info(output, kind, [None] * 4)], w.tensors
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def _latents(channels: int) -> tuple[int, list[Any]]:
    return TensorProto.FLOAT, ["N", channels, "h", "w"]


def analysis() -> onnx.ModelProto:
    """Mean colors of 16x16 blocks, and the difference of their halves, in steps of 4 levels."""
    w, kernel = Writer(0), np.zeros((LATENTS, 3, 16, 16), np.float32)
    for color in range(3):
        kernel[color, color] = 1 / 256 / 4
    kernel[3, :, :8], kernel[3, :, 8:] = 1 / 768 / 4, -1 / 768 / 4
    x = w.op("Transpose", w.op("Cast", "image", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    x = w.op("Sub", x, w.constant(np.float32(128)))
    w.op("Conv", x, w.constant(kernel), output="latents", kernel_shape=[16, 16], strides=[16, 16])
    return _model(w, "analysis", {"image": (TensorProto.UINT8, IMAGE)}, "latents", TensorProto.FLOAT)


def synthesis() -> onnx.ModelProto:
    """Its inverse, as far as there is one."""
    w, kernel = Writer(0), np.zeros((LATENTS, 3, 16, 16), np.float32)
    for color in range(3):
        kernel[color, color] = 4
    kernel[3, :, :8], kernel[3, :, 8:] = 4, -4
    x = w.op("ConvTranspose", "latents", w.constant(kernel), kernel_shape=[16, 16], strides=[16, 16])
    x = w.op("Round", w.op("Add", x, w.constant(np.float32(128))))
    x = w.op("Clip", x, w.constant(np.float32(0)), w.constant(np.float32(255)))
    w.op("Cast", w.op("Transpose", x, perm=[0, 2, 3, 1]), output="picture", to=TensorProto.UINT8)
    return _model(w, "synthesis", {"latents": _latents(LATENTS)}, "picture", TensorProto.UINT8)


def hyper_analysis() -> onnx.ModelProto:
    """The mean magnitude of 4x4 positions, twice."""
    w = Writer(0)
    x = w.op("AveragePool", w.op("Abs", "latents"), kernel_shape=[4, 4], strides=[4, 4])
    kernel = np.full((HYPER, LATENTS, 1, 1), 0.5 / LATENTS, np.float32)
    w.op("Conv", x, w.constant(kernel), output="hyper", kernel_shape=[1, 1])
    return _model(w, "hyper_analysis", {"latents": _latents(LATENTS)}, "hyper", TensorProto.FLOAT)


def hyper_synthesis(*, means: bool) -> onnx.ModelProto:
    """Scales that grow with the magnitude; with `means`, means of a quarter as well."""
    w = Writer(0)
    scales = w.constant(np.array([1, 1, 4, 4], np.float32))
    x = w.op("Resize", "hyper", "", scales, mode="nearest")
    channels = LATENTS * (2 if means else 1)
    kernel = np.full((channels, HYPER, 1, 1), 1.0, np.float32)
    bias = np.full(channels, 0.5, np.float32)
    kernel[LATENTS:], bias[LATENTS:] = 0, 0.25
    w.op("Conv", x, w.constant(kernel), w.constant(bias), output="parameters", kernel_shape=[1, 1])
    return _model(w, "hyper_synthesis", {"hyper": _latents(HYPER)}, "parameters", TensorProto.FLOAT)


def table(scale: float, reach: int) -> tuple[int, list[int]]:
    """A two-sided geometric distribution on -reach..reach, and its escape."""
    weights = np.exp(-np.abs(np.arange(-reach, reach + 1)) / scale)
    counts = np.maximum(1, np.floor(weights / weights.sum() * 65000)).astype(int).tolist()
    return -reach, [*counts, 65536 - sum(counts)]


def tables(*, hyperprior: bool) -> dict[str, Any]:
    """What the file of tables holds."""

    def group(offsets: list[float], found: list[tuple[int, list[int]]]) -> dict[str, Any]:
        return {"offsets": offsets, "first": [f for f, _ in found], "counts": [c for _, c in found]}

    channels = HYPER if hyperprior else LATENTS
    # So short that there are numbers beyond them.
    by_scale = group([1.0, 4.0], [table(scale, 8) for scale in (1, 3, 9)]) if hyperprior else group([], [])
    return {"apart": group([0.25] * channels, [table(6, 10)] * channels), "by_scale": by_scale}


def write_transform(
    folder: Path, hyperprior: str = "scale", file: bytes | None = None, **settings: Any
) -> Bundle:
    """Write a bundle.

    Args:
        folder: where to.
        hyperprior: "none", "scale" or "mean_scale".
        file: the file of tables; None: those that fit.
        settings: in place of those that fit.
    """
    models = {"analysis": analysis(), "synthesis": synthesis()}
    scales = {"analysis": 1, "synthesis": 16, "hyper_analysis": 16, "hyper_synthesis": 64}
    if hyperprior != "none":
        models |= {
            "hyper_analysis": hyper_analysis(),
            "hyper_synthesis": hyper_synthesis(means=hyperprior == "mean_scale"),
        }
    data = {name: model.SerializeToString() for name, model in models.items()}
    if file is None:
        file = json.dumps(tables(hyperprior=hyperprior != "none")).encode()
    manifest = Manifest(
        name="averages", multiple=64, fingerprint=hashlib.sha256(hyperprior.encode()).hexdigest(), license="none",
        graphs={
            name: GraphInfo(
                file=f"{name}.onnx", sha256=hashlib.sha256(data[name]).hexdigest(),
                inputs=tuple(value.name for value in model.graph.input), output=model.graph.output[0].name,
                form="naive", precision="float32", opset=18, ir_version=10, macs_per_pixel=1.0,
                working_bytes_per_pixel=64.0, parameters=1000,
                scales={model.graph.input[0].name: scales[name]},
            )
            for name, model in models.items()
        },
        kind="transform", settings={"hyperprior": hyperprior, "latents": LATENTS, **settings},
        files={"tables": FileInfo("tables.json", hashlib.sha256(file).hexdigest())},
    )  # fmt: skip
    write_bundle(
        folder,
        manifest,
        {f"{name}.onnx": d for name, d in data.items()} | {"tables.json": file},
        replace=False,
    )
    return Bundle.open(folder)
