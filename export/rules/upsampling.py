"""Convolutions behind nearest upsampling: computed before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..ir_queries import Convolution, NotApplicableError, producer, reject, require_live
from ..kernels import phases
from ..symbolic_shapes.inference import is_constant
from .base import Bound, Builder, FusionRule, NodeRule, Site, again, convolve, integers, reader_of
from .elementwise import apply, following
from .low_rate import KEEP, LowRate
from .padding import RepeatedBorder, border_of, pad
from .resampling import LARGEST_FACTOR, Upsampling, is_resized, repeat, upsampling

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx_ir as ir

    from ..kernels import Small


class UpsamplingToSize(FusionRule):
    """A `Resize` to the size of another value repeats pixels where that size is proved to be a multiple.

    What computed the size read a branch's output, which kept other rules from changing it. A size that is no multiple,
    but a number for all that, becomes a constant.
    """

    title = "upsampling-to-size"
    identity = "resize(l, size of h) = up(l), for h a whole number of times as large"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Resize(x, _allow_other_inputs=True, _outputs=["up"])

    def check(self, bound: Bound) -> None:
        up = bound["up"]
        require_live(up)
        node = producer(up)
        if all(value is None or is_constant(value) for value in node.inputs[2:]):
            raise reject("")  # nothing is computed
        if self._numbers(node) is None:
            upsampling(self, up)

    def _numbers(self, node: ir.Node) -> list[int] | None:
        # An empty tensor stands for sizes that are not given.
        return (self.context.sizes.numbers(node.inputs[3]) or None) if len(node.inputs) > 3 else None

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        up = bound["up"]
        node = producer(up)
        try:
            found = upsampling(self, up)
        except NotApplicableError:
            numbers = self._numbers(node)
            if numbers is None:
                raise
            fixed = integers(op, self, numbers, "sizes")
            value: ir.Value = op.Resize(*node.inputs[:3], fixed, **dict(node.attributes))
            return value
        return repeat(op, self, bound["x"], found.factors)


class UpsamplingTwice(NodeRule[tuple[Upsampling, Upsampling]]):
    """Rows that are repeated and then columns, or a doubling of a doubling, are one upsampling."""

    title = "upsampling-twice"
    identity = "up(up(l)) = up(l), by the product of the factors"
    operators = frozenset({"Resize"})

    def check(self, node: ir.Node) -> tuple[Upsampling, Upsampling]:
        inner = node.inputs[0]
        if inner is None or not is_resized(inner):
            raise reject("")
        try:
            pair = upsampling(self, inner), upsampling(self, node.outputs[0])
        except NotApplicableError:
            raise reject("") from None  # any other resampling
        if max(a * b for a, b in zip(pair[0].factors, pair[1].factors, strict=True)) > LARGEST_FACTOR:
            raise reject("")
        return pair

    def rewrite(self, op: Any, plan: tuple[Upsampling, Upsampling]) -> Mapping[ir.Value, ir.Value]:
        inner, outer = plan
        factors = (inner.factors[0] * outer.factors[0], inner.factors[1] * outer.factors[1])
        return {outer.node.outputs[0]: repeat(op, self, inner.x, factors)}


@dataclass(frozen=True)
class Upsampled:
    """A convolution of an upsampled image.

    Attributes:
        conv: the convolution.
        up: the upsampling before it.
    """

    conv: Convolution
    up: Upsampling

    @property
    def output(self) -> ir.Value:
        """What the convolution computes."""
        return self.conv.node.outputs[0]

    def parts(self) -> dict[tuple[int, int], Small] | None:
        """The small convolutions whose outputs are interleaved."""
        c = self.conv
        return phases(c.weight, c.pads, c.dilations, strides=c.strides, factors=self.up.factors)


def _read(rule: NodeRule[Any], node: ir.Node) -> Upsampled:
    if not is_resized(node.inputs[0]):
        raise reject("")
    assert node.inputs[0] is not None
    up = upsampling(rule, node.inputs[0])
    return Upsampled(Convolution.read(node), up)


def _read_quietly(rule: NodeRule[Any], node: ir.Node) -> Upsampled:
    """As `_read`; `ConvolutionBehindUpsampling` is the one that says why it cannot be."""
    try:
        return _read(rule, node)
    except NotApplicableError:
        raise reject("") from None


class StridedBehindUpsampling(NodeRule[Upsampled]):
    """conv(up(l)) with a stride that is a multiple of the factor is one small convolution of l."""

    title = "strided-behind-upsampling"
    identity = "conv(up(l), stride) = small_conv(l), for strides that are multiples of the factors"
    operators = frozenset({"Conv"})

    def check(self, node: ir.Node) -> Upsampled:
        found = _read_quietly(self, node)
        if found.conv.strides == (1, 1):
            raise reject("")  # the other rules'
        parts = found.parts()
        if parts is None and all(
            s % f == 0 for s, f in zip(found.conv.strides, found.up.factors, strict=True)
        ):
            raise reject(
                f"pads {found.conv.pads} of {found.conv.name} would become negative before the upsampling",
                node,
            )
        if parts is None or len(parts) > 1:
            raise reject("")  # the other rules'
        return found

    def rewrite(self, op: Any, plan: Upsampled) -> Mapping[ir.Value, ir.Value]:
        parts = plan.parts()
        assert parts is not None
        small, found = parts[0, 0], plan.conv
        y = convolve(
            op,
            self,
            plan.up.x,
            small.weight,
            found.bias,
            stem=found.name,
            strides=small.strides,
            pads=small.pads,
            group=found.group,
            dtype=found.dtype,
        )
        return {plan.output: y}


class PointwiseBehindUpsampling(NodeRule[Upsampled]):
    """conv1x1(up(l)) is up(conv1x1(l)): a fraction of the multiplications."""

    title = "pointwise-behind-upsampling"
    identity = "conv1x1(up(l)) = up(conv1x1(l))"
    operators = frozenset({"Conv"})

    def check(self, node: ir.Node) -> Upsampled:
        found = _read_quietly(self, node)
        if not found.conv.is_pointwise:
            raise reject("")  # the other rules'
        return found

    def rewrite(self, op: Any, plan: Upsampled) -> Mapping[ir.Value, ir.Value]:
        y = again(op, self, plan.up.x, plan.conv)
        return {plan.output: repeat(op, self, y, plan.up.factors)}


@dataclass(frozen=True)
class _Choice:
    """A place with forms to choose from.

    Attributes:
        found: what stands there.
        replaced: what the forms compute.
        inputs: what they read.
        forms: the forms.
        more: what else tells this place from others that cost differently.
    """

    found: Upsampled
    replaced: ir.Value
    inputs: tuple[ir.Value, ...]
    forms: dict[str, Builder]
    more: tuple[object, ...] = ()


class _Chosen(NodeRule[_Choice]):
    operators = frozenset({"Conv"})

    def rewrite(self, op: Any, plan: _Choice) -> Mapping[ir.Value, ir.Value]:
        found, up = plan.found.conv, plan.found.up
        key = (*_geometry(found), up.factors, *plan.more)
        reader = reader_of(plan.replaced)
        site = Site(self.title, found.name, plan.inputs, (*key, reader), reader)
        return {plan.replaced: self.choose(op, site, plan.forms)}


def _geometry(conv: Convolution) -> tuple[object, ...]:
    """What a convolution costs depends on."""
    return (conv.weight.shape, conv.pads, conv.dilations, conv.strides, conv.group, conv.bias is not None)


def added(value: ir.Value) -> tuple[ir.Value, Convolution] | None:
    """The sum of a convolution's output and of another convolution's, which nobody else reads, and that one.

    Args:
        value: the first one's output.
    """
    uses = list(value.uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or value.is_graph_output():
        return None
    total = uses[0].node
    other = total.inputs[1 - uses[0].idx]
    node = None if other is None else other.producer()
    if other is None or node is None or node.op_type != "Conv" or is_resized(node.inputs[0]):
        return None
    if len(other.uses()) != 1 or other.is_graph_output() or other is value:
        return None
    try:
        return total.outputs[0], Convolution.read(node)
    except NotApplicableError:
        return None


class ConvolutionBehindUpsampling(_Chosen):
    """conv(up(l)) is computed before the upsampling: 9 or 16 taps per pixel of l in place of 36 for 3x3 and x2.

    See `LowRate` for the forms; where another convolution's output is added, they include it.
    """

    title = "convolution-behind-upsampling"
    identity = "conv(up(l)) = transposed_conv(l) = sum(transposed_conv(l)) = interleave(small convs of l)"

    def check(self, node: ir.Node) -> _Choice:
        found = _read(self, node)
        parts = found.parts()
        strides = found.conv.strides
        if found.conv.is_pointwise or (strides != (1, 1) and parts is not None and len(parts) == 1):
            raise reject("")  # the other rules'
        value, beside = found.output, None
        inputs: tuple[ir.Value, ...] = (found.up.x,)
        total = added(value)
        if total is not None and self._is_same_size(value, total[1].node.outputs[0]):
            value, beside = total
            inputs = (found.up.x, beside.x)
        after = following(value)
        forms = LowRate(self, found.conv, found.up.factors, after, beside).all()
        more = (tuple(node.op_type for node in after), None if beside is None else _geometry(beside))
        return _Choice(found, after[-1].outputs[0] if after else value, inputs, forms, more)

    def _is_same_size(self, one: ir.Value, two: ir.Value) -> bool:
        try:
            self.require_same_size(one, two)
        except NotApplicableError:
            return False
        return True


class PaddedConvolutionBehindUpsampling(_Chosen):
    """A convolution of the upsampled image whose border is repeated, as image-to-image networks pad.

    See `RepeatedBorder`.
    """

    title = "padded-convolution-behind-upsampling"
    identity = (
        "conv(pad(up(l))) = transposed_conv(pad(l)) = sum(transposed_conv(pad(l))), for repeated borders"
    )

    def check(self, node: ir.Node) -> _Choice:
        padded = node.inputs[0]
        before = None if padded is None else padded.producer()
        if before is None or before.op_type != "Pad" or not is_resized(before.inputs[0]):
            raise reject("")
        assert before.inputs[0] is not None
        up = upsampling(self, before.inputs[0])
        found = Convolution.read(node)
        padding = border_of(before, found)
        border = RepeatedBorder.of(padding, up.factors)
        after = following(node.outputs[0])

        def behind(build: Builder) -> Builder:
            return lambda op, inputs: build(op, [border.before(op, self, inputs[0])])

        def keep(op: Any, inputs: Sequence[ir.Value]) -> ir.Value:
            image = pad(op, self, repeat(op, self, inputs[0], up.factors), padding.pads, padding.mode)
            return apply(op, self, again(op, self, image, found), after)

        fused = LowRate(self, border.cut(found), up.factors, after).fused()
        forms = {KEEP: keep, **{name: behind(build) for name, build in fused.items()}}
        replaced = after[-1].outputs[0] if after else node.outputs[0]
        more = (padding.pads, padding.mode, tuple(function.op_type for function in after))
        return _Choice(Upsampled(found, up), replaced, (up.x,), forms, more)


__all__ = [
    "ConvolutionBehindUpsampling",
    "PaddedConvolutionBehindUpsampling",
    "PointwiseBehindUpsampling",
    "StridedBehindUpsampling",
    "Upsampled",
    "UpsamplingToSize",
    "UpsamplingTwice",
]
