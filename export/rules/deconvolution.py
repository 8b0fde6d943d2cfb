"""Transposed convolutions behind nearest upsampling: one with a larger stride."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..ir_queries import FLOATS, constant, label, reject
from ..kernels import behind
from .base import NodeRule
from .resampling import Upsampling, is_resized, upsampling

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import onnx_ir as ir


@dataclass(frozen=True)
class _Plan:
    node: ir.Node
    up: Upsampling
    kernel: npt.NDArray[np.float32]
    strides: tuple[int, int]
    dtype: np.dtype[Any]


class TransposedBehindUpsampling(NodeRule[_Plan]):
    """A transposed convolution with stride t of an image that is upsampled f-fold is one with stride t f.

    Its kernel is the old one convolved with f ones, t apart. That is no more multiplications as long as the old one
    leaves no gaps.
    """

    title = "transposed-behind-upsampling"
    identity = "transposed_conv(up(l)) = transposed_conv(l), with the strides times the factors"
    operators = frozenset({"ConvTranspose"})

    def check(self, node: ir.Node) -> _Plan:
        x = node.inputs[0]
        if x is None or not is_resized(x):
            raise reject("")
        name, attributes = label(node), node.attributes
        up = upsampling(self, x)
        weight = constant(node.inputs[1], f"the weight of {name}")
        if weight.ndim != 4 or weight.dtype.name not in FLOATS:
            raise reject(f"the weight of {name} is {weight.dtype} of {weight.ndim} dimensions", node)
        if attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or "output_shape" in attributes:
            raise reject(f"the padding of {name} depends on the size", node)
        strides = tuple(attributes.get_ints("strides", [1, 1]))
        dilations = tuple(attributes.get_ints("dilations", [1, 1]))
        if any(t > k for t, k in zip(strides, weight.shape[2:], strict=True)):
            raise reject(
                f"{name} leaves gaps: its strides {strides} are larger than its kernel {weight.shape[2:]}",
                node,
            )
        found = behind(
            weight.astype("float32"),
            (strides[0], strides[1]),
            (dilations[0], dilations[1]),
            factors=up.factors,
        )
        if found is None:
            raise reject(f"{name} has dilations {dilations}, must be 1", node)
        return _Plan(node, up, found[0], found[1], weight.dtype)

    def rewrite(self, op: Any, plan: _Plan) -> Mapping[ir.Value, ir.Value]:
        kernel = self.weight(op, plan.kernel, label(plan.node), plan.dtype)
        attributes = {
            **plan.node.attributes,
            "kernel_shape": list(plan.kernel.shape[2:]),
            "strides": list(plan.strides),
        }
        y = op.ConvTranspose(plan.up.x, kernel, *plan.node.inputs[2:], **attributes)
        return {plan.node.outputs[0]: y}


__all__ = ["TransposedBehindUpsampling"]
