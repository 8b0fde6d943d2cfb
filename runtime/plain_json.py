"""JSON from files that nobody vouches for: parsed into plain values, within bounds that every reader can rely on.

And numbers that JSON does not have, for what is written.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

from .errors import OslicError, one_line

MOST_DEPTH: Final = 32
_MOST_WHOLE: Final = 1 << 63
_MOST_DIGITS: Final = 20
_SURROGATES: Final = range(0xD800, 0xE000)


def parse_object(text: str | bytes, where: str, error: type[OslicError]) -> dict[str, Any]:
    """Parse a JSON object.

    Args:
        text: the text; bytes must be UTF-8.
        where: names it in messages.
        error: the class of the error that is raised.

    Returns:
        The object. All numbers in it are finite, whole ones below 2**63 in magnitude; strings hold neither NUL nor lone
        surrogates; no name stands twice in an object; nothing is nested more than `MOST_DEPTH` deep.

    Raises:
        OslicError: of the class `error`: it is something else.
    """
    try:
        decoded = text.decode("utf-8") if isinstance(text, bytes) else text
        value = json.loads(
            decoded, parse_int=_whole, parse_float=_finite, parse_constant=_finite, object_pairs_hook=_unique
        )
        _check(value)
    except RecursionError:
        raise error(f"{where} is nested more than {MOST_DEPTH} deep") from None
    except UnicodeDecodeError as problem:
        raise error(f"{where} is not UTF-8 text: {one_line(problem, 200)}") from problem
    except ValueError as problem:
        raise error(f"{where} is not JSON that can be read: {one_line(problem, 200)}") from problem
    if not isinstance(value, dict):
        raise error(f"{where} is not a JSON object")
    return value


def with_nulls(value: Any) -> Any:
    """Plain JSON types with null for numbers that JSON does not have.

    A score may be of nothing, and a damage without bound.
    """
    if isinstance(value, dict):
        return {key: with_nulls(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [with_nulls(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _whole(digits: str) -> int:
    value = int(digits) if len(digits) <= _MOST_DIGITS else _MOST_WHOLE
    if abs(value) >= _MOST_WHOLE:
        raise ValueError(f"the number {digits[:_MOST_DIGITS]}... is too large")
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:_MOST_DIGITS]} is not finite")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice in an object")
    return found


def _check(value: Any) -> None:
    """Raise ValueError for what `json` takes and `parse_object` does not promise."""
    waiting = [(value, 1)]
    while waiting:
        part, depth = waiting.pop()
        if isinstance(part, str):
            if any(code == 0 or code in _SURROGATES for code in map(ord, part)):
                raise ValueError(f"the text {part[:40]!r} holds a NUL or a lone surrogate")
        elif isinstance(part, list | dict):
            if depth > MOST_DEPTH:
                raise ValueError(f"it is nested more than {MOST_DEPTH} deep")
            inner = part if isinstance(part, list) else (*part, *part.values())
            waiting += [(entry, depth + 1) for entry in inner]
