"""The form of a graph that the fusion rules read: one graph, a recent operator set, weights as initializers."""

from __future__ import annotations

import math
from typing import Final

import onnx
import onnx.version_converter
import onnx_ir as ir
import onnx_ir.passes.common as passes
from onnxscript.optimizer import fold_constants

from ..runtime.errors import UsageError, one_line
from .ir_queries import remove_identities
from .symbolic_shapes.inference import is_constant

OLDEST_OPSET: Final = 13
"""The oldest operator set that the rules read and write: sizes of `Resize`, `Pad`, `Slice`, `Split` are inputs."""

_OLDEST_IR: Final = 8
_FREE_INITIALIZERS: Final = 4  # the IR version since which initializers need not be inputs
_LARGEST_CONSTANT: Final = 2**26  # elements of a constant that is computed ahead of time
_LONGEST_SIZES: Final = 64  # elements of a vector of sizes, such as those of Pad
_SHOWN: Final = (
    1024  # elements up to which the converter of operator sets is shown a constant: it reads sizes
)


def normalize(model: ir.Model, *, opset: int | None = None, freeze: bool = False) -> ir.Model:
    """A copy in the form that the rules read.

    An initializer that is an input of the graph, too, stays one: another value may be given for it. Before version 4 of
    the IR all initializers had to be inputs; there they are constants.

    Args:
        model: any model; nothing but the order of its nodes is changed, and its weights are shared.
        opset: the least version of ONNX's operators; None: the model's own, or 13 where that is older.
        freeze: initializers that are inputs become constants.

    Raises:
        UsageError: the model cannot be brought to that operator set, calls functions that cannot be inlined, or its
            nodes form a cycle.
    """
    try:
        model.graph.sort()
    except ValueError as error:
        raise UsageError(f"the nodes of the graph form a cycle: {one_line(error)}") from error
    result = model.clone()
    _require_one_opset(result)
    inline = passes.InlinePass()
    try:
        inline(result)  # first: the converter drops functions
    except Exception as error:
        raise UsageError(
            f"the functions of the graph cannot be put in place of their calls: {one_line(error)}"
        ) from error
    if freeze or result.ir_version < _FREE_INITIALIZERS:
        passes.RemoveInitializersFromInputsPass()(result)
    version = result.graph.opset_imports.get("", OLDEST_OPSET)
    wanted = max(OLDEST_OPSET, version, opset or 0)
    if version < wanted:
        result = to_opset(result, wanted)
    result.ir_version = max(result.ir_version, _OLDEST_IR)
    for step in (
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        _fold_constants,
        remove_identities,
        passes.RemoveUnusedNodesPass(),
        passes.NameFixPass(),
    ):
        step(result)
    for i, node in enumerate(result.graph):
        node.name = node.name or f"{node.op_type}_{i}"
    return result


def to_opset(model: ir.Model, version: int) -> ir.Model:
    """A model with ONNX's operators of another version.

    Args:
        model: without functions; its initializers are shared with the result.
        version: of ONNX's operators.

    Raises:
        UsageError: this ONNX knows no such version, or an operator has no counterpart in it.
    """
    own = model.graph.opset_imports.get("", 0)
    newest = onnx.defs.onnx_opset_version()
    if not 1 <= version <= newest:
        raise UsageError(f"there is no opset {version}: this version of ONNX knows 1 to {newest}")
    if own == version:
        return model
    # The converter works on bytes, of which protobuf takes 2 GB: large weights stay behind, as inputs.
    light = model.clone()
    inputs = list(light.graph.inputs)
    large = {
        str(value.name): value.const_value
        for value in light.graph.initializers.values()
        if value.const_value is not None and value.const_value.size > _SHOWN
    }
    for name, tensor in large.items():
        value = light.graph.initializers[name]
        value.shape, value.type = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
        value.const_value = None
        light.graph.initializers.pop(name)
        if value not in inputs:
            light.graph.inputs.append(value)
    names = {str(value.name) for value in inputs}
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(light), version)
    except Exception as error:  # the converter raises RuntimeError and others
        raise UsageError(f"opset {own} cannot be converted to {version}: {one_line(error)}") from error
    result = ir.from_proto(proto)
    for value in list(result.graph.inputs):
        kept = large.get(str(value.name))
        if kept is not None:
            value.const_value = kept
            if value.name not in names:
                result.graph.inputs.remove(value)
            result.graph.register_initializer(value)
    return result


def _require_one_opset(model: ir.Model) -> None:
    """Refuse functions whose operators would change their meaning by being inlined.

    Raises:
        UsageError: an operator of a function has another version there than in the graph.
    """
    for function in model.functions.values():
        for domain, inner in function.opset_imports.items():
            outer = model.graph.opset_imports.setdefault(domain, inner)
            if inner == outer:
                continue
            for node in function:
                if node.domain == domain and _since(node, inner) != _since(node, outer):
                    raise UsageError(
                        f"{node.op_type} of the function {function.name} is of opset {inner}, the graph's of opset "
                        f"{outer}: they cannot be one graph"
                    )


def _since(node: ir.Node, version: int) -> int | None:
    try:
        return int(onnx.defs.get_schema(node.op_type, version, node.domain).since_version)
    except onnx.defs.SchemaError:
        return None


def _fold_constants(model: ir.Model) -> None:
    """Compute what depends on constants alone: weights under a norm, sizes of a padding; not large fills."""

    def wanted(node: ir.Node) -> bool | None:
        if node.op_type != "ConstantOfShape":
            return None  # the pass's own rules
        shape = node.inputs[0]
        if shape is None or not is_constant(shape):
            return False
        assert shape.const_value is not None
        return math.prod(int(side) for side in shape.const_value.numpy()) <= _LONGEST_SIZES

    # What may be given anew is no constant, whatever its default.
    defaults = {value: value.const_value for value in model.graph.inputs if value.const_value is not None}
    for value in defaults:
        value.const_value = None
        model.graph.initializers.pop(str(value.name))
    try:
        fold_constants(
            model, input_size_limit=_LARGEST_CONSTANT, output_size_limit=_LARGEST_CONSTANT, should_fold=wanted
        )
    finally:
        for value, default in defaults.items():
            value.const_value = default
            model.graph.register_initializer(value)


__all__ = ["OLDEST_OPSET", "normalize", "to_opset"]
