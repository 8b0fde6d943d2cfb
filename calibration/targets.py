"""What a quantized graph is written for."""

from __future__ import annotations

from typing import Final, Literal, get_args

Target = Literal["cpu", "tensorrt"]
TARGETS: Final[tuple[Target, ...]] = get_args(Target)

FORMS: Final[dict[Target, str]] = {
    "cpu": "uint8 activations: zero point 128, or 0 and the full range where values are never negative; int8 weights",
    "tensorrt": "int8 activations and weights, symmetric, zero point 0",
}
"""What is written for each, in words."""
