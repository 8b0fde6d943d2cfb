"""Calibration of a bundle of any kind of codec: each graph on what it is given while photographs are coded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..runtime.bundle.folder import Bundle
from ..runtime.errors import DataError, UsageError
from ..runtime.image.arrays import psnr
from ..runtime.kinds.opening import open_codec
from ..runtime.kinds.recording import record
from ..runtime.kinds.registry import entropy_graphs
from ..runtime.model.source import model_of
from .any_graph import Goal, calibrate_model, report_head
from .calibrate import (
    calibrated_info,
    calibrated_tools,
    fingerprint,
    quantization,
    require_possible,
    write_calibrated,
)
from .calibrate_graph import Calibrated
from .images import Photograph, digest, read_photographs
from .options import Options

_BACKEND: Final = "onnxruntime-cpu"
_JUDGED: Final = 8


def calibrate_kind_bundle(
    bundle: Bundle,
    folder: Path,
    options: Options,
    goal: Goal,
    graphs: Sequence[str] | None = None,
    *,
    replace_old: bool,
    progress: Callable[[str], Any] = print,
    tick: Callable[[str], Any] = lambda _: None,
) -> dict[str, Any]:
    """Calibrate the graphs of a bundle one by one, and write the quantized bundle with its report inside.

    Args:
        bundle: of any kind but `oslic`, with float graphs.
        folder: where to.
        options: how.
        goal: what each graph is held to.
        graphs: names of those to quantize; None: all but those whose outputs decide how symbols are coded.
        replace_old: replace a bundle that is already there.
        progress: gets lines for the user.
        tick: gets short lines on the progress, many of them.

    Returns:
        The report; `together` has bytes and PSNR of some photographs with the bundle as it came and as it is now.

    Raises:
        UsageError: a setting, or the folder.
        DataError: the photographs, or what the graphs make of them; or no layer is left in int8.
        BundleError: the bundle is quantized already, or its kind is not installed.
        DependencyError: ONNX Runtime is missing or too old.
    """
    require_possible(bundle, folder, options, replace_old=replace_old)
    manifest = bundle.manifest
    chosen = _chosen(bundle, graphs)
    photographs = read_photographs(options.images, 2 * options.count, manifest.multiple, options.limits)
    samples = record(bundle, ((p.name, p.pixels) for p in photographs), options.threads)
    made: dict[str, Calibrated] = {}
    for name in manifest.graphs:
        model = model_of(bundle, name)
        if name in chosen and name not in samples:
            progress(f"{name}: no photograph needed it; it is passed on as it came")
        if name not in chosen or name not in samples:
            made[name] = Calibrated(model.data, False, {})
            continue
        data, tried = calibrate_model(
            model, samples[name], options, goal, alone=False, progress=progress, tick=tick
        )
        made[name] = Calibrated(data, data != model.data, tried["graphs"].get(name, {}))
    if not any(graph.int8 for graph in made.values()):
        raise DataError("no layer of any graph is left in int8; allow more with --min-sqnr, or exclude less")
    names = [photograph.name for photograph in photographs]
    report = {
        **report_head(manifest.name, names, digest(photographs), options, goal),
        "graphs": {name: graph.report for name, graph in made.items() if graph.report},
    }
    files = {manifest.graphs[name].file: graph.data for name, graph in made.items()} | bundle.read_files()
    new = replace(
        manifest,
        fingerprint=fingerprint(manifest, [made[name].data for name in manifest.graphs]),
        graphs={name: calibrated_info(manifest.graphs[name], made[name]) for name in manifest.graphs},
        tools=calibrated_tools(manifest),
        quantization=quantization(manifest, options, made, report["settings"]["data_sha256"]),
    )
    write_calibrated(folder, new, files, report, replace_old=replace_old)
    judged = (photographs[1::2] or photographs)[:_JUDGED]
    report["together"] = {
        when: _coded(each, judged, options)
        for when, each in (("before", bundle), ("after", Bundle.open(folder)))
    }
    write_calibrated(folder, new, files, report, replace_old=True)
    return report


def _chosen(bundle: Bundle, graphs: Sequence[str] | None) -> set[str]:
    fixed, known = set(entropy_graphs(bundle)), set(bundle.manifest.graphs)
    if graphs is None:
        return known - fixed
    unknown, forbidden = sorted(set(graphs) - known), sorted(set(graphs) & fixed)
    if unknown:
        raise UsageError(f"--graphs {unknown[0]}: the bundle has {', '.join(sorted(known))}")
    if forbidden:
        raise UsageError(
            f"--graphs {forbidden[0]}: how symbols are coded follows from what it computes, so it stays as it is"
        )
    return set(graphs)


def _coded(bundle: Bundle, photographs: Sequence[Photograph], options: Options) -> dict[str, float]:
    """Mean bits per pixel and PSNR of photographs."""
    rates, scores = [], []
    with open_codec(bundle, _BACKEND, threads=options.threads, limits=options.limits) as codec:
        for photograph in photographs:
            data = codec.encode(photograph.pixels).data
            height, width = photograph.pixels.shape[:2]
            rates.append(8 * len(data) / (height * width))
            scores.append(psnr(photograph.pixels, codec.decode(data).image))
    return {"bpp": float(np.mean(rates)), "psnr_db": float(np.mean(scores))}
