"""Float32 graphs whose large weights are stored as float16: half the file, the same arithmetic.

A `Cast` to float32 stands behind each of them; runtimes compute it once, when they load the graph.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

from ..runtime.bundle.folder import Bundle
from ..runtime.bundle.manifest import GraphName
from ..runtime.errors import UsageError
from ..runtime.kinds.registry import entropy_graphs
from .graph_files import parse_graph
from .ir_queries import serialize
from .precision import LARGEST_FLOAT16

_LEAST_ELEMENTS: Final = 256
"""Smaller weights are not worth a node."""


def with_half_weights(data: bytes) -> bytes:
    """A serialized graph with its large float32 weights stored as float16.

    Args:
        data: the graph; what it has of other types stays.

    Returns:
        The graph, serialized; its inputs, outputs and sums keep their types. Each weight is off by 2^-11 of itself at
        the most, and by 2^-25 where it is smaller than 2^-14.

    Raises:
        UsageError: no weight is large enough, or one is beyond the range of float16.
    """
    model = parse_graph(data)
    graph = model.graph
    # Weights of integers are stored in one byte; scales and biases beside them stay.
    weights = [
        value
        for value in graph.initializers.values()
        if value.dtype == ir.DataType.FLOAT
        and value.const_value is not None
        and value.const_value.size >= _LEAST_ELEMENTS
    ]
    if not weights:
        raise UsageError(
            f"the graph {graph.name} has no float32 weights of {_LEAST_ELEMENTS} elements or more"
        )
    casts = []
    for value in weights:
        assert value.const_value is not None
        assert value.name is not None
        numbers = value.const_value.numpy()
        if np.abs(numbers).max() > LARGEST_FLOAT16:
            raise UsageError(
                f"the weight {value.name} of the graph {graph.name} is beyond the range of float16"
            )
        stored = ir.Value(
            name=f"{value.name}.half",
            type=ir.TensorType(ir.DataType.FLOAT16),
            shape=value.shape,
            const_value=ir.tensor(numbers.astype(np.float16), name=f"{value.name}.half"),
        )
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{value.name}.cast")
        cast.outputs[0].name = f"{value.name}.float"
        cast.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        cast.outputs[0].shape = value.shape
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        del graph.initializers[value.name]
        graph.initializers[f"{value.name}.half"] = stored
        casts.append(cast)
    graph.insert_before(graph[0], casts)
    return serialize(model)


def graphs_with_half_weights(bundle: Bundle) -> dict[GraphName, bytes]:
    """A bundle's graphs, those in float32 with weights stored as float16.

    Graphs of integers, and those that decide how symbols are coded, stay as they are.

    Raises:
        UsageError: no graph is in float32.
    """
    manifest = bundle.manifest
    fixed = entropy_graphs(bundle)
    floats = [n for n, info in manifest.graphs.items() if info.precision == "float32" and n not in fixed]
    if not floats:
        raise UsageError(f"{bundle.path} has no graph in float32")
    return {
        name: with_half_weights(bundle.read_graph(name)) if name in floats else bundle.read_graph(name)
        for name in manifest.graph_names
    }
