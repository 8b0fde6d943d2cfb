"""`config.pbtxt`: the configuration of a model, in protobuf's text format.

The fields are those of Triton's `model_config.proto`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Literal:
    """A word that stands without quotes: the name of a value of an enumeration."""

    name: str


def text_of(message: Mapping[str, Any]) -> str:
    """A message in text format.

    Args:
        message: field -> str, int, bool, `Literal`, a mapping (a message), or a list of these.
    """
    return "".join(f"{line}\n" for line in _lines(message))


def _lines(message: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for name, value in message.items():
        if isinstance(value, list) and all(isinstance(entry, int) for entry in value):
            lines.append(f"{name}: [{', '.join(map(str, value))}]")
            continue
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, Mapping):
                lines += [f"{name} {{", *(f"  {line}" for line in _lines(entry)), "}"]
            else:
                lines.append(f"{name}: {_scalar(entry)}")
    return lines


def _scalar(value: Any) -> str:
    if isinstance(value, Literal):
        return value.name
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return json.dumps(value)  # protobuf's escapes are those of C: JSON's are among them, in ASCII


def tensor(name: str, kind: str, dims: list[int]) -> dict[str, Any]:
    """An input or an output.

    Args:
        name: of the tensor.
        kind: its data type, such as `UINT8`.
        dims: without the axis of the batch; -1: any.
    """
    return {"name": name, "data_type": Literal(f"TYPE_{kind}"), "dims": dims}


def parameters(values: Mapping[str, str]) -> list[dict[str, Any]]:
    """The model's own parameters."""
    return [{"key": name, "value": {"string_value": value}} for name, value in values.items()]
