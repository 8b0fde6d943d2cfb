"""A reference for graphs of integers: plain whole numbers in numpy, independent of every library that runs graphs.

A value is an array of whole numbers and one exponent: x = n * 2^e. Scales and constants must be of that kind, or
it stops. Sums are formed in 64 bits (of products by float64 matrix products, exact below 2^53), and nothing is ever
rounded but where a graph says `QuantizeLinear` or `Round`: halves to even, by whole-number arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper, numpy_helper


@dataclass(frozen=True)
class Value:
    """n * 2^e."""

    n: np.ndarray
    e: int = 0


def exact(values: np.ndarray) -> Value:
    """A float array as whole numbers."""
    x = np.asarray(values, np.float64)
    e = 0
    while not np.all(x == np.rint(x)):
        x, e = x * 2, e - 1
        assert e > -100, "a constant that is no whole number times a power of two"
    return Value(x.astype(np.int64), e)


def power(scale: float) -> int:
    mantissa, exponent = np.frexp(float(scale))
    assert mantissa == 0.5, f"the scale {scale} is no power of two"
    return int(exponent) - 1


def halves_to_even(n: np.ndarray, bits: int) -> np.ndarray:
    """n / 2^bits, rounded."""
    if bits <= 0:
        return n << -bits
    low, half = n & ((1 << bits) - 1), 1 << (bits - 1)
    whole = n >> bits
    return whole + ((low > half) | ((low == half) & (whole & 1 == 1)))


def aligned(*values: Value) -> tuple[list[np.ndarray], int]:
    e = min(value.e for value in values)
    return [value.n << (value.e - e) for value in values], e


class Interpreter:
    """Runs one graph.

    Args:
        model: the graph.
        overrides: values to take in place of computed ones, by name.
    """

    def __init__(self, model: onnx.ModelProto, overrides: dict[str, np.ndarray] | None = None) -> None:
        self.graph = model.graph
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.overrides = overrides or {}
        self.values: dict = {}

    def run(self, **feeds: np.ndarray) -> np.ndarray:
        """The only output."""
        self.values = {name: Value(array.astype(np.int64)) for name, array in feeds.items()}
        for node in self.graph.node:
            found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            made = getattr(self, node.op_type)(node, found, *(self.get(name) for name in node.input))
            self.values[node.output[0]] = self.overrides.get(node.output[0], made)
        result = self.values[self.graph.output[0].name]
        assert result.e == 0
        assert result.n.min() >= 0
        assert result.n.max() <= 255
        return result.n.astype(np.uint8)

    def get(self, name: str):
        if not name:
            return None
        if name in self.values:
            return self.values[name]
        constant = self.constants[name]
        return exact(constant) if constant.dtype.kind == "f" else Value(constant.astype(np.int64))

    def Cast(self, _, __, x):
        return x

    def Identity(self, _, __, x):
        return x

    def Transpose(self, _, found, x):
        return Value(x.n.transpose(found["perm"]), x.e)

    def Reshape(self, _, found, x, shape):
        sizes = [
            x.n.shape[i] if size == 0 and not found.get("allowzero", 0) else size
            for i, size in enumerate(shape.n)
        ]
        return Value(x.n.reshape(sizes), x.e)

    def Expand(self, _, __, x, shape):
        return Value(np.broadcast_to(x.n, np.broadcast_shapes(x.n.shape, tuple(shape.n))), x.e)

    def Shape(self, _, found, x):
        return Value(np.array(x.n.shape[found.get("start", 0) : found.get("end")], np.int64))

    def Slice(self, _, __, x, starts, ends, axes=None, steps=None):
        axes = range(len(starts.n)) if axes is None else axes.n
        steps = np.ones(len(starts.n), int) if steps is None else steps.n
        cut = [slice(None)] * x.n.ndim
        for axis, start, end, step in zip(axes, starts.n, ends.n, steps, strict=True):
            cut[axis] = slice(start, end, step)
        return Value(x.n[tuple(cut)], x.e)

    def Concat(self, _, found, *parts):
        arrays, e = aligned(*parts)
        return Value(np.concatenate(arrays, axis=found["axis"]), e)

    def Gather(self, _, found, table, index):
        return Value(np.take(table.n, index.n, axis=found.get("axis", 0)), table.e)

    def Add(self, _, __, a, b):
        (x, y), e = aligned(a, b)
        return Value(x + y, e)

    def Sub(self, _, __, a, b):
        (x, y), e = aligned(a, b)
        return Value(x - y, e)

    def Mul(self, _, __, a, b):
        return Value(a.n * b.n, a.e + b.e)

    def Div(self, _, __, a, b):
        assert a.e == b.e == 0, "sizes only"
        return Value(a.n // b.n)

    def Relu(self, _, __, x):
        return Value(np.maximum(x.n, 0), x.e)

    def Clip(self, _, __, x, low=None, high=None):
        n, e = x.n, x.e
        if low is not None:
            (n, limit), e = aligned(Value(n, e), low)
            n = np.maximum(n, limit)
        if high is not None:
            (n, limit), e = aligned(Value(n, e), high)
            n = np.minimum(n, limit)
        return Value(n, e)

    def Round(self, _, __, x):
        return Value(halves_to_even(x.n, -x.e))

    def AveragePool(self, _, found, x):
        (rows, columns), (down, across) = found["kernel_shape"], found.get("strides", [1, 1])
        assert not any(found.get("pads", [0]))
        windows = np.lib.stride_tricks.sliding_window_view(x.n, (rows, columns), (2, 3))[
            :, :, ::down, ::across
        ]
        return Value(windows.sum(axis=(4, 5)), x.e - power(rows * columns))

    def DepthToSpace(self, _, found, x):
        n, c, h, w = x.n.shape
        b = found["blocksize"]
        if found.get("mode", b"DCR") == b"CRD":
            y = x.n.reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
        else:
            y = x.n.reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2)
        return Value(y.reshape(n, c // b**2, h * b, w * b), x.e)

    def Resize(self, _, found, x, __, scales):
        factor = int(self.constants_of(scales)[2])
        assert list(self.constants_of(scales)) == [1, 1, factor, factor]
        if found["mode"] == b"nearest":
            return Value(x.n.repeat(factor, 2).repeat(factor, 3), x.e)
        assert found["mode"] == b"linear"
        n = x.n
        for axis in (2, 3):
            n = self._linear(n, factor, axis)
        return Value(n, x.e - 2 * power(2 * factor))

    @staticmethod
    def constants_of(value: Value) -> np.ndarray:
        return value.n * 2.0**value.e

    @staticmethod
    def _linear(n: np.ndarray, factor: int, axis: int) -> np.ndarray:
        """Output i is at (i + 1/2) / factor - 1/2, in units of 1 / (2 factor) a whole number."""
        size = n.shape[axis]
        places = np.clip(2 * np.arange(size * factor) + 1 - factor, 0, 2 * factor * (size - 1))
        left, weight = places // (2 * factor), places % (2 * factor)
        right = np.minimum(left + 1, size - 1)
        shape = [1] * n.ndim
        shape[axis] = -1
        weight = weight.reshape(shape)
        return n.take(left, axis) * (2 * factor - weight) + n.take(right, axis) * weight

    def QuantizeLinear(self, node, _, x, scale, zero):
        stored = halves_to_even(x.n, power(self.constants[node.input[1]]) - x.e) + zero.n
        limits = np.iinfo(self.constants[node.input[2]].dtype)
        return Value(np.clip(stored, limits.min, limits.max))

    def DequantizeLinear(self, node, found, x, scale, zero):
        scales = np.atleast_1d(self.constants[node.input[1]])
        exponents = np.array([power(s) for s in scales])
        if scales.size == 1:
            return Value(x.n - zero.n, int(exponents[0]))
        assert found["axis"] == 0
        least = int(exponents.min())
        shape = (-1, *(1,) * (x.n.ndim - 1))
        return Value((x.n - zero.n.reshape(shape)) << (exponents - least).reshape(shape), least)

    def Conv(self, _, found, x, weight, bias=None):
        top, left, bottom, right = found.get("pads", [0] * 4)
        down, across = found.get("strides", [1, 1])
        assert set(found.get("dilations", [1])) == {1}
        group = found.get("group", 1)
        padded = np.pad(x.n, ((0, 0), (0, 0), (top, bottom), (left, right)))
        out, _, rows, columns = weight.n.shape
        windows = np.lib.stride_tricks.sliding_window_view(padded, (rows, columns), (2, 3))[
            :, :, ::down, ::across
        ]
        n, channels, h, w = windows.shape[:4]
        largest = np.abs(padded).max() * np.abs(weight.n).reshape(out, -1).sum(axis=1).max()
        assert largest < 2**53
        parts = []
        for g in range(group):
            own = windows[:, g * channels // group : (g + 1) * channels // group]
            flat = own.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, -1).astype(np.float64)
            kernel = weight.n[g * out // group : (g + 1) * out // group].reshape(out // group, -1)
            parts.append((flat @ kernel.T.astype(np.float64)).astype(np.int64))
        sums = np.concatenate(parts, axis=1).reshape(n, h, w, out).transpose(0, 3, 1, 2)
        result = Value(sums, x.e + weight.e)
        if bias is None:
            return result
        return self.Add(None, None, result, Value(bias.n.reshape(1, -1, 1, 1), bias.e))
