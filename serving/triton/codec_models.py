"""The two models that clients call: image files to `.oslic` streams and back, the networks as models of their own.

These classes run inside Triton's Python backend (business logic scripting). An instance works on one request at a time,
with its tiles and its coders on several threads; several instances are several processes.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ...runtime.bundle.folder import Bundle
from ...runtime.codec import Codec
from ...runtime.errors import BackendError, ImageError, StreamError, VerificationError
from ...runtime.image.files import decode_image
from ...runtime.limits import Limits, available_memory
from ...runtime.memory import return_freed_arrays
from . import names
from .parameters import decode_request, encode_request
from .served_graphs import ServedGraphs
from .server_errors import as_triton, of_model

if TYPE_CHECKING:
    from collections.abc import Mapping


class _CodecModel(ABC):
    """What both models have in common: the interface of Triton's Python backend."""

    source: ClassVar[str]
    """Name of the input."""
    result: ClassVar[str]
    """Name of the output."""

    def initialize(self, args: Mapping[str, str]) -> None:
        """Open the codec; the bundle's manifest lies in the model's folder."""
        import triton_python_backend_utils as pb_utils

        return_freed_arrays()
        self._pb = pb_utils
        config = json.loads(args["model_config"])
        self._parameters = {name: entry["string_value"] for name, entry in config["parameters"].items()}
        bundle = Bundle.open(Path(args["model_repository"]) / args["model_version"])
        prefix = self._parameters[names.PREFIX]
        graphs = ServedGraphs(bundle, lambda graph: names.model_name(prefix, graph), self._call)
        self._codec = Codec(graphs, self._limits(config))

    def _limits(self, config: Mapping[str, Any]) -> Limits:
        """Of each instance: without `--max-memory` they share half of what is free, with those of the other model."""
        pixels = int(self._parameters[names.MAX_PIXELS])
        memory = self._parameters[names.MAX_MEMORY]
        if memory:
            return Limits(pixels, memory=int(memory))
        instances = sum(int(group["count"]) for group in config["instance_group"])
        return Limits(pixels, memory=available_memory() // 2 // (2 * instances))

    def _call(self, model: str, inputs: Mapping[str, Any], output: str) -> Any:
        """Call a model of this server: see `served_graphs.Call`."""
        pb_utils = self._pb
        tensors = [pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in inputs.items()]
        request = pb_utils.InferenceRequest(
            model_name=model,
            requested_output_names=[output],
            inputs=tensors,
            preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0),
        )
        response = request.exec()
        if response.has_error():
            raise of_model(model, response.error().message())
        tensor = pb_utils.get_output_tensor_by_name(response, output)
        if tensor is None or not tensor.is_cpu():
            raise BackendError(f"the model {model} gave no output {output} in host memory")
        # What the response holds is shared memory, which goes with it.
        return np.array(tensor.as_numpy())

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer requests, one after the other; each gets its own error."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        pb_utils = self._pb
        try:
            data = pb_utils.get_input_tensor_by_name(request, self.source).as_numpy().ravel()[0]
            result, info = self.work(data, json.loads(request.parameters() or "{}"))
        except Exception as error:  # whatever one request triggers must not end the server
            return pb_utils.InferenceResponse(error=as_triton(error, pb_utils))
        tensors = [
            pb_utils.Tensor(name, np.array([[value]], object))
            for name, value in ((self.result, result), (names.INFO, json.dumps(info).encode()))
        ]
        return pb_utils.InferenceResponse(tensors)

    @abstractmethod
    def work(self, data: bytes, parameters: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """Work on one request.

        Args:
            data: the input.
            parameters: of the request.

        Returns:
            The output, and what there is to say of it.
        """

    def finalize(self) -> None:
        """Give back what the codec holds."""
        self._codec.close()


class EncodeModel(_CodecModel):
    """An image file in, an `.oslic` file out."""

    source = names.IMAGE
    result = names.STREAM

    def work(self, data: bytes, parameters: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """Compress an image file; see `parameters.encode_request`."""
        tile = self._parameters[names.TILE]
        request = encode_request(parameters, int(tile) if tile else None)
        codec = self._codec
        if len(data) > codec.limits.image_bytes:
            raise ImageError(f"the image has more than {codec.limits.image_bytes} bytes")
        picture = decode_image(data, codec.limits, "the image", use=codec.encoding)
        encoded = codec.encode(picture.pixels, replace(request, metadata=picture.metadata))
        height, width = picture.pixels.shape[:2]
        return encoded.data, {
            "width": width,
            "height": height,
            "bytes": len(encoded.data),
            "quality": encoded.quality,
            "notes": list(picture.notes),
        }


class DecodeModel(_CodecModel):
    """An `.oslic` file in, an image file out."""

    source = names.STREAM
    result = names.IMAGE

    def work(self, data: bytes, parameters: Mapping[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """Decompress a stream; see `parameters.decode_request`."""
        request, codec = decode_request(parameters), self._codec
        if len(data) > codec.limits.stream_bytes:
            raise StreamError(f"the stream has more than {codec.limits.stream_bytes} bytes")
        decoded = codec.decode(data, region=request.region)
        if decoded.drift is not None and (request.strict or decoded.is_wrong):
            raise VerificationError(decoded.drift)
        image = request.writer.encode(decoded.image, decoded.metadata, "the image")
        height, width = decoded.image.shape[:2]
        return image, {
            "width": width,
            "height": height,
            "bytes": len(image),
            "digest_matches": decoded.digest_matches,
        }
