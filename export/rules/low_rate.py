"""The forms of a convolution of an upsampled image that compute at the rate before the upsampling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..ir_queries import Convolution, reject
from ..kernels import Small, phases, pooled, transposed
from .base import Builder, Rule, again, convolve, integers
from .elementwise import apply
from .resampling import repeat

if TYPE_CHECKING:
    import onnx_ir as ir

    from ..kernels import Pair

KEEP: Final = "keep"
_MOST_PHASES: Final = 16


class LowRate:
    """Writes a convolution of an image that is upsampled by repetition, and what is added to it.

    Forms: `keep`; `transposed`, a transposed convolution with the kernel summed over f x f (16 taps for 3x3 and x2);
    `pooled`, a transposed convolution with the kernel itself (9 taps), then a sum over f x f; `phases`, f x f small
    convolutions interleaved by DepthToSpace (16 taps); `phases-channels-last`, interleaved by copies of whole pixels
    with the channels last, a layout that ONNX Runtime's CPU kernels leave and enter in passes that they need anyway;
    `phases-paired`, the same with the convolutions of one row of phases in one, which costs taps where their columns
    differ, and saves passes; `phases-stacked`, all phases in one convolution behind DepthToSpace, for a few channels
    (runtimes compute 8 or 16 at a time, whether they are there or not).

    Args:
        rule: for names and sizes.
        found: the convolution; pads below 0 cut from the upsampled image.
        factors: of the upsampling.
        after: element-wise functions behind the convolution: on the phases they are done before the interleaving, where
            runtimes fuse them into the convolutions.
        beside: a convolution of another image, with stride 1, that is added. Its phases are convolutions with the
            factors as strides, so that sums and functions are computed phase by phase, and interleaved once. The
            builders take that image as their second input.
    """

    def __init__(
        self,
        rule: Rule,
        found: Convolution,
        factors: tuple[int, int],
        after: Sequence[ir.Node] = (),
        beside: Convolution | None = None,
    ) -> None:
        self._rule = rule
        self._found = found
        self._factors = factors
        self._after = tuple(after)
        self._beside = beside

    def all(self) -> dict[str, Builder]:
        """All forms.

        Raises:
            NotApplicableError: there is none but the one that stands.
        """
        return {KEEP: self._keep, **self.fused()}

    def fused(self) -> dict[str, Builder]:
        """The forms at the low rate.

        Raises:
            NotApplicableError: there is none.
        """
        found, forms = self._found, dict[str, Builder]()
        parts = phases(
            found.weight, found.pads, found.dilations, strides=found.strides, factors=self._factors
        )
        if parts is not None and 1 < len(parts) <= _MOST_PHASES:
            grid = (max(a for a, _ in parts) + 1, max(b for _, b in parts) + 1)
            others = None if self._beside is None else _strided_phases(self._beside, grid)
            if self._beside is None or others is not None:
                if grid[0] == grid[1]:
                    forms["phases"] = lambda op, inputs: self._depth_to_space(
                        op, self._each(op, inputs, parts, others), grid[0]
                    )
                forms["phases-channels-last"] = lambda op, inputs: self._channels_last(
                    op, inputs[0], self._each(op, inputs, parts, others), parts[0, 0], grid
                )
                forms["phases-blocked"] = lambda op, inputs: self._blocked(op, inputs, parts, others, grid)
            if grid[0] == grid[1] and found.group == 1:
                forms["phases-stacked"] = lambda op, inputs: self._joined(
                    op, self._stacked(op, inputs[0], parts, grid), inputs
                )
            if grid[1] > 1 and found.group == 1:
                forms["phases-paired"] = lambda op, inputs: self._joined(
                    op, self._paired(op, inputs[0], parts, grid), inputs
                )
        if found.dilations == (1, 1) and found.strides == (1, 1):
            whole = transposed(found.weight, found.pads, factors=self._factors, group=found.group)
            own = pooled(found.weight, found.pads, factors=self._factors, group=found.group)
            if whole is not None:
                forms["transposed"] = lambda op, inputs: self._added(
                    op, self._transposed(op, inputs[0], whole), inputs
                )
            if own is not None:
                forms["pooled"] = lambda op, inputs: self._added(
                    op, self._pooled(op, inputs[0], own[0], own[1]), inputs
                )
        if not forms:
            raise reject(
                f"kernel {found.kernel} with strides {found.strides}, pads {found.pads} and dilations "
                f"{found.dilations} of {found.name} has no form before the upsampling by {self._factors}",
                found.node,
            )
        return forms

    def _added(self, op: Any, value: ir.Value, inputs: Sequence[ir.Value]) -> ir.Value:
        """The whole from the convolution of the upsampled image."""
        if self._beside is not None:
            value = op.Add(again(op, self._rule, inputs[1], self._beside), value)
        return apply(op, self._rule, value, self._after)

    def _joined(self, op: Any, value: ir.Value, inputs: Sequence[ir.Value]) -> ir.Value:
        """The whole from phases that have been interleaved, behind the functions if nothing is added."""
        return value if self._beside is None else self._added(op, value, inputs)

    def _keep(self, op: Any, inputs: Sequence[ir.Value]) -> ir.Value:
        up = repeat(op, self._rule, inputs[0], self._factors)
        return self._added(op, again(op, self._rule, up, self._found), inputs)

    def _small(self, op: Any, x: ir.Value, small: Small, stem: str, copies: int = 1) -> ir.Value:
        bias = None if self._found.bias is None else np.concatenate([self._found.bias] * copies)
        y = convolve(
            op,
            self._rule,
            x,
            small.weight,
            bias,
            stem=f"{self._found.name}.{stem}",
            strides=small.strides,
            pads=small.pads,
            group=self._found.group,
            dtype=self._found.dtype,
        )
        return y if self._beside is not None else apply(op, self._rule, y, self._after, copies)

    def _each(
        self,
        op: Any,
        inputs: Sequence[ir.Value],
        parts: Mapping[Pair, Small],
        others: Mapping[Pair, Convolution] | None,
    ) -> dict[Pair, ir.Value]:
        """The phases of the whole."""
        made = {}
        for at, small in sorted(parts.items()):
            y = self._small(op, inputs[0], small, f"{at[0]}{at[1]}")
            if others is not None:
                y = apply(
                    op, self._rule, op.Add(again(op, self._rule, inputs[1], others[at]), y), self._after
                )
            made[at] = y
        return made

    @staticmethod
    def _depth_to_space(op: Any, each: Mapping[Pair, ir.Value], side: int) -> ir.Value:
        value: ir.Value = op.DepthToSpace(op.Concat(*each.values(), axis=1), blocksize=side, mode="DCR")
        return value

    def _channels_last(
        self, op: Any, x: ir.Value, each: Mapping[Pair, ir.Value], part: Small, grid: Pair
    ) -> ir.Value:
        lines = []
        for a in range(grid[0]):
            # N x h x w x n C: the columns of all n phases, pixel by pixel.
            line = [op.Transpose(each[a, b], perm=[0, 2, 3, 1]) for b in range(grid[1])]
            lines.append(line[0] if len(line) == 1 else op.Concat(*line, axis=3))
        return self._rows(op, x, lines, part, grid)

    def _blocked(
        self,
        op: Any,
        inputs: Sequence[ir.Value],
        parts: Mapping[Pair, Small],
        others: Mapping[Pair, Convolution] | None,
        grid: Pair,
    ) -> ir.Value:
        """As `_channels_last`, behind a convolution of each channel by 1, which does the functions, too."""
        plain = LowRate(self._rule, self._found, self._factors, (), self._beside)
        each = plain._each(op, inputs, parts, others)
        image = self._channels_last(op, inputs[0], each, parts[0, 0], grid)
        channels = self._found.weight.shape[0]
        ones = np.ones((channels, 1, 1, 1), np.float32)
        y = convolve(op, self._rule, image, ones, None, stem="ones", group=channels, dtype=self._found.dtype)
        return apply(op, self._rule, y, self._after)

    def _paired(self, op: Any, x: ir.Value, parts: Mapping[Pair, Small], grid: Pair) -> ir.Value:
        lines = []
        for a in range(grid[0]):
            row = [parts[a, b] for b in range(grid[1])]
            left, right = max(small.pads[1] for small in row), max(small.pads[3] for small in row)
            weight = np.concatenate(
                [
                    np.pad(
                        small.weight, ((0, 0), (0, 0), (0, 0), (left - small.pads[1], right - small.pads[3]))
                    )
                    for small in row
                ]
            )
            pads = (row[0].pads[0], left, row[0].pads[2], right)
            both = Small(weight, pads, row[0].strides)
            lines.append(op.Transpose(self._small(op, x, both, f"{a}", grid[1]), perm=[0, 2, 3, 1]))
        return self._rows(op, x, lines, parts[0, 0], grid)

    def _stacked(self, op: Any, x: ir.Value, parts: Mapping[Pair, Small], grid: Pair) -> ir.Value:
        every = [small for _, small in sorted(parts.items())]
        top, left, bottom, right = (max(small.pads[i] for small in every) for i in range(4))
        weights = [
            np.pad(
                small.weight,
                (
                    (0, 0),
                    (0, 0),
                    (top - small.pads[0], bottom - small.pads[2]),
                    (left - small.pads[1], right - small.pads[3]),
                ),
            )
            for small in every
        ]
        whole = Small(np.concatenate(weights), (top, left, bottom, right), every[0].strides)
        stacked = self._small(op, x, whole, "all", len(every))
        value: ir.Value = op.DepthToSpace(stacked, blocksize=grid[0], mode="DCR")
        return value

    def _rows(self, op: Any, x: ir.Value, lines: Sequence[ir.Value], part: Small, grid: Pair) -> ir.Value:
        """Interleave the rows of N x h x w x n C images, and put the channels second."""
        channels = self._found.weight.shape[0]
        flat = [op.Reshape(line, self._integers(op, [0, 0, -1])) for line in lines]
        whole = flat[0] if len(flat) == 1 else op.Concat(*flat, axis=2)  # row i of each, then row i + 1
        height = self._outputs(x, part, 0)
        width = self._outputs(x, part, 1)
        if height is not None:
            target = self._integers(op, [0, grid[0] * height, -1, channels])
        elif width is not None:
            target = self._integers(op, [0, -1, grid[1] * width, channels])
        else:
            ends = [self._integers(op, [i]) for i in (1, 2)]
            rows = op.Slice(op.Shape(whole), ends[0], ends[1])
            factor, start, end = (self._integers(op, values) for values in ([grid[0]], [0], [-1, channels]))
            target = op.Concat(start, op.Mul(rows, factor), end, axis=0)
        value: ir.Value = op.Transpose(op.Reshape(whole, target), perm=[0, 3, 1, 2])
        return value

    def _outputs(self, x: ir.Value, part: Small, axis: int) -> int | None:
        """Height or width of a small convolution's output, where it is a number."""
        shape = self._rule.context.sizes.shape(x)
        side = None if shape is None else shape[2 + axis].known
        if side is None:
            return None
        spare = side + part.pads[axis] + part.pads[2 + axis] - part.weight.shape[2 + axis]
        return int(spare // part.strides[axis]) + 1

    def _integers(self, op: Any, values: list[int]) -> ir.Value:
        return integers(op, self._rule, values, "sizes")

    def _transposed(self, op: Any, x: ir.Value, kernel: Small) -> ir.Value:
        found = self._found
        inputs = [x, self._rule.weight(op, kernel.weight, found.name, found.dtype)]
        if found.bias is not None:
            inputs.append(self._rule.weight(op, found.bias, f"{found.name}.bias", found.dtype))
        value: ir.Value = op.ConvTranspose(
            *inputs,
            kernel_shape=list(kernel.weight.shape[2:]),
            strides=list(kernel.strides),
            pads=list(kernel.pads),
            group=found.group,
        )
        return value

    def _pooled(self, op: Any, x: ir.Value, kernel: Small, around: tuple[int, ...]) -> ir.Value:
        found = self._found
        bias = found.bias
        if bias is not None and any(around):
            # The zeros that the pool pads with would count in the mean of the bias.
            own = LowRate(self._rule, replace(found, bias=None), self._factors)
            y = own._pooled(op, x, kernel, around)
            whole: ir.Value = op.Add(
                y, self._rule.weight(op, bias[:, None, None], f"{found.name}.bias", found.dtype)
            )
            return whole
        padding = {"pads": list(around), "count_include_pad": 1} if any(around) else {}
        y = self._transposed(op, x, kernel)
        value: ir.Value = op.AveragePool(y, kernel_shape=list(self._factors), strides=[1, 1], **padding)
        return value


def _strided_phases(conv: Convolution, grid: Pair) -> dict[Pair, Convolution] | None:
    """The phases of a convolution's output as convolutions with strides; None if there is no padding for them.

    Output m i + a of a convolution of stride 1 reads the positions m i + a + d k - p: a stride of m and a padding of
    p - a.
    """
    if conv.strides != (1, 1):
        return None
    found = {}
    for a in range(grid[0]):
        for b in range(grid[1]):
            pads = []
            for axis, phase in ((0, a), (1, b)):
                extent = conv.dilations[axis] * (conv.kernel[axis] - 1) + 1
                before = conv.pads[axis] - phase
                # Outputs are as many as those of the other phases for any padding behind from here on.
                after = max(0, extent - grid[axis] - before)
                if before < 0 or after > extent - 1 - before:
                    return None
                if conv.pads[axis] + conv.pads[2 + axis] != extent - 1:
                    return None  # the output has another size than the image
                pads.append((before, after))
            (top, bottom), (left, right) = pads
            found[a, b] = replace(conv, pads=(top, left, bottom, right), strides=grid)
    return found


__all__ = ["KEEP", "LowRate"]
