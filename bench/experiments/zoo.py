"""What fusion finds in a zoo of networks, and what it is worth: one table."""

from __future__ import annotations

import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from ...export.form_selection import CostModel
from ...export.fusion import Report, check, fuse, random_inputs
from ...export.ir_queries import serialize
from ...export.normal_form import normalize
from ...export.verify import Tolerance, require
from ...measure import environment
from ...measure.timing import Candidate, Settings, StageTimes, measure
from ...runtime.backends.onnxruntime.sessions import require_onnxruntime, session_options
from ...runtime.errors import DataError
from ..regression.comparison import REGRESSIONS, Margins, compare_samples
from ..zoo import ZOO, Entry, Exporter, export

if TYPE_CHECKING:
    import onnx_ir as ir

FORMAT: Final = "oslic-bench-zoo"
VERSION: Final = 1
TOLERANCE: Final = Tolerance(atol=1e-4, rtol=1e-3)
"""Of the outputs; networks in half precision are judged in its steps."""

_STAGE: Final = "graph"
_BEGIN: Final = "<!-- zoo -->"
_END: Final = "<!-- end of zoo -->"


def rewrite(entry: Entry, exporter: Exporter) -> tuple[ir.Model, ir.Model, Report]:
    """Export a network, fuse it as `oslic fuse` does by default, and compare both graphs.

    Args:
        entry: the network.
        exporter: `dynamo` or `torchscript`.

    Returns:
        The graph as the rules found it, the fused one, and the report.

    Raises:
        VerificationError: they do not compute the same.
    """
    model = export(entry, exporter)
    shapes = {str(model.graph.inputs[0].name): entry.shape}
    fused, report = fuse(
        model, lambda sizes: CostModel("onnxruntime", sizes), multiple=entry.multiple, shapes=shapes
    )
    report = check(model, fused, report, [random_inputs(model, report.shapes)], TOLERANCE)
    require(report.differences, "the fused graph", TOLERANCE)
    return normalize(model), fused, report


def _candidate(model: ir.Model, feeds: Mapping[str, Any]) -> Candidate:
    onnxruntime = require_onnxruntime("measuring graphs")
    session = onnxruntime.InferenceSession(
        serialize(model), session_options(onnxruntime, 1), providers=["CPUExecutionProvider"]
    )

    def call() -> StageTimes:
        wall, processor = time.perf_counter(), time.thread_time()
        session.run(None, dict(feeds))
        return StageTimes({_STAGE: time.perf_counter() - wall}, {_STAGE: time.thread_time() - processor})

    return call


def _times(
    before: ir.Model, after: ir.Model, report: Report, repeats: int, settings: Settings
) -> dict[str, list[float]]:
    """Milliseconds of the thread by graph, one a round; sessions are made anew for each repeat."""
    feeds = random_inputs(before, report.shapes)
    samples: dict[str, list[float]] = {"before": [], "after": []}
    for repeat in range(repeats):
        calls = {"before": _candidate(before, feeds), "after": _candidate(after, feeds)}
        for name, timing in measure(calls, settings, seed=repeat).items():
            samples[name] += [round(1e3 * s, 4) for s in timing.stage_cpu[_STAGE].samples]
    return samples


def _row(name: str, entry: Entry, repeats: int, settings: Settings) -> dict[str, Any]:
    before, after, report = rewrite(entry, "dynamo")
    row: dict[str, Any] = {
        "network": name,
        "shape": list(entry.shape),
        "hits": {rule: count for rule, count in report.hits.items() if count},
        "forms": [{key: choice[key] for key in ("rule", "node", "form")} for choice in report.choices],
        "macs": {"before": report.before.macs, "after": report.after.macs},
        "nodes": {
            "before": sum(report.before.operators.values()),
            "after": sum(report.after.operators.values()),
        },
    }
    if "torchscript" in entry.exporters:
        _, _, other = rewrite(entry, "torchscript")
        row["torchscript"] = {
            "hits": {rule: count for rule, count in other.hits.items() if count},
            "macs": {"before": other.before.macs, "after": other.after.macs},
        }
    if not row["hits"]:
        return row
    samples = _times(before, after, report, repeats, settings)
    constant = [1.0] * len(samples["before"])
    ratio, (low, high), verdict = compare_samples(
        samples["before"], samples["after"], constant, constant, Margins()
    )
    row |= {
        "samples_ms": samples,
        "ms": {key: statistics.median(series) for key, series in samples.items()},
        "speed": 1 / ratio,
        "interval": [1 / high, 1 / low],
        "verdict": verdict,
    }
    return row


def run(
    names: Sequence[str],
    repeats: int,
    settings: Settings,
    progress: Callable[[str], Any],
) -> dict[str, Any]:
    """Fuse and measure networks of the zoo.

    Args:
        names: parts of the names of those to measure; none: all.
        repeats: how often each is measured, in sessions of their own.
        settings: when one measurement stops.
        progress: gets a line for the user as each row is done.

    Returns:
        The result file: for each network hits, multiply-accumulates, times of one thread on ONNX Runtime's CPU
        provider, the speed over the graph as it was with its 95 % interval, and the verdict of `oslic bench regress`.

    Raises:
        DataError: there is no such network.
        VerificationError: a fused graph does not compute what it did before.
    """
    chosen = {n: e for n, e in ZOO.items() if not names or any(part.lower() in n.lower() for part in names)}
    if not chosen:
        raise DataError(f"no network of the zoo is called {' or '.join(names)}; there are {', '.join(ZOO)}")
    rows = []
    for name, entry in chosen.items():
        rows.append(_row(name, entry, repeats, settings))
        progress(" | ".join(_cells(rows[-1])))
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment.describe(),
        "threads": 1,
        "repeats": repeats,
        "rows": rows,
        "summary": summary(rows),
    }


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of all rows together.

    Args:
        rows: of a result file.
    """
    speeds = [row["speed"] for row in rows if "speed" in row]
    return {
        "networks": len(rows),
        "with_hits": len(speeds),
        "geometric_mean": math.exp(statistics.fmean(map(math.log, speeds))) if speeds else None,
        "slower": [row["network"] for row in rows if row.get("verdict") in REGRESSIONS],
    }


def _cells(row: Mapping[str, Any]) -> list[str]:
    hits = ", ".join(f"{rule} {count}" for rule, count in row["hits"].items()) or "none"
    macs = f"{row['macs']['before'] / 1e6:,.0f} → {row['macs']['after'] / 1e6:,.0f}"
    if "speed" not in row:
        return [row["network"], hits, macs, "", "", ""]
    low, high = row["interval"]
    times = f"{row['ms']['before']:.1f} → {row['ms']['after']:.1f}"
    return [
        row["network"],
        hits,
        macs,
        times,
        f"{row['speed']:.2f} ({low:.2f} to {high:.2f})",
        row["verdict"].lower(),
    ]


def to_markdown(result: Mapping[str, Any]) -> str:
    """The table of a result file, and a line with what it was measured on.

    Args:
        result: as `run` returns it.
    """
    head = ["network", "rewritten", "MMAC", "ms", "times as fast", "verdict"]
    lines = [f"| {' | '.join(head)} |", "|---|---|--:|--:|--:|---|"]
    lines += [f"| {' | '.join(_cells(row))} |" for row in result["rows"]]
    found, cpu = result["summary"], result["environment"]["cpu"]
    mean = found["geometric_mean"]
    slower = ", ".join(found["slower"]) or "none"
    versions = result["environment"]["versions"]
    measured = (
        f"{found['networks']} networks, {found['with_hits']} with hits, in the geometric mean "
        f"{0 if mean is None else mean:.2f} times as fast; slower: {slower}. {cpu['model']}, "
        f"{', '.join(cpu['features'])}; ONNX Runtime {versions.get('onnxruntime', 'of another name')}, one thread."
    )
    lines += ["", measured]
    return "\n".join(lines)


def insert(page: str, result: Mapping[str, Any]) -> str:
    """A page with the table between its marks.

    Args:
        page: Markdown with a line `<!-- zoo -->` and, further down, `<!-- end of zoo -->`.
        result: as `run` returns it.

    Raises:
        DataError: it has no such lines.
    """
    table = f"{_BEGIN}\n{to_markdown(result)}\n{_END}"
    made, count = re.subn(f"{_BEGIN}.*?{_END}", lambda _: table, page, flags=re.DOTALL)
    if count != 1:
        raise DataError(f"the page needs the lines {_BEGIN} and {_END} once: the table goes between them")
    return made
