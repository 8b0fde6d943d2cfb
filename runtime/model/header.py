"""What an ONNX file says of itself, read without the `onnx` package: inputs, outputs, operators, weights.

Field numbers: onnx.proto. The walk reads names, types and shapes only; weights are skipped by their length.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..bundle.graph_safety import WIRE_BYTES, UnreadableError, field_end, read_varint
from ..errors import UsageError

# TensorProto.DataType, by number: NumPy's names where it has the type.
_DTYPES: Final = (
    "undefined", "float32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "float16",
    "float64", "uint32", "uint64", "complex64", "complex128", "bfloat16", "float8e4m3fn", "float8e4m3fnuz",
    "float8e5m2", "float8e5m2fnuz", "uint4", "int4", "float4e2m1",
)  # fmt: skip
_NUMPY: Final = frozenset(
    {"bool", "float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"}
)  # fmt: skip
_EXTERNAL: Final = 1

NO_TENSOR: Final = "no tensor"
"""Element type of a port that is a sequence, a map, or optional."""
_SUBGRAPHS: Final = {6: False, 11: True}

Dimension = int | str | None
"""A size, its symbolic name, a range of sizes (`64..512`), or None where the graph says nothing."""
Span = tuple[int, int]


@dataclass(frozen=True)
class Port:
    """An input or output of a graph.

    Attributes:
        name: as the graph has it.
        dtype: NumPy's name of the element type (`float32`), or ONNX's where NumPy has none (`bfloat16`).
        shape: its dimensions; None: the graph does not state the rank.
    """

    name: str
    dtype: str
    shape: tuple[Dimension, ...] | None = None

    @property
    def numpy(self) -> np.dtype[Any]:
        """The element type.

        Raises:
            UsageError: NumPy has no such type.
        """
        if self.dtype not in _NUMPY:
            raise UsageError(f"{self.name} is {self.dtype}, which NumPy arrays cannot hold")
        return np.dtype(self.dtype)

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether the dimensions fit; symbolic ones take any size from 1 on, ranges what is inside."""
        return self.shape is None or (len(shape) == len(self.shape) and all(map(_fits, shape, self.shape)))

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {shape_text(self.shape)}"


def _fits(size: int, own: Dimension) -> bool:
    if isinstance(own, int):
        return size == own
    ends = bounds(own)
    return size > 0 if ends is None else ends[0] <= size <= ends[1]


def bounds(own: Dimension) -> tuple[int, int] | None:
    """The ends of a dimension that is a range, `64..512`, as engines have it; None for all others."""
    low, separator, high = own.partition("..") if isinstance(own, str) else ("", "", "")
    return (int(low), int(high)) if separator and low.isdecimal() and high.isdecimal() else None


def shape_text(shape: Sequence[Dimension] | None) -> str:
    """`1x3xHxW`; `?` stands for a dimension without a name, `scalar` for none at all."""
    if shape is None:
        return "of unstated rank"
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


@dataclass(frozen=True)
class Header:
    """What a graph states.

    Attributes:
        ir_version: ONNX IR version.
        opsets: operator set versions by domain; the empty name is ONNX's own.
        producer: what wrote the file.
        inputs: without initializers.
        outputs: in order.
        operators: number of nodes by operator, those of subgraphs included.
        parameters: number of weights by element type.
        external: files beside the graph that hold weights, as the graph names them.
    """

    ir_version: int
    opsets: dict[str, int]
    producer: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    operators: dict[str, int]
    parameters: dict[str, int]
    external: tuple[str, ...] = ()

    @property
    def quantized(self) -> bool:
        """Whether it holds quantization nodes or integer kernels."""
        return any(kind.startswith(("QLinear", "Quantize", "Dequantize")) for kind in self.operators)


@dataclass
class _Found:
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)
    operators: Counter[str] = field(default_factory=Counter)
    parameters: Counter[str] = field(default_factory=Counter)
    initializers: set[str] = field(default_factory=set)
    external: dict[str, None] = field(default_factory=dict)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def fields(self, span: Span) -> Iterator[tuple[int, int | Span]]:
        """Number and value of each field; messages, strings and bytes as their place."""
        position, end = span
        while position < end:
            tag, start = read_varint(self._data, position, end)
            wire = tag & 7
            position = field_end(self._data, wire, start, end)
            if wire == WIRE_BYTES:
                _, content = read_varint(self._data, start, end)
                yield tag >> 3, (content, position)
            elif wire == 0:
                yield tag >> 3, read_varint(self._data, start, end)[0]

    def text(self, place: int | Span) -> str:
        start, end = self.span(place)
        return self._data[start:end].decode("utf-8", "replace")

    @staticmethod
    def span(place: int | Span) -> Span:
        if isinstance(place, int):
            raise UnreadableError("a field that must be a message is a number")
        return place

    def one(self, span: Span, number: int) -> int | Span | None:
        """The last field of that number."""
        return next((v for n, v in reversed(list(self.fields(span))) if n == number), None)

    def numbers(self, span: Span, number: int) -> list[int]:
        """A repeated field of numbers, packed or not."""
        found: list[int] = []
        for n, value in self.fields(span):
            if n != number:
                continue
            if isinstance(value, int):
                found.append(value)
                continue
            position, end = value
            while position < end:
                one, position = read_varint(self._data, position, end)
                found.append(one)
        return found

    def port(self, span: Span) -> Port:
        name, kind = self.one(span, 1), self.one(span, 2)
        tensor = None if kind is None else self.one(self.span(kind), 1)
        label = "" if name is None else self.text(name)
        if tensor is None:
            return Port(label, "undefined" if kind is None else NO_TENSOR)
        element, shape = self.one(self.span(tensor), 1), self.one(self.span(tensor), 2)
        dims = (
            None
            if shape is None
            else tuple(self._dimension(v) for n, v in self.fields(self.span(shape)) if n == 1)
        )
        return Port(label, _dtype(element if isinstance(element, int) else 0), dims)

    def _dimension(self, place: int | Span) -> Dimension:
        span = self.span(place)
        value, name = self.one(span, 1), self.one(span, 2)
        if isinstance(value, int) and 0 <= value < 1 << 63:
            return value
        return self.text(name) or None if name is not None else None

    def tensor(self, span: Span, found: _Found) -> None:
        kind, name = self.one(span, 2), self.one(span, 8)
        if name is not None:
            found.initializers.add(self.text(name))
        found.parameters[_dtype(kind if isinstance(kind, int) else 0)] += math.prod(self.numbers(span, 1))
        if self.one(span, 14) == _EXTERNAL:
            for number, entry in self.fields(span):
                if number == 13:
                    key, value = self.one(self.span(entry), 1), self.one(self.span(entry), 2)
                    if key is not None and value is not None and self.text(key) == "location":
                        found.external[self.text(value)] = None

    def graph(self, span: Span, found: _Found, *, top: bool) -> None:
        for number, place in self.fields(span):
            if number == 1:
                self.node(self.span(place), found)
            elif number == 5:
                self.tensor(self.span(place), found)
            elif top and number == 11:
                found.inputs.append(self.port(self.span(place)))
            elif top and number == 12:
                found.outputs.append(self.port(self.span(place)))

    def node(self, span: Span, found: _Found) -> None:
        kind = self.one(span, 4)
        found.operators["" if kind is None else self.text(kind)] += 1
        for number, place in self.fields(span):
            if number != 5:
                continue
            for inner, value in self.fields(self.span(place)):
                if inner in _SUBGRAPHS:
                    self.graph(self.span(value), found, top=False)
                elif inner in {5, 10}:
                    self.tensor(self.span(value), found)


def _dtype(number: int) -> str:
    return _DTYPES[number] if number < len(_DTYPES) else f"type {number}"


def read_header(data: bytes, path: Path | str) -> Header:
    """Read what a serialized ONNX model states.

    Args:
        data: the file's bytes.
        path: names it in messages.

    Raises:
        UsageError: it is no ONNX graph, or one without outputs.
    """
    reader = _Reader(data)
    found = _Found()
    ir_version, producer, opsets, seen = 0, "", dict[str, int](), False
    try:
        for number, place in reader.fields((0, len(data))):
            if number == 1 and isinstance(place, int):
                ir_version = place
            elif number == 2:
                producer = reader.text(place)
            elif number == 7:
                seen = True
                reader.graph(reader.span(place), found, top=True)
            elif number == 8:
                domain, version = reader.one(reader.span(place), 1), reader.one(reader.span(place), 2)
                opsets["" if domain is None else reader.text(domain)] = (
                    version if isinstance(version, int) else 0
                )
    except (UnreadableError, RecursionError) as error:
        raise UsageError(f"{path} is not an ONNX graph: {error}") from error
    if not seen or not ir_version:
        raise UsageError(f"{path} is not an ONNX graph: it holds no graph with an IR version")
    if not found.outputs:
        raise UsageError(f"the graph {path} has no outputs: there is nothing to compute; export it again")
    return Header(
        ir_version,
        opsets,
        producer,
        tuple(port for port in found.inputs if port.name not in found.initializers),
        tuple(found.outputs),
        dict(found.operators.most_common()),
        dict(found.parameters.most_common()),
        tuple(found.external),
    )
