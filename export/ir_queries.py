"""Reading convolutions, constants and resizings out of onnx-ir graphs; the errors say why something does not fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import onnx_ir as ir

from ..runtime.errors import UsageError
from .symbolic_shapes.inference import is_constant

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx


class NotApplicableError(Exception):
    """A rule does not apply here; the message says why, and is empty where no report is to list it.

    It never leaves the rules: `FusionRule` turns it into the rewriter's own failed match.
    """

    def __init__(self, reason: str, *where: ir.Node | ir.Value) -> None:
        super().__init__(reason)
        self.reason = reason
        self.where = where


def reject(reason: str, *where: ir.Node | ir.Value) -> NotApplicableError:
    """The error by which a rule's check says why it does not apply."""
    return NotApplicableError(reason, *where)


def label(node: ir.Node) -> str:
    """A node's name for messages; nodes without one are named by their first output."""
    return node.name or f"{node.op_type}({node.outputs[0].name})"


def producer(value: ir.Value) -> ir.Node:
    """The node that computes a value that a pattern has matched as computed."""
    node = value.producer()
    assert node is not None
    return node


def constant(value: ir.Value | None, what: str) -> npt.NDArray[np.float32]:
    """A constant's values.

    Raises:
        NotApplicableError: it is computed, or an input of the graph.
    """
    if value is not None and value.const_value is not None and value.is_graph_input():
        raise reject(
            f"{what} is an input of the graph, too, for which another may be given: declare that none will be "
            "(--freeze-inputs)",
            value,
        )
    if not is_constant(value):
        raise reject(f"{what} is computed, not a constant", *([] if value is None else [value]))
    assert value is not None
    assert value.const_value is not None
    return cast("npt.NDArray[np.float32]", value.const_value.numpy())


def serialize(model: ir.Model) -> bytes:
    """A model as the bytes of an .onnx file, all weights inside.

    Raises:
        UsageError: it would be larger than protobuf allows.
    """
    return bytes(to_proto(model).SerializeToString())


def to_proto(model: ir.Model) -> onnx.ModelProto:
    """A model as ONNX's own classes have it.

    Raises:
        UsageError: it would be larger than protobuf allows.
    """
    try:
        proto = ir.to_proto(model)
        proto.ByteSize()
    except Exception as error:  # protobuf's error of what is too large comes without types
        raise UsageError(f"graphs of more than 2 GB with their weights are not supported: {error}") from error
    return proto


# Operators whose output has the type of their first input, as far as they stand in such networks.
_KEEP_TYPE = frozenset(
    {
        "Add", "AveragePool", "BatchNormalization", "Clip", "Concat", "Div", "Dropout", "Elu", "Expand", "Flatten",
        "Gelu", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization", "LeakyRelu", "MaxPool", "Mul", "PRelu",
        "Pad", "Relu", "Reshape", "Resize", "Sigmoid", "Slice", "Softplus", "Split", "Squeeze", "Sub", "Tanh", "Tile",
        "Transpose", "Unsqueeze",
    }
)  # fmt: skip


def type_of(value: ir.Value) -> ir.DataType | None:
    """A value's type: as the graph states or, where it does not, by what made it; None if in doubt."""
    source: ir.Value | None = value
    while source is not None:
        if source.dtype is not None:
            return source.dtype
        node = source.producer()
        if node is None or not node.inputs:
            return None
        if node.op_type == "Cast":
            return ir.DataType(node.attributes.get_int("to", 0))
        if node.op_type in {"Conv", "ConvTranspose"}:
            source = node.inputs[1]  # the weights, of the same type, are constants and state it
        else:
            source = node.inputs[0] if node.op_type in _KEEP_TYPE else None
    return None


def is_real(value: ir.Value) -> bool:
    """Whether a value is of one of the types that all runtimes resample and convolve; no if in doubt."""
    return type_of(value) in {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16}


def remove_identities(model: ir.Model) -> None:
    """Remove the `Identity` nodes of a model's graph, in place; its inputs and outputs keep their names.

    Two outputs of one value need one: onnx-ir's own `IdentityEliminationPass` gives them the same name.
    """
    graph = model.graph
    for node in list(graph):
        if node.op_type != "Identity" or node.domain:
            continue
        x, y = node.inputs[0], node.outputs[0]
        if x is None:
            continue
        if y.is_graph_output():
            if x.is_graph_input() or x.is_initializer() or x.is_graph_output():
                continue
            name = y.name
        else:
            name = x.name
        if x.shape is None:
            x.shape = y.shape
        if x.type is None:
            x.type = y.type
        ir.convenience.replace_all_uses_with(y, x, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        x.name = name


def is_live(value: ir.Value) -> bool:
    """Whether somebody still reads the value."""
    return bool(value.uses()) or value.is_graph_output()


def require_live(value: ir.Value) -> None:
    """Reject what an earlier rewrite has left behind.

    Raises:
        NotApplicableError: with an empty reason, which no report lists.
    """
    if not is_live(value):
        raise reject("")


def require_single_use(value: ir.Value, what: str) -> None:
    """Reject a value that others read too.

    Raises:
        NotApplicableError: it has other readers.
    """
    if len(value.uses()) != 1 or value.is_graph_output():
        raise reject(f"{what} has other readers", value)


FLOATS: Final = frozenset({"float32", "float16", "bfloat16"})
"""Types of weights that the rules compute with: in float32 or more, rounded once."""


@dataclass(frozen=True)
class Convolution:
    """A two-dimensional Conv node with constant weights.

    Attributes:
        node: the node.
        x: its input, N x C_in x H x W.
        weight: (C_out, C_in / group, Kh, Kw), float32.
        bias: (C_out,), or None.
        strides: along H and W.
        pads: zeros before and after: (top, left, bottom, right).
        dilations: along H and W.
        group: number of groups.
        dtype: of weight and bias in the graph.
    """

    node: ir.Node
    x: ir.Value
    weight: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32] | None
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    group: int
    dtype: np.dtype[Any]

    @classmethod
    def read(cls, node: ir.Node) -> Convolution:
        """Read a Conv node.

        Raises:
            NotApplicableError: computed weights, another rank, or padding that depends on the size.
        """
        name = label(node)
        weight = constant(node.inputs[1], f"the weight of {name}")
        if weight.ndim != 4:
            raise reject(f"{name} is {weight.ndim - 2}-dimensional, not two-dimensional", node)
        dtype = weight.dtype
        if dtype.name not in FLOATS:
            raise reject(
                f"the weight of {name} is {dtype}; only {', '.join(sorted(FLOATS))} are fused: convert to other types "
                "afterwards",
                node,
            )
        weight = weight.astype(np.float32, copy=False)
        bias = None
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = constant(node.inputs[2], f"the bias of {name}").astype(np.float32, copy=False)
        strides = tuple(node.attributes.get_ints("strides", [1, 1]))
        dilations = tuple(node.attributes.get_ints("dilations", [1, 1]))
        pads = tuple(node.attributes.get_ints("pads", [0, 0, 0, 0]))
        mode = node.attributes.get_string("auto_pad", "NOTSET")
        if mode == "VALID":
            pads = (0, 0, 0, 0)
        elif mode != "NOTSET":
            if strides != (1, 1):
                raise reject(f"auto_pad {mode} of {name} with a stride depends on the size", node)
            total = [d * (k - 1) for d, k in zip(dilations, weight.shape[2:], strict=True)]
            small, large = [t // 2 for t in total], [t - t // 2 for t in total]
            pads = (*small, *large) if mode == "SAME_UPPER" else (*large, *small)
        x = node.inputs[0]
        assert x is not None
        return cls(
            node,
            x,
            weight,
            bias,
            cast("tuple[int, int]", strides),
            cast("tuple[int, int, int, int]", pads),
            cast("tuple[int, int]", dilations),
            node.attributes.get_int("group", 1),
            dtype,
        )

    @property
    def name(self) -> str:
        """The node's name, for messages."""
        return label(self.node)

    @property
    def kernel(self) -> tuple[int, int]:
        """Kernel size along H and W."""
        return self.weight.shape[2], self.weight.shape[3]

    @property
    def is_pointwise(self) -> bool:
        """1x1, stride 1, no padding."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not any(self.pads)

    def require_dense(self) -> None:
        """Reject groups.

        Raises:
            NotApplicableError: more than one group.
        """
        if self.group != 1:
            raise reject(f"group of {self.name} is {self.group}, must be 1", self.node)


@dataclass(frozen=True)
class Padding:
    """A `Pad` node over the height and width of an image, with constant sizes.

    Attributes:
        node: the node.
        x: its input, N x C x H x W.
        pads: rows and columns added (top, left, bottom, right), 0 or more.
        mode: `constant`, `reflect`, `edge` or `wrap`.
        value: what the mode `constant` adds.
    """

    node: ir.Node
    x: ir.Value
    pads: tuple[int, int, int, int]
    mode: str
    value: float

    @classmethod
    def read(cls, node: ir.Node) -> Padding:
        """Read a Pad node of opset 18 or later.

        Raises:
            NotApplicableError: computed sizes, another rank, padding of N or C, or a cut.
        """
        name = label(node)
        inputs = [*node.inputs, None, None, None][:4]
        sizes = [int(size) for size in constant(inputs[1], f"the sizes of {name}")]
        value = 0.0 if inputs[2] is None else float(constant(inputs[2], f"the value of {name}").reshape(()))
        axes = (
            None if inputs[3] is None else [int(axis) for axis in constant(inputs[3], f"the axes of {name}")]
        )
        x = node.inputs[0]
        assert x is not None
        shape = x.shape
        if axes is None:
            axes = list(range(len(sizes) // 2))
            rank = len(axes)
        elif shape is None and min(axes) < 0:
            raise reject(f"{name} counts its axes from the end of an unknown number", node)
        else:
            rank = max(3, *axes) + 1 if shape is None else len(shape)
        if rank != 4:
            raise reject(f"{name} pads something else than four dimensions", node)
        none = (0, 0)
        both = {axis % 4: (sizes[i], sizes[len(axes) + i]) for i, axis in enumerate(axes)}
        if any(both.get(axis, none) != none for axis in (0, 1)):
            raise reject(f"{name} pads the batch or the channels", node)
        (top, bottom), (left, right) = (both.get(axis, none) for axis in (2, 3))
        if min(top, bottom, left, right) < 0:
            raise reject(f"{name} cuts", node)
        return cls(node, x, (top, left, bottom, right), node.attributes.get_string("mode", "constant"), value)

    @property
    def name(self) -> str:
        """The node's name, for messages."""
        return label(self.node)


def reads_nearest(coordinates: str, rounding: str, factor: int) -> bool:
    """Whether `Resize` by a whole factor in these modes repeats each source pixel that often, borders included.

    For output position i it reads the source position that the modes compute, which must be i // factor. The modes are
    periodic with that period, so a few positions prove all of them, and the first are the border.

    Args:
        coordinates: `coordinate_transformation_mode`.
        rounding: `nearest_mode`.
        factor: 1 or more.
    """
    place = {
        "asymmetric": lambda i: i / factor,
        "half_pixel": lambda i: (i + 0.5) / factor - 0.5,
        "pytorch_half_pixel": lambda i: (i + 0.5) / factor - 0.5,
        "half_pixel_symmetric": lambda i: (i + 0.5) / factor - 0.5,
    }.get(coordinates)
    choose = {
        "floor": lambda x: int(np.floor(x)),
        "ceil": lambda x: int(np.ceil(x)),
        "round_prefer_floor": lambda x: int(np.ceil(x - 0.5)),
        "round_prefer_ceil": lambda x: int(np.floor(x + 0.5)),
    }.get(rounding)
    if factor == 1:
        return True
    if place is None or choose is None:
        return False
    return all(max(0, choose(place(i))) == i // factor for i in range(4 * factor))
