"""Writing a float graph as one that computes with integers: Q/DQ pairs on powers of two, clips, biases on the grid."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
from onnx import helper

from ...runtime.bundle.uint8_form import EXACT_WEIGHT_LIMIT, UNSIGNED_ZERO_POINT
from ..graph import Graph
from ..qdq_insertion import Quantized, Recipe, quantize
from ..qdq_placement import Group, Placement, Plan
from ..qparams import LARGEST
from .power_of_two import PowerOfTwo, PowerOfTwoRanges

if TYPE_CHECKING:
    import numpy.typing as npt

CLIPPED: Final = ".clipped"
"""Ends the names of integers behind their clip."""


def integer_recipe(ranges: PowerOfTwoRanges, *, correct_biases: bool = True) -> Recipe:
    """How an integer graph is quantized.

    Activations that are never negative end at 127, as in the int8 form. Then weights of 8 bits keep sums of two
    products within 16 bits (127 * 127 * 2); behind activations of either sign, 0 to 255 in uint8, weights have 7
    (255 * 64 * 2).
    """
    return Recipe(
        ranges,
        PowerOfTwo(),
        EXACT_WEIGHT_LIMIT,
        correct_biases,
        "cpu",
        unsigned_levels=LARGEST,
        unsigned_weight_limit=LARGEST,
    )


def write_integers(placement: Placement, plan: Plan, recipe: Recipe) -> Quantized:
    """Write a plan into a copy of the graph, in the form for CPUs: uint8.

    Args:
        placement: of the graph.
        plan: which values and weights, from `with_joined_concatenations`.
        recipe: from `integer_recipe`.

    Raises:
        DataError: all ranges are zero, or a weight is not finite.
    """
    made = quantize(placement, plan, recipe)
    clip_unsigned(made.graph)
    _ground_biases(made.graph)
    return made


def with_joined_concatenations(graph: Graph, plan: Plan) -> Plan:
    """The plan with one scale for the parts of each concatenation."""
    groups = list(plan.groups)
    for node in graph.nodes:
        if node.op_type != "Concat":
            continue
        joined = {*node.input, node.output[0]}
        parts = [group for group in groups if joined & set(group.values)]
        if len(parts) < 2:
            continue
        values = tuple(value for group in parts for value in group.values)
        sources = tuple(value for group in parts for value in group.sources if value != node.output[0])
        together = Group(values, sources, any(group.signed for group in parts))
        groups = [together if group is parts[0] else group for group in groups if group not in parts[1:]]
    return replace(plan, groups=tuple(groups))


def clip_unsigned(graph: Graph) -> int:
    """End integers that are never negative at 127, where int8 ends: both forms of the graph are then one function.

    Args:
        graph: in uint8; is changed.

    Returns:
        How many clips there are now.
    """
    count = 0
    nodes = []
    limit = graph.add_constant("activation.unsigned.limit", np.array(LARGEST, np.uint8), exact_name=True)
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
        nodes.append(node)
        if node.op_type == "QuantizeLinear" and node.input[2] == UNSIGNED_ZERO_POINT:
            stored = node.output[0]
            renamed[stored] = clipped = f"{stored}{CLIPPED}"
            nodes.append(helper.make_node("Clip", [stored, "", limit], [clipped], name=f"{node.name}.clip"))
            count += 1
    graph.replace_nodes(nodes)
    return count


def _ground_biases(graph: Graph) -> None:
    """Round the biases of int8 convolutions to the grid of their products, on which int8 kernels have them anyway."""
    for node in graph.nodes:
        if node.op_type != "Conv" or len(node.input) < 3:
            continue
        x, weight = (graph.producers.get(name) for name in node.input[:2])
        if x is None or weight is None or {x.op_type, weight.op_type} != {"DequantizeLinear"}:
            continue
        scale, scales = graph.constant(x.input[1]), graph.constant(weight.input[1])
        bias = graph.constant(node.input[2])
        assert scale is not None
        assert scales is not None
        assert bias is not None
        step: npt.NDArray[np.float64] = scales.astype(np.float64) * float(scale)
        node.input[2] = graph.add_constant(
            f"{node.name}.bias.grid", (np.rint(bias / step) * step).astype(np.float32)
        )
    graph.replace_nodes(graph.nodes)
