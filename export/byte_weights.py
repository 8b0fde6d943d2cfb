"""Weights of convolutions stored as bytes: for graphs that nothing exact depends on."""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir

_LARGEST: Final = 127
_FEWEST: Final = 1024
"""Weights that are worth two more nodes."""


def with_byte_weights(model: ir.Model) -> ir.Model:
    """Store large float32 weights as int8 with a scale for each output channel, in place.

    Runtimes fold the nodes that turn them back when a graph is loaded.

    Args:
        model: changed; its initializers of four dimensions are weights of convolutions, output channels first.

    Returns:
        The same model.
    """
    graph, nodes = model.graph, []
    for name, value in list(graph.initializers.items()):
        numbers = None if value.const_value is None else value.const_value.numpy()
        if numbers is None or numbers.dtype != np.float32 or numbers.ndim != 4 or numbers.size < _FEWEST:
            continue
        scale = np.abs(numbers).max((1, 2, 3), keepdims=True) / _LARGEST
        scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
        rounded = np.rint(numbers / scale).astype(np.int8)
        stored = [
            ir.Value(
                name=f"{name}.{part}",
                type=ir.TensorType(kind),
                shape=ir.Shape(array.shape),
                const_value=ir.tensor(array, name=f"{name}.{part}"),
            )
            for part, array, kind in (
                ("int8", rounded, ir.DataType.INT8),
                ("scale", scale, ir.DataType.FLOAT),
            )
        ]
        cast = ir.node("Cast", [stored[0]], {"to": ir.DataType.FLOAT}, name=f"{name}.cast")
        scaled = ir.node("Mul", [cast.outputs[0], stored[1]], name=f"{name}.scaled")
        cast.outputs[0].name, scaled.outputs[0].name = f"{name}.whole", f"{name}.float"
        ir.convenience.replace_all_uses_with(value, scaled.outputs[0])
        del graph.initializers[name]
        for part in stored:
            assert part.name is not None
            graph.initializers[part.name] = part
        nodes += [cast, scaled]
    if nodes:
        graph.insert_before(graph[0], nodes)
    return model


__all__ = ["with_byte_weights"]
