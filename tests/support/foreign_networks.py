"""Networks that are nobody's codec, as a deployment engineer brings them: floats in, floats out, sizes partly open."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper
from oslic.cli.main import main
from small_bundle import Writer

FLOAT = TensorProto.FLOAT


def finish(
    w: Writer, inputs: dict[str, tuple[int, list[Any]]], outputs: dict[str, list[Any]]
) -> onnx.ModelProto:
    """A checked model of what was written.

    Args:
        w: with the nodes.
        inputs: element type and dimensions by name.
        outputs: dimensions by name, float32.
    """
    graph = helper.make_graph(
        w.nodes,
        "network",
        [helper.make_tensor_value_info(name, kind, dims) for name, (kind, dims) in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, dims) for name, dims in outputs.items()],
        w.tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model


def unet(channels: int = 8) -> onnx.ModelProto:
    """A small U-Net: N x 3 x H x W floats in [0, 1] to a mask N x 1 x H x W; H and W multiples of 4."""
    w = Writer(7)
    c = channels
    one = w.op("Relu", w.conv("input", (c, 3, 3, 3), name="enc1"))
    two = w.op(
        "Relu",
        w.conv(w.op("MaxPool", one, kernel_shape=[2, 2], strides=[2, 2]), (2 * c, c, 3, 3), name="enc2"),
    )
    deep = w.op(
        "Relu",
        w.conv(
            w.op("MaxPool", two, kernel_shape=[2, 2], strides=[2, 2]), (4 * c, 2 * c, 3, 3), name="bottom"
        ),
    )
    up = w.op("Resize", deep, "", w.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest",
              coordinate_transformation_mode="asymmetric", nearest_mode="floor")  # fmt: skip
    joined = w.op("Concat", w.op("Relu", w.conv(up, (2 * c, 4 * c, 3, 3), name="dec2")), two, axis=1)
    mixed = w.op("Relu", w.conv(joined, (c, 4 * c, 3, 3), name="mix2"))
    top = w.op("Relu", w.transposed(mixed, (c, c, 4, 4), [1, 1, 1, 1]))
    last = w.op("Relu", w.conv(w.op("Concat", top, one, axis=1), (c, 2 * c, 3, 3), name="mix1"))
    w.op("Sigmoid", w.conv(last, (1, c, 1, 1), name="head", gain=0.5), output="mask")
    return finish(w, {"input": (FLOAT, ["N", 3, "H", "W"])}, {"mask": ["N", 1, "H", "W"]})


def two_headed() -> onnx.ModelProto:
    """Two inputs, one of them int64, and two outputs."""
    w = Writer(8)
    x = w.op("Relu", w.conv("image", (4, 3, 3, 3), name="stem"))
    table = w.constant(w.random.standard_normal((10, 4)).astype(np.float32))
    bias = w.op("Unsqueeze", w.op("Gather", table, "kind", axis=0), w.constant(np.array([2, 3])))
    y = w.op("Add", x, bias, output="features")
    w.op("GlobalAveragePool", y, output="mean")
    return finish(
        w,
        {"image": (FLOAT, ["N", 3, 16, 16]), "kind": (TensorProto.INT64, ["N"])},
        {"features": ["N", 4, 16, 16], "mean": ["N", 4, 1, 1]},
    )


def arithmetic() -> onnx.ModelProto:
    """Nothing but arithmetic: there is nothing to quantize."""
    w = Writer(9)
    w.op("Mul", w.op("Add", "x", w.constant(np.float32(1))), w.constant(np.float32(2)), output="y")
    return finish(w, {"x": (FLOAT, ["N", 4])}, {"y": ["N", 4]})


def save(model: onnx.ModelProto, path: Path) -> Path:
    """Write a model, and return where."""
    path.write_bytes(model.SerializeToString())
    return path


def save_all(folder: Path) -> None:
    """Write all of them into a folder, each under its function's name."""
    for make in (unet, two_headed, arithmetic):
        save(make(), folder / f"{make.__name__}.onnx")


def oslic(command: str) -> int:
    """The exit code of a command, given as it is typed behind `oslic`."""
    return main(shlex.split(command))
