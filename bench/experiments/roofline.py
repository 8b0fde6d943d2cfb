"""The two peaks of a roofline (Williams, Waterman, Patterson 2009), measured with the engine that runs the networks.

The roof says what a graph of a given intensity could reach at best: its rate is bound by the peak of
multiply-accumulates, or by the peak traffic times its intensity, whichever is lower. Both peaks are measured, not taken
from a data sheet: on a shared machine with a chosen number of threads no data sheet says them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from onnx import TensorProto, helper

from ...measure.timing import Candidate, Settings, measure
from ...runtime.backends.onnxruntime.sessions import require_onnxruntime, session_options

_MATRIX: Final = 1024
"""Side of the matrices that are multiplied: 4 MiB each, large enough that starting a call costs nothing."""
_ELEMENTS: Final = 16 << 20
"""Of the tensors that are added: 64 MiB each, beyond the caches of a core."""


def _call(operator: str, shape: tuple[int, ...], threads: int) -> Candidate:
    """One operator on two float32 tensors, into memory that is there already: new pages are cleared first."""
    onnxruntime = require_onnxruntime("measuring the roof")
    names = ("one", "other", "out")
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names]
    node = helper.make_node(operator, names[:2], names[2:])
    graph = helper.make_graph([node], operator, ports[:2], ports[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), session_options(onnxruntime, threads), providers=["CPUExecutionProvider"]
    )
    binding = session.io_binding()
    rng = np.random.default_rng(0)
    one, other, out = (onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, np.float32) for _ in names)
    for name, value in (("one", one), ("other", other)):
        value.update_inplace(rng.standard_normal(shape, dtype=np.float32))
        binding.bind_ortvalue_input(name, value)
    binding.bind_ortvalue_output("out", out)
    return lambda: session.run_with_iobinding(binding)


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
            "multiply": _call("MatMul", (_MATRIX, _MATRIX), threads),
            "add": _call("Add", (_ELEMENTS,), threads),
        },
        settings,
    )
    fastest = {name: min(timing.total.samples) for name, timing in timings.items()}
    return {
        "gmacs": _MATRIX**3 / fastest["multiply"] / 1e9,
        "gigabytes": 3 * 4 * _ELEMENTS / fastest["add"] / 1e9,
    }
