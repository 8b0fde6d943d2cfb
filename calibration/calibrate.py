"""Calibration of a bundle: from float graphs and photographs to int8 graphs with a report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..measure import environment
from ..runtime.bundle.folder import REPORT_NAMES, Bundle, require_another, require_free, write_bundle
from ..runtime.bundle.manifest import GraphInfo, GraphName, Manifest
from ..runtime.dependencies import installed
from ..runtime.errors import BundleError, DataError, DependencyError
from .calibrate_graph import Calibrated, calibrate_graph
from .evaluator import FloatNetworks
from .graph import Graph
from .graph_context import Subject, Work
from .images import Photograph, digest, read_photographs
from .integer.decoder import integer_decoder
from .integer.graphs import IntegerGraph
from .options import Options
from .qdq_placement import NothingToQuantizeError
from .report import html
from .report_data import slower, summary
from .targets import FORMS

if TYPE_CHECKING:
    import numpy.typing as npt

FORMAT: Final = "oslic-calibration"
VERSION: Final = 2
REPORT_JSON, REPORT_HTML = REPORT_NAMES

_JUDGED: Final = 8


def fingerprint(manifest: Manifest, graphs: Sequence[bytes]) -> str:
    """SHA-256 of the float fingerprint and of all constants of the graphs: integers, scales, biases.

    Args:
        manifest: of the float bundle.
        graphs: the calibrated graphs, in the order of `Manifest.graph_names`.

    Returns:
        64 hexadecimal digits.
    """
    found = hashlib.sha256(f"{FORMAT} {manifest.fingerprint}".encode())
    for data in graphs:
        graph = Graph.parse(data, "a calibrated graph")
        for name in sorted(tensor.name for tensor in graph.model.graph.initializer):
            values: npt.NDArray[Any] | None = graph.constant(name)
            assert values is not None
            found.update(f"{name} {values.dtype} {values.shape}".encode())
            found.update(np.ascontiguousarray(values).tobytes())
    return found.hexdigest()


def calibrated_info(info: GraphInfo, calibrated: Calibrated) -> GraphInfo:
    """What a manifest says of a graph, from what it said of the float one."""
    digest_ = hashlib.sha256(calibrated.data).hexdigest()
    return replace(info, sha256=digest_, precision="int8" if calibrated.int8 else info.precision)


def calibrate_bundle(
    bundle: Bundle,
    folder: Path,
    options: Options,
    *,
    replace_old: bool,
    evaluate: Callable[[Path], dict[str, Any]] | None = None,
    progress: Callable[[str], Any] = print,
    tick: Callable[[str], Any] = lambda _: None,
) -> dict[str, Any]:
    """Calibrate a bundle and write the quantized one, with its report inside.

    Args:
        bundle: of float graphs.
        folder: where to.
        options: how.
        replace_old: replace a bundle that is already there.
        evaluate: scores the bundle in a folder, for the report; None: none.
        progress: gets lines for the user.
        tick: gets short lines on the progress, many of them.

    Returns:
        The report.

    Raises:
        UsageError: a setting, or the folder.
        DataError: the photographs, or what the graphs make of them.
        BundleError: the bundle is quantized already, or has nothing to quantize.
        DependencyError: ONNX Runtime is missing or too old.
    """
    require_possible(bundle, folder, options, replace_old=replace_old)
    manifest = bundle.manifest
    photographs = read_photographs(options.images, 2 * options.count, manifest.multiple, options.limits)
    networks = FloatNetworks(bundle, options.threads)
    layers = [networks.layers(photograph) for photograph in photographs]
    # Ranges are measured on every other photograph, and judged on the rest.
    work = Work(bundle, layers[::2], (layers[1::2] or layers)[:_JUDGED], options, networks, tick)
    same = "others" if len(layers) > 1 else "(the same)"
    progress(f"ranges on {len(work.seen)} photographs, judged on {len(work.judged)} {same}")
    integer: dict[GraphName, IntegerGraph] = integer_decoder(work) if options.integer else {}
    results = {name: _calibrated(name, work, integer.get(name), progress) for name in manifest.graph_names}
    if not any(result.int8 for result in results.values()):
        raise DataError("no layer is left in int8 within the budget; raise --budget-db or --budget-labels")
    models = {
        name: (result.data, options.weight_limit if result.int8 else None) for name, result in results.items()
    }
    report = {
        **_report_head(manifest, photographs, options),
        "together": work.judge(work.judged).together(models),
        "graphs": {name: result.report for name, result in results.items() if result.report},
        "integer": {name: made.report for name, made in integer.items()},
    }
    stated = quantization(manifest, options, results, report["settings"]["data_sha256"])
    made_manifest = _manifest(manifest, results, integer, stated)
    files = {
        manifest.graphs[name].file: result.data for name, result in results.items()
    } | bundle.read_files()
    write_calibrated(folder, made_manifest, files, report, replace_old=replace_old)
    if evaluate is not None:
        report["evaluation"] = evaluate(folder)
        write_calibrated(folder, made_manifest, files, report, replace_old=True)
    return report


def _calibrated(
    name: GraphName, work: Work, integer: IntegerGraph | None, progress: Callable[[str], Any]
) -> Calibrated:
    """What becomes of one graph: the one of integers, if there is one, an int8 one, or the one that came."""
    if integer is not None:
        progress(_integer_line(name, integer))
        return Calibrated(integer.data, True, {})
    if name not in work.options.graphs:
        return Calibrated(work.bundle.read_graph(name), False, {})
    try:
        made = calibrate_graph(Subject.of(name, work))
    except NothingToQuantizeError as error:
        progress(f"{error}; it is passed on as it came")
        return Calibrated(work.bundle.read_graph(name), False, {})
    progress(summary(name, made.report))
    note = slower(made.report)
    if note is not None:
        progress(f"note: {name}: {note}")
    return made


def _report_head(manifest: Manifest, photographs: list[Photograph], options: Options) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment.describe(),
        "source": manifest.name,
        "settings": {
            "data": [photograph.name for photograph in photographs],
            "target": options.target,
            "data_sha256": digest(photographs),
            "ranges": options.ranges or "auto",
            "weight_bits": options.weight_bits,
            "budget_db": options.budget_db,
            "budget_labels": options.budget_labels,
            "threads": options.threads,
        },
    }


def require_possible(bundle: Bundle, folder: Path, options: Options, *, replace_old: bool) -> None:
    """Refuse what cannot be calibrated before any work.

    Raises:
        UsageError: a setting, or the folder.
        BundleError: the bundle is quantized already.
        DependencyError: ONNX Runtime is missing or too old.
    """
    options.check()
    require_kernels()
    require_free(folder, replace=replace_old)
    require_another(folder, bundle.path, "calibrate", "int8")
    if bundle.manifest.quantization is not None:
        raise BundleError(
            f"{bundle.path} is already quantized; calibrate the float32 bundle that it was made from"
        )


def require_kernels() -> None:
    """Refuse an ONNX Runtime that computes our graphs in float32: no layer would seem to pay.

    Raises:
        DependencyError: it is older than 1.23, or missing.
    """
    found = installed("onnxruntime").get("onnxruntime", "none")
    numbers = [int(part) for part in found.split(".")[:2] if part.isdecimal()]
    if numbers < [1, 23]:
        raise DependencyError(
            "calibration needs ONNX Runtime 1.23 or later, which has int8 kernels for all of its convolutions; here is "
            f"{found}: pip install 'oslic[calibrate]'"
        )


def _manifest(
    manifest: Manifest,
    results: dict[GraphName, Calibrated],
    integer: dict[GraphName, IntegerGraph],
    stated: dict[str, Any],
) -> Manifest:
    """The manifest of the calibrated bundle, from that of the float one."""
    return replace(
        manifest,
        fingerprint=fingerprint(manifest, [results[name].data for name in manifest.graph_names]),
        refinement=_refinement(manifest, results),
        exact=bool(integer) and all(made.certificate.exact for made in integer.values()),
        graphs={name: calibrated_info(manifest.graphs[name], results[name]) for name in manifest.graph_names},
        tools=calibrated_tools(manifest),
        quantization=stated | _certificates(integer),
    )


def calibrated_tools(manifest: Manifest) -> dict[str, str]:
    """Versions of what made a bundle, those that calibrated it included."""
    return {**manifest.tools, **installed("oslic", "onnx", "onnxruntime", "numpy")}


def quantization(
    manifest: Manifest, options: Options, results: Mapping[str, Calibrated], data_sha256: str
) -> dict[str, Any]:
    """What a manifest says of how its graphs were quantized.

    Args:
        manifest: of the float bundle.
        options: how.
        results: the graphs, by name.
        data_sha256: of what ranges were measured on.
    """
    return {
        "scheme": f"{FORMS[options.target]}; weights per output channel, activations per tensor; biases float32",
        "target": options.target,
        "float_fingerprint": manifest.fingerprint,
        "scales": options.rule.name,
        "weight_limit": options.weight_limit,
        "data_sha256": data_sha256,
        **{
            name: f"{sum(layer['decision'] == 'int8' for layer in result.report['layers'])} of "
            f"{len(result.report['layers'])} layers, ranges by {result.report['recipe']['ranges']}"
            for name, result in results.items()
            if result.report
        },
    }


def _certificates(integer: dict[GraphName, IntegerGraph]) -> dict[str, Any]:
    """What the manifest says of graphs of integers."""
    if not integer:
        return {}
    return {"certificate": {name: made.certificate.summary() for name, made in integer.items()}}


def _refinement(manifest: Manifest, results: dict[GraphName, Calibrated]) -> str | None:
    """What defines `refine`: another one where its graph was changed."""
    if manifest.refinement is None or not results["refine"].int8:
        return manifest.refinement
    return fingerprint(replace(manifest, fingerprint=manifest.refinement), [results["refine"].data])


def _integer_line(name: GraphName, made: IntegerGraph) -> str:
    """A line for the user."""
    certificate = made.certificate
    if certificate.exact:
        proved = f"certified: sums up to 2^{certificate.bits:.1f} of 2^24"
    else:
        node, reason = next(iter(certificate.failures.items()))
        proved = f"NOT certified: {node}: {reason}"
    return f"{name}: integers, {made.report['damage']:+.3f} dB lost, {proved}"


def write_calibrated(
    folder: Path,
    manifest: Manifest,
    files: Mapping[str, bytes],
    report: dict[str, Any],
    *,
    replace_old: bool,
) -> None:
    """Write a bundle with its report.

    Args:
        folder: where to.
        manifest: its manifest.
        files: its graphs, and what else lies in it, by file name.
        report: becomes JSON and a page.
        replace_old: replace a bundle that is already there.
    """
    reports = {
        REPORT_JSON: (json.dumps(report, indent=1) + "\n").encode(),
        REPORT_HTML: html(report).encode(),
    }
    write_bundle(folder, manifest, {**files, **reports}, replace=replace_old)
