"""What ONNX Runtime really runs: the kernel of every node of the optimized graph, and its time."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from .graph import Graph
from .ort_session import Session

if TYPE_CHECKING:
    import numpy.typing as npt

INT8_CONVOLUTION: Final = "QLinearConv"
# What the optimizer and the profiler append to a node's name.
_APPENDED: Final = re.compile(r"(_nchwc|_token_\d+|_fused)+$")
_CONVOLUTIONS: Final = frozenset({"Conv", "FusedConv", "ConvTranspose", INT8_CONVOLUTION})


@dataclass(frozen=True)
class Kernel:
    """One node of the optimized graph.

    Attributes:
        node: name of the node of the graph as it was loaded.
        operator: of the kernel.
        seconds: the fastest run's.
    """

    node: str
    operator: str
    seconds: float


def profile(
    data: bytes,
    feeds: Mapping[str, npt.NDArray[Any]],
    *,
    where: str,
    threads: int,
    runs: int,
    weight_limit: int | None,
) -> list[Kernel]:
    """Run a graph and read the profile.

    Args:
        data: the serialized model.
        feeds: inputs by name.
        where: names the graph in messages.
        threads: threads per run.
        runs: how often it runs.
        weight_limit: see `open_session`.
    """
    session = Session(data, threads, where=where, weight_limit=weight_limit)
    return [
        Kernel(_APPENDED.sub("", layer.name), layer.operator, layer.milliseconds * 1e-3)
        for layer in session.layer_times(feeds, runs)
    ]


def seconds_of(kernels: Sequence[Kernel], graph: Graph, names: Iterable[str]) -> float:
    """Seconds of some nodes of the loaded graph; names that it does not have count nothing.

    Kernels in ONNX Runtime's blocked layout are named by their output, or by that of the ReLU that they include.
    """
    aliases = set(names)
    for node in graph.nodes:
        if node.name in aliases:
            aliases.add(node.output[0])
            readers = graph.readers.get(node.output[0], [])
            if len(readers) == 1 and readers[0].op_type in {"Relu", "Clip"}:
                aliases.add(readers[0].output[0])
    return sum(k.seconds for k in kernels if k.node in aliases and k.operator in _CONVOLUTIONS)


def not_int8(kernels: Sequence[Kernel], convolutions: frozenset[str]) -> list[str]:
    """Those of the convolutions that do not run in int8."""
    int8 = {kernel.node for kernel in kernels if kernel.operator == INT8_CONVOLUTION}
    return sorted(convolutions - int8)
