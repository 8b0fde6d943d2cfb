"""What several sections write in the same way."""

from __future__ import annotations

from typing import Any


def faster(ratios: dict[str, Any]) -> str:
    """How much faster fused octave convolutions are than others, in words."""
    others = {"naive": "the naive graph", "plain": "plain convolutions of equal width"}
    return " and ".join(
        f"{ratios[f'{form}/fused']:.2f}x as fast as {what}"
        for form, what in others.items()
        if f"{form}/fused" in ratios
    )


def median_of(timing: dict[str, Any]) -> float:
    """Median of a candidate's wall-clock time in milliseconds."""
    return float(timing["wall"]["total"]["p50_ms"])


def digits(ratio: float | None) -> str:
    """A ratio with as many digits as it is worth; `-` where there is none."""
    return "-" if ratio is None else f"{ratio:.2f}"


def decibel(value: float | None) -> str:
    """Decibels with two digits; `-` where there are none."""
    return "-" if value is None else f"{value:.2f}"
