"""Paddings that are nodes of their own and that a convolution can do itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..ir_queries import Convolution, Padding, producer, reject, require_live
from .base import Bound, FusionRule

if TYPE_CHECKING:
    import onnx_ir as ir


class ZeroPaddedConvolution(FusionRule):
    """A convolution of an image with zeros around it pads by itself."""

    title = "zero-padded-convolution"
    identity = "conv(pad(x)) = conv(x) with pads, for zeros"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Conv(
            op.Pad(x, _allow_other_inputs=True, _outputs=["padded"]),
            _allow_other_inputs=True,
            _outputs=["conv"],
        )

    def check(self, bound: Bound) -> None:
        padded, conv = (bound[name] for name in ("padded", "conv"))
        require_live(conv)
        self._pads(padded, conv)

    def _pads(self, padded: ir.Value, conv: ir.Value) -> list[int]:
        padding = Padding.read(producer(padded))
        if padding.mode != "constant":
            raise reject("")  # no convolution can
        if padding.value != 0:
            raise reject(f"{padding.name} pads with {padding.value:g}, a convolution with 0", padding.node)
        found = Convolution.read(producer(conv))
        return [a + b for a, b in zip(found.pads, padding.pads, strict=True)]

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        x, padded, conv = (bound[name] for name in ("x", "padded", "conv"))
        node = producer(conv)
        attributes = {key: value for key, value in node.attributes.items() if key != "auto_pad"}
        value: ir.Value = op.Conv(x, *node.inputs[1:], **{**attributes, "pads": self._pads(padded, conv)})
        return value
