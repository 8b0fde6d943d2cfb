"""A graph of a bundle as a model of Triton's Python backend, run by the runtime's own backends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtime.backends import Options, select
from ...runtime.bundle.folder import Bundle
from ...runtime.bundle.manifest import GRAPH_NAMES
from ...runtime.errors import BackendError
from ...runtime.memory import return_freed_arrays
from . import names
from .server_errors import as_triton

if TYPE_CHECKING:
    from collections.abc import Mapping


class GraphModel:
    """Runs one graph; the requests that Triton puts together, all of one shape, as one batch."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Load the graph, which lies in the model's folder beside the bundle's manifest."""
        import triton_python_backend_utils as pb_utils

        return_freed_arrays()
        self._pb = pb_utils
        parameters = {
            name: entry["string_value"]
            for name, entry in json.loads(args["model_config"])["parameters"].items()
        }
        bundle = Bundle.open(Path(args["model_repository"]) / args["model_version"])
        graph = next(name for name in GRAPH_NAMES if name == parameters[names.GRAPH])
        # Tiles of all sizes come for months: what ONNX Runtime keeps for the next one would grow with each new size.
        options = Options(threads=int(parameters[names.THREADS]), keep_memory=False)
        self._info = bundle.manifest.graphs[graph]
        self._runner = select(parameters[names.BACKEND], bundle, options).backend.load(graph)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Run the graph once for all requests; where that fails, all of them get the error."""
        pb_utils = self._pb
        try:
            given = [self._inputs(request) for request in requests]
            counts = [arrays[0].shape[0] for arrays in given]
            output = self._runner(*(np.concatenate(arrays) for arrays in zip(*given, strict=True)))
            parts = np.split(output, np.cumsum(counts)[:-1])
        except Exception as error:  # whatever a batch triggers must not end the server
            return [pb_utils.InferenceResponse(error=as_triton(error, pb_utils)) for _ in requests]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor(self._info.output, np.ascontiguousarray(part))])
            for part in parts
        ]

    def _inputs(self, request: Any) -> list[Any]:
        arrays = []
        for name in self._info.inputs:
            tensor = self._pb.get_input_tensor_by_name(request, name)
            if tensor is None:
                raise BackendError(f"the request has no input {name}")
            arrays.append(tensor.as_numpy())
        return arrays

    def finalize(self) -> None:
        """Give back what the graph holds."""
        self._runner.close()
