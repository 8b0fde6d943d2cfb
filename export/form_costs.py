"""What a form costs on a target, estimated from what its nodes compute and move, with the error of the estimate.

ONNX Runtime's CPU kernels convolve in a blocked layout (NCHWc: 16 channels with AVX-512 side by side), into which and
out of which images are reordered. So the estimate follows the layout of each value: blocked behind convolutions, pools
and element-wise operators, plain behind everything else. Channels are computed in whole blocks, whether they are there
or not. Activations right behind a convolution are part of it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import onnx_ir as ir

from .cost import node_bytes, node_macs
from .rules.base import Reader
from .rules.elementwise import BINARY, UNARY
from .symbolic_shapes.inference import Sizes

Target = Literal["onnxruntime", "tensorrt"]


@dataclass(frozen=True)
class Rates:
    """A target's rates.

    Attributes:
        seconds: for each unit of work; see `_Work`. Units that are missing cost nothing.
        margin: share by which the estimate of a form must lie below that of what stands, to be taken: the error of the
            model.
        transposed_margin: the same for forms with transposed convolutions, of which the model knows less.
        block: channels that a convolution computes side by side.
        source: where the numbers come from.
    """

    seconds: Mapping[str, float]
    margin: float
    transposed_margin: float
    block: int
    source: str


RATES: Final[dict[Target, Rates]] = {
    "onnxruntime": Rates(
        seconds={
            "added": 3.8e-10,
            "added far": 6.9e-10,
            "blocked groups": 2e-11,
            "channelwise": 6.4e-11,
            "channelwise far": 2.1e-10,
            "convolution": 1.24e-11,
            "convolution of few": 1.62e-11,
            "copy": 8.8e-11,
            "copy far": 1.52e-10,
            "grouped": 2.2e-11,
            "grouped transposed": 6.8e-12,
            "node": 1e-6,
            "pool": 3e-11,
            "pool far": 8.7e-11,
            "read plain far": 1.37e-10,
            "reorder far": 3.1e-11,
            "scatter": 2.2e-10,
            "scatter far": 1.65e-10,
            "transposed": 1.41e-11,
            "turned": 7e-11,
            "turned far": 6.4e-11,
            "unrolled": 4.2e-10,
        },
        margin=0.1,
        transposed_margin=0.2,
        block=16,
        source="one core with AVX-512 (Intel Xeon, 2.6 GHz), ONNX Runtime 1.32: a fit to 350 places of 3 to 512 "
        "channels, 16x16 to 256x256, kernels of 3, 5 and 7, alone and added to another convolution, read by "
        "convolutions, sums, pools and upsamplings. The estimates of two forms of a place over each other are off by "
        "10 to 14 % (one standard deviation), with transposed convolutions by 20 %. Those of grouped convolutions are "
        "a fit to 168 places more, of 2 to 16 channels a group, 32 to 256 in all, 16x16 to 64x64, kernels of 3 and 5: "
        "off by 8 to 13 %, with transposed convolutions by 15 %",
    ),
    "tensorrt": Rates(
        seconds={
            "convolution": 1 / 200e12,
            "transposed": 1 / 150e12,
            "copy": 1 / 2.5e12,
            "copy far": 1 / 2.5e12,
            "reorder": 1 / 1.5e12,
            "reorder far": 1 / 1.5e12,
            "scatter": 1 / 1.5e12,
            "scatter far": 1 / 1.5e12,
            "node": 3e-6,
        },
        margin=0.1,
        transposed_margin=0.1,
        block=8,
        source="assumed for a data-center GPU in FP16; not measured",
    ),
}

_OUTPUT_MARGIN: Final = 0.15
"""At outputs of a graph, which are not among the places that the rates were fitted to."""

_FEWEST: Final = 2
"""Channels of a group, from which on a grouped convolution is estimated.

Depthwise ones are not, because there is nothing to choose: ONNX Runtime convolves them in the blocked layout about as
fast as it copies, so that they save less than any form moves. In 80 places behind an upsampling by 2 (kernels of 3 and
5, 16 to 256 channels, 16x16 to 128x128, read by convolutions and by others, one thread on AVX-512) the best form took
1.12 to 1.94 times as long as what stands.
"""

_NEAR: Final = 2**20
"""Bytes of a value up to which it stays in the cache of a core."""

# Operators that ONNX Runtime runs in the blocked layout, or that leave the layout as it is.
_BLOCKED: Final = frozenset({"Conv", "AveragePool", "MaxPool"})
_FREE: Final = frozenset({"Reshape", "Shape", "Slice", "Squeeze", "Unsqueeze", "Identity"})
_LAST: Final = (0, 2, 3, 1)
_FIRST: Final = (0, 3, 1, 2)


@dataclass(frozen=True)
class Estimate:
    """What a form costs.

    Attributes:
        seconds: estimated.
        margin: the error of the estimate, as a share.
    """

    seconds: float
    margin: float

    def beats(self, other: Estimate) -> bool:
        """Whether this form is faster than another beyond the model's error."""
        return self.seconds < (1 - self.margin) * other.seconds


class _Work:
    """The work of one model by kind: multiply-accumulates, bytes, elements, nodes."""

    def __init__(
        self, model: ir.Model, shapes: Mapping[str, Sequence[int]], block: int, *, reader: Reader
    ) -> None:
        self._sizes = Sizes(shapes)
        self._block = block
        self.sure = True
        self.units: defaultdict[str, float] = defaultdict(float)
        self._plain: set[ir.Value] = set()
        self._last: set[ir.Value] = set()
        for node in model.graph:
            self._add(node)
            self.units["node"] += 1
        for output in model.graph.outputs:
            self._hand_over(output, reader)

    def _hand_over(self, output: ir.Value, reader: Reader) -> None:
        """What the reader's layout costs."""
        if reader == "output":
            self._need_plain(output)
            return
        self._need_blocked(output)  # sooner or later a convolution reads it
        if reader == "others":
            if output in self._last:
                self._move("turned", output)
            if output in self._last or output in self._plain:
                self._move("read plain", output)  # what stands between leaves it plain, and does not fuse

    def _bytes(self, value: ir.Value | None) -> int:
        shape = None if value is None else self._sizes.concrete(value)
        return 0 if shape is None else 4 * math.prod(shape)

    def _move(self, kind: str, value: ir.Value | None, passes: float = 2.0) -> None:
        size = self._bytes(value)
        self.units[kind if size <= _NEAR else f"{kind} far"] += passes * size

    def _need_blocked(self, value: ir.Value | None) -> None:
        if value in self._plain or value in self._last:
            self._move("reorder", value)

    def _need_plain(self, value: ir.Value | None) -> None:
        if value in self._last:
            self._move("turned", value)
        elif value is not None and not value.is_initializer() and value not in self._plain:
            self._move("reorder", value)

    def _rounded(self, channels: int) -> int:
        return -(-channels // self._block) * self._block

    def _add(self, node: ir.Node) -> None:
        kind, y = node.op_type, node.outputs[0]
        x = node.inputs[0]
        if kind == "Conv" and self._is_plain(node):
            self._need_plain(x)
            self._convolve(node)
            self._plain.add(y)
        elif kind in _BLOCKED:
            self._need_blocked(x)
            self._convolve_or_pool(node)
        elif kind == "ConvTranspose":
            self._need_plain(x)
            self._convolve_transposed(node)
            self._plain.add(y)
        elif kind == "Resize":
            self._move("copy", y, 1.25)
            self._follow(x, y)
        elif kind in UNARY or kind in BINARY:
            self._function(node)
        elif kind == "Concat":
            self._concatenate(node)
        elif kind == "Transpose" and tuple(node.attributes.get_ints("perm", [])) == _FIRST:
            self._last.add(y)  # the next convolution reads it as it is
        elif kind == "Transpose" and tuple(node.attributes.get_ints("perm", [])) == _LAST:
            if x in self._plain:
                self._move("turned", x)
            self._need_plain(x)  # in the same pass
            self._plain.add(y)
        elif kind in _FREE:
            self._follow(x, y)
            if kind == "Reshape":
                self._plain.add(y)
        else:
            self._need_plain(x)
            self._move("scatter" if kind == "DepthToSpace" else "copy", y)
            self._plain.add(y)

    def _convolve_or_pool(self, node: ir.Node) -> None:
        if node.op_type == "Conv":
            self._convolve(node)
        else:
            self._move(
                "pool", node.outputs[0], 1.0 + math.prod(node.attributes.get_ints("kernel_shape", [1]))
            )

    def _concatenate(self, node: ir.Node) -> None:
        y, parts = node.outputs[0], [part for part in node.inputs if part is not None]
        self._move("copy", y)
        if node.attributes.get_int("axis", 0) == 1 and not any(
            part in self._plain or part in self._last for part in parts
        ):
            return  # block by block
        for part in parts:
            self._need_plain(part)
        self._plain.add(y)

    def _follow(self, x: ir.Value | None, y: ir.Value) -> None:
        for layout in (self._plain, self._last):
            if x in layout:
                layout.add(y)

    def _function(self, node: ir.Node) -> None:
        """A function right behind a convolution is done in place; sums, and what stands behind them, take a pass."""
        y = node.outputs[0]
        images = [x for x in node.inputs if x is not None and not x.is_initializer()]
        plain = [x for x in images if x in self._plain or x in self._last]
        maker = images[0].producer()
        if len(images) == 1 and maker is not None and maker.op_type == "Conv":
            self._follow(images[0], y)
            return
        if plain:
            for x in images:
                if x not in self._plain:
                    self._move("turned" if x in self._last else "reorder", x)
            self._plain.add(y)
        self._move("copy", y, 1.0 + len(images))

    def _channels(self, node: ir.Node) -> tuple[int, int, int]:
        """Groups of a convolution, and input and output channels of one."""
        group = node.attributes.get_int("group", 1)
        weight = self._sizes.concrete(node.inputs[1])
        assert weight is not None
        return group, weight[1], weight[0] // group

    def _is_plain(self, node: ir.Node) -> bool:
        """Whether a convolution is not done in the blocked layout: one of groups that are no whole blocks."""
        group, inputs, outputs = self._channels(node)
        return (
            group > 1 and (inputs, outputs) != (1, 1) and (inputs % self._block + outputs % self._block) > 0
        )

    def _convolve(self, node: ir.Node) -> None:
        group, inputs, outputs = self._channels(node)
        weight = self._sizes.concrete(node.inputs[1])
        assert weight is not None
        self._judge(group, inputs, outputs, weight)
        macs, y = node_macs(node, self._sizes), node.outputs[0]
        if group == 1:
            share = self._rounded(outputs) / outputs
            # Fewer channels than a block are read as they are.
            share *= self._rounded(inputs) / inputs if inputs > self._block else 1.0
            self.units["convolution of few" if inputs < self._block else "convolution"] += macs * share
        elif (inputs, outputs) == (1, 1) and math.prod(weight[2:]) == 1:
            self._move("channelwise", y, 1.0)
        elif self._is_plain(node):
            # Every group has a matrix multiplication of its own, of an image that is unrolled tap by tap.
            self.units["grouped"] += macs
            self.units["unrolled"] += macs / outputs
        else:
            self.units["blocked groups"] += macs
        self._move("copy", y, 0.5)

    def _judge(self, group: int, inputs: int, outputs: int, weight: tuple[int, ...]) -> None:
        """The rates are those of convolutions that mix channels; those of one channel a group run otherwise."""
        if group > 1 and min(inputs, outputs) < _FEWEST and math.prod(weight[2:]) > 1:
            self.sure = False

    def _convolve_transposed(self, node: ir.Node) -> None:
        x = self._sizes.concrete(node.inputs[0])
        weight = self._sizes.concrete(node.inputs[1])
        assert x is not None
        assert weight is not None
        group, macs = node.attributes.get_int("group", 1), node_macs(node, self._sizes)
        self._judge(group, weight[0] // group, weight[1], weight)
        self.units["transposed"] += macs
        if group > 1:
            self.units["grouped transposed"] += macs
        # Every product of the matrix multiplication is added into the image.
        columns = math.prod(weight[2:]) * math.prod(x[2:]) * weight[1] * group
        far = self._bytes(node.outputs[0]) > _NEAR or 4 * columns > 2 * _NEAR
        self.units["added far" if far else "added"] += columns * x[0]
        self._move("copy", node.outputs[0], 1.0)


def work(
    model: ir.Model, shapes: Mapping[str, Sequence[int]], block: int, *, reader: Reader = "convolution"
) -> Mapping[str, float]:
    """The work of a model of one site by kind.

    Args:
        model: of `form_selection.site_model`.
        shapes: of its inputs.
        block: channels that a convolution computes side by side.
        reader: what reads the output, see `rules.base.Site`.
    """
    return dict(_Work(model, shapes, block, reader=reader).units)


def estimate(
    target: Target, model: ir.Model, shapes: Mapping[str, Sequence[int]], *, reader: Reader = "convolution"
) -> Estimate:
    """What a model of one site takes on a target.

    Args:
        target: the target.
        model: of `form_selection.site_model`.
        shapes: of its inputs.
        reader: what reads the output, see `rules.base.Site`.
    """
    rates = RATES[target]
    has_transposed = any(node.op_type == "ConvTranspose" for node in model.graph)
    margin = rates.transposed_margin if has_transposed else rates.margin
    if reader == "output":
        margin = max(margin, _OUTPUT_MARGIN)
    if target == "onnxruntime":
        found = _Work(model, shapes, rates.block, reader=reader)
        units, margin = found.units, margin if found.sure else 1.0
        return Estimate(sum(rates.seconds.get(k, 0.0) * n for k, n in units.items()), margin)
    sizes = Sizes(shapes)
    total = 0.0
    for node in model.graph:
        total += rates.seconds["node"]
        if node.op_type in {"Conv", "ConvTranspose"}:
            kind = "convolution" if node.op_type == "Conv" else "transposed"
            total += node_macs(node, sizes) * rates.seconds[kind]
        else:
            kind = {"DepthToSpace": "scatter", "Transpose": "reorder"}.get(node.op_type, "copy")
            total += node_bytes(node, sizes) * rates.seconds[kind]
    return Estimate(total, margin)


__all__ = ["RATES", "Estimate", "Rates", "Target", "estimate", "work"]
