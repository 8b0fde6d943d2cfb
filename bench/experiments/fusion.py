"""What fusion is worth: naive, fused, convolve_first and plain-convolution forms of the same networks, interleaved."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import onnx
import onnx_ir as ir
import torch

from ...export.cost import Cost, count
from ...export.form_selection import Fixed
from ...export.fusion import LOWERINGS, Report, check, fuse, fuse_measured, random_inputs
from ...export.ir_queries import serialize
from ...export.onnx_export import OPSET, ports, quiet_exporter
from ...export.verify import Tolerance, require
from ...measure.environment import describe
from ...measure.timing import Settings, Timing, measure, ratio
from ...networks.codec import create
from ...networks.config import ModelConfig, preset
from ...networks.deploy import deployable
from ...runtime.backends.onnxruntime.sessions import require_onnxruntime, session_options
from .roofline import peaks

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ...runtime.bundle.manifest import GraphName

Graph = Literal["analyse", "synthesise"]

FORMAT: Final = "oslic-bench-fusion"
VERSION: Final = 2
FORMS: Final = ("naive", "fused", "convolve_first", "plain")


def twin(config: ModelConfig, form: str) -> ModelConfig:
    """The configuration of a form: `plain` has no low rate, `convolve_first` upsamples behind the convolution."""
    if form == "convolve_first":
        return dataclasses.replace(config, lh_order="convolve_first")
    if form == "plain":
        comnet = dataclasses.replace(config.comnet, label_entry="image")
        return dataclasses.replace(config, alpha=0.0, comnet=comnet)
    return config


def export_static(config: ModelConfig, graph: GraphName, size: tuple[int, int], seed: int) -> ir.Model:
    """One graph with random weights and fixed sizes, by torch's TorchScript exporter.

    Args:
        config: the networks.
        graph: which graph.
        size: height and width of the image, multiples of `config.multiple`.
        seed: of the weights.
    """
    module = deployable(create(config, seed))[graph]
    inputs, output = ports(config.label_scale)[graph]
    examples = tuple(torch.zeros(port.shape(1, *size), dtype=torch.uint8) for port in inputs)
    with tempfile.TemporaryDirectory() as folder, quiet_exporter():
        path = Path(folder) / "graph.onnx"
        torch.onnx.export(
            module,
            examples,
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[port.name for port in inputs],
            output_names=[output.name],
        )
        return ir.from_proto(onnx.load_model(path))


def _feeds(model: ir.Model, levels: int, classes: int) -> dict[str, npt.NDArray[Any]]:
    shapes = {str(v.name): tuple(int(d) for d in v.shape.numpy()) for v in model.graph.inputs if v.shape}
    feeds = random_inputs(model, shapes)
    for name, most in (("compact", levels), ("labels", classes)):
        if name in feeds:
            feeds[name] = feeds[name] % most
    return feeds


def forms_of(
    config: ModelConfig, graph: Graph, size: tuple[int, int], threads: int
) -> tuple[dict[str, ir.Model], Report]:
    """All forms of one graph, and what fusion did to the fused one.

    Raises:
        VerificationError: the fused graph differs from the naive one.
    """
    naive = export_static(config, graph, size, 0)
    fused, report = fuse_measured(naive, threads)
    # Outputs are whole gray levels or levels: a rounding may tip by one.
    tolerance = Tolerance(atol=0, rtol=0, share=2e-3)
    feeds = _feeds(naive, config.levels, len(config.classes))
    report = check(naive, fused, report, [feeds], tolerance)
    require(report.differences, f"the fused {graph} of {config.name}", tolerance)
    models = {"naive": naive, "fused": fused}
    for form in ("convolve_first", "plain"):
        models[form] = export_static(twin(config, form), graph, size, 0)
    # Folding normalizations is every exporter's work, not what is compared.
    lowered = {
        form: fuse(model, lambda _: Fixed(), rules=LOWERINGS)[0] if form != "fused" else model
        for form, model in models.items()
    }
    return lowered, report


def _cost(model: ir.Model) -> Cost:
    shapes = {str(v.name): tuple(int(d) for d in v.shape.numpy()) for v in model.graph.inputs if v.shape}
    return count(model.graph, shapes)


def _runner(model: ir.Model, feeds: dict[str, npt.NDArray[np.uint8]], threads: int) -> Callable[[], None]:
    onnxruntime = require_onnxruntime("measuring graphs")
    options = session_options(onnxruntime, threads)
    data = serialize(model)
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]

    def call() -> None:
        session.run(None, {name: feeds[name] for name in names})

    return call


def bench(
    presets: Sequence[str],
    graphs: Sequence[Graph],
    size: tuple[int, int],
    threads: int,
    *,
    settings: Settings,
    progress: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Compare the forms of some networks.

    Args:
        presets: names of configurations; random weights.
        graphs: which graphs.
        size: height and width of the image.
        threads: threads per run.
        settings: when to stop timing.
        progress: gets lines for the user.

    Returns:
        Plain JSON types: for each network and graph multiply-accumulates, bytes moved, times and ratios; the peaks of
        the machine.
    """
    reached = peaks(threads, settings)
    progress(f"peaks, {threads} threads: {reached['gmacs']:.1f} GMAC/s, {reached['gigabytes']:.1f} GB/s")
    results = []
    for name in presets:
        for graph in graphs:
            config = preset(name)
            models, report = forms_of(config, graph, size, threads)
            costs = {form: _cost(model) for form, model in models.items()}
            feeds = _feeds(models["naive"], config.levels, len(config.classes))
            calls = {form: _runner(model, feeds, threads) for form, model in models.items()}
            timings = measure(calls, settings)
            results.append(_entry(name, graph, costs, timings, report))
            row = results[-1]
            progress(f"{name} {graph} {size[1]}x{size[0]}, {threads} threads")
            for form in models:
                progress(
                    f"  {form:<15} {costs[form].macs / 1e9:7.3f} GMAC  {costs[form].bytes_moved / 1e6:8.1f} MB moved  "
                    f"{1e3 * timings[form].total.median:8.2f} ms"
                )
            progress(f"  {', '.join(f'{key} {value:.3f}' for key, value in row['ratios'].items())}")
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": describe(),
        "size": list(size),
        "threads": threads,
        "peaks": reached,
        "weights": "random",
        "results": results,
    }


def _entry(
    name: str, graph: str, costs: dict[str, Cost], timings: dict[str, Timing], report: Report
) -> dict[str, Any]:
    return {
        "network": name,
        "graph": graph,
        "forms": {
            form: {
                "macs": costs[form].macs,
                "bytes_moved": costs[form].bytes_moved,
                "nodes": sum(costs[form].operators.values()),
                "timing": timings[form].to_json(),
            }
            for form in costs
        },
        # Medians of the ratios of each round's two calls; above 1: the fused form is faster.
        "ratios": {
            f"{form}/fused": ratio(timings[form], timings["fused"]) for form in costs if form != "fused"
        },
        "cpu_ratios": {
            f"{form}/fused": min(timings[form].cpu.samples) / min(timings["fused"].cpu.samples)
            for form in costs
            if form != "fused"
        },
        "fusion": report.to_dict(),
    }


def to_text(result: dict[str, Any]) -> str:
    """The result file's text."""
    return json.dumps(result, indent=1) + "\n"
