"""Paddings that are nodes of their own: those that a convolution can do itself, and repeated borders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..ir_queries import Convolution, NotApplicableError, Padding, producer, reject, require_live
from .base import Bound, FusionRule, Rule, integers

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..kernels import Pads


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


@dataclass(frozen=True)
class RepeatedBorder:
    """The border of an upsampled image that repeats its outermost rows and columns, as one of the image before.

    up(l) with p repeated rows is up of l with ceil(p / f) repeated rows, less what is too much. Reflection by one row
    repeats the border too, because the first f rows of up(l) are equal.

    Attributes:
        around: rows and columns to repeat before the upsampling (top, left, bottom, right).
        spare: pads, 0 or below, of the convolution behind, which cut what is too much.
    """

    around: Pads
    spare: Pads

    @classmethod
    def of(cls, padding: Padding, factors: tuple[int, int]) -> RepeatedBorder:
        """What a padding is before an upsampling by the factors.

        Raises:
            NotApplicableError: it does not repeat the outermost rows and columns.
        """
        once = all(size <= (1 if f > 1 else 0) for size, f in zip(padding.pads, factors * 2, strict=True))
        if not (padding.mode == "edge" or (padding.mode == "reflect" and once)):
            raise reject(
                f"{padding.name} pads {padding.pads} in the mode {padding.mode}: only repeated borders, and "
                "reflected ones of one row and column, are those of an upsampled image",
                padding.node,
            )
        top, left, bottom, right = padding.pads
        f, g = factors
        around = (-(-top // f), -(-left // g), -(-bottom // f), -(-right // g))
        spare = (top - f * around[0], left - g * around[1], bottom - f * around[2], right - g * around[3])
        return cls(around, spare)

    def cut(self, conv: Convolution) -> Convolution:
        """A convolution without pads, behind the upsampling of the padded image."""
        return replace(conv, pads=self.spare)

    def before(self, op: Any, rule: Rule, x: ir.Value) -> ir.Value:
        """The image before the upsampling with its border, on the tape."""
        return pad(op, rule, x, self.around, "edge")


def pad(op: Any, rule: Rule, x: ir.Value, pads: Pads, mode: str) -> ir.Value:
    """A Pad node over height and width on the tape."""
    sizes = integers(op, rule, [0, 0, *pads[:2], 0, 0, *pads[2:]], "pads")
    value: ir.Value = op.Pad(x, sizes, mode=mode)
    return value


def border_of(node: ir.Node, conv: Convolution) -> Padding:
    """The Pad node before a convolution that neither pads nor strides itself.

    Raises:
        NotApplicableError: it does; with an empty reason, what `ZeroPaddedConvolution` takes or says.
    """
    try:
        padding = Padding.read(node)
    except NotApplicableError:
        raise reject("") from None
    if padding.mode == "constant" or not any(padding.pads):
        raise reject("")
    if conv.strides != (1, 1) or any(conv.pads):
        raise reject(
            f"{conv.name} behind {padding.name} has strides {conv.strides} and pads {conv.pads}, must be 1 and 0",
            conv.node,
        )
    return padding


__all__ = ["RepeatedBorder", "ZeroPaddedConvolution", "border_of", "pad"]
