"""The backends by name."""

from __future__ import annotations

from typing import Final, NamedTuple


class Entry(NamedTuple):
    """A row of the table.

    Attributes:
        module: in this folder.
        kind: name of the class in it.
        by_name: why `auto` never takes it; empty where it may.
    """

    module: str
    kind: str
    by_name: str = ""


_SLOW_START: Final = "taken by name only: it builds engines for minutes while the first images wait"

BACKENDS: Final[dict[str, Entry]] = {
    # `auto` tries them in this order: the fastest first.
    "tensorrt": Entry("tensorrt.backend", "TensorRt"),
    "tensorrt-rtx": Entry("tensorrt.backend", "TensorRtRtx"),
    "onnxruntime-cuda": Entry("onnxruntime.gpu", "OnnxRuntimeCuda"),
    "onnxruntime-tensorrt": Entry("onnxruntime.gpu", "OnnxRuntimeTensorRt", _SLOW_START),
    "onnxruntime-tensorrt-rtx": Entry("onnxruntime.gpu", "OnnxRuntimeTensorRtRtx", _SLOW_START),
    "onnxruntime-cpu": Entry("onnxruntime.cpu", "OnnxRuntimeCpu"),
    "openvino": Entry("openvino", "OpenVino", "taken by name only: onnxruntime-cpu runs the same graphs"),
}
