"""Casting graphs to half precision, and checking quantized ones, for strongly typed builders.

TensorRT 11 takes the types of the graph as they are: FP16 is a cast in the graph. The convolutions between the first
and the last one run in half precision; what stands before (pixels to floats, the upsampled base) and behind (the sum
with the base, rounding, argmax) stays in float32, where half precision would cost gray levels. uint8 inputs and
outputs stay uint8. Of a quantized graph, what stands between its int8 layers can run in half precision in the same way.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from ..runtime.errors import UsageError
from .ir_queries import label

Half = Literal["fp16", "bf16"]

_HALF: Final[dict[Half, ir.DataType]] = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}
_HEAVY: Final = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Inputs that the operator wants in float32 whatever its data are.
_FLOAT32_INPUTS: Final = {"Resize": {1, 2}}
LARGEST_FLOAT16: Final = 65504.0
_QUANTIZING: Final = frozenset({"QuantizeLinear", "DequantizeLinear"})
# From here on scales of Q and DQ may be in half precision.
_HALF_SCALES_OPSET: Final = 19


def _reached(start: list[ir.Node], *, forward: bool) -> set[ir.Node]:
    found: set[ir.Node] = set()
    stack = list(start)
    while stack:
        node = stack.pop()
        if node in found:
            continue
        found.add(node)
        if forward:
            stack.extend(use.node for value in node.outputs for use in value.uses())
        else:
            producers = (value.producer() for value in node.inputs if value is not None)
            stack.extend(node for node in producers if node is not None)
    return found


def to_half(model: ir.Model, kind: Half) -> ir.Model:
    """A copy of the model whose heavy part runs in half precision.

    Args:
        model: a float32 model.
        kind: `fp16` or `bf16`.

    Raises:
        UsageError: nothing to cast, the model is quantized, or a weight is beyond the range of float16.
    """
    if is_quantized(model):
        raise UsageError(f"the graph {model.graph.name} is quantized; build it with --precision int8")
    return _cast_heavy(model, kind)


def rest_to_half(model: ir.Model, kind: Half) -> ir.Model:
    """A copy of a quantized model that computes in half precision what it does not in int8.

    Scales are rounded to half precision where a DQ gives it, which changes a value by 1 in 2048 at the most (`fp16`).

    Args:
        model: a model with Q/DQ pairs, float32 between them.
        kind: `fp16` or `bf16`.

    Raises:
        UsageError: a constant is beyond the range of float16, or a scale below it.
    """
    result = _cast_heavy(model, kind)
    opsets = result.graph.opset_imports
    opsets[""] = max(opsets[""], _HALF_SCALES_OPSET)
    return result


def _cast_heavy(model: ir.Model, kind: Half) -> ir.Model:
    result = ir.from_proto(ir.to_proto(model))
    graph = result.graph
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(result)
    heavy = [node for node in graph if node.op_type in _HEAVY]
    if not heavy:
        raise UsageError(f"the graph {graph.name} has nothing that gains from {kind}")
    region = _reached(heavy, forward=True) & _reached(heavy, forward=False)
    # What comes in as int8, weights too, is dequantized to the precision that it is read in.
    region |= {
        node
        for node in graph
        if node.op_type == "DequantizeLinear" and all(use.node in region for use in node.outputs[0].uses())
    }
    order = [node for node in graph if node in region]
    _narrow_inputs(graph, order, region, kind)
    for node in order:
        for value in node.outputs:
            if value.dtype == ir.DataType.FLOAT:
                _widen_outside(graph, node, value, region, kind)
    passes.RemoveUnusedNodesPass()(result)
    graph.sort()
    # The types noted before no longer hold.
    for value in (value for node in graph for value in node.outputs if not value.is_graph_output()):
        value.type = None
        value.shape = None
    return result


def _narrow_inputs(graph: ir.Graph, order: list[ir.Node], region: set[ir.Node], kind: Half) -> None:
    """Give the region's nodes what they read from outside in half precision."""
    half = _HALF[kind]
    narrow: dict[ir.Value, ir.Value] = {}
    for node in order:
        for i, value in enumerate(node.inputs):
            if value is None or value.dtype != ir.DataType.FLOAT or value.producer() in region:
                continue
            if i in _FLOAT32_INPUTS.get(node.op_type, set()):
                continue
            if value not in narrow:
                narrow[value] = (
                    _cast_before(graph, node, value, kind)
                    if value.const_value is None
                    else _constant(graph, value, half)
                )
            if node.op_type in _QUANTIZING:
                _require_scale(narrow[value])
            node.replace_input_with(i, narrow[value])
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == int(ir.DataType.FLOAT):
            node.attributes.add(ir.AttrInt64("to", int(half)))


def _cast_before(graph: ir.Graph, node: ir.Node, value: ir.Value, kind: Half) -> ir.Value:
    cast = ir.node("Cast", [value], {"to": int(_HALF[kind])}, name=f"{value.name}.to_{kind}")
    graph.insert_before(node, cast)
    cast.outputs[0].name = f"{value.name}.{kind}"
    return cast.outputs[0]


def _constant(graph: ir.Graph, value: ir.Value, half: ir.DataType) -> ir.Value:
    assert value.const_value is not None
    array = value.const_value.numpy()
    if half == ir.DataType.FLOAT16 and float(np.abs(array).max(initial=0)) > LARGEST_FLOAT16:
        raise UsageError(
            f"{value.name} holds {np.abs(array).max():g}, beyond float16; build with bf16 or fp32"
        )
    name = f"{value.name}.half"
    tensor = ir.tensor(array.astype(half.numpy()), dtype=half, name=name)
    made = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(half), const_value=tensor)
    graph.initializers[name] = made
    return made


def _require_scale(value: ir.Value) -> None:
    if value.const_value is not None and not np.all(value.const_value.numpy()):
        raise UsageError(f"the scale {value.name} is below float16; build with --precision int8")


def _widen_outside(graph: ir.Graph, node: ir.Node, value: ir.Value, region: set[ir.Node], kind: str) -> None:
    """Give readers outside the region the value as float32."""
    outside = [use for use in list(value.uses()) if use.node not in region]
    if not outside and not value.is_graph_output():
        return
    cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name=f"{value.name}.to_fp32")
    wide = cast.outputs[0]
    graph.insert_after(node, cast)
    for use in outside:
        use.node.replace_input_with(use.idx, wide)
    if value.is_graph_output():
        name = value.name
        value.name = f"{name}.{kind}"
        wide.name, wide.type, wide.shape = name, ir.TensorType(ir.DataType.FLOAT), value.shape
        graph.outputs[graph.outputs.index(value)] = wide


def is_quantized(model: ir.Model) -> bool:
    """Whether the graph has explicit quantization."""
    return any(node.op_type in _QUANTIZING for node in model.graph)


def _computes_in(model: ir.Model) -> set[ir.DataType]:
    """The types that the convolutions and matrix products of a graph compute in, as far as they are known."""
    halves = set(_HALF.values())
    if not any(value.dtype in halves for value in model.graph.initializers.values()) and not any(
        value.dtype in halves for value in model.graph.inputs
    ):
        return set()
    typed = ir.from_proto(ir.to_proto(model))
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(typed)
    return {
        value.dtype
        for node in typed.graph
        if node.op_type in _HEAVY
        for value in node.inputs[:2]
        if value is not None and value.dtype is not None
    }


def _require_precision(model: ir.Model, precision: str) -> None:
    """Refuse to build what computes in half precision under another name: engines take the types of the graph."""
    for kind, half in _HALF.items():
        if precision != kind and half in _computes_in(model):
            raise UsageError(
                f"the graph computes in {kind} already, and so would the engine: build it with --precision {kind}, or "
                f"the float32 graph with --precision {precision}"
            )


def require_buildable(model: ir.Model, precision: str) -> None:
    """Say before a build what TensorRT would refuse or, worse, compute differently.

    Args:
        model: the graph.
        precision: `fp32`, `fp16`, `bf16`, `int8` or `int8-fp16`.

    Raises:
        UsageError: naming the node and what to do.
    """
    int8 = precision in {"int8", "int8-fp16"}
    if is_quantized(model) and not int8:
        raise UsageError(f"the graph is quantized (Q/DQ); build it with --precision int8, not {precision}")
    if int8 and not is_quantized(model):
        raise UsageError(
            "INT8 needs a graph with Q/DQ nodes: `oslic calibrate --target tensorrt` makes one of this"
        )
    if not int8:
        _require_precision(model, precision)
    for node in model.graph:
        if node.op_type in _QUANTIZING:
            _require_symmetric(node)
        elif node.op_type in {"MaxUnpool", "NonZero", "ScatterND"}:
            raise UsageError(f"{label(node)}: TensorRT has no {node.op_type}; export the graph again")
        elif node.op_type == "MaxPool" and len(node.outputs) > 1 and node.outputs[1].uses():
            raise UsageError(f"{label(node)}: TensorRT's MaxPool gives no indices; export the graph again")


def _require_symmetric(node: ir.Node) -> None:
    name = label(node)
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is None:
        if node.op_type == "QuantizeLinear" and node.attributes.get_int("output_dtype", 0) == 0:
            raise UsageError(f"{name} quantizes to uint8 by default; TensorRT takes it as int8: make it int8")
        return
    if zero.const_value is None:
        raise UsageError(f"the zero point of {name} is computed; TensorRT needs a constant")
    if zero.const_value.dtype == ir.DataType.UINT8:
        raise UsageError(
            f"{name} is uint8; TensorRT takes it as int8 and computes other numbers: calibrate the float graph again "
            "with --target tensorrt"
        )
    if zero.const_value.dtype == ir.DataType.INT32:
        raise UsageError(f"{name} dequantizes an int32 bias; TensorRT refuses it: keep biases in float32")
    if np.any(zero.const_value.numpy() != 0):
        raise UsageError(f"the zero point of {name} is not 0; TensorRT has only symmetric quantization")
