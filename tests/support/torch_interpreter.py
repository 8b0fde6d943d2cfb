"""Runs graphs of integers by PyTorch's float32 kernels: the library that networks are trained with gives the same."""

from __future__ import annotations

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import helper, numpy_helper


def run(model: onnx.ModelProto, device: str = "cpu", **feeds: np.ndarray) -> np.ndarray:
    """The only output."""
    values: dict = {
        t.name: torch.from_numpy(numpy_helper.to_array(t).copy()).to(device) for t in model.graph.initializer
    }
    values |= {name: torch.from_numpy(array).to(device) for name, array in feeds.items()}
    for node in model.graph.node:
        found = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs = [values[name] if name else None for name in node.input]
        values[node.output[0]] = _OPERATORS[node.op_type](found, *inputs)
    return values[model.graph.output[0].name].cpu().numpy()


_TYPES = {1: torch.float32, 2: torch.uint8, 7: torch.int64}


def _cast(found, x):
    return x.to(_TYPES[found["to"]])


def _reshape(found, x, shape):
    sizes = [x.shape[i] if n == 0 and not found.get("allowzero", 0) else int(n) for i, n in enumerate(shape)]
    return x.reshape(sizes)


def _slice(_, x, starts, ends, axes=None, steps=None):
    axes = range(len(starts)) if axes is None else axes.tolist()
    for i, axis in enumerate(axes):
        step = 1 if steps is None else int(steps[i])
        index = torch.arange(x.shape[axis], device=x.device)[int(starts[i]) : min(int(ends[i]), 2**62) : step]
        x = x.index_select(axis, index)
    return x


def _convolve(found, x, weight, bias=None):
    top, left, bottom, right = found.get("pads", [0] * 4)
    x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, weight, bias, found.get("strides", [1, 1]), groups=found.get("group", 1))


def _resize(found, x, _, scales):
    factor = float(scales[2])
    if found["mode"] == b"nearest":
        return F.interpolate(x, scale_factor=factor, mode="nearest")
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def _depth_to_space(found, x):
    b = found["blocksize"]
    if found.get("mode", b"DCR") == b"CRD":
        return F.pixel_shuffle(x, b)
    n, c, h, w = x.shape
    return x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2).reshape(n, c // b**2, h * b, w * b)


def _quantize(_, x, scale, zero):
    limits = torch.iinfo(zero.dtype)
    return (torch.round(x / scale) + zero.float()).clamp(limits.min, limits.max).to(zero.dtype)


def _dequantize(found, x, scale, zero):
    if scale.numel() > 1:
        shape = [-1 if i == found["axis"] else 1 for i in range(x.dim())]
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return (x.float() - zero.float()) * scale


_OPERATORS = {
    "Cast": _cast,
    "Transpose": lambda found, x: x.permute(found["perm"]),
    "Reshape": _reshape,
    "Expand": lambda _, x, shape: x.expand(torch.broadcast_shapes(x.shape, tuple(shape.tolist()))),
    "Shape": lambda found, x: torch.tensor(x.shape[found.get("start", 0) : found.get("end")], device=x.device),
    "Slice": _slice,
    "Concat": lambda found, *parts: torch.cat(parts, found["axis"]),
    "Gather": lambda found, x, i: (
        x.select(found.get("axis", 0), int(i)) if i.dim() == 0
        else F.embedding(i, x) if x.dim() == 2 and not found.get("axis", 0)
        else x.index_select(found.get("axis", 0), i)
    ),
    "Add": lambda _, a, b: a + b,
    "Sub": lambda _, a, b: a - b,
    "Mul": lambda _, a, b: a * b,
    "Div": lambda _, a, b: a // b,
    "Relu": lambda _, x: F.relu(x),
    "Clip": lambda _, x, low=None, high=None: x.clamp(
        None if low is None else low.item(), None if high is None else high.item()
    ),
    "Round": lambda _, x: torch.round(x),
    "AveragePool": lambda found, x: F.avg_pool2d(x, found["kernel_shape"], found.get("strides", [1, 1])),
    "DepthToSpace": _depth_to_space,
    "Resize": _resize,
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
    "Conv": _convolve,
}  # fmt: skip
