"""A bundle of hand-written graphs, small enough for quick tests, with every construct that calibration knows."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from oslic.runtime.bundle.folder import Bundle, write_bundle
from oslic.runtime.bundle.manifest import ClassInfo, GraphInfo, Manifest

LEVELS = 32
MULTIPLE = 32


class Writer:
    """Writes nodes with random weights."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: list[onnx.TensorProto] = []

    def constant(self, values: Any, name: str | None = None) -> str:
        name = name or f"constant{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def op(
        self, kind: str, *inputs: str, output: str | None = None, name: str | None = None, **more: Any
    ) -> str:
        output = output or f"v{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(kind, list(inputs), [output], name=name or f"{kind}{len(self.nodes)}", **more)
        )
        return output

    def weight(self, shape: tuple[int, ...], gain: float = 1.0) -> str:
        fan_in = np.prod(shape[1:])
        return self.constant(
            (self.random.standard_normal(shape) * gain * np.sqrt(2 / fan_in)).astype(np.float32)
        )

    def conv(
        self, x: str, shape: tuple[int, ...], *, gain: float = 1.0, bias: bool = True, **more: Any
    ) -> str:
        inputs = [x, self.weight(shape, gain)]
        if bias:
            inputs.append(self.constant((0.1 * self.random.standard_normal(shape[0])).astype(np.float32)))
        more.setdefault("pads", [shape[2] // 2] * 4)
        return self.op("Conv", *inputs, kernel_shape=list(shape[2:]), **more)

    def transposed(self, x: str, shape: tuple[int, ...], pads: list[int], *, gain: float = 1.0) -> str:
        weight = self.weight(shape, gain)
        return self.op("ConvTranspose", x, weight, kernel_shape=list(shape[2:]), strides=[2, 2], pads=pads)

    def pixels(self, name: str, scale: float) -> str:
        x = self.op("Transpose", self.op("Cast", name, to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
        return self.op("Mul", x, self.constant(np.float32(scale)))

    def to_pixels(self, x: str, most: float, output: str) -> None:
        x = self.op("Round", self.op("Mul", x, self.constant(np.float32(most))))
        x = self.op("Clip", x, self.constant(np.float32(0)), self.constant(np.float32(most)))
        self.op("Cast", self.op("Transpose", x, perm=[0, 2, 3, 1]), output=output, to=TensorProto.UINT8)

    def model(self, inputs: dict[str, list[Any]], output: str, shape: list[Any]) -> onnx.ModelProto:
        ports = [
            helper.make_tensor_value_info(name, TensorProto.UINT8, dims) for name, dims in inputs.items()
        ]
        result = helper.make_tensor_value_info(output, TensorProto.UINT8, shape)
        graph = helper.make_graph(self.nodes, output, ports, [result], self.tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.checker.check_model(model)
        return model


IMAGE = ["N", "H", "W", 3]
LABELS = ["N", "H4", "W4"]
COMPACT = ["N", "H8", "W8", 3]


def segment() -> onnx.ModelProto:
    """Max-pooling and unpooling by `Equal`, as the exporter writes it, but for one phase only."""
    w = Writer(1)
    x = w.op("Relu", w.conv(w.pixels("image", 1 / 255), (6, 3, 3, 3), strides=[2, 2]))
    pooled = w.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    first = w.op(
        "Slice", x, w.constant(np.array([0, 0])), w.constant(np.array([2**62, 2**62])), w.constant(np.array([2, 3])),
        w.constant(np.array([2, 2])),
    )  # fmt: skip
    deep = w.op("Relu", w.conv(pooled, (6, 6, 3, 3)))
    masked = w.op("Where", w.op("Equal", first, pooled), deep, w.constant(np.float32(0)))
    logits = w.conv(w.op("Add", masked, pooled), (4, 6, 3, 3))
    w.op("Cast", w.op("ArgMax", logits, axis=1, keepdims=0), output="labels", to=TensorProto.UINT8)
    return w.model({"image": IMAGE}, "labels", LABELS)


def analyse() -> onnx.ModelProto:
    """Box averages with a small correction."""
    w = Writer(2)
    x = w.pixels("image", 1 / 255)
    box = w.op("AveragePool", x, kernel_shape=[8, 8], strides=[8, 8])
    y = w.op("Relu", w.conv(box, (8, 3, 3, 3)))
    w.to_pixels(w.op("Add", box, w.conv(y, (3, 8, 3, 3), gain=0.05)), LEVELS - 1, "compact")
    return w.model({"image": IMAGE, "labels": LABELS}, "compact", COMPACT)


def synthesise(gain: float = 0.05) -> onnx.ModelProto:
    """An octave block with transposed convolutions, on top of the upsampled compact image."""
    w = Writer(3)
    base = w.pixels("compact", 1 / (LEVELS - 1))
    low = w.op("Relu", w.conv(base, (8, 3, 3, 3)))
    high = w.op("Relu", w.transposed(low, (8, 8, 4, 4), [1, 1, 1, 1]))
    pooled = w.op("AveragePool", high, kernel_shape=[2, 2], strides=[2, 2])
    low2 = w.op("Relu", w.op("Add", w.conv(low, (8, 8, 3, 3)), w.conv(pooled, (8, 8, 3, 3), bias=False)))
    high2 = w.op("Add", w.conv(high, (8, 8, 3, 3)), w.transposed(low2, (8, 8, 4, 4), [1, 1, 1, 1]))
    trunk = w.op("Relu", w.op("Add", high2, high))
    head = w.conv(w.op("Concat", trunk, high, axis=1), (48, 16, 3, 3), gain=gain)
    detail = w.op("DepthToSpace", head, blocksize=4, mode="CRD")
    scales = w.constant(np.array([1, 1, 8, 8], np.float32))
    up = w.op("Resize", base, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")
    w.to_pixels(w.op("Add", up, detail), 255, "estimate")
    return w.model({"compact": COMPACT, "labels": LABELS}, "estimate", IMAGE)


def refine() -> onnx.ModelProto:
    """`refined` below: a step towards the estimate that grows with the quality, and a level for the eye."""
    w = Writer(4)
    decoded, estimate = w.pixels("decoded", 1.0), w.pixels("estimate", 1.0)
    settings = w.op("Cast", "settings", to=TensorProto.FLOAT)
    quality, visual = (
        w.op(
            "Reshape",
            w.op("Gather", settings, w.constant(np.array([i])), axis=1),
            w.constant(np.array([-1, 1, 1, 1])),
        )
        for i in (0, 1)
    )
    share = w.op("Mul", quality, w.constant(np.float32(1 / 128)))
    moved = w.op("Add", decoded, w.op("Mul", w.op("Sub", estimate, decoded), share))
    w.to_pixels(w.op("Mul", w.op("Add", moved, visual), w.constant(np.float32(1 / 255))), 255, "refined")
    return w.model({"decoded": IMAGE, "estimate": IMAGE, "settings": ["N", 2]}, "refined", IMAGE)


def refined(decoded: Any, estimate: Any, quality: int, visual: bool) -> Any:
    """What `refine` gives, but for roundings: float64 in the shape of `decoded`."""
    moved = decoded + (estimate.astype(float) - decoded) * quality / 128 + visual
    return np.clip(np.rint(moved), 0, 255)


def write(
    folder: Path,
    graphs: dict[str, onnx.ModelProto] | None = None,
    *,
    refines: bool = False,
    coarseness: tuple[tuple[int, int], ...] = (),
) -> Bundle:
    """Write the bundle.

    Args:
        folder: where to.
        graphs: in place of those above.
        refines: with a refine graph.
        coarseness: see `Manifest`.
    """
    made = {"segment": segment, "analyse": analyse, "synthesise": synthesise}
    if refines:
        made["refine"] = refine
    models = {name: (graphs or {}).get(name) or make() for name, make in made.items()}
    data = {name: model.SerializeToString() for name, model in models.items()}
    infos = {
        name: GraphInfo(
            file=f"{name}.onnx", sha256=hashlib.sha256(data[name]).hexdigest(),
            inputs=tuple(value.name for value in model.graph.input), output=model.graph.output[0].name,
            form="fused", precision="float32", opset=18, ir_version=10, macs_per_pixel=1.0,
            working_bytes_per_pixel=64.0, parameters=1000,
        )
        for name, model in models.items()
    }  # fmt: skip
    manifest = Manifest(
        name="small", classes=tuple(ClassInfo(str(i), (i, i, i)) for i in range(4)), levels=LEVELS, label_scale=4,
        alpha=0.5, multiple=MULTIPLE, fingerprint="ab" * 32, license="none", graphs=infos,
        preview=((80.0, 0.0, 0.0, 0.0), (0.0, 80.0, 0.0, 0.0), (0.0, 0.0, 80.0, 0.0)), coarseness=coarseness,
        refinement="cd" * 32 if refines else None,
    )  # fmt: skip
    write_bundle(folder, manifest, {f"{name}.onnx": content for name, content in data.items()}, replace=False)
    return Bundle.open(folder)
