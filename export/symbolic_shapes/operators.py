"""What each operator makes of the shapes and of the small integers of its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir
from typing import TYPE_CHECKING

from .expression import (
    UNKNOWN,
    Known,
    Number,
    Shape,
    Size,
    added,
    as_fraction,
    as_size,
    divided,
    equal,
    fresh_symbol,
    multiplied,
    product,
    quotient,
)

if TYPE_CHECKING:
    from .inference import Sizes


SMALL = 64
"""Constants with more elements than this are never sizes."""


class Operator:
    """One node with what is known of its inputs."""

    def __init__(self, sizes: Sizes, node: ir.Node) -> None:
        self.node = node
        self._sizes = sizes

    def known(self, index: int) -> Known:
        """What is known of an input; nothing of one that is left out."""
        if index >= len(self.node.inputs) or self.node.inputs[index] is None:
            return UNKNOWN
        value = self.node.inputs[index]
        assert value is not None
        return self._sizes.known(value)

    def present(self, index: int) -> bool:
        """Whether the node has this input."""
        return index < len(self.node.inputs) and self.node.inputs[index] is not None

    def shape(self, index: int = 0) -> Shape | None:
        """The shape of an input, where it is known."""
        return self.known(index).shape

    def numbers(self, index: int) -> list[int] | None:
        """A constant input as whole numbers."""
        return self._sizes.numbers(self.node.inputs[index]) if self.present(index) else None

    def sizes(self, index: int) -> list[Size] | None:
        """An input's data as sizes, where all of them are known."""
        data = self.known(index).data
        if data is None:
            return None
        found = [as_size(x) for x in data]
        return None if any(x is None for x in found) else [x for x in found if x is not None]

    def integer(self, name: str, default: int) -> int:
        """An attribute that is a whole number."""
        return self.node.attributes.get_int(name, default)

    def integers(self, name: str) -> list[int] | None:
        """An attribute that is a list of whole numbers; None where it is left out."""
        found = self.node.attributes.get_ints(name, None)
        return None if found is None else list(found)

    def text(self, name: str, default: str) -> str:
        """An attribute that is a string."""
        return self.node.attributes.get_string(name, default)

    def axes(self, rank: int, index: int = 1) -> list[int] | None:
        """Axes from the attribute of older or the input of newer operator sets, none negative."""
        found = self.integers("axes")
        if found is None and self.present(index):
            found = self.numbers(index)
        return None if found is None else [a % rank for a in found]


Results = Sequence[Known]


def _same(op: Operator) -> Results:
    return [Known(op.shape(), op.known(0).data)] + [Known(op.shape())] * (len(op.node.outputs) - 1)


def _shape_only(op: Operator) -> Results:
    return [Known(op.shape())] * len(op.node.outputs)


def _first(op: Operator) -> Results:
    return [Known(op.shape())]


def _broadcast(shapes: Sequence[Shape]) -> Shape:
    rank = max(map(len, shapes))
    result = []
    for axis in range(rank):
        dims = [s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0]
        others = [d for d in dims if d.known != 1]
        if not others:
            result.append(Size.of(1))
            continue
        numbers = [d for d in others if d.known is not None]
        same = all(d == others[0] for d in others)
        result.append(others[0] if same else numbers[0] if numbers else Size.of(f"?{next(fresh_symbol)}"))
    return tuple(result)


def _elementwise(op: Operator) -> Results:
    shapes = [op.shape(i) for i in range(len(op.node.inputs)) if op.present(i)]
    if not shapes or any(s is None for s in shapes):
        return [UNKNOWN]
    return [Known(_broadcast([s for s in shapes if s is not None]), _arithmetic(op))]


def _arithmetic(op: Operator) -> tuple[Number, ...] | None:
    functions: dict[str, Callable[[Number, Number], Number | None]] = {
        "Add": lambda a, b: added(a, b, 1),
        "Sub": lambda a, b: added(a, b, -1),
        "Mul": multiplied,
        "Div": divided,
        "Equal": equal,
    }
    left, right = op.known(0).data, op.known(1).data
    function = functions.get(op.node.op_type)
    if function is None or left is None or right is None:
        return None
    count = max(len(left), len(right))
    if not {len(left), len(right)} <= {1, count}:
        return None
    pairs = zip(left * (count // len(left)), right * (count // len(right)), strict=True)
    results = [function(a, b) for a, b in pairs]
    return None if any(x is None for x in results) else tuple(x for x in results if x is not None)


def _where(op: Operator) -> Results:
    shapes = [op.shape(i) for i in range(3)]
    if any(s is None for s in shapes):
        return [UNKNOWN]
    shape = _broadcast([s for s in shapes if s is not None])
    chosen, left, right = (op.known(i).data for i in range(3))
    if chosen is None or left is None or right is None:
        return [Known(shape)]
    count = max(len(chosen), len(left), len(right))
    if not {len(chosen), len(left), len(right)} <= {1, count}:
        return [Known(shape)]
    parts = (data * (count // len(data)) for data in (chosen, left, right))
    return [Known(shape, tuple(a if c != Size() else b for c, a, b in zip(*parts, strict=True)))]


def _rounded(op: Operator) -> Results:
    """Floor, Ceil, Round and casts to whole numbers (which truncate)."""
    data = op.known(0).data
    if data is None:
        return [Known(op.shape())]
    functions: dict[str, Callable[[Fraction], int]] = {"Ceil": math.ceil, "Round": round}
    function = functions.get(op.node.op_type, math.floor)
    return [Known(op.shape(), tuple(x if isinstance(x, Size) else Fraction(function(x)) for x in data))]


def _cast(op: Operator) -> Results:
    import onnx_ir as ir

    data = op.known(0).data
    if data is None:
        return [Known(op.shape())]
    target = ir.DataType(op.integer("to", int(ir.DataType.FLOAT)))
    if target.is_integer():
        whole = [x if isinstance(x, Size) else Size.of(math.trunc(x)) for x in data]
        return [Known(op.shape(), tuple(whole))]
    # A size that depends on a symbol stays exact; a plain number becomes a fraction, so that Div does not floor.
    return [
        Known(op.shape(), tuple(x if as_fraction(x) is None else as_fraction(x) or Fraction() for x in data))
    ]


def _window(op: Operator) -> Results:
    shape = op.shape()
    if shape is None:
        return [UNKNOWN]
    spatial = len(shape) - 2
    kernel = op.integers("kernel_shape")
    channels = shape[1]
    if op.node.op_type in {"Conv", "ConvInteger", "QLinearConv"}:
        weight = op.shape(3 if op.node.op_type == "QLinearConv" else 1)
        if weight is None:
            return [UNKNOWN]
        channels = weight[0]
        if kernel is None:
            found = [d.known for d in weight[2:]]
            if any(d is None for d in found):
                return [UNKNOWN]
            kernel = [d for d in found if d is not None]
    if kernel is None:
        return [UNKNOWN]
    strides = op.integers("strides") or [1] * spatial
    dilations = op.integers("dilations") or [1] * spatial
    pads = op.integers("pads") or [0] * (2 * spatial)
    mode = op.text("auto_pad", "NOTSET")
    ceil = op.integer("ceil_mode", 0)
    dims = []
    for i in range(spatial):
        size, stride = shape[2 + i], strides[i]
        extent = dilations[i] * (kernel[i] - 1) + 1
        if mode.startswith("SAME"):
            dims.append((size + (stride - 1)) // stride)
            continue
        padding = 0 if mode == "VALID" else pads[i] + pads[spatial + i]
        span = size + (padding - extent)
        dims.append((span + (stride - 1 if ceil else 0)) // stride + 1)
    return [Known((shape[0], channels, *dims))] * len(op.node.outputs)


def _transposed(op: Operator) -> Results:
    shape, weight = op.shape(), op.shape(1)
    if shape is None or weight is None or op.integers("output_shape") is not None:
        return [UNKNOWN]
    if op.text("auto_pad", "NOTSET") not in {"NOTSET", "VALID"}:
        return [UNKNOWN]
    spatial = len(shape) - 2
    strides = op.integers("strides") or [1] * spatial
    dilations = op.integers("dilations") or [1] * spatial
    pads = op.integers("pads") or [0] * (2 * spatial)
    extra = op.integers("output_padding") or [0] * spatial
    dims = []
    for i in range(spatial):
        kernel = weight[2 + i].known
        if kernel is None:
            return [UNKNOWN]
        extent = dilations[i] * (kernel - 1) + 1
        dims.append((shape[2 + i] - 1) * strides[i] + (extent + extra[i] - pads[i] - pads[spatial + i]))
    return [Known((shape[0], weight[1] * op.integer("group", 1), *dims))]


def _unpool(op: Operator) -> Results:
    shape, kernel = op.shape(), op.integers("kernel_shape")
    if op.present(2):
        sizes = op.sizes(2)
        return [UNKNOWN if sizes is None else Known(tuple(sizes))]
    if shape is None or kernel is None:
        return [UNKNOWN]
    strides = op.integers("strides") or [1] * len(kernel)
    pads = op.integers("pads") or [0] * (2 * len(kernel))
    dims = [
        (shape[2 + i] - 1) * strides[i] + (kernel[i] - pads[i] - pads[len(kernel) + i])
        for i in range(len(kernel))
    ]
    return [Known((*shape[:2], *dims))]


def _resize(op: Operator) -> Results:
    shape = op.shape()
    if shape is None:
        return [UNKNOWN]
    axes = op.integers("axes")
    chosen = range(len(shape)) if axes is None else [a % len(shape) for a in axes]
    dims = list(shape)
    scales_at = 1 if op.node.op_type == "Upsample" or len(op.node.inputs) == 2 else 2
    sizes, scales = op.sizes(3), op.known(scales_at).data
    if op.present(3):
        policy = op.text("keep_aspect_ratio_policy", "stretch")
        if sizes is not None and policy != "stretch":
            sizes = _keeping_aspect([dims[axis] for axis in chosen], sizes, policy)
        if sizes is None or len(sizes) != len(chosen):
            return [UNKNOWN]
        for axis, size in zip(chosen, sizes, strict=True):
            dims[axis] = size
        return [Known(tuple(dims))]
    if scales is None:
        floats = op.node.attributes.get_floats("scales", None)
        scales = None if floats is None else tuple(Fraction(x) for x in floats)
    if scales is None or len(scales) != len(chosen):
        return [UNKNOWN]
    for axis, scale in zip(chosen, scales, strict=True):
        factor = as_fraction(scale)
        if factor is None:
            return [UNKNOWN]
        dims[axis] = (dims[axis] * factor.numerator) // factor.denominator
    return [Known(tuple(dims))]


def _keeping_aspect(before: Sequence[Size], wanted: Sequence[Size], policy: str) -> list[Size] | None:
    """Sizes of a `Resize` that scales all axes alike, by the least or the largest of the wanted factors."""
    numbers = [(size.known, goal.known) for size, goal in zip(before, wanted, strict=False)]
    factors = [Fraction(goal, size) for size, goal in numbers if size and goal]
    if len(factors) != len(before):
        return None
    factor = min(factors) if policy == "not_larger" else max(factors)
    # ONNX rounds halves up.
    return [Size.of(math.floor(factor * (size.known or 0) + Fraction(1, 2))) for size in before]


def _concat(op: Operator) -> Results:
    shapes = [op.shape(i) for i in range(len(op.node.inputs))]
    if any(s is None for s in shapes):
        return [UNKNOWN]
    present = [s for s in shapes if s is not None]
    axis = op.integer("axis", 0) % max(1, len(present[0]))
    total = Size()
    for shape in present:
        total = total + shape[axis]
    data: tuple[Number, ...] | None = ()
    for i in range(len(present)):
        part = op.known(i).data
        data = None if part is None or data is None or len(present[0]) != 1 else data + part
    return [Known((*present[0][:axis], total, *present[0][axis + 1 :]), data)]


def _split(op: Operator) -> Results:
    shape, parts = op.shape(), op.integers("split")
    if shape is None:
        return [UNKNOWN]
    axis = op.integer("axis", 0) % len(shape)
    if parts is None and op.present(1):
        parts = op.numbers(1)
    count = len(op.node.outputs)
    sizes = [shape[axis] // count] * count if parts is None else [Size.of(p) for p in parts]
    return [Known((*shape[:axis], size, *shape[axis + 1 :])) for size in sizes]


def _slice(op: Operator) -> Results:
    shape = op.shape()
    starts = op.integers("starts") or op.numbers(1)
    ends = op.integers("ends") or op.numbers(2)
    if shape is None or starts is None or ends is None:
        return [UNKNOWN]
    axes = op.axes(len(shape), 3) or list(range(len(starts)))
    steps = op.numbers(4) or [1] * len(starts)
    dims = list(shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        size = dims[axis]
        if step < 1:
            dims[axis] = Size.of(f"?{next(fresh_symbol)}")
            continue
        low = Size.of(start) if start >= 0 else size + start
        high = size + end if end < 0 else size if end >= 1 << 30 else Size.of(end)
        if end >= 0 and size.known is not None:
            high = Size.of(min(end, size.known))
        elif 0 <= end < 1 << 30:
            # Whether a plain number lies beyond a size that is a symbol is not known.
            high = Size.of(f"min({size}, {end})")
        dims[axis] = (high - low + (step - 1)) // step
    data = op.known(0).data
    if data is not None and len(shape) == 1 and len(starts) == 1:
        data = data[starts[0] : ends[0] : steps[0]]
        return [Known((Size.of(len(data)),), data)]
    return [Known(tuple(dims))]


def _shape_of(op: Operator) -> Results:
    shape = op.shape()
    if shape is None:
        return [UNKNOWN]
    start = op.integer("start", 0)
    end = op.integer("end", len(shape))
    chosen = shape[start:end]
    return [Known((Size.of(len(chosen)),), chosen)]


def _gather(op: Operator) -> Results:
    shape, indices = op.shape(), op.shape(1)
    if shape is None or indices is None:
        return [UNKNOWN]
    axis = op.integer("axis", 0) % max(1, len(shape))
    data, chosen = op.known(0).data, op.numbers(1)
    picked = None
    if data is not None and chosen is not None and len(shape) == 1:
        picked = tuple(data[i] for i in chosen)
    return [Known((*shape[:axis], *indices, *shape[axis + 1 :]), picked)]


def _unsqueeze(op: Operator) -> Results:
    shape = op.shape()
    if shape is None:
        return [UNKNOWN]
    found = op.integers("axes") or op.numbers(1)
    if found is None:
        return [UNKNOWN]
    rank = len(shape) + len(found)
    axes = {a % rank for a in found}
    rest = iter(shape)
    return [Known(tuple(Size.of(1) if i in axes else next(rest) for i in range(rank)), op.known(0).data)]


def _squeeze(op: Operator) -> Results:
    shape = op.shape()
    if shape is None:
        return [UNKNOWN]
    axes = op.axes(max(1, len(shape)))
    if axes is None:
        axes = [i for i, d in enumerate(shape) if d.known == 1]
    return [Known(tuple(d for i, d in enumerate(shape) if i not in axes), op.known(0).data)]


def _reshape(op: Operator) -> Results:
    shape, target = op.shape(), op.sizes(1)
    if target is None:
        return [UNKNOWN]
    dims: list[Size | None] = []
    for i, size in enumerate(target):
        if size.known == 0 and not op.integer("allowzero", 0):
            dims.append(None if shape is None or i >= len(shape) else shape[i])
        else:
            dims.append(None if size.known == -1 else size)
    if None in dims and shape is not None:
        known = [d for d in dims if d is not None]
        rest = quotient(shape, known) if len(known) == len(dims) - 1 else None
        dims = [rest if d is None else d for d in dims]
    if None in dims:
        return [Known(tuple(Size.of(f"?{next(fresh_symbol)}") if d is None else d for d in dims))]
    data = op.known(0).data
    return [Known(tuple(d for d in dims if d is not None), data)]


def _transpose(op: Operator) -> Results:
    shape = op.shape()
    if shape is None:
        return [UNKNOWN]
    order = op.integers("perm") or list(range(len(shape)))[::-1]
    return [Known(tuple(shape[i] for i in order))]


def _pad(op: Operator) -> Results:
    shape = op.shape()
    pads = op.integers("pads") or op.numbers(1)
    if shape is None or pads is None:
        return [UNKNOWN]
    axes = op.axes(len(shape), 3) or list(range(len(shape)))
    dims = list(shape)
    for i, axis in enumerate(axes):
        dims[axis] = dims[axis] + (pads[i] + pads[len(axes) + i])
    return [Known(tuple(dims))]


def _expand(op: Operator) -> Results:
    shape, target = op.shape(), op.sizes(1)
    return [UNKNOWN if shape is None or target is None else Known(_broadcast([shape, tuple(target)]))]


def _tile(op: Operator) -> Results:
    shape, repeats = op.shape(), op.numbers(1)
    if shape is None or repeats is None:
        return [UNKNOWN]
    return [Known(tuple(d * r for d, r in zip(shape, repeats, strict=True)))]


def _constant_of_shape(op: Operator) -> Results:
    target = op.sizes(0)
    if target is None:
        return [UNKNOWN]
    count, fill = product(target).known, op.node.attributes.get("value")
    if count is None or count > SMALL or fill is None or not fill.as_tensor().dtype.is_integer():
        return [Known(tuple(target))]
    return [Known(tuple(target), (Size.of(int(fill.as_tensor().numpy().item())),) * count)]


def _blocks(op: Operator) -> Results:
    shape, block = op.shape(), op.integer("blocksize", 1)
    if shape is None:
        return [UNKNOWN]
    n, c, h, w = shape
    if op.node.op_type == "DepthToSpace":
        return [Known((n, c // (block * block), h * block, w * block))]
    return [Known((n, c * (block * block), h // block, w // block))]


def _reduce(op: Operator) -> Results:
    shape = op.shape()
    if shape is None:
        return [UNKNOWN]
    if op.node.op_type in {"ArgMax", "ArgMin"}:
        axes: list[int] | None = [op.integer("axis", 0) % len(shape)]
    else:
        axes = op.axes(len(shape))
    axes = list(range(len(shape))) if axes is None else axes
    if op.integer("keepdims", 1):
        return [Known(tuple(Size.of(1) if i in axes else d for i, d in enumerate(shape)))]
    return [Known(tuple(d for i, d in enumerate(shape) if i not in axes))]


def _matmul(op: Operator) -> Results:
    left, right = op.shape(), op.shape(1)
    if left is None or right is None:
        return [UNKNOWN]
    if op.node.op_type == "Gemm":
        rows = left[1] if op.integer("transA", 0) else left[0]
        return [Known((rows, right[0] if op.integer("transB", 0) else right[1]))]
    if len(left) < 2 or len(right) < 2:
        return [UNKNOWN]
    batch = _broadcast([left[:-2], right[:-2]]) if len(left) + len(right) > 4 else ()
    return [Known((*batch, left[-2], right[-1]))]


def _global_pool(op: Operator) -> Results:
    shape = op.shape()
    return [UNKNOWN if shape is None else Known((*shape[:2], *[Size.of(1)] * (len(shape) - 2)))]


OPERATORS: dict[str, Callable[[Operator], Results]] = {
    **dict.fromkeys(
        [
            "Relu",
            "LeakyRelu",
            "PRelu",
            "Sigmoid",
            "Tanh",
            "Clip",
            "Elu",
            "Selu",
            "HardSigmoid",
            "HardSwish",
            "Softmax",
            "LogSoftmax",
            "Exp",
            "Log",
            "Sqrt",
            "Abs",
            "Neg",
            "Erf",
            "Gelu",
            "Mish",
            "Softplus",
            "BatchNormalization",
            "InstanceNormalization",
            "GroupNormalization",
            "Not",
            "QuantizeLinear",
            "DequantizeLinear",
            "Dropout",
            "Reciprocal",
            "Sign",
            "Acos",
            "Acosh",
            "Asin",
            "Asinh",
            "Atan",
            "Atanh",
            "Celu",
            "Cos",
            "Cosh",
            "CumSum",
            "Hardmax",
            "IsInf",
            "IsNaN",
            "LRN",
            "LpNormalization",
            "Shrink",
            "Sin",
            "Sinh",
            "Softsign",
            "Swish",
            "Tan",
            "ThresholdedRelu",
        ],
        _shape_only,
    ),
    **dict.fromkeys(
        [
            "Add",
            "Sub",
            "Mul",
            "Div",
            "Pow",
            "Max",
            "Min",
            "Sum",
            "Mean",
            "Equal",
            "Greater",
            "Less",
            "GreaterOrEqual",
            "LessOrEqual",
            "And",
            "Or",
            "Mod",
        ],
        _elementwise,
    ),
    **dict.fromkeys(["Conv", "ConvInteger", "QLinearConv", "AveragePool", "MaxPool", "LpPool"], _window),
    **dict.fromkeys(["Floor", "Ceil", "Round"], _rounded),
    **dict.fromkeys(["Resize", "Upsample"], _resize),
    **dict.fromkeys(["DepthToSpace", "SpaceToDepth"], _blocks),
    **dict.fromkeys(["ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ArgMax", "ArgMin"], _reduce),
    **dict.fromkeys(["MatMul", "Gemm", "MatMulInteger"], _matmul),
    **dict.fromkeys(["GlobalAveragePool", "GlobalMaxPool"], _global_pool),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization"], _first),
    "Identity": _same,
    "Where": _where,
    "Cast": _cast,
    "ConvTranspose": _transposed,
    "MaxUnpool": _unpool,
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Shape": _shape_of,
    "Gather": _gather,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Pad": _pad,
    "Expand": _expand,
    "Tile": _tile,
    "ConstantOfShape": _constant_of_shape,
}
