"""From networks of any kind of codec to a bundle: export, verification on real images, manifest."""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import torch

from ..runtime.bundle.folder import require_free, write_bundle
from ..runtime.bundle.manifest import FileInfo, GraphInfo, Manifest
from ..runtime.dependencies import installed
from ..runtime.errors import VerificationError
from .bundle_checks import PLAIN_PIXELS, read_crops
from .cost import count
from .ir_queries import serialize
from .onnx_export import OPSET, quiet_exporter
from .verify import Difference, Tolerance, compare, for_type, require, run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import numpy.typing as npt

    from ..runtime.limits import Limits
    from .kind_source import KindGraph, KindSource

REFERENCE: Final = (512, 768)
"""Height and width, about, for which multiply-accumulates are counted."""
_MOST: Final = 1 << 14
_FLOAT: Final = Tolerance(atol=1e-3, rtol=1e-3)


def export_kind_graph(graph: KindGraph, multiple: int) -> ir.Model:
    """Export one module with dynamic N, H and W.

    Args:
        graph: the module and its inputs.
        multiple: what sides of pictures are multiples of.

    Raises:
        VerificationError: a dimension became constant.
    """
    batch = torch.export.Dim("N", min=1, max=64)
    h, w = (torch.export.Dim(side, min=1, max=_MOST // multiple) for side in "hw")
    dims = []
    for port in graph.inputs.values():
        factor = multiple // port.scale
        rows, columns = port.axes
        dims.append({0: batch, rows: factor * h, columns: factor * w})
    examples = tuple(port.example(2, 2 * multiple, 3 * multiple) for port in graph.inputs.values())
    with quiet_exporter():
        program = torch.export.export(graph.module, examples, dynamic_shapes=tuple(dims), strict=False)
        found = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(graph.inputs),
            output_names=[graph.output],
            optimize=True,
            verbose=False,
        )
    assert found is not None
    model = found.model
    for value, port in zip(model.graph.inputs, graph.inputs.values(), strict=True):
        assert value.shape is not None
        factor = multiple // port.scale
        for axis, symbol in zip((0, *port.axes), ("N", *_sides(factor)), strict=True):
            if isinstance(value.shape[axis], int):
                raise VerificationError(f"axis {axis} of the input {value.name} became a constant on export")
            value.shape[axis] = symbol
    passes.ClearMetadataAndDocStringPass()(model)
    _convert_first(model.graph)
    return model


def _convert_first(graph: ir.Graph) -> None:
    """Have inputs of 8 bits converted before they are transposed: TensorRT transposes no such tensor."""
    for value in graph.inputs:
        if value.dtype != ir.DataType.UINT8:
            continue
        for transpose in [user for user, _ in value.uses() if user.op_type == "Transpose"]:
            output = transpose.outputs[0]
            casts = [user for user, _ in output.uses()]
            if len(casts) != 1 or casts[0].op_type != "Cast":
                continue
            converted = casts[0].outputs[0]
            ir.convenience.replace_all_uses_with(converted, output, replace_graph_outputs=True)
            casts[0].replace_input_with(0, value)
            transpose.replace_input_with(0, converted)
            output.type, converted.shape = converted.type, value.shape
    graph.sort()


def _sides(factor: int) -> tuple[str, str]:
    return ("h", "w") if factor == 1 else (f"{factor}*h", f"{factor}*w")


def _references(source: KindSource, image: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    """All inputs and outputs of the graphs by PyTorch, by name: each input that is no picture is another's output."""
    values: dict[str, torch.Tensor] = {"image": torch.from_numpy(image)}
    height, width = image.shape[1:3]
    with torch.inference_mode():
        for graph in source.graphs.values():
            for name, port in graph.inputs.items():
                values.setdefault(name, port.example(len(image), height, width))
            values[graph.output] = graph.module(*(values[name] for name in graph.inputs))
    return {name: value.numpy() for name, value in values.items()}


def _working_bytes(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> tuple[float, float]:
    """Multiply-accumulates, and the bytes that live at a time twice over: what ONNX Runtime was measured to take."""
    cost = count(model.graph, shapes, partial=True)
    return cost.macs, 2.0 * cost.peak_bytes


def export_kind(
    source: KindSource,
    folder: Path,
    images: Sequence[Path],
    *,
    replace: bool = False,
    limits: Limits | None = None,
    progress: Callable[[str], Any] = print,
) -> Manifest:
    """Export networks to a bundle.

    Args:
        source: the networks.
        folder: where to.
        images: photographs for the check against PyTorch.
        replace: replace a bundle that is already there.
        limits: on the photographs; None for the defaults.
        progress: gets lines for the user.

    Returns:
        The manifest written.

    Raises:
        VerificationError: a graph does not match PyTorch.
        UsageError: the folder cannot be written.
        ImageError: an image cannot be read.
    """
    require_free(folder, replace=replace)
    batches = [_references(source, crop) for crop in read_crops(list(images), source.multiple, limits)]
    infos: dict[str, GraphInfo] = {}
    files: dict[str, bytes] = {}
    height, width = (-(-side // source.multiple) * source.multiple for side in REFERENCE)
    for name, graph in source.graphs.items():
        start = time.perf_counter()
        model = export_kind_graph(graph, source.multiple)
        data = serialize(model)
        for values in batches:
            progress(f"{name}: against PyTorch: {_checked(name, graph, data, values)}")
        infos[name] = _info(name, graph, model, data, (height, width))
        files[infos[name].file] = data
        macs = infos[name].macs_per_pixel * height * width
        progress(f"{name}: {macs / 1e9:.3f} GMAC at {width}x{height}, {time.perf_counter() - start:.0f} s")
    extra = {
        name: FileInfo(f"{name}.json", hashlib.sha256(data).hexdigest())
        for name, data in source.files.items()
    }
    manifest = Manifest(
        name=source.name,
        multiple=source.multiple,
        fingerprint=source.fingerprint or _fingerprint(source, infos),
        license=source.license,
        graphs=infos,
        kind=source.kind,
        package=source.package,
        settings=dict(source.settings),
        files=extra,
        exact=source.exact,
        provenance=source.provenance,
        tools=installed("oslic", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime"),
    )
    named = {extra[name].file: data for name, data in source.files.items()}
    write_bundle(folder, manifest, files | named, replace=replace)
    return manifest


def _fingerprint(source: KindSource, infos: Mapping[str, GraphInfo]) -> str:
    """Names the networks where their source does not: the graphs count, since what is no weight may differ as well."""
    found = hashlib.sha256(source.identity().encode())
    for name, info in sorted(infos.items()):
        found.update(f"{name} {info.sha256}".encode())
    return found.hexdigest()


def _checked(name: str, graph: KindGraph, data: bytes, values: Mapping[str, npt.NDArray[Any]]) -> Difference:
    """How far an exported graph is from PyTorch on a batch.

    Raises:
        VerificationError: too far.
    """
    reference = values[graph.output]
    tolerance = PLAIN_PIXELS if reference.dtype == np.uint8 else for_type(_FLOAT, reference)
    made = run(data, {port: values[port] for port in graph.inputs})[graph.output]
    difference = compare(graph.output, made, reference, tolerance)
    require([difference], f"the graph {name}", tolerance)
    return difference


def _info(name: str, graph: KindGraph, model: ir.Model, data: bytes, size: tuple[int, int]) -> GraphInfo:
    """What the manifest says of a graph; costs are those of a picture of a height and width."""
    pixels = size[0] * size[1]
    macs, working = _working_bytes(
        model, {port: given.shape(1, *size) for port, given in graph.inputs.items()}
    )
    return GraphInfo(
        file=f"{name}.onnx",
        sha256=hashlib.sha256(data).hexdigest(),
        inputs=tuple(graph.inputs),
        output=graph.output,
        form="naive",
        precision="float32",
        opset=model.graph.opset_imports[""],
        ir_version=model.ir_version,
        macs_per_pixel=macs / pixels,
        working_bytes_per_pixel=round(working / pixels, 1),
        fixed_bytes=2 * len(data),
        parameters=sum(
            v.const_value.size
            for v in model.graph.initializers.values()
            if v.const_value is not None and v.const_value.dtype.is_floating_point()
        ),
        scales={port: given.scale for port, given in graph.inputs.items()},
    )
