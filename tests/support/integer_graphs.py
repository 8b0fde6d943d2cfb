"""Small float graphs that `oslic calibrate --integer` makes integers of: every construct of the real ones."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto
from small_bundle import COMPACT, IMAGE, LABELS, LEVELS, Writer

CLASSES = 4


def _to_pixels(w: Writer, x: str, output: str) -> None:
    x = w.op("Round", w.op("Mul", x, w.constant(np.float32(256))))
    x = w.op("Clip", x, w.constant(np.float32(0)), w.constant(np.float32(255)))
    w.op("Cast", w.op("Transpose", x, perm=[0, 2, 3, 1]), output=output, to=TensorProto.UINT8)


def synthesise() -> onnx.ModelProto:
    """Labels by a table, an octave block, a mixed base that is resized bilinearly, a correction on top of it."""
    w = Writer(13)
    scaled = w.pixels("compact", 1 / LEVELS)
    centered = w.op("Sub", scaled, w.constant(np.float32(0.5)))
    table = w.constant((0.3 * w.random.standard_normal((CLASSES, 4))).astype(np.float32))
    embedded = w.op("Gather", table, w.op("Cast", "labels", to=TensorProto.INT64), axis=0)
    embedded = w.op("Transpose", embedded, perm=[0, 3, 1, 2])
    embedded = w.op("AveragePool", embedded, kernel_shape=[2, 2], strides=[2, 2])
    low = w.op("Relu", w.conv(w.op("Concat", centered, embedded, axis=1), (8, 7, 3, 3)))
    high = w.op("Relu", w.transposed(low, (8, 8, 4, 4), [1, 1, 1, 1]))
    pooled = w.op("AveragePool", high, kernel_shape=[2, 2], strides=[2, 2])
    low2 = w.op("Add", w.conv(low, (8, 8, 3, 3)), w.conv(pooled, (8, 8, 3, 3), bias=False))
    high2 = w.op(
        "Add", w.conv(high, (8, 8, 3, 3)), w.transposed(w.op("Relu", low2), (8, 8, 4, 4), [1, 1, 1, 1])
    )
    trunk = w.op("Add", w.op("Relu", high2), high)
    detail = w.op("DepthToSpace", w.conv(trunk, (48, 8, 3, 3), gain=0.03), blocksize=4, mode="CRD")
    base = w.op("Sub", w.op("Add", scaled, w.constant(np.float32(15 / 512))), w.constant(np.float32(0.5)))
    mix = np.array([[0.93, 0.11, -0.02], [0.07, 0.88, 0.05], [-0.03, 0.12, 0.9]], np.float32)
    base = w.op("Conv", base, w.constant(mix.reshape(3, 3, 1, 1)), kernel_shape=[1, 1])
    base = w.op("Add", base, w.constant(np.float32(0.5)))
    scales = w.constant(np.array([1, 1, 8, 8], np.float32))
    base = w.op("Resize", base, "", scales, mode="linear", coordinate_transformation_mode="half_pixel")
    _to_pixels(w, w.op("Add", base, detail), "estimate")
    return w.model({"compact": COMPACT, "labels": LABELS}, "estimate", IMAGE)


def refine() -> onnx.ModelProto:
    """Parts of different ranges in one convolution, a factor from a table by the quality."""
    w = Writer(14)
    decoded, estimate = w.pixels("decoded", 1 / 256), w.pixels("estimate", 1 / 256)
    difference = w.op("Mul", w.op("Sub", estimate, decoded), w.constant(np.float32(4)))
    centered = w.op("Sub", decoded, w.constant(np.float32(0.5)))
    x = w.op("Relu", w.conv(w.op("Concat", centered, difference, axis=1), (8, 6, 3, 3)))
    x = w.op("Add", x, w.conv(w.op("Relu", w.conv(x, (8, 8, 3, 3))), (8, 8, 3, 3)))
    correction = w.conv(x, (3, 8, 3, 3), gain=0.1)
    quality = w.op("Cast", w.op("Gather", "settings", w.constant(np.int64(0)), axis=1), to=TensorProto.INT64)
    table = w.constant((0.05 * 10 ** (-np.arange(101) / 100)).astype(np.float32).reshape(101, 1))
    factor = w.op("Reshape", w.op("Gather", table, quality, axis=0), w.constant(np.array([-1, 1, 1, 1])))
    _to_pixels(w, w.op("Add", decoded, w.op("Mul", correction, factor)), "refined")
    return w.model({"decoded": IMAGE, "estimate": IMAGE, "settings": ["N", 2]}, "refined", IMAGE)
