"""The certificate: a proof, node by node, that a graph has one possible result in float32 and in integers.

Intervals on grids (see `grids`) are carried from the inputs to the output. A node is certified if its operands, all
partial sums and its result are exact in float32. Then nothing is left to a backend: neither the order of sums, nor
fused kernels, nor rounding. What would break that is refused by name: scales that are no powers of two (requantization
rounds), biases off the grid of the products (int8 kernels round them), conversions from one scale to another with
nothing between (fused, they round once in place of twice), resizing with weights that are no 256ths, float operands of
more than 11 bits (TF32 drops the rest), functions that no machine computes alike. For kernels of processors without
VNNI, sums of two products are bounded by 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from onnx import NodeProto, TensorProto

from ..graph import Graph, attributes
from .grids import EXACT_BITS, Grid, NotExactError, is_power_of_two

if TYPE_CHECKING:
    import numpy.typing as npt

PAIR_LIMIT: Final = 32767
"""Largest 16-bit sum of two products."""
TF32_BITS: Final = 11
"""Significant bits that a TF32 operand keeps."""
_MOST_RESIZE: Final = 8
_UINT8: Final = int(TensorProto.UINT8)
_LARGEST: Final = {np.dtype(np.uint8): (0, 255), np.dtype(np.int8): (-128, 127)}


@dataclass(frozen=True)
class ConvolutionProof:
    """What is proved of a convolution.

    Attributes:
        name: of the node.
        sums: for each output channel the largest magnitude of any partial sum, bias included, in steps of its grid.
        pairs: for each output channel the largest magnitude of a sum of two products as kernels without VNNI form it,
            of unsigned activations and signed weights; None where activations are no uint8.
    """

    name: str
    sums: tuple[int, ...]
    pairs: tuple[int, ...] | None

    @property
    def bits(self) -> float:
        """log2 of the largest sum."""
        return float(np.log2(max(1, *self.sums)))


@dataclass
class Certificate:
    """What is proved of a graph, and what is not.

    Attributes:
        convolutions: in the graph's order.
        nodes: how many nodes are certified.
        bits: log2 of the largest magnitude anywhere, in steps of the grid that it lies on.
        failures: nodes that are not, and why.
    """

    convolutions: list[ConvolutionProof] = field(default_factory=list)
    nodes: int = 0
    bits: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Whether the graph has one possible result."""
        return not self.failures

    @property
    def pair_sum(self) -> int:
        """The largest sum of two products in 16 bits; 0 where there is none."""
        return max((max(proof.pairs) for proof in self.convolutions if proof.pairs), default=0)

    def summary(self) -> dict[str, Any]:
        """For manifests: plain JSON types, a few numbers."""
        return {
            "nodes": self.nodes,
            "convolutions": len(self.convolutions),
            "channels": sum(len(proof.sums) for proof in self.convolutions),
            "largest_bits": round(self.bits, 2),
            "allowed_bits": EXACT_BITS,
            "largest_pair_sum": self.pair_sum,
            "allowed_pair_sum": PAIR_LIMIT,
        }

    def to_dict(self) -> dict[str, Any]:
        """For reports: plain JSON types, every output channel."""
        return {
            **self.summary(),
            "failures": self.failures,
            "proofs": [
                {"name": p.name, "sums": list(p.sums), "pairs": None if p.pairs is None else list(p.pairs)}
                for p in self.convolutions
            ],
        }


@dataclass(frozen=True)
class _Stored:
    """8-bit integers as they are stored.

    Attributes:
        low: smallest.
        high: largest.
        kind: their type.
    """

    low: int
    high: int
    kind: np.dtype[Any]


@dataclass(frozen=True)
class _Constant:
    """A constant.

    Attributes:
        values: float or integer.
        exponents: of the grid of each output channel, of quantized weights.
    """

    values: npt.NDArray[Any]
    exponents: npt.NDArray[np.int64] | None = None


class _Sizes:
    """Whole numbers that are computed from shapes."""


_SIZES: Final = _Sizes()
_Known = Grid | _Stored | _Constant | _Sizes


def certify(graph: Graph, domains: Mapping[str, int]) -> Certificate:
    """Prove that a graph has one possible result, as far as that is so.

    Args:
        graph: with Q/DQ pairs.
        domains: the largest value of each input, uint8; the smallest is 0.

    Returns:
        The certificate; its failures say what is not proved.
    """
    return _Prover(graph, domains).prove()


class _Prover:
    def __init__(self, graph: Graph, domains: Mapping[str, int]) -> None:
        self._graph = graph
        self._known: dict[str, _Known] = {name: Grid.of(0, 0, most) for name, most in domains.items()}
        self._certificate = Certificate()

    def prove(self) -> Certificate:
        result = self._certificate
        for node in self._graph.nodes:
            try:
                rule = _RULES.get(node.op_type)
                if rule is None:
                    raise NotExactError(f"{node.op_type} is not known to be exact")
                found = rule(self, node, attributes(node))
                if isinstance(found, Grid):
                    result.bits = max(result.bits, found.require_exact().bits)
            except NotExactError as error:
                result.failures[node.name] = str(error)
                # What is behind it is looked at all the same.
                found = Grid.of(0, 0, 0)
            else:
                result.nodes += 1
            for name in node.output:
                self._known[name] = found
        return result

    def value(self, name: str) -> _Known:
        if name in self._known:
            return self._known[name]
        constant = self._graph.constant(name)
        if constant is None:
            raise NotExactError(f"nothing is known of {name}")
        return _SIZES if constant.dtype == np.int64 else _Constant(constant)

    def grid(self, name: str) -> Grid:
        found = self.value(name)
        if isinstance(found, _Constant) and found.values.dtype == np.float32:
            axis = _channel_axis(found.values)
            return Grid.of_constant(found.values, axis=axis)
        if not isinstance(found, Grid):
            raise NotExactError(f"{name} is not a float value")
        return found

    def note(self, bits: float) -> None:
        """A partial sum.

        Raises:
            NotExactError: it reaches too far.
        """
        if bits > EXACT_BITS:
            raise NotExactError(f"its partial sums reach 2^{bits:.1f}, beyond 2^{EXACT_BITS}")
        self._certificate.bits = max(self._certificate.bits, bits)

    # Rules, by operator.

    def keep(self, node: NodeProto, _: dict[str, Any]) -> _Known:
        """What moves values, or repeats them."""
        found = self.value(node.input[0])
        return found.merged() if isinstance(found, Grid) and node.op_type != "Identity" else found

    def sizes(self, _: NodeProto, __: dict[str, Any]) -> _Known:
        return _SIZES

    def cast(self, node: NodeProto, found: dict[str, Any]) -> _Known:
        value = self.value(node.input[0])
        if isinstance(value, Grid) and found["to"] in {_UINT8, int(TensorProto.INT64)}:
            most = 255 if found["to"] == _UINT8 else (1 << EXACT_BITS)
            if value.exponent.min() < 0 or value.low.min() < 0 or value.bits > np.log2(most + 1):
                raise NotExactError("a cast of what are no whole numbers in the range of the type")
        return value

    def concat(self, node: NodeProto, _: dict[str, Any]) -> _Known:
        values = [self.value(name) for name in node.input]
        if any(isinstance(value, _Sizes) for value in values):
            return _SIZES
        result = self.grid(node.input[0]).merged()
        for name in node.input[1:]:
            result = result.joined(self.grid(name).merged())
        return result

    def gather(self, node: NodeProto, _: dict[str, Any]) -> _Known:
        found = self.value(node.input[0])
        if isinstance(found, _Constant) and found.values.dtype == np.float32:
            return Grid.of_constant(found.values)
        return self.keep(node, _)

    def add(self, node: NodeProto, _: dict[str, Any]) -> _Known:
        if _SIZES in [self.value(name) for name in node.input]:
            return _SIZES
        one, other = (self.grid(name) for name in node.input)
        return one.plus(other.negated() if node.op_type == "Sub" else other)

    def multiply(self, node: NodeProto, _: dict[str, Any]) -> _Known:
        if _SIZES in [self.value(name) for name in node.input]:
            return _SIZES
        one, other = (self.grid(name) for name in node.input)
        return one.times(other)

    def divide(self, node: NodeProto, _: dict[str, Any]) -> _Known:
        if _SIZES in [self.value(name) for name in node.input]:
            return _SIZES
        raise NotExactError("a division rounds; multiply by a power of two")

    def relu(self, node: NodeProto, _: dict[str, Any]) -> _Known:
        return self.grid(node.input[0]).clipped(0, np.inf)

    def clip(self, node: NodeProto, _: dict[str, Any]) -> _Known:
        limits = [self._limit(node, i, none) for i, none in ((1, -np.inf), (2, np.inf))]
        value = self.value(node.input[0])
        if isinstance(value, _Stored):
            low, high = (int(min(max(x, limits[0]), limits[1])) for x in (value.low, value.high))
            return _Stored(low, high, value.kind)
        return self.grid(node.input[0]).clipped(*limits)

    def _limit(self, node: NodeProto, i: int, none: float) -> float:
        if len(node.input) <= i or not node.input[i]:
            return none
        constant = self._graph.constant(node.input[i])
        if constant is None:
            raise NotExactError("its limits are computed")
        return float(constant)

    def round(self, node: NodeProto, _: dict[str, Any]) -> _Known:
        value = self.grid(node.input[0])
        step = 2.0 ** value.exponent.astype(np.float64)
        ends = [np.rint(end * step).astype(np.int64) for end in (value.low, value.high)]
        return Grid(np.zeros_like(value.exponent), ends[0], ends[1])

    def average(self, node: NodeProto, found: dict[str, Any]) -> _Known:
        if any(found.get("pads", [0])) or found.get("ceil_mode", 0):
            raise NotExactError("an average with padding")
        size = int(np.prod(found["kernel_shape"]))
        if size & (size - 1):
            raise NotExactError(f"an average of {size} values rounds")
        value = self.grid(node.input[0])
        total = Grid(value.exponent, value.low * size, value.high * size)
        self.note(total.bits)
        return Grid(value.exponent - int(np.log2(size)), total.low, total.high)

    def resize(self, node: NodeProto, found: dict[str, Any]) -> _Known:
        mode = found.get("mode", b"nearest")
        if mode == b"nearest":
            return self.keep(node, found)
        scales = self._graph.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        place = found.get("coordinate_transformation_mode", b"half_pixel")
        if (
            mode != b"linear"
            or scales is None
            or scales.size != 4
            or place != b"half_pixel"
            or found.get("antialias")
        ):
            raise NotExactError("a resize that is not bilinear by constant factors, at the centers of pixels")
        factors = np.asarray(scales, np.float64)
        if (
            not is_power_of_two(factors)
            or np.any(factors[:2] != 1)
            or not np.all(factors[2:] <= _MOST_RESIZE)
        ):
            raise NotExactError(
                f"a bilinear resize by {scales.tolist()}: its weights are 256ths for factors 1, 2, 4 and 8 only"
            )
        # Weights are odd multiples of 1/(2s) on each axis.
        bits = int(np.log2(np.prod(np.where(factors > 1, 2 * factors, 1))))
        value = self.grid(node.input[0])
        result = Grid(value.exponent - bits, value.low << bits, value.high << bits)
        self.note(result.bits)
        return result

    def quantize(self, node: NodeProto, found: dict[str, Any]) -> _Known:
        scale, zero = self._quantizer(node, found)
        if scale.size != 1:
            raise NotExactError("activations with several scales")
        self._require_work_before(node)
        value = self.grid(node.input[0]).require_exact()
        steps = 2.0 ** (value.exponent - np.log2(float(scale)))
        least, most = _LARGEST[zero.dtype]
        low, high = (
            np.clip(np.rint(end * steps) + int(zero), least, most) for end in (value.low, value.high)
        )
        return _Stored(int(low.min()), int(high.max()), zero.dtype)

    def _require_work_before(self, node: NodeProto) -> None:
        """Refuse what fuses into one conversion between two scales.

        Raises:
            NotExactError: nothing but rectifiers, which kernels leave out, stands between two conversions.
        """
        before, rectified = self._graph.producers.get(node.input[0]), False
        while before is not None and before.op_type in {"Relu", "Clip"}:
            before, rectified = self._graph.producers.get(before.input[0]), True
        if before is None or before.op_type != "DequantizeLinear":
            return
        if rectified or list(before.input[1:]) != list(node.input[1:]):
            raise NotExactError("a conversion between scales behind another one: fused, they round once")

    def dequantize(self, node: NodeProto, found: dict[str, Any]) -> _Known:
        scale, zero = self._quantizer(node, found)
        value = self.value(node.input[0])
        if isinstance(value, _Constant):
            if np.any(zero):
                raise NotExactError("weights with a zero point")
            shape = (-1, *(1,) * (value.values.ndim - 1)) if scale.size > 1 else ()
            weights = (value.values.astype(np.float64) * scale.reshape(shape)).astype(np.float32)
            exponents = np.broadcast_to(np.log2(scale).astype(np.int64), weights.shape[:1])
            return _Constant(weights, exponents)
        if not isinstance(value, _Stored) or scale.size != 1:
            raise NotExactError("integers that are not those of one quantization")
        return Grid.of(int(np.log2(float(scale))), value.low - int(zero), value.high - int(zero))

    def _quantizer(self, node: NodeProto, found: dict[str, Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        scale = self._graph.constant(node.input[1])
        zero = self._graph.constant(node.input[2]) if len(node.input) > 2 else None
        if scale is None or zero is None or zero.dtype not in _LARGEST:
            raise NotExactError("its scale or zero point is computed, or not of 8 bits")
        if not is_power_of_two(scale):
            raise NotExactError(
                f"its scale {float(np.ravel(scale)[0]):g} is no power of two: what it rescales is rounded"
            )
        if scale.size > 1 and found.get("axis", 1) != 0:
            raise NotExactError("scales that do not stand for output channels")
        return scale, zero

    def convolve(self, node: NodeProto, _: dict[str, Any]) -> _Known:
        x = self.grid(node.input[0]).merged()
        weight = self.value(node.input[1])
        if not isinstance(weight, _Constant) or weight.values.dtype != np.float32:
            raise NotExactError("its weights are computed")
        rows = weight.values.reshape(weight.values.shape[0], -1).astype(np.float64)
        exponents = weight.exponents
        if exponents is None:
            exponents = Grid.of_constant(weight.values, axis=0).exponent
            wide = max(x.bits, Grid.of_constant(weight.values, axis=0).bits)
            if wide > TF32_BITS:
                raise NotExactError(
                    f"a float convolution of operands of {wide:.1f} bits: TF32 keeps {TF32_BITS}"
                )
        whole = rows * 2.0 ** -exponents[:, None]
        grid = exponents + x.exponent
        bias = self._bias(node, grid)
        # Zeros that pad are values, too.
        low, high = min(0, int(x.low)), max(0, int(x.high))
        sums = np.abs(whole).sum(axis=1) * max(-low, high) + np.abs(bias)
        proof = ConvolutionProof(node.name, tuple(int(s) for s in sums), self._pairs(node, whole))
        self._certificate.convolutions.append(proof)
        self.note(proof.bits)
        if proof.pairs is not None and max(proof.pairs) > PAIR_LIMIT:
            raise NotExactError(
                f"sums of two products reach {max(proof.pairs)}, and saturate at {PAIR_LIMIT}"
            )
        above, below = np.maximum(whole, 0).sum(axis=1), np.minimum(whole, 0).sum(axis=1)
        ends = (above * low + below * high + bias, above * high + below * low + bias)
        return Grid(grid, *(end.astype(np.int64) for end in ends))

    def _bias(self, node: NodeProto, grid: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The bias in steps of the products' grid, by output channel."""
        if len(node.input) < 3 or not node.input[2]:
            return np.zeros(grid.shape)
        bias = self._graph.constant(node.input[2])
        if bias is None:
            raise NotExactError("its bias is computed")
        steps = bias.astype(np.float64) * 2.0**-grid
        if np.any(steps != np.rint(steps)):
            raise NotExactError("its bias is not on the grid of the products: int8 kernels round it")
        return np.asarray(steps, np.float64)

    def _pairs(self, node: NodeProto, whole: npt.NDArray[np.float64]) -> tuple[int, ...] | None:
        before = self._graph.producers.get(node.input[0])
        if before is None or before.op_type != "DequantizeLinear":
            return None
        stored = self.value(before.input[0])
        if not isinstance(stored, _Stored) or stored.kind != np.uint8:
            return None
        two = np.sort(np.abs(whole), axis=1)[:, -2:].sum(axis=1)
        return tuple(int(pair) * stored.high for pair in two)


def _channel_axis(values: npt.NDArray[Any]) -> int | None:
    """Where a constant that is added or multiplied has one entry for each channel of N x C x H x W."""
    if values.ndim in {3, 4} and values.size > 1 and values.size == values.shape[-3]:
        return values.ndim - 3
    return None


_Rule = Callable[[_Prover, NodeProto, dict[str, Any]], _Known]
_RULES: Final[dict[str, _Rule]] = {
    **dict.fromkeys(
        ("DepthToSpace", "Expand", "Flatten", "Identity", "MaxPool", "Reshape", "Slice", "SpaceToDepth", "Squeeze",
         "Transpose", "Unsqueeze"),
        _Prover.keep,
    ),
    "Shape": _Prover.sizes,
    "Cast": _Prover.cast,
    "Concat": _Prover.concat,
    "Gather": _Prover.gather,
    "Add": _Prover.add,
    "Sub": _Prover.add,
    "Mul": _Prover.multiply,
    "Div": _Prover.divide,
    "Relu": _Prover.relu,
    "Clip": _Prover.clip,
    "Round": _Prover.round,
    "AveragePool": _Prover.average,
    "Resize": _Prover.resize,
    "QuantizeLinear": _Prover.quantize,
    "DequantizeLinear": _Prover.dequantize,
    "Conv": _Prover.convolve,
}  # fmt: skip
