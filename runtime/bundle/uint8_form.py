"""Quantized graphs, as far as the runtime knows them: the zero points of activations, and the uint8 form.

A graph quantized for TensorRT holds symmetric int8 Q/DQ pairs with zero point 0. Kernels for CPUs want something
else: on x86 they multiply *unsigned* activations with signed weights, and leave out a ReLU before a Q only if the
zero point is the smallest value. ONNX Runtime converts int8 pairs itself, but not the pairs of a value with several
readers, whose convolutions then silently run in float32.

Every Q/DQ pair of activations therefore takes its zero point from one of two initializers. `oslic calibrate --target
cpu` writes them as uint8:

* values of either sign: zero point 128;
* values that are never negative: zero point 0, with a scale for which 255 is the end of the range: the clip of a ReLU
  or ReLU6 is that of the integers.

`--target tensorrt` writes both as int8 0. Such a graph runs on a CPU all the same: changing these two scalars turns
it into a uint8 form when it is loaded. The values of either sign are the same numbers then; those that are never
negative, too, up to q = 127; beyond, where int8 would be clipped, uint8 is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import BundleError

if TYPE_CHECKING:
    from .manifest import GraphName, Manifest

SIGNED_ZERO_POINT: Final = "activation.signed.zero_point"
"""Name of the scalar that all Q/DQ pairs of values of either sign share: int8 0 or uint8 128."""
UNSIGNED_ZERO_POINT: Final = "activation.unsigned.zero_point"
"""Name of the scalar that all Q/DQ pairs of values that are never negative share: int8 or uint8 0."""

EXACT_WEIGHT_LIMIT: Final = 64
"""Largest magnitude of int8 weights for which 16-bit sums of two products with uint8 do not saturate: 255 * 2 * 64."""

UINT8_ZERO_POINTS: Final = {SIGNED_ZERO_POINT: 128, UNSIGNED_ZERO_POINT: 0}
"""What they are in the uint8 form."""
_ONNX_UINT8: Final = 2
_ONNX_INT8: Final = 3


def _scalar(name: str, kind: int, value: int) -> bytes:
    """An ONNX TensorProto of one byte: data_type (field 2), name (field 8), raw_data (field 9)."""
    text = name.encode()
    return bytes([0x10, kind, 0x42, len(text)]) + text + bytes([0x4A, 1, value])


def uint8_activations(data: bytes, where: str) -> bytes:
    """Return the uint8 form of a quantized graph; one that is in it already stays as it is.

    Args:
        data: a serialized ONNX model with the two shared zero points; one that no pair uses may be missing.
        where: names the graph in messages.

    Raises:
        BundleError: it has none of them, or one of them twice.
    """
    found = 0
    for name, zero in UINT8_ZERO_POINTS.items():
        old, new = _scalar(name, _ONNX_INT8, 0), _scalar(name, _ONNX_UINT8, zero)
        times = data.count(old) + data.count(new)
        if times > 1:
            raise BundleError(
                f"{where} holds the zero point {name} {times} times; calibrate the bundle again"
            )
        found += times
        data = data.replace(old, new)
    if not found:
        raise BundleError(
            f"{where} is said to be int8, but has no zero points of `oslic calibrate`; calibrate the bundle again"
        )
    return data


def weight_limit(manifest: Manifest, graph: GraphName) -> int | None:
    """Largest magnitude of a graph's int8 weights; None if the graph is not quantized."""
    if manifest.graphs[graph].precision != "int8":
        return None
    limit: int = (manifest.quantization or {}).get("weight_limit", 127)
    return limit
