"""Writing Q/DQ pairs and int8 weights into a graph."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np
from onnx import NodeProto, helper

from ..runtime.bundle.uint8_form import SIGNED_ZERO_POINT, UINT8_ZERO_POINTS, UNSIGNED_ZERO_POINT
from ..runtime.errors import DataError
from .graph import Graph, reads, rename_reads
from .int8_rewrites import depthwise
from .observers import Histogram
from .qdq_placement import Group, Placement, Plan
from .qparams import LARGEST, QuantizedWeight, ScaleRule, activation_scale, quantize_weight
from .ranges import Ranges
from .targets import Target

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats = npt.NDArray[np.float32]


LARGEST_UNSIGNED: Final = 255


@dataclass(frozen=True)
class Recipe:
    """How a graph is quantized, its layers aside.

    Attributes:
        ranges: of the values.
        rule: the scale rule.
        weight_limit: largest magnitude of int8 weights.
        correct_biases: whether biases make up for the rounding of the weights.
        target: what the graph is to run on.
        unsigned_levels: the integer at the end of the range of values that are never negative, where they are uint8.
        unsigned_weight_limit: largest magnitude of the weights behind such values; None: `weight_limit`.
    """

    ranges: Ranges
    rule: ScaleRule
    weight_limit: int
    correct_biases: bool
    target: Target = "tensorrt"
    unsigned_levels: int = LARGEST_UNSIGNED
    unsigned_weight_limit: int | None = None


@dataclass
class Quantized:
    """A quantized graph and what was written into it.

    Attributes:
        graph: with Q/DQ pairs.
        scales: of each quantized value.
        bounds: of each quantized value, the integers that it is clipped to, without their zero point.
        histograms: of what shares the scale of each quantized value.
        weights: of each quantized convolution.
    """

    graph: Graph
    scales: dict[str, np.float32] = field(default_factory=dict)
    bounds: dict[str, tuple[int, int]] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    weights: dict[str, QuantizedWeight] = field(default_factory=dict)


def quantize(placement: Placement, plan: Plan, recipe: Recipe) -> Quantized:
    """Write a plan into a copy of the graph.

    Args:
        placement: of the graph.
        plan: which values and weights.
        recipe: how; its ranges know all values of the plan.

    Raises:
        DataError: all ranges are zero, or a weight is not finite.
    """
    result = Quantized(placement.graph.copy())
    zero_points = _scale(result, placement, plan, recipe)
    graph = result.graph
    nodes: list[NodeProto] = []
    for value in graph.inputs:
        if value in result.scales:
            zero = _zero_point(graph, zero_points[value], recipe.target)
            nodes.extend(_pair(graph, value, result.scales[value], zero))
    for node in graph.nodes:
        if node.name in plan.pools:
            node = depthwise(graph, node, plan.pools[node.name])  # noqa: PLW2901
        if node.name in plan.convolutions or node.name in plan.pools:
            nodes.append(_weight(result, node, recipe))
        nodes.append(node)
        for value in node.output:
            if value in result.scales:
                zero = _zero_point(graph, zero_points[value], recipe.target)
                nodes.extend(_pair(graph, value, result.scales[value], zero))
    for node in nodes:
        if node.op_type == "QuantizeLinear":
            continue
        # A shape is the same of the integers, and needs no dequantized copy.
        form = "int8" if node.op_type == "Shape" else "dequantized"
        rename_reads(
            node,
            {
                name: f"{name}.{form}"
                for name in reads(node)
                if name in result.scales and node.name not in plan.float_readers.get(name, ())
            },
        )
    graph.replace_nodes(nodes)
    return result


def _scale(result: Quantized, placement: Placement, plan: Plan, recipe: Recipe) -> dict[str, str]:
    """Enter scales, bounds and histograms of the values; return the zero point of each by name.

    Raises:
        DataError: all ranges are zero.
    """
    zero_points: dict[str, str] = {}
    if not any(histogram.top > 0 for histogram in recipe.ranges.statistics.histograms.values()):
        raise DataError(
            "the ranges of all values are zero on these images: the network is degenerate, or the images are blank"
        )
    for group in plan.groups:
        unsigned = recipe.target == "cpu" and not _signed(placement.graph, group, recipe)
        levels = recipe.unsigned_levels if unsigned else LARGEST
        histogram, limit = recipe.ranges.of(group.sources, levels)
        scale = activation_scale(recipe.rule, limit, levels)
        for value in group.values:
            result.scales[value], result.histograms[value] = scale, histogram
            result.bounds[value] = (0, levels) if unsigned else (-LARGEST - 1, LARGEST)
            zero_points[value] = UNSIGNED_ZERO_POINT if unsigned or not group.signed else SIGNED_ZERO_POINT
    return zero_points


def _signed(graph: Graph, group: Group, recipe: Recipe) -> bool:
    """Whether values can be negative: of the graph's inputs, such as pixels in 0..1, the data say it."""
    statistics = recipe.ranges.statistics.histograms
    inputs = set(graph.inputs)
    return group.signed and any(value not in inputs or statistics[value].low < 0 for value in group.values)


def _zero_point(graph: Graph, name: str, target: Target) -> str:
    """The shared zero point of that name; see `runtime.bundle.uint8_form`."""
    values = np.array(UINT8_ZERO_POINTS[name], np.uint8) if target == "cpu" else np.array(0, np.int8)
    return graph.add_constant(name, values, exact_name=True)


def _pair(graph: Graph, value: str, scale: np.float32, zero: str) -> list[NodeProto]:
    step = graph.add_constant(f"{value}.scale", np.array(scale, np.float32))
    return [
        helper.make_node("QuantizeLinear", [value, step, zero], [f"{value}.int8"], name=f"{value}.quantize"),
        helper.make_node(
            "DequantizeLinear",
            [f"{value}.int8", step, zero],
            [f"{value}.dequantized"],
            name=f"{value}.dequantize",
        ),
    ]


def _weight(result: Quantized, node: NodeProto, recipe: Recipe) -> NodeProto:
    """Quantize a convolution's weight and correct its bias; return the DQ node of the weight."""
    graph = result.graph
    weight = graph.constant(node.input[1])
    assert weight is not None
    made = quantize_weight(recipe.rule, weight, _weight_limit(result, node, recipe), node.name)
    result.weights[node.name] = made
    stem = f"{node.name}.weight"
    inputs = [
        graph.add_constant(f"{stem}.int8", made.values),
        graph.add_constant(f"{stem}.scale", made.scales),
        graph.add_constant(f"{stem}.zero_point", np.zeros(made.scales.size, np.int8)),
    ]
    means = recipe.ranges.statistics.means.get(node.input[0])
    if recipe.correct_biases and means is not None and means.size == weight.shape[1]:
        bias = graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        corrected = corrected_bias(weight, made.dequantized(), bias, means)
        name = graph.add_constant(f"{node.name}.bias.corrected", corrected)
        del node.input[2:]
        node.input.append(name)
    node.input[1] = f"{stem}.dequantized"
    return helper.make_node(
        "DequantizeLinear", inputs, [f"{stem}.dequantized"], name=f"{stem}.dequantize", axis=0
    )


def _weight_limit(result: Quantized, node: NodeProto, recipe: Recipe) -> int:
    low, _ = result.bounds[node.input[0]]
    if low == 0 and recipe.unsigned_weight_limit is not None:
        return recipe.unsigned_weight_limit
    return recipe.weight_limit


def corrected_bias(
    weight: Floats, dequantized: Floats, bias: Floats | None, means: npt.NDArray[np.float64]
) -> Floats:
    """The bias for which the mean of a convolution's output stays what it was.

    The rounding of the weights moves the mean of output channel o by the sum over input channels i of
    (sum of the rounding errors of the taps from i to o) * (mean of channel i); borders are not considered. Nagel et
    al.: Data-free quantization through weight equalization and bias correction (ICCV 2019), with measured means.

    Args:
        weight: (C_out, C_in, Kh, Kw).
        dequantized: the same, rounded.
        bias: (C_out,), or None for zeros.
        means: (C_in,), of the input's channels on real images.

    Returns:
        (C_out,).
    """
    moved = (dequantized.astype(np.float64) - weight).sum(axis=(2, 3)) @ means
    corrected: Floats = ((0 if bias is None else bias) - moved).astype(np.float32)
    return corrected
