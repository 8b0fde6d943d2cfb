"""Latency of any ONNX graphs and engines on any backends, interleaved in one run, with the times of their layers."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ...measure import environment
from ...measure.timing import Candidate, Settings, StageTimes, Timing, measure, ratio
from ...runtime.backends.base import LayerTime
from ...runtime.bundle.finder import told_as
from ...runtime.errors import BackendError, VerificationError
from ...runtime.files import write_atomically
from ...runtime.model.feeds import Feeds
from ...runtime.model.running import Loaded
from ..agreement.outputs import Side

if TYPE_CHECKING:
    from ...runtime.model.header import Port

FORMAT: Final = "oslic-bench-graphs"
VERSION: Final = 1
_PROFILED: Final = 10
"""Runs that layer times are taken of."""
_SHOWN: Final = 12
"""Layers that are printed of each candidate, the slowest first; the result file has all."""

FeedsFor = Callable[[str, Sequence["Port"], Side], Feeds]


@dataclass(frozen=True)
class Subject:
    """One graph or engine on one backend.

    Attributes:
        name: in the results.
        side: what runs it.
        graph: name of the graph on that side.
    """

    name: str
    side: Side
    graph: str


def subjects_of(sides: Sequence[Side]) -> list[Subject]:
    """All graphs of all sides under names that tell them apart.

    A graph is named after its file, those of a bundle after the folder, too, and after the backend where there are
    several.
    """
    several = len({side.label for side in sides if side.source.engine is None}) > 1
    found: list[Subject] = []
    taken: dict[str, int] = {}
    for side in sides:
        path = side.source.path
        graphs = [model.name for model in side.models] or [path.stem]
        for graph in graphs:
            name = f"{path.name}/{graph}" if side.source.bundle is not None else path.stem
            if several and side.source.engine is None:
                name = f"{name}@{side.label}"
            taken[name] = taken.get(name, 0) + 1
            found.append(Subject(name if taken[name] == 1 else f"{name}#{taken[name]}", side, graph))
    return found


def _candidate(loaded: Loaded, feeds: Feeds) -> Candidate:
    def run() -> StageTimes | None:
        loaded.run(feeds)
        device = loaded.runner.device_milliseconds
        return None if device is None else StageTimes({"device": device / 1e3})

    return run


def run(subjects: Sequence[Subject], feeds_for: FeedsFor, rule: Settings, *, profile: bool) -> dict[str, Any]:
    """Load all, measure them interleaved, and time their layers.

    Args:
        subjects: what to measure; the others are related to the first.
        feeds_for: the arrays of one, by its name and inputs.
        rule: when to stop.
        profile: whether to time the layers, where the product tells.

    Returns:
        The result, ready for JSON.

    Raises:
        UsageError: inputs that do not fit.
        BackendError: one cannot be loaded or run.
    """
    with contextlib.ExitStack() as stack:
        loaded: dict[str, Loaded] = {}
        feeds: dict[str, Feeds] = {}
        loads: dict[str, float] = {}
        for subject in subjects:
            models = subject.side.models
            if models:
                # Wrong inputs are said before the backend takes its time to load the graph.
                model = subject.side.model(subject.graph)
                feeds[subject.name] = feeds_for(subject.name, model.inputs, subject.side)
            start = time.perf_counter()
            loaded[subject.name] = stack.enter_context(contextlib.closing(subject.side.load(subject.graph)))
            loads[subject.name] = time.perf_counter() - start
            if not models:
                feeds[subject.name] = feeds_for(subject.name, loaded[subject.name].inputs, subject.side)
        before = environment.describe()
        timings = measure({name: _candidate(one, feeds[name]) for name, one in loaded.items()}, rule)
        layers = {name: _layers(one, feeds[name]) for name, one in loaded.items()} if profile else {}
    first = subjects[0].name
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": before,
        "load_average_after": environment.describe()["load_average"],
        "settings": {"rule": asdict(rule), "threads": subjects[0].side.options.threads},
        "candidates": {s.name: _facts(s, feeds[s.name]) | {"load_ms": loads[s.name] * 1e3} for s in subjects},
        "timings": {name: timing.to_json() for name, timing in timings.items()},
        "ratios": {n: ratio(t, timings[first]) for n, t in timings.items() if n != first},
        "layers": layers,
    }


def _facts(subject: Subject, feeds: Feeds) -> dict[str, Any]:
    side = subject.side
    found: dict[str, Any] = {
        "source": told_as(side.source.path),
        "graph": subject.graph,
        "backend": side.backend,
        "precision": side.precision,
        "inputs": {name: {"dtype": str(x.dtype), "shape": list(x.shape)} for name, x in feeds.items()},
    }
    if side.models:
        found["sha256"] = side.model(subject.graph).file_sha256
    return found


def _layers(loaded: Loaded, feeds: Feeds) -> dict[str, Any]:
    try:
        found = loaded.runner.layer_times(feeds, _PROFILED)
    except BackendError as error:
        return {"missing": str(error), "times": []}
    ordered = sorted(found, key=lambda layer: layer.milliseconds, reverse=True)
    return {"times": [asdict(layer) for layer in ordered]}


def table(result: dict[str, Any]) -> str:
    """Percentiles, processor time, loading and the ratio to the first, as text; then the slowest layers."""
    width = max(24, *(len(name) + 2 for name in result["timings"]))
    head = f"{'candidate':<{width}}{'p50 ms':>10}{'p90':>10}{'p95':>10}{'p99':>10}{'n':>6}"
    lines = [f"{head}{'cpu ms':>10}{'load ms':>10}{'over first':>12}"]
    for name, timing in result["timings"].items():
        for stage, series in timing["wall"].items():
            cells = "".join(f"{series[f'p{p}_ms']:10.3f}" for p in (50, 90, 95, 99))
            row = f"{name if stage == 'total' else f'  {stage}':<{width}}{cells}{series['n']:>6}"
            if stage == "total":
                relation = result["ratios"].get(name)
                row += f"{timing['cpu']['p50_ms']:10.3f}{result['candidates'][name]['load_ms']:10.1f}"
                row += f"{'-' if relation is None else f'{relation:.3f}':>12}"
            lines.append(row)
    for name, layers in result["layers"].items():
        times = [LayerTime(**layer) for layer in layers["times"]]
        total = sum(layer.milliseconds for layer in times)
        lines.append(
            f"\n{name}: {layers.get('missing') or f'{len(times)} layers, {total:.3f} ms one by one'}"
        )
        lines += [
            f"{layer.milliseconds:10.3f} ms {100 * layer.milliseconds / total:5.1f} %  {layer.name}  {layer.operator}"
            for layer in times[:_SHOWN]
            if total > 0
        ]
    return "\n".join(lines)


def require(result: dict[str, Any], median: float | None, relation: float | None) -> None:
    """Refuse what is slower than it may be, for scripts.

    Args:
        result: from `run`.
        median: milliseconds that no candidate's median may exceed; None: any.
        relation: times of the first one that no other may take; None: any.

    Raises:
        VerificationError: naming the candidates.
    """
    slow = [
        f"{name} takes {timing['wall']['total']['p50_ms']:.3f} ms, more than {median:g}"
        for name, timing in result["timings"].items()
        if median is not None and timing["wall"]["total"]["p50_ms"] > median
    ]
    slow += [
        f"{name} takes {found:.3f} times as long as the first, more than {relation:g}"
        for name, found in result["ratios"].items()
        if relation is not None and found > relation
    ]
    if slow:
        raise VerificationError("; ".join(slow))


def write(path: Path, result: dict[str, Any]) -> None:
    """Write the result file."""
    write_atomically(path, (json.dumps(result, indent=1) + "\n").encode())


__all__ = ["FORMAT", "VERSION", "Subject", "Timing", "require", "run", "subjects_of", "table", "write"]
