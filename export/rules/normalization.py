"""Batch normalization folded into the convolutions before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..ir_queries import Convolution, constant, label, producer, reject, require_live, require_single_use
from ..symbolic_shapes.inference import is_constant
from .base import Bound, FusionRule
from .resampling import repeat, upsampling

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx_ir as ir


def _affine(node: ir.Node) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Scale and shift of a batch normalization in evaluation mode, each (C,)."""
    name = label(node)
    if node.attributes.get_int("training_mode", 0):
        raise reject(f"{name} is in training mode", node)
    names = ("scale", "shift", "mean", "variance")
    gamma, beta, mean, variance = (
        constant(value, f"the {what} of {name}").astype(np.float64)
        for what, value in zip(names, node.inputs[1:], strict=True)
    )
    scale = gamma / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
    return scale, beta - mean * scale


def _folded(
    op: Any,
    rule: FusionRule,
    found: Convolution,
    scale: npt.NDArray[np.float64],
    shift: npt.NDArray[np.float64] | None,
) -> ir.Value:
    weight = found.weight * scale[:, None, None, None]
    bias = None if found.bias is None else found.bias * scale
    if shift is not None:
        bias = shift if bias is None else bias + shift
    inputs = [found.x, rule.weight(op, weight, found.name, found.dtype)]
    if bias is not None:
        inputs.append(rule.weight(op, bias, f"{found.name}.bias", found.dtype))
    value: ir.Value = op.Conv(*inputs, **dict(found.node.attributes))
    return value


class ScaleAndShift(FusionRule):
    """A batch normalization that was written as a product and a sum, as Keras' exporters do, is one again.

    Only where the other rules can fold it: behind a convolution, or a sum of two that may be upsampled. A common scale
    of all channels is no normalization but a change of units, often of the network's output, which is better done
    where it stands when the convolutions run in half precision.
    """

    title = "scale-and-shift"
    identity = "a * x + b = bn(x)"
    commutes = True

    def pattern(self, op: Any, x: ir.Value, a: ir.Value, b: ir.Value) -> Any:
        return op.Add(op.Mul(x, a, _outputs=["scaled"]), b, _outputs=["shifted"])

    def check(self, bound: Bound) -> None:
        x, scaled, shifted = (bound[name] for name in ("x", "scaled", "shifted"))
        require_live(shifted)
        if not all(is_constant(bound[name]) for name in "ab") or not self._foldable(x):
            raise reject("")  # any other product and sum
        require_single_use(scaled, f"the output of {label(producer(scaled))}")
        self._per_channel(bound)

    def _foldable(self, x: ir.Value) -> bool:
        node = x.producer()
        if node is None:
            return False
        parts = node.inputs if node.op_type == "Add" else (x,)
        return all(part is not None and self._is_convolved(part) for part in parts)

    def _is_convolved(self, part: ir.Value) -> bool:
        node = part.producer()
        if node is not None and node.op_type == "Resize" and node.inputs[0] is not None:
            node = node.inputs[0].producer()
        return node is not None and node.op_type == "Conv"

    def _per_channel(self, bound: Bound) -> list[npt.NDArray[np.float32]]:
        shape = self.context.sizes.shape(bound["x"])
        channels = None if shape is None or len(shape) != 4 else shape[1].known
        name = label(producer(bound["shifted"]))
        if channels is None:
            raise reject(f"the number of channels of {name} is not known", producer(bound["shifted"]))
        operands = [constant(bound[which], f"the operand of {name}") for which in "ab"]
        for values in operands:
            whole = values.reshape((1,) * (4 - values.ndim) + values.shape) if values.ndim <= 4 else values
            if values.dtype != np.float32 or whole.shape not in {(1, 1, 1, 1), (1, channels, 1, 1)}:
                raise reject(
                    f"the operand of {name} is {values.dtype} of the shape {values.shape}, not float32 by channel",
                    producer(bound["shifted"]),
                )
        if operands[0].size != channels:
            raise reject("")  # a change of units
        return [np.ascontiguousarray(np.broadcast_to(values.ravel(), (channels,))) for values in operands]

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        scale, shift = self._per_channel(bound)
        name = label(producer(bound["shifted"]))
        parameters = {
            "scale": scale,
            "shift": shift,
            "mean": np.zeros_like(scale),
            "variance": np.ones_like(scale),
        }
        weights = [self.weight(op, values, f"{name}.{which}") for which, values in parameters.items()]
        value: ir.Value = op.BatchNormalization(bound["x"], *weights, epsilon=0.0)
        return value


class NormalizedConvolution(FusionRule):
    """Batch normalization of a convolution is a convolution."""

    title = "normalized-convolution"
    identity = "bn(A * x) = A' * x + b'"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.BatchNormalization(
            op.Conv(x, _allow_other_inputs=True, _outputs=["conv"]), _allow_other_inputs=True, _outputs=["bn"]
        )

    def check(self, bound: Bound) -> None:
        conv, bn = (bound[name] for name in ("conv", "bn"))
        require_live(bn)
        found = Convolution.read(producer(conv))
        require_single_use(conv, f"the output of {found.name}")
        _affine(producer(bn))

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        conv, bn = (bound[name] for name in ("conv", "bn"))
        return _folded(op, self, Convolution.read(producer(conv)), *_affine(producer(bn)))


class NormalizedSum(FusionRule):
    """Batch normalization of a sum of convolutions: the scale into both, the shift once."""

    title = "normalized-sum"
    identity = "bn(A * a + B * b) = A' * a + B' * b + b'"

    def pattern(self, op: Any, a: ir.Value, b: ir.Value) -> Any:
        total = op.Add(
            op.Conv(a, _allow_other_inputs=True, _outputs=["left"]),
            op.Conv(b, _allow_other_inputs=True, _outputs=["right"]),
            _outputs=["total"],
        )
        return op.BatchNormalization(total, _allow_other_inputs=True, _outputs=["bn"])

    def check(self, bound: Bound) -> None:
        left, right, total, bn = (bound[name] for name in ("left", "right", "total", "bn"))
        require_live(bn)
        require_single_use(total, "the sum before the normalization")
        for value in (left, right):
            require_single_use(value, f"the output of {Convolution.read(producer(value)).name}")
        self.require_same_size(left, right)
        _affine(producer(bn))

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        left, right, bn = (bound[name] for name in ("left", "right", "bn"))
        scale, shift = _affine(producer(bn))
        value: ir.Value = op.Add(
            _folded(op, self, Convolution.read(producer(left)), scale, shift),
            _folded(op, self, Convolution.read(producer(right)), scale, None),
        )
        return value


class NormalizationBehindUpsampling(FusionRule):
    """Batch normalization works on each pixel: before the upsampling it works on a quarter of them."""

    title = "normalization-behind-upsampling"
    identity = "bn(up(l)) = up(bn(l))"

    def pattern(self, op: Any, x: ir.Value) -> Any:
        return op.BatchNormalization(
            op.Resize(x, _allow_other_inputs=True, _outputs=["up"]), _allow_other_inputs=True, _outputs=["bn"]
        )

    def check(self, bound: Bound) -> None:
        up, bn = (bound[name] for name in ("up", "bn"))
        require_live(bn)
        require_single_use(up, f"the output of {label(producer(up))}")
        upsampling(self, up)
        _affine(producer(bn))

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        x, up, bn = (bound[name] for name in ("x", "up", "bn"))
        node = producer(bn)
        low = op.BatchNormalization(x, *node.inputs[1:], **dict(node.attributes))
        return repeat(op, self, low, upsampling(self, up).factors)


class NormalizedUpsampledSum(FusionRule):
    """`NormalizedSum` where one convolution is upsampled behind: Chen et al.'s order of the low-to-high path.

    By whatever factor, nearest or linear: a resampling passes factors by channel.
    """

    title = "normalized-upsampled-sum"
    identity = "bn(A * h + up(B * l)) = A' * h + up(B' * l) + b'"
    commutes = True

    def pattern(self, op: Any, a: ir.Value, b: ir.Value) -> Any:
        low = op.Conv(b, _allow_other_inputs=True, _outputs=["right"])
        total = op.Add(
            op.Conv(a, _allow_other_inputs=True, _outputs=["left"]),
            op.Resize(low, _allow_other_inputs=True, _outputs=["up"]),
            _outputs=["total"],
        )
        return op.BatchNormalization(total, _allow_other_inputs=True, _outputs=["bn"])

    def check(self, bound: Bound) -> None:
        left, right, up, total, bn = (bound[name] for name in ("left", "right", "up", "total", "bn"))
        require_live(bn)
        require_single_use(total, "the sum before the normalization")
        require_single_use(up, "the upsampled summand")
        for value in (left, right):
            require_single_use(value, f"the output of {Convolution.read(producer(value)).name}")
        node = producer(up)
        modes = [
            node.attributes.get_string("mode", "nearest"),
            node.attributes.get_string("coordinate_transformation_mode", "half_pixel"),
        ]
        if modes[0] not in {"nearest", "linear", "cubic"} or modes[1] == "tf_crop_and_resize":
            raise reject(
                f"{label(node)} resamples by {modes[0]} and {modes[1]}, which may not be linear", node
            )
        self.require_same_size(left, up)
        _affine(producer(bn))

    def rewrite(self, op: Any, bound: Bound) -> ir.Value:
        left, right, up, bn = (bound[name] for name in ("left", "right", "up", "bn"))
        scale, shift = _affine(producer(bn))
        low = _folded(op, self, Convolution.read(producer(right)), scale, None)
        value: ir.Value = op.Add(
            _folded(op, self, Convolution.read(producer(left)), scale, shift),
            op.Resize(low, *producer(up).inputs[1:], **dict(producer(up).attributes)),
        )
        return value
