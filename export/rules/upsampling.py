"""Convolutions behind nearest x2 upsampling: computed at the low rate."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..graphs import (
    Convolution,
    NotApplicableError,
    Padding,
    label,
    producer,
    reads_nearest_double,
    reject,
    require_live,
)
from ..kernels import phases, pooled, strided, transposed
from ..sizes import describe, remedy
from .base import Bound, Builder, FusionRule, Site, again, convolve, integers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx_ir as ir

    from ..kernels import Small


def require_doubling(rule: FusionRule, up: ir.Value) -> None:
    """Reject a `Resize` that does not repeat each pixel of H and W exactly twice.

    Raises:
        NotApplicableError: another mode, another factor, or a factor that is not proved to be 2.
    """
    node = producer(up)
    name = label(node)
    mode = node.attributes.get_string("mode", "nearest")
    if mode != "nearest":
        raise reject(f"{name} is {mode}, not nearest", node)
    before, after = rule.context.sizes.shape(node.inputs[0]), rule.context.sizes.shape(up)
    if before is None or after is None or len(before) != 4:
        raise reject(f"{name} has sizes {describe(before)} and {describe(after)}, not four known ones", node)
    wanted = (*before[:2], before[2] * 2, before[3] * 2)
    if after != wanted:
        raise reject(
            f"{name} is not proved to double {describe(before)}: it gives {describe(after)}"
            f"{remedy(before, after)}",
            node,
        )
    if node.op_type == "Resize":
        coordinates = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
        rounding = node.attributes.get_string("nearest_mode", "round_prefer_floor")
        if not reads_nearest_double(coordinates, rounding):
            raise reject(f"{name} with {coordinates} and {rounding} does not repeat each pixel twice", node)


def double(op: Any, rule: FusionRule, x: ir.Value) -> ir.Value:
    """Nearest x2 upsampling as a `Resize` node on the tape."""
    import numpy as np

    scales = rule.weight(op, np.array([1, 1, 2, 2], np.float32), "scales")
    value: ir.Value = op.Resize(
        x, None, scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    return value


class UpsamplingToSize(FusionRule):
    """A `Resize` to the size of another value is a plain doubling where that size is proved to be double.

    What computed the size read a branch's output, which kept other rules from changing it. A size that is not double,
    but a number for all that, becomes a constant.
    """

    title = "upsampling-to-size"
    identity = "resize(l, size of h) = up(l), for h twice as large"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Resize(x, _allow_other_inputs=True, _outputs=["up"])

    def check(self, bound: Bound) -> None:
        up = bound["up"]
        require_live(up)
        node = producer(up)
        if all(value is None or value.const_value is not None for value in node.inputs[2:]):
            raise reject("")  # nothing is computed
        if self._numbers(node) is None:
            require_doubling(self, up)

    def _numbers(self, node: ir.Node) -> list[int] | None:
        # An empty tensor stands for sizes that are not given.
        return (self.context.sizes.numbers(node.inputs[3]) or None) if len(node.inputs) > 3 else None

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        up = bound["up"]
        node = producer(up)
        try:
            require_doubling(self, up)
        except NotApplicableError:
            numbers = self._numbers(node)
            if numbers is None:
                raise
            fixed = integers(op, self, numbers, "sizes")
            value: ir.Value = op.Resize(*node.inputs[:3], fixed, **dict(node.attributes))
            return value
        return double(op, self, bound["x"])


class _BehindUpsampling(FusionRule):
    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Conv(
            op.Resize(x, _allow_other_inputs=True, _outputs=["up"]),
            _allow_other_inputs=True,
            _outputs=["conv"],
        )

    def read(self, conv: ir.Value, up: ir.Value) -> Convolution:
        require_live(conv)
        found = Convolution.read(producer(conv))
        found.require_dense()
        require_doubling(self, up)
        return found


class StridedBehindUpsampling(_BehindUpsampling):
    """conv(up(l), stride 2) is one small convolution of l."""

    title = "strided-behind-upsampling"
    identity = "conv(up(l), stride 2) = small_conv(l)"

    def check(self, bound: Bound) -> None:
        up, conv = (bound[name] for name in ("up", "conv"))
        self._small(self.read(conv, up))

    def _small(self, found: Convolution) -> Small:
        if found.strides == (1, 1):
            raise reject("")  # the other rule's
        if found.strides != (2, 2):
            raise reject(f"the strides of {found.name} are {found.strides}, must be 2 and 2", found.node)
        small = strided(found.weight, found.pads, found.dilations)
        if small is None:
            raise reject(
                f"pads {found.pads} of {found.name} would become negative at the low rate", found.node
            )
        return small

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        x, up, conv = (bound[name] for name in ("x", "up", "conv"))
        found = self.read(conv, up)
        small = self._small(found)
        return convolve(op, self, x, small.weight, found.bias, stem=found.name, pads=small.pads)


class PointwiseBehindUpsampling(_BehindUpsampling):
    """conv1x1(up(l)) is up(conv1x1(l)): a quarter of the multiplications."""

    title = "pointwise-behind-upsampling"
    identity = "conv1x1(up(l)) = up(conv1x1(l))"

    def check(self, bound: Bound) -> None:
        up, conv = (bound[name] for name in ("up", "conv"))
        if not self.read(conv, up).is_pointwise:
            raise reject("")  # the other rules'

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        x, up, conv = (bound[name] for name in ("x", "up", "conv"))
        found = self.read(conv, up)
        return double(op, self, convolve(op, self, x, found.weight, found.bias, stem=found.name))


class ConvolutionBehindUpsampling(_BehindUpsampling):
    """conv(up(l)) is computed at the low rate: 9 or 16 taps per pixel of l in place of 36 for 3x3.

    Forms: `keep`; `transposed`, with the kernel summed over 2x2 (16 taps); `pooled`, a transposed convolution with
    the kernel itself (9 taps), then a sum over 2x2; `phases`, four small convolutions interleaved by DepthToSpace (16
    taps); `phases-transposed`, interleaved by two passes of plain copies, which ONNX Runtime's CPU kernels do faster.
    """

    title = "convolution-behind-upsampling"
    identity = (
        "conv(up(l)) = transposed_conv(l) = sum2x2(transposed_conv(l)) = interleave(four small convs of l)"
    )

    def check(self, bound: Bound) -> None:
        up, conv = (bound[name] for name in ("up", "conv"))
        self._all_forms(self.read(conv, up))

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        x, up, conv = (bound[name] for name in ("x", "up", "conv"))
        found = self.read(conv, up)
        return self._choose(op, x, conv, found, self._all_forms(found))

    def _all_forms(self, found: Convolution) -> dict[str, Builder]:
        if found.strides != (1, 1) or found.is_pointwise:
            raise reject("")  # the other rules'
        return {
            "keep": lambda op, inputs: again(op, self, double(op, self, inputs[0]), found),
            **self._fused_forms(found),
        }

    def _choose(
        self,
        op: Any,
        x: ir.Value,
        conv: ir.Value,
        found: Convolution,
        forms: dict[str, Builder],
        *more: object,
    ) -> ir.Value:
        key = (found.weight.shape, found.pads, found.dilations, found.bias is not None, *more)
        frame, extra, around = self._frame(conv)
        site = Site(self.title, found.name, (x,), (*key, around), frame, extra)
        return self.choose(op, site, forms)

    def _fused_forms(self, found: Convolution) -> dict[str, Builder]:
        """The forms at the low rate of a convolution of the upsampled image; pads below 0 cut from that image.

        Raises:
            NotApplicableError: there is none.
        """
        forms: dict[str, Builder] = {}
        four = phases(found.weight, found.pads, found.dilations)
        if four is not None:
            forms["phases"] = lambda op, inputs: self._depth_to_space(
                op, self._four(op, inputs[0], found, four)
            )
            forms["phases-transposed"] = lambda op, inputs: self._interleave(
                op, self._four(op, inputs[0], found, four), found
            )
        if found.dilations == (1, 1):
            whole, own = transposed(found.weight, found.pads), pooled(found.weight, found.pads)
            if whole is not None:
                forms["transposed"] = lambda op, inputs: self._transposed(op, inputs[0], found, whole)
            if own is not None:
                forms["pooled"] = lambda op, inputs: op.AveragePool(
                    self._transposed(op, inputs[0], found, own), kernel_shape=[2, 2], strides=[1, 1]
                )
        if not forms:
            raise reject(
                f"kernel {found.kernel} with pads {found.pads} and dilations {found.dilations} of {found.name} "
                "has no form at the low rate",
                found.node,
            )
        return forms

    def _frame(self, conv: ir.Value) -> tuple[Builder | None, tuple[ir.Value, ...], tuple[object, ...]]:
        """The other convolution where both are summed: ONNX Runtime adds in place only in some forms."""
        uses = list(conv.uses())
        if len(uses) != 1 or uses[0].node.op_type != "Add":
            return None, (), ()
        other = uses[0].node.inputs[1 - uses[0].idx]
        node = None if other is None else other.producer()
        if node is None or node.op_type != "Conv":
            return None, (), ()
        try:
            second = Convolution.read(node)
        except NotApplicableError:
            return None, (), ()
        if second.group != 1:
            return None, (), ()

        def frame(op: Any, inputs: Sequence[ir.Value]) -> ir.Value:
            y = again(op, self, inputs[0], second)
            value: ir.Value = op.Relu(op.Add(y, inputs[1]))
            return value

        return frame, (second.x,), (second.weight.shape, second.pads, second.strides)

    def _four(
        self, op: Any, x: ir.Value, found: Convolution, four: dict[tuple[int, int], Small]
    ) -> list[ir.Value]:
        return [
            convolve(op, self, x, small.weight, found.bias, stem=f"{found.name}.{a}{b}", pads=small.pads)
            for (a, b), small in sorted(four.items())
        ]

    @staticmethod
    def _depth_to_space(op: Any, four: list[ir.Value]) -> ir.Value:
        value: ir.Value = op.DepthToSpace(op.Concat(*four, axis=1), blocksize=2, mode="DCR")
        return value

    def _interleave(self, op: Any, four: list[ir.Value], found: Convolution) -> ir.Value:
        channels = found.weight.shape[0]
        sides = op.Shape(four[0], start=2, end=4)
        lead = integers(op, self, [-1, channels], "lead")

        def target(rows: int) -> ir.Value:
            factors = integers(op, self, [rows, 2], "factors")
            value: ir.Value = op.Concat(lead, op.Mul(sides, factors), axis=0)
            return value

        half = target(1)
        rows = []
        for pair in (four[:2], four[2:]):
            # N x 2C x h x w to N x C x h x 2w: the columns of both interleaved.
            flat = op.Reshape(op.Concat(*pair, axis=1), integers(op, self, [0, 2, -1], "columns"))
            rows.append(op.Reshape(op.Transpose(flat, perm=[0, 2, 1]), half))
        # Row i of the first, then row i of the second: a plain copy of whole rows.
        value: ir.Value = op.Reshape(op.Concat(*rows, axis=3), target(2))
        return value

    def _transposed(self, op: Any, x: ir.Value, found: Convolution, kernel: Small) -> ir.Value:
        inputs = [x, self.weight(op, kernel.weight, found.name)]
        if found.bias is not None:
            inputs.append(self.weight(op, found.bias, f"{found.name}.bias"))
        value: ir.Value = op.ConvTranspose(
            *inputs,
            kernel_shape=list(kernel.weight.shape[2:]),
            strides=[2, 2],
            pads=list(kernel.pads),
        )
        return value


class PaddedConvolutionBehindUpsampling(ConvolutionBehindUpsampling):
    """A convolution of the upsampled image whose border is repeated, as image-to-image networks pad.

    up(l) with p repeated rows is up of l with ceil(p / 2) repeated rows, less one row where p is odd. Reflection by
    one row repeats the border too, because the first two rows of up(l) are equal.
    """

    title = "padded-convolution-behind-upsampling"
    identity = (
        "conv(pad(up(l))) = transposed_conv(pad(l)) = sum2x2(transposed_conv(pad(l))), for repeated borders"
    )

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.Conv(
            op.Pad(
                op.Resize(x, _allow_other_inputs=True, _outputs=["up"]),
                _allow_other_inputs=True,
                _outputs=["padded"],
            ),
            _allow_other_inputs=True,
            _outputs=["conv"],
        )

    def check(self, bound: Bound) -> None:
        self._padded_forms(bound)

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        padding, cut, forms = self._padded_forms(bound)
        return self._choose(op, bound["x"], bound["conv"], cut, forms, padding.pads, padding.mode)

    def _padded_forms(self, bound: Bound) -> tuple[Padding, Convolution, dict[str, Builder]]:
        up, padded, conv = (bound[name] for name in ("up", "padded", "conv"))
        found = self.read(conv, up)
        padding = Padding.read(producer(padded))
        if padding.mode == "constant" or not any(padding.pads):
            raise reject("")  # the other rules'
        repeats = padding.mode == "edge" or (padding.mode == "reflect" and max(padding.pads) == 1)
        if not repeats:
            raise reject(
                f"{padding.name} pads {padding.pads} in the mode {padding.mode}: only repeated borders, and "
                "reflected ones of one row and column, are those of an upsampled image",
                padding.node,
            )
        if found.strides != (1, 1) or any(found.pads):
            raise reject(
                f"{found.name} behind {padding.name} has strides {found.strides} and pads {found.pads}, must be 1 "
                "and 0",
                found.node,
            )
        around = tuple((size + 1) // 2 for size in padding.pads)
        top, left, bottom, right = (p - 2 * q for p, q in zip(padding.pads, around, strict=True))
        cut = replace(found, pads=(top, left, bottom, right))

        def pad(op: Any, x: ir.Value, pads: Sequence[int], mode: str) -> ir.Value:
            sizes = integers(op, self, [0, 0, *pads[:2], 0, 0, *pads[2:]], "pads")
            value: ir.Value = op.Pad(x, sizes, mode=mode)
            return value

        def behind(build: Builder) -> Builder:
            return lambda op, inputs: build(op, [pad(op, inputs[0], around, "edge")])

        forms = {name: behind(build) for name, build in self._fused_forms(cut).items()}
        forms["keep"] = lambda op, inputs: again(
            op, self, pad(op, double(op, self, inputs[0]), padding.pads, padding.mode), found
        )
        return padding, cut, forms
