"""Types of numeric arguments, for the commands of every room: what is out of range is said before the work begins."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

_Number = TypeVar("_Number", int, float)


def at_least(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return a type of argument: a whole number that is neither below `least` nor above `most`."""

    def whole(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{value} is below {least}")
        if most is not None and value > most:
            raise argparse.ArgumentTypeError(f"{value} is above {most}")
        return value

    return whole


def several(number: Callable[[str], _Number]) -> Callable[[str], tuple[_Number, ...]]:
    """Return a type of argument: numbers of the given type with commas between them."""

    def numbers(text: str) -> tuple[_Number, ...]:
        return tuple(number(part) for part in text.split(","))

    return numbers


def positive(text: str) -> float:
    """A type of argument: a finite number above 0."""
    value = _finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def not_negative(text: str) -> float:
    """A type of argument: a finite number, 0 or above."""
    value = _finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return value


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def width_by_height(text: str) -> tuple[int, int]:
    """A type of argument: the size of an image in pixels, such as 768x512, as (width, height)."""
    width, _, height = text.partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) > 0 and int(height) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT in pixels, such as 768x512")
    return int(width), int(height)
