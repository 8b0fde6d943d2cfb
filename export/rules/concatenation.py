"""Convolutions of images that are put together from upsampled and other ones: U-Nets, necks of detectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..ir_queries import Convolution, NotApplicableError, Padding, label, reject
from ..kernels import phases
from ..symbolic_shapes.expression import describe
from .base import Builder, NodeRule, Rule, Site, again, convolve, reader_of
from .elementwise import apply, following
from .low_rate import KEEP, LowRate
from .padding import RepeatedBorder, border_of, pad
from .resampling import is_resized, repeat, upsampling

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir


# Forms that are no choice elsewhere: fewer multiplications, and nothing to interleave.
_OWN_FORMS: Final = frozenset({"pointwise", "strided"})


@dataclass(frozen=True)
class _Part:
    """Neighboring channels of the convolution's input.

    Attributes:
        value: the image that has them: before the upsampling, where there is one.
        channels: numbers of the first and behind the last, in the weight.
        factors: of the upsampling; None for other images.
    """

    value: ir.Value
    channels: tuple[int, int]
    factors: tuple[int, int] | None

    def of(self, weight: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Their part of a weight."""
        return weight[:, self.channels[0] : self.channels[1]]


@dataclass(frozen=True)
class _Split:
    """What stands there.

    Attributes:
        conv: the convolution.
        parts: what it reads.
        padding: between the concatenation and the convolution, if there is one.
        after: element-wise functions behind the convolution.
    """

    conv: Convolution
    parts: tuple[_Part, ...]
    padding: Padding | None
    after: tuple[ir.Node, ...]

    @property
    def replaced(self) -> ir.Value:
        return self.after[-1].outputs[0] if self.after else self.conv.node.outputs[0]

    def upsampled(self) -> list[_Part]:
        return [part for part in self.parts if part.factors is not None]

    def others(self) -> list[_Part]:
        return [part for part in self.parts if part.factors is None]

    def border(self, parts: Sequence[_Part]) -> RepeatedBorder | None:
        """The padding as one before the upsampling of parts with the same factors; None for other parts."""
        factors = parts[0].factors
        return None if self.padding is None or factors is None else RepeatedBorder.of(self.padding, factors)

    def padded(self, op: Any, rule: Rule, x: ir.Value, parts: Sequence[_Part]) -> ir.Value:
        """The image of some parts with the border that belongs to it, on the tape."""
        border = self.border(parts)
        if border is not None:
            return border.before(op, rule, x)
        return x if self.padding is None else pad(op, rule, x, self.padding.pads, self.padding.mode)


class ConvolutionOfConcatenation(NodeRule[_Split]):
    """A convolution of concat(up(l), skip) is a sum: one over up(l), computed before the upsampling, one over skip.

    The forms are those of `LowRate` for the upsampled part. What is upsampled by the same factors is one part, and
    so is all the rest. Where the concatenation is padded with repeated borders, each part is padded by itself, the
    upsampled ones before their upsampling (`RepeatedBorder`).
    """

    title = "convolution-of-concatenation"
    identity = "[A | B] * concat(up(l), skip) = A * up(l) + B * skip"
    operators = frozenset({"Conv"})

    def check(self, node: ir.Node) -> _Split:
        joined = node.inputs[0]
        before = None if joined is None else joined.producer()
        around = before if before is not None and before.op_type == "Pad" else None
        if around is not None:
            joined = around.inputs[0]
            before = None if joined is None else joined.producer()
        if before is None or before.op_type != "Concat" or not any(is_resized(x) for x in before.inputs):
            raise reject("")
        conv = Convolution.read(node)
        padding = None if around is None else border_of(around, conv)
        conv.require_dense()
        rank = self.context.sizes.shape(joined)
        if rank is None or len(rank) != 4 or before.attributes.get_int("axis", 0) % 4 != 1:
            raise reject(f"{label(before)} does not put the channels of images together", before)
        parts, at, misses = [], 0, []
        for value in before.inputs:
            shape = self.context.sizes.shape(value)
            count = None if shape is None else shape[1].known
            if value is None or count is None:
                raise reject(
                    f"the channels of {describe(shape)} before {label(before)} are not known", before
                )
            up = None
            if is_resized(value):
                try:
                    found = upsampling(self, value)
                    if padding is not None:
                        RepeatedBorder.of(padding, found.factors)
                    up = found
                except NotApplicableError as error:
                    misses.append(error)
            image = value if up is None else up.x
            parts.append(_Part(image, (at, at + count), None if up is None else up.factors))
            at += count
        if all(part.factors is None for part in parts):
            raise next((miss for miss in misses if miss.reason), reject(""))
        if at != conv.weight.shape[1]:
            raise reject(f"{conv.name} reads {conv.weight.shape[1]} channels of {at}", node)
        if conv.kernel != (1, 1) and conv.strides != (1, 1) and not self._is_strided(conv, parts):
            raise reject(
                f"the strides of {conv.name}, {conv.strides}, are no multiples of the factors before it", node
            )
        return _Split(conv, tuple(parts), padding, tuple(following(node.outputs[0])))

    @staticmethod
    def _is_strided(conv: Convolution, parts: Sequence[_Part]) -> bool:
        return all(
            s % f == 0
            for part in parts
            if part.factors is not None
            for s, f in zip(conv.strides, part.factors, strict=True)
        )

    def rewrite(self, op: Any, plan: _Split) -> Mapping[ir.Value, ir.Value]:
        conv, inputs = plan.conv, tuple(part.value for part in plan.parts)
        names = self._forms(plan)
        if not names:
            raise reject(f"{conv.name} has no form before the upsampling", conv.node)
        forms: dict[str, Builder] = {KEEP: lambda op, values: self._keep(op, values, plan)}
        forms.update({name: self._builder(plan, name) for name in names})
        functions = tuple(node.op_type for node in plan.after)
        places = tuple((part.channels, part.factors) for part in plan.parts)
        key = (
            conv.weight.shape,
            conv.pads,
            conv.dilations,
            conv.strides,
            conv.bias is None,
            places,
            functions,
            None if plan.padding is None else (plan.padding.pads, plan.padding.mode),
        )
        reader = reader_of(plan.replaced)
        return {
            plan.replaced: self.choose(op, Site(self.title, conv.name, inputs, (*key, reader), reader), forms)
        }

    def _builder(self, plan: _Split, form: str) -> Builder:
        return lambda op, values: self._split(op, values, plan, form)

    def _convolution(self, plan: _Split, parts: Sequence[_Part]) -> Convolution:
        """The convolution of some parts with their border, without its bias."""
        weight = np.concatenate([part.of(plan.conv.weight) for part in parts], axis=1)
        found = replace(plan.conv, weight=np.ascontiguousarray(weight), bias=None)
        border = plan.border(parts)
        return found if border is None else border.cut(found)

    def _groups(self, plan: _Split) -> list[list[_Part]]:
        """The upsampled parts, those of the same factors and size together."""
        groups: list[list[_Part]] = []
        for part in plan.upsampled():
            mine = next((group for group in groups if group[0].factors == part.factors), None)
            if mine is None:
                groups.append([part])
            else:
                mine.append(part)
        return groups

    def _forms(self, plan: _Split) -> list[str]:
        """Names of the forms that all upsampled parts have."""
        names: list[str] | None = None
        rest = plan.others()
        beside = self._convolution(plan, rest) if rest else None
        for i, group in enumerate(self._groups(plan)):
            factors = group[0].factors
            assert factors is not None
            found = self._convolution(plan, group)
            if found.is_pointwise:
                own = ["pointwise"]
            elif found.strides != (1, 1):
                parts = phases(
                    found.weight, found.pads, found.dilations, strides=found.strides, factors=factors
                )
                own = ["strided"] if parts is not None and len(parts) == 1 else []
            else:
                try:
                    own = list(self._low_rate(plan, group, None if i else beside, ()).fused())
                except NotApplicableError:
                    own = []
            names = own if names is None else [name for name in names if name in own]
        return names or []

    def _keep(self, op: Any, values: Sequence[ir.Value], plan: _Split) -> ir.Value:
        images = [
            value if part.factors is None else repeat(op, self, value, part.factors)
            for value, part in zip(values, plan.parts, strict=True)
        ]
        whole = op.Concat(*images, axis=1)
        if plan.padding is not None:
            whole = pad(op, self, whole, plan.padding.pads, plan.padding.mode)
        return apply(op, self, again(op, self, whole, plan.conv), plan.after)

    def _split(self, op: Any, values: Sequence[ir.Value], plan: _Split, form: str) -> ir.Value:
        by_part = dict(zip(plan.parts, values, strict=True))

        def image(parts: Sequence[_Part]) -> ir.Value:
            images = [by_part[part] for part in parts]
            joined: ir.Value = images[0] if len(images) == 1 else op.Concat(*images, axis=1)
            return plan.padded(op, self, joined, parts)

        groups, rest = self._groups(plan), plan.others()
        beside = replace(self._convolution(plan, rest), bias=plan.conv.bias) if rest else None
        first, *more = groups
        if form in _OWN_FORMS:
            total = self._low(op, image(first), self._biased(plan, first, beside), first[0].factors, form)
            if beside is not None:
                total = op.Add(again(op, self, image(rest), beside), total)
        else:
            whole = self._low_rate(plan, first, beside, () if more else plan.after)
            inputs = [image(first), *([image(rest)] if rest else [])]
            total = whole.fused()[form](op, inputs)
            if not more:
                return total
        for group in more:
            found = self._convolution(plan, group)
            total = op.Add(total, self._low(op, image(group), found, group[0].factors, form))
        return apply(op, self, total, plan.after)

    def _biased(self, plan: _Split, group: Sequence[_Part], beside: Convolution | None) -> Convolution:
        """The convolution of upsampled parts; it has the bias where there are no others."""
        found = self._convolution(plan, group)
        return found if beside is not None else replace(found, bias=plan.conv.bias)

    def _low_rate(
        self, plan: _Split, group: Sequence[_Part], beside: Convolution | None, after: Sequence[ir.Node]
    ) -> LowRate:
        factors = group[0].factors
        assert factors is not None
        return LowRate(self, self._biased(plan, group, beside), factors, after, beside)

    def _low(
        self, op: Any, x: ir.Value, found: Convolution, factors: tuple[int, int] | None, form: str
    ) -> ir.Value:
        assert factors is not None
        if form == "pointwise":
            return repeat(op, self, again(op, self, x, found), factors)
        if form == "strided":
            parts = phases(found.weight, found.pads, found.dilations, strides=found.strides, factors=factors)
            assert parts is not None
            small = parts[0, 0]
            return convolve(
                op,
                self,
                x,
                small.weight,
                found.bias,
                stem=found.name,
                strides=small.strides,
                pads=small.pads,
                dtype=found.dtype,
            )
        return LowRate(self, found, factors).fused()[form](op, [x])


__all__ = ["ConvolutionOfConcatenation"]
