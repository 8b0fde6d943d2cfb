"""The two peaks of a roofline (Williams, Waterman, Patterson 2009), measured with the engine that runs the networks.

The roof says what a graph of a given intensity could reach at best: its rate is bound by the peak of
multiply-accumulates, or by the peak traffic times its intensity, whichever is lower. Both peaks are measured, not taken
from a data sheet: on a shared machine with a chosen number of threads no data sheet says them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..runtime.backends.sessions import session_options
from .timing import Candidate, Settings, measure

if TYPE_CHECKING:
    import numpy.typing as npt

_MATRIX: Final = 1024
"""Side of the matrices that are multiplied: 4 MiB each, large enough that starting a call costs nothing."""
_ELEMENTS: Final = 16 << 20
"""Of the tensors that are added: 64 MiB each, beyond the caches of a core."""


def _session(
    operator: str, shape: tuple[int, ...], threads: int
) -> tuple[Any, dict[str, npt.NDArray[np.float32]]]:
    """A graph of one operator on two float32 tensors, and their values."""
    import onnxruntime

    one, other, out = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("one", "other", "out")
    )
    node = helper.make_node(operator, ["one", "other"], ["out"])
    graph = helper.make_graph([node], operator, [one, other], [out])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(onnxruntime, threads), providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(0)
    return session, {name: rng.standard_normal(shape, dtype=np.float32) for name in ("one", "other")}


def _bound(operator: str, shape: tuple[int, ...], threads: int) -> Candidate:
    """A call of the operator into memory that is there already: what is new has to be cleared first, page by page."""
    session, feeds = _session(operator, shape, threads)
    out = np.empty(shape, np.float32)
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_cpu_input(name, value)
    binding.bind_output("out", "cpu", 0, np.float32, shape, out.ctypes.data)
    held = (feeds, out)

    def call() -> None:
        session.run_with_iobinding(binding)
        _ = held  # the binding knows only their addresses

    return call


def peaks(threads: int, settings: Settings) -> dict[str, float]:
    """Measure what ONNX Runtime reaches on this CPU with so many threads.

    The fastest call counts: a peak is what the machine can do while nothing else disturbs it.

    Args:
        threads: of ONNX Runtime.
        settings: when to stop timing.

    Returns:
        `gmacs`: 10^9 float32 multiply-accumulates a second, of a product of matrices;
        `gigabytes`: 10^9 bytes read and written a second, of a sum of two tensors beyond the caches.
    """
    timings = measure(
        {
            "multiply": _bound("MatMul", (_MATRIX, _MATRIX), threads),
            "add": _bound("Add", (_ELEMENTS,), threads),
        },
        settings,
    )
    fastest = {name: min(timing.total.samples) for name, timing in timings.items()}
    return {
        "gmacs": _MATRIX**3 / fastest["multiply"] / 1e9,
        "gigabytes": 3 * 4 * _ELEMENTS / fastest["add"] / 1e9,
    }
