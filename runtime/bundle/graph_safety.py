"""What a graph of a bundle must not hold: anything that makes a runtime open another file, or run an engine.

ONNX Runtime resolves external data against the current directory, and reads it before anything of ours can look. So the
serialized model is walked here first. Only the parts of the ONNX schema that can contain a tensor or a node are
descended into; everything else is skipped by its length. What a protobuf parser could read in two ways is refused.

Field numbers: onnx.proto; wire format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ..errors import BundleError

# For each message, the fields that are messages to descend into.
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse tensor"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {
        5: "tensor",
        6: "graph",
        10: "tensor",
        11: "graph",
        22: "sparse tensor",
        23: "sparse tensor",
    },
    "sparse tensor": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_NODE_OP_TYPE: Final = 4
_TENSOR_EXTERNAL_DATA: Final = 13
_TENSOR_DATA_LOCATION: Final = 14
_ENGINE_NODE: Final = b"EPContext"
"""ONNX Runtime's node for an engine of a provider: a file's name, or the engine itself."""

_VARINT, _FIXED64, WIRE_BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_DEPTH: Final = 100  # as protobuf's own parsers
_MOST_FIELDS: Final = 1 << 22  # a few seconds of walking; a network of 10,000 nodes has some 300,000
_ORT_FORMAT: Final = b"ORTM"
_ORT_FORMAT_AT: Final = slice(4, 8)


class _Message(NamedTuple):
    kind: str
    start: int
    end: int
    depth: int


class UnreadableError(Exception):
    """The bytes are not a message; says why."""


def require_self_contained(data: bytes, where: str) -> None:
    """Refuse a model that refers to other files or holds an engine, before any runtime sees it.

    Args:
        data: a serialized ONNX model.
        where: names it in messages.

    Raises:
        BundleError: it has external data or a node for an engine, or is not a readable ONNX model.
    """
    if data[_ORT_FORMAT_AT] == _ORT_FORMAT:
        raise BundleError(f"{where} is a model in ONNX Runtime's own format; graphs of a bundle are ONNX")
    try:
        found = _find_foreign(data)
    except UnreadableError as error:
        raise BundleError(
            f"{where} is not a readable ONNX model: {error}; export the bundle again"
        ) from error
    if found is not None:
        raise BundleError(f"{where} {found}; a bundle's graph must be complete in itself: export it again")


def _find_foreign(data: bytes) -> str | None:
    """What makes the model depend on other files or run an engine; None if nothing does."""
    waiting = [_Message("model", 0, len(data), 0)]
    fields = 0
    while waiting:
        message = waiting.pop()
        if message.depth > _MOST_DEPTH:
            raise UnreadableError(f"it is nested more than {_MOST_DEPTH} deep")
        children = _CHILDREN[message.kind]
        position = message.start
        while position < message.end:
            fields += 1
            if fields > _MOST_FIELDS:
                raise UnreadableError(f"it has more than {_MOST_FIELDS} fields")
            tag, start = read_varint(data, position, message.end)
            number, wire = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise UnreadableError(f"the field number at byte {position} is {number}")
            position = field_end(data, wire, start, message.end)
            kind = children.get(number)
            if kind is not None:
                if wire != WIRE_BYTES:
                    raise UnreadableError(f"field {number} of a {message.kind} has wire type {wire}")
                _, content = read_varint(data, start, message.end)
                waiting.append(_Message(kind, content, position, message.depth + 1))
            elif message.kind == "tensor" and number == _TENSOR_EXTERNAL_DATA:
                return "has a tensor whose data lie in another file (external data)"
            elif message.kind == "tensor" and number == _TENSOR_DATA_LOCATION:
                if wire != _VARINT or read_varint(data, start, message.end)[0] != 0:
                    return "has a tensor whose data lie in another place (data location)"
            elif (
                message.kind == "node"
                and number == _NODE_OP_TYPE
                and data.endswith(_ENGINE_NODE, start, position)
            ):
                return "has a node that runs an engine (EPContext)"
    return None


def read_varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """A number and the position behind it."""
    if position < end and data[position] < 0x80:  # nearly all of them, of the tens of thousands of a graph
        return data[position], position + 1
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise UnreadableError(f"it ends within a number at byte {position}")
        part = data[position]
        position += 1
        value |= (part & 0x7F) << shift
        if part < 0x80:
            if value >= 1 << 64:
                break
            return value, position
    raise UnreadableError(f"the number before byte {position} is longer than 64 bits")


def field_end(data: bytes, wire: int, start: int, end: int) -> int:
    """The position behind a field's content, which starts at `start`."""
    if wire == _VARINT:
        return read_varint(data, start, end)[1]
    if wire == WIRE_BYTES:
        length, content = read_varint(data, start, end)
        behind = content + length
    elif wire in {_FIXED32, _FIXED64}:
        behind = start + (4 if wire == _FIXED32 else 8)
    else:  # groups, which ONNX does not use, and types that do not exist
        raise UnreadableError(f"the field before byte {start} has wire type {wire}")
    if behind > end:
        raise UnreadableError(f"the field before byte {start} runs {behind - end} bytes over its end")
    return behind
