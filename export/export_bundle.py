"""From networks to a bundle: export, fusion, verification on real images, manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import onnx_ir as ir
import torch

from ..networks.deploy import Synthesise
from ..runtime.bundle.folder import require_free, write_bundle
from ..runtime.bundle.manifest import SEARCH_FILE, FileInfo, GraphInfo, GraphName, Manifest
from ..runtime.dependencies import installed
from ..runtime.errors import UsageError
from ..runtime.limits import Limits
from .bundle_checks import TOLERANCES, example_inputs, read_crops
from .cost import count
from .form_selection import CostModel, Fixed
from .fusion import LOWERINGS, Report, fuse, fuse_measured
from .ir_queries import serialize
from .memory import GraphMemory, measure
from .onnx_export import OPSET, export_graph, ports
from .search_graph import compacted, search_graph
from .verify import Difference, compare, require, run

if TYPE_CHECKING:
    import numpy.typing as npt

    from .sources import Source

Form = Literal["naive", "fused", "auto"]

REFERENCE: Final = (512, 768)
"""Height and width for which multiply-accumulates are counted and forms are measured."""


@dataclass(frozen=True)
class Exported:
    """One graph of a bundle.

    Attributes:
        model: the graph.
        form: `naive` or `fused`.
        report: what fusion did.
        differences: its output against PyTorch's, one entry per image size.
    """

    model: ir.Model
    form: str
    report: Report
    differences: tuple[Difference, ...]


def _references(source: Source, image: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.uint8]]:
    """All inputs and outputs of the graphs by PyTorch, by name."""
    values = {name: torch.from_numpy(array) for name, array in example_inputs(image).items()}
    with torch.inference_mode():
        for name in source.graph_names:
            inputs, output = ports(source.label_scale)[name]
            values[output.name] = source.graphs[name](*(values[port.name] for port in inputs))
    return {name: value.numpy() for name, value in values.items()}


def build_graph(
    source: Source,
    name: GraphName,
    form: Form,
    batches: Sequence[Mapping[str, npt.NDArray[np.uint8]]],
    threads: int,
) -> Exported:
    """Export, rewrite and verify one graph.

    Args:
        source: the networks.
        name: which graph.
        form: `naive`: octave convolutions as they are written; `fused`: forms by the cost model of ONNX Runtime's
            CPU kernels; `auto`: by measurement on this machine, and naive where that is faster.
        batches: inputs and outputs by PyTorch, by name.
        threads: threads when measuring.

    Raises:
        VerificationError: a dimension became constant, or the output is beyond its tolerance.
    """
    exported = export_graph(source.graphs[name], name, source.label_scale, source.multiple)
    inputs, output = ports(source.label_scale)[name]
    shapes = {port.name: port.shape(1, *REFERENCE) for port in inputs}
    # Lowerings are not a matter of form: without them the graph does not run everywhere.
    naive, report = fuse(exported, lambda _: Fixed(), shapes=shapes, rules=LOWERINGS)
    model, taken = naive, "naive"
    if form != "naive":
        if form == "auto":
            model, report = fuse_measured(naive, threads, shapes=shapes)
        else:
            model, report = fuse(naive, lambda sizes: CostModel("onnxruntime", sizes), shapes=shapes)
        taken = "naive" if report.kept else "fused"
    data = serialize(model)
    differences = []
    for values in batches:
        feeds = {port.name: values[port.name] for port in inputs}
        y = run(data, feeds)[output.name]
        differences.append(compare(output.name, y, values[output.name], TOLERANCES[name]))
    require(differences, f"the graph {name}", TOLERANCES[name])
    return Exported(model, taken, report, tuple(differences))


def graph_info(
    model: ir.Model, name: GraphName, label_scale: int, multiple: int, *, form: str, precision: str
) -> GraphInfo:
    """The manifest's entry of a graph; what it takes of memory is measured.

    Args:
        model: the graph, with the inputs and the output of a bundle's graph.
        name: which graph.
        label_scale: S.
        multiple: what sides must be multiples of.
        form: how octave convolutions are written.
        precision: of the heavy layers.
    """
    inputs, output = ports(label_scale)[name]
    shapes = {port.name: port.shape(1, *REFERENCE) for port in inputs}
    cost = count(model.graph, shapes)
    pixels = REFERENCE[0] * REFERENCE[1]
    data = serialize(model)
    memory = measure(data, name, label_scale, multiple)
    if memory is None:
        # Twice of what lives at a time covered what was measured elsewhere.
        memory = GraphMemory(len(data), 2 * cost.peak_bytes / pixels)
    return GraphInfo(
        file=f"{name}.onnx",
        sha256=hashlib.sha256(data).hexdigest(),
        inputs=tuple(port.name for port in inputs),
        output=output.name,
        form=form,
        precision=precision,
        opset=model.graph.opset_imports[""],
        ir_version=model.ir_version,
        macs_per_pixel=cost.macs / pixels,
        working_bytes_per_pixel=round(memory.per_pixel, 1),
        fixed_bytes=memory.fixed,
        parameters=sum(
            v.const_value.size
            for v in model.graph.initializers.values()
            if v.const_value is not None and v.const_value.dtype.is_floating_point()
        ),
    )


def manifest(source: Source, graphs: Mapping[GraphName, Exported]) -> Manifest:
    """The manifest of a bundle made from a source."""
    return Manifest(
        name=source.name,
        classes=source.classes,
        levels=source.levels,
        label_scale=source.label_scale,
        alpha=source.alpha,
        multiple=source.multiple,
        fingerprint=source.identity(),
        coarseness=tuple(source.coarseness),
        refinement=source.refinement(),
        license=source.license,
        graphs={
            name: graph_info(
                g.model, name, source.label_scale, source.multiple, form=g.form, precision="float32"
            )
            for name, g in graphs.items()
        },
        preview=source.colors(),
        groups=dict(source.groups),
        provenance=source.provenance,
        tools=installed("oslic", "torch", "onnx", "onnx-ir", "onnxscript", "onnxruntime"),
    )


def export_bundle(
    source: Source,
    folder: Path,
    form: Form,
    images: Sequence[Path],
    *,
    threads: int = 1,
    replace: bool = False,
    limits: Limits | None = None,
    search: bool = False,
    progress: Callable[[str], Any] = print,
) -> Manifest:
    """Export networks to a bundle.

    Args:
        source: the networks.
        folder: where to.
        form: see `build_graph`.
        images: photographs for the check against PyTorch.
        threads: threads when measuring.
        replace: replace a bundle that is already there.
        limits: on the photographs; None for the defaults.
        search: add the graph that a search for better compact images asks; see `search_graph`.
        progress: gets lines for the user.

    Returns:
        The manifest written.

    Raises:
        VerificationError: a graph does not match PyTorch.
        UsageError: the folder cannot be written, or a search graph of networks that are not `CodecNetworks`.
        DependencyError: what a search graph needs is not installed.
        ImageError: an image cannot be read.
        LimitError: an image is beyond the limits.
    """
    require_free(folder, replace=replace)
    extra = _search_file(source, progress) if search else {}
    crops = read_crops(list(images), source.multiple, limits)
    batches = [_references(source, batch) for batch in crops]
    graphs: dict[GraphName, Exported] = {}
    for name in source.graph_names:
        graphs[name] = built = build_graph(source, name, form, batches, threads)
        tolerance = TOLERANCES[name]
        progress(
            f"{name}: {built.form}, opset {OPSET}, {sum(built.report.after.operators.values())} nodes, "
            f"{built.report.before.macs / 1e9:.3f} -> {built.report.after.macs / 1e9:.3f} GMAC at 768x512"
        )
        for difference in built.differences:
            progress(
                f"    against PyTorch: {difference} (allowed: {100 * tolerance.share:g} % by at most "
                f"{'any number' if tolerance.limit is None else f'{tolerance.limit:g}'})"
            )
        if built.report.timing:
            progress(f"    {built.report.timing}")
    text = replace_fields(
        manifest(source, graphs),
        files={
            name: FileInfo(f"{name}.onnx", hashlib.sha256(data).hexdigest()) for name, data in extra.items()
        },
    )
    files = {text.graphs[name].file: serialize(g.model) for name, g in graphs.items()}
    files |= {f"{name}.onnx": data for name, data in extra.items()}
    write_bundle(folder, text, files, replace=replace)
    return text


def _search_file(source: Source, progress: Callable[[str], Any]) -> dict[str, bytes]:
    """The search graph by its name in the manifest."""
    synthesise = source.graphs["synthesise"]
    if not isinstance(synthesise, Synthesise):
        raise UsageError("a search graph can be made of a checkpoint or of CodecNetworks only")
    progress("search: tracing the gradients, some minutes")
    made = search_graph(synthesise.gnet, source.label_scale, source.multiple)
    return {SEARCH_FILE: compacted(made)}
