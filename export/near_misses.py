"""Convolutions that read an upsampled image in a way that no rule knows, and why not."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import Final

import onnx_ir as ir

from .ir_queries import label
from .rules.elementwise import BINARY, UNARY
from .rules.functions import PIXELWISE

_CONVOLUTIONS: Final = frozenset({"Conv", "ConvTranspose"})
_LONGEST: Final = 6
_MIXING: Final = frozenset({"Add", "Sub", "Sum", "Mul", "Div", "Max", "Min", "Concat"})
# What an image passes through as an image; nothing behind other operators is looked at.
_IMAGES: Final = (
    UNARY
    | BINARY
    | PIXELWISE
    | {
        "AveragePool", "Concat", "DepthToSpace", "Dropout", "GlobalAveragePool", "Identity", "LayerNormalization",
        "MaxPool", "Pad", "ReduceMean", "Slice", "Split", "Sum", "Transpose",
    }
)  # fmt: skip


def unknown_places(graph: ir.Graph, known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Names of convolutions that read an upsampled image through other nodes, and what stands between.

    Args:
        graph: a graph that the rules have left.
        known: names of nodes of which rules have said why they do not apply, or that they chose what stands.
    """
    for resize in graph:
        if resize.op_type != "Resize" or resize.domain not in {"", "ai.onnx"} or label(resize) in known:
            continue
        for conv, path in _convolutions_behind(resize):
            reason = _reason(resize, path)
            if label(conv) not in known and reason is not None:
                yield label(conv), reason


def _convolutions_behind(resize: ir.Node) -> Iterator[tuple[ir.Node, tuple[ir.Node, ...]]]:
    """The convolutions that read a node's output through a few nodes, and these nodes."""
    waiting: deque[tuple[ir.Value, tuple[ir.Node, ...]]] = deque([(resize.outputs[0], ())])
    seen: set[ir.Node] = set()
    while waiting:
        value, path = waiting.popleft()
        for use in value.uses():
            node = use.node
            if node in seen or node.graph is not resize.graph:
                continue
            seen.add(node)
            if node.op_type in _CONVOLUTIONS and use.idx == 0 and path:
                yield node, path
            elif node.op_type in _IMAGES and len(path) < _LONGEST:
                waiting += [(output, (*path, node)) for output in node.outputs]


def _reason(resize: ir.Node, path: tuple[ir.Node, ...]) -> str | None:
    """Why no rule takes the convolution before the upsampling; None for what does not resemble one."""
    mode = resize.attributes.get_string("mode", "nearest")
    names = " and ".join(f"{label(node)} ({node.op_type})" for node in path)
    if mode != "nearest":
        # Through more than functions of a pixel it would be no pattern, were it nearest.
        plain = all(node.op_type in UNARY | PIXELWISE | {"Concat"} for node in path)
        return f"{label(resize)} before {names} is {mode}, not nearest" if plain else None
    other = next((node for node in path if node.op_type not in UNARY | BINARY | PIXELWISE), None)
    if other is None or other.op_type in _MIXING - {"Concat"}:
        mixed = next((node for node in path if node.op_type in _MIXING), None)
        if mixed is None:
            return None
        return (
            f"{label(mixed)} ({mixed.op_type}) mixes the upsampled image of {label(resize)} with another one: two "
            "convolutions would multiply more than one does"
        )
    if [node.op_type for node in path] in (["Concat"], ["Concat", "Pad"]):
        return None  # the rule of concatenations says why
    if other.op_type in {"Concat", "Pad"}:
        return (
            f"{names} stand between {label(resize)} and the convolution; only a concatenation, a padding, a "
            "concatenation and then a padding, or element-wise functions before these, can be moved"
        )
    return None


__all__ = ["unknown_places"]
