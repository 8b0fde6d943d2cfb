"""One section of `oslic bench gpu`, in a process of its own: a crash, a hang or a full memory loses no other.

    python -m oslic.bench.gpu.worker SPEC.json OUT.json

The result is written again after each step, so that what was measured before the time ran out is kept.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from ...measure import environment
from ...measure.timing import Settings, Timing, measure, ratio
from ...runtime.backends import probe, probe_all
from ...runtime.backends.cuda import bindings as cuda
from ...runtime.backends.cuda import driver as cuda_driver
from ...runtime.bundle.folder import Bundle, default_bundle
from ...runtime.errors import DependencyError, OslicError, one_line
from ...runtime.files import write_atomically

if TYPE_CHECKING:
    from ...export.engines import Precision
    from ...runtime.model.source import Model
    from .engine_candidates import Candidate, Source
    from .layer_profile import LayerTime

WITH_GRAPHS: Final = " + graphs"
"""Behind a candidate's name: its runs are recorded as a CUDA graph."""

# Share of a section's time for making candidates ready; the rest is for measuring those that are.
_PREPARING: Final = 0.8

CUT: Final = "the section's time ran out before it was ready"
"""Why a form was left out that another run of the section may reach: what was built is kept."""

INT8_FORMS: Final[tuple[Precision, ...]] = ("int8-fp16", "int8")
"""In what a quantized graph can be built; see `oslic build --precision`."""

# Layers named one by one.
_SLOWEST: Final = 20

# Of a reason why something was left out.
_LONGEST: Final = 500

Write = Callable[[dict[str, Any]], None]

AS_IT_IS: Final = "int8"
"""The precision in which correctness is judged where the shipped bundle has graphs of integers: its own."""


def machine(_: dict[str, Any], write: Write) -> None:
    """Which GPUs, products and providers are here."""
    found, reason = cuda_driver.gpus()
    result: dict[str, Any] = {
        "environment": environment.describe(),
        "gpus": [{"name": gpu.name, "capability": gpu.capability} for gpu in found],
        "no_gpu": reason,
        "cuda_package": cuda.package(),
    }
    write(result)
    result["backends"] = {
        name: {"usable": a.usable, "version": a.version, "reason": a.reason}
        for name, a in probe_all().items()
    }
    write(result)
    import torch

    result["torch"] = {
        "version": torch.__version__,
        "cuda": torch.cuda.is_available(),
        "built_for": torch.version.cuda,
    }
    write(result)


def is_quantized(model: Model) -> bool:
    """Whether a graph is one of integers."""
    return "QuantizeLinear" in model.header.operators


def correctness(spec: dict[str, Any], write: Write) -> None:
    """One backend's outputs against the CPU's, on the shipped bundle."""
    from ...export.bundle_checks import samples
    from ...export.engines import Options, Profile, build_engine, profiles_of
    from ...runtime.bundle.engine_files import FOLDER
    from ...runtime.model.source import open_source
    from ..agreement.outputs import make_sides, pictures_for, run, tolerances

    backend, precision = spec["backend"], spec["precision"]
    found = probe(backend)
    if not found.usable:
        raise DependencyError(found.reason)
    folder = Path(spec["work"]) / "bundle"
    if not folder.is_dir():
        part = folder.with_name("bundle.part")  # a section may be stopped at any time
        shutil.rmtree(part, ignore_errors=True)
        shutil.copytree(default_bundle(), part).rename(folder)
    bundle = Bundle.open(folder)
    side = spec["side"]
    result: dict[str, Any] = {"backend": backend, "precision": precision}
    if backend in {"tensorrt", "tensorrt-rtx"}:
        profile = Profile((1, 32, 32), (1, side, side), (1, side, side))
        start = time.perf_counter()
        for model in open_source(folder).models:
            shapes = profiles_of(model, sizes=[profile], bundle=bundle)
            options = Options(optimization_level=1)
            # Of a bundle with graphs of integers the others are in single precision.
            own: Precision = "fp32" if precision == AS_IT_IS and not is_quantized(model) else precision
            build_engine(model, backend, own, shapes, folder / FOLDER, options=options)
        result["build_seconds"] = time.perf_counter() - start
        write(result)
    images = samples() or [_picture(Path(spec["work"]), side)]
    names = ["onnxruntime-cpu", backend if precision == AS_IT_IS else f"{backend}@{precision}"]
    one, other = make_sides(names, open_source(folder), None, None)
    compared = run(one, other, pictures_for(bundle, images[:2], side), tolerances(one, other, {}))
    result |= {key: compared[key] for key in ("sides", "inputs", "outputs", "end_to_end", "tolerances", "ok")}
    write(result)


def _picture(folder: Path, side: int) -> Path:
    """A smooth picture with some noise, for installations without the repository's photographs."""
    from PIL import Image

    rows, columns = np.mgrid[0:side, 0:side] / side
    waves = np.stack([rows, columns, np.sin(9 * rows * columns) / 2 + 0.5], axis=2)
    noise = np.random.default_rng(0).normal(0, 6, waves.shape)
    path = folder / "picture.png"
    Image.fromarray(np.clip(waves * 255 + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def latency(spec: dict[str, Any], write: Write) -> None:
    """All forms of one network on one engine, with and without CUDA graphs, interleaved."""
    from . import network_candidates as candidates

    begin = time.perf_counter()
    work = candidates.Work(
        spec["network"], spec["graph"], spec["height"], spec["width"], spec["precision"], spec["device"]
    )
    candidates.require_engine(spec["engine"], work.device)
    result: dict[str, Any] = {
        "network": work.network,
        "graph": work.graph,
        "size": [work.height, work.width],
        "precision": work.precision,
        "engine": spec["engine"],
        "device": work.device,
    }

    def make(form: str, *, cuda_graphs: bool) -> Candidate:
        folder, level = Path(spec["work"]), spec["level"]
        return candidates.make(work, spec["engine"], form, folder, cuda_graphs=cuda_graphs, level=level)

    with_graphs = (False, True) if work.device == "cuda" else (False,)
    makers = {
        form + WITH_GRAPHS * graphs: functools.partial(make, form, cuda_graphs=graphs)
        for form in work.forms()
        for graphs in with_graphs
    }
    ready, timings = _interleaved(spec, makers, begin, result, write)
    same = {
        name: candidate
        for name, candidate in ready.items()
        if name.removesuffix(WITH_GRAPHS) in candidates.SAME_NUMBERS
    }
    if "naive" in same:
        result["agreement"] = candidates.agreement(same, "naive")
    result["ratios"] = {
        f"fused{suffix}": {"best_form": best, **{f"{form}/fused": value for form, value in ratios.items()}}
        for suffix, (best, ratios) in _fastest(timings, candidates.FUSED, candidates.UNFUSED).items()
    }
    write(result)


def int8(spec: dict[str, Any], write: Write) -> None:
    """One graph in FP16 and in INT8 on one engine, interleaved; where INT8 is slower, the layers that hold it back."""
    from ...export.engines import Options
    from .engine_candidates import engine_candidate, require_product
    from .layer_profile import layer_times

    begin = time.perf_counter()
    product, graph, folder = spec["engine"], spec["graph"], Path(spec["work"])
    require_product(product)
    result: dict[str, Any] = {
        "network": Bundle.open(spec["float"]).manifest.name,
        "graph": graph,
        "size": [spec["height"], spec["width"]],
        "precision": "int8",
        "engine": product,
    }
    # Layers are told of in the engines that are timed: what is told does not change them.
    options = Options(optimization_level=spec["level"], layers=True)

    @functools.cache
    def source(precision: Precision) -> Source:
        return _int8_source(spec, precision)

    def make(precision: Precision, *, cuda_graphs: bool) -> Candidate:
        return engine_candidate(product, source(precision), folder, options, cuda_graphs=cuda_graphs)

    makers = {
        precision + WITH_GRAPHS * graphs: functools.partial(make, precision, cuda_graphs=graphs)
        for precision in ("fp16", *INT8_FORMS)
        for graphs in (False, True)
    }
    _, timings = _interleaved(spec, makers, begin, result, write)
    result["speedup"] = {
        f"fp16/int8{suffix}": {"best_form": best, "ratio": ratios["fp16"]}
        for suffix, (best, ratios) in _fastest(timings, INT8_FORMS, ("fp16",)).items()
        if ratios
    }
    write(result)
    if result["speedup"]:
        # The graphs' launches count as they are used: recorded, where that can be done.
        taken = list(result["speedup"].values())[-1]["best_form"].removesuffix(WITH_GRAPHS)
        try:
            before, after = (layer_times(product, source(p), folder, options) for p in ("fp16", taken))
        except Exception as error:  # whatever the product: what was timed stands
            result["left_out"]["layers"] = one_line(error, _LONGEST)
        else:
            result["layers"] = {"before": "fp16", "after": taken, **_beside(before, after)}
        write(result)


def _int8_source(spec: dict[str, Any], precision: Precision) -> Source:
    """The graph in a precision, with inputs: of the float bundle for FP16, else of the int8 one."""
    from ...export.engines import prepare
    from .engine_candidates import Source, random_pixels

    bundle = Bundle.open(spec["float"] if precision == "fp16" else spec["int8"])
    manifest, graph = bundle.manifest, spec["graph"]
    feeds = random_pixels(
        graph,
        spec["height"],
        spec["width"],
        label_scale=manifest.label_scale,
        classes=len(manifest.classes),
        levels=manifest.levels,
    )
    name = f"{manifest.fingerprint[:16]}-{graph}-{spec['width']}x{spec['height']}-{precision}"
    data = prepare(bundle.read_graph(graph), precision)
    return Source(name, graph, data, precision, feeds, manifest.graphs[graph].output)


def _beside(before: list[LayerTime], after: list[LayerTime]) -> dict[str, Any]:
    """The layers of two engines of one graph by convolution, and the slowest of the second."""
    from .layer_profile import by_convolution

    slowest = sorted(after, key=lambda layer: -layer.milliseconds)[:_SLOWEST]
    return {
        "by_convolution": by_convolution(before, after),
        "slowest": [{"layer": layer.name, "ms": layer.milliseconds} for layer in slowest],
    }


def held_back(layers: dict[str, Any]) -> list[tuple[str, float, float]]:
    """What takes longer in INT8 than in FP16, as `int8` measured it: its convolutions, milliseconds before and after.

    The most first; without convolutions: conversions between types and layouts, and all else.
    """
    return [
        (" + ".join(row["convolutions"]) or "conversions and all else", row["before_ms"], row["after_ms"])
        for row in layers["by_convolution"]
        if row["after_ms"] > row["before_ms"]
    ]


def _fastest(
    timings: Mapping[str, Timing], ours: Iterable[str], others: Iterable[str]
) -> dict[str, tuple[str, dict[str, float]]]:
    """The fastest of some forms, and how many times as long others take; for each way of launching, by its suffix."""
    found = {}
    for suffix in ("", WITH_GRAPHS):
        made = [form + suffix for form in ours if form + suffix in timings]
        if made:
            best = min(made, key=lambda name: timings[name].total.median)
            ratios = {
                form: ratio(timings[form + suffix], timings[best])
                for form in others
                if form + suffix in timings
            }
            found[suffix] = (best, ratios)
    return found


def _interleaved(
    spec: dict[str, Any],
    makers: Mapping[str, Callable[[], Candidate]],
    begin: float,
    result: dict[str, Any],
    write: Write,
) -> tuple[dict[str, Candidate], dict[str, Timing]]:
    """Make candidates ready, as many as the section's time allows, and time them in turn.

    Args:
        spec: of the section.
        makers: candidates by name, by weight.
        begin: when the section began, by `time.perf_counter`.
        result: gets what was measured, what was left out and why, and the state of the GPUs before and after.
        write: is called after each step.

    Returns:
        The candidates that are ready, and their timings.
    """
    result |= {"gpus_before": environment.gpus(), "preparing_seconds": {}, "left_out": {}, "notes": {}}
    ready: dict[str, Candidate] = {}
    for name, make in makers.items():
        # As long as the longest so far: one that is cut off would take what is ready with it.
        longest = max(result["preparing_seconds"].values(), default=0.0)
        if ready and time.perf_counter() - begin + longest > _PREPARING * spec["limit"]:
            result["left_out"][name] = CUT
            continue
        start = time.perf_counter()
        try:
            ready[name] = make()
            ready[name].run()
            result["notes"][name] = ready[name].notes
        except Exception as error:  # whatever library failed: the other forms are measured all the same
            ready.pop(name, None)
            result["left_out"][name] = one_line(error, _LONGEST)
        result["preparing_seconds"][name] = round(time.perf_counter() - start, 3)
        write(result)
    if not ready:
        return {}, {}
    left = max(1.0, spec["limit"] - (time.perf_counter() - begin) - 5)
    rule = Settings(
        min_samples=spec["samples"], min_seconds=spec["seconds"], timeout=min(left, spec["measuring"])
    )
    timings = measure({name: candidate.run for name, candidate in ready.items()}, rule)
    result["timings"] = {name: timing.to_json() for name, timing in timings.items()}
    result["gpus_after"] = environment.gpus()
    write(result)
    return ready, timings


KINDS: Final = {"machine": machine, "correctness": correctness, "latency": latency, "int8": int8}


def main(arguments: list[str]) -> int:
    """Run the section that the file `arguments[0]` describes; write its result to `arguments[1]`."""
    spec = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    target = Path(arguments[1])

    def write(result: dict[str, Any]) -> None:
        write_atomically(target, json.dumps(result).encode())

    try:
        KINDS[cast("str", spec["kind"])](spec, write)
    except OslicError as error:
        kind = "" if isinstance(error, DependencyError) else f"{type(error).__name__}: "
        print(f"{kind}{error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stderr.flush()
    # Everything is written: libraries that crash when they are unloaded must not make a failure of it.
    os._exit(code)
