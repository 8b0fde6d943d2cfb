"""Calibration of anybody's graph: from a float graph and data to the quantized graph, with a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ..measure import environment
from ..runtime.errors import BundleError, UsageError, VerificationError
from ..runtime.model.samples import Sample, digest
from ..runtime.model.source import Model
from .calibrate import FORMAT, VERSION, require_kernels
from .calibrate_graph import calibrate_graph
from .equalization import ROUNDINGS, differing_share
from .graph import Graph
from .graph_context import FEW, Subject
from .options import Options
from .outputs import Metric, OutputJudge
from .preparation import prepare
from .qdq_placement import NothingToQuantizeError
from .report_data import slower, summary

_JUDGED: Final = 8


@dataclass(frozen=True)
class Goal:
    """What the quantized graph is held to.

    Attributes:
        budget: the most damage, see `outputs.OutputJudge`.
        metric: of the user's; None: the SQNR of the outputs.
        name: of the metric.
    """

    budget: float
    metric: Metric | None = None
    name: str = ""


def calibrate_model(
    model: Model,
    samples: Sequence[Sample],
    options: Options,
    goal: Goal,
    *,
    alone: bool = True,
    progress: Callable[[str], Any] = print,
    tick: Callable[[str], Any] = lambda _: None,
) -> tuple[bytes, dict[str, Any]]:
    """Calibrate a graph.

    Args:
        model: a float graph.
        samples: inputs; ranges are measured on every other one, and judged on the rest.
        options: how.
        goal: what is allowed.
        alone: it is no part of a bundle: what is excluded must be found in it.
        progress: gets lines for the user.
        tick: gets short lines on the progress, many of them.

    Returns:
        The serialized quantized graph, and the report. A graph in which nothing is quantized is the one that came, and
        the report has a `note` that says why.

    Raises:
        UsageError: a setting, or the graph is quantized already.
        DataError: what the graph makes of the data.
        DependencyError: ONNX Runtime is missing or too old.
    """
    options.check()
    model.require_tensors()
    require_kernels()
    try:
        return _calibrated(model, samples, options, goal, alone=alone, progress=progress, tick=tick)
    except BundleError as error:
        if not alone:
            raise
        raise UsageError(str(error)) from error


def _calibrated(
    model: Model,
    samples: Sequence[Sample],
    options: Options,
    goal: Goal,
    *,
    alone: bool,
    progress: Callable[[str], Any],
    tick: Callable[[str], Any],
) -> tuple[bytes, dict[str, Any]]:
    """See `calibrate_model`."""
    subject = replace(_subject(model, samples, options, goal, tick), alone=alone)
    same = "others" if len(samples) > 1 else "(the same)"
    progress(f"ranges on {len(subject.seen)} samples, judged on {len(subject.judged)} {same}")
    _require_equal(model, subject)
    names = [sample.name for sample in samples]
    head = report_head(model.path.name, names, digest(list(samples)), options, goal)
    report: dict[str, Any] = {**head, "graphs": {}}
    try:
        made = calibrate_graph(subject)
    except NothingToQuantizeError as error:
        report["note"] = f"{error}; the graph is passed on as it came"
        progress(report["note"])
        return model.data, report
    report["graphs"][model.name] = made.report
    progress(summary(model.name, made.report))
    if not made.int8:
        report["note"] = f"no layer of {subject.where} is left in int8; the graph is passed on as it came"
        progress(report["note"])
        return model.data, report
    note = slower(made.report)
    if note is not None:
        report["note"] = note
        progress(f"note: {note}")
    return made.data, report


def _subject(
    model: Model, samples: Sequence[Sample], options: Options, goal: Goal, tick: Callable[[str], Any]
) -> Subject:
    """The graph, prepared, with its data and those who judge it."""
    where = str(model.path)
    graph = prepare(model.data, where)
    data = graph.model.SerializeToString()
    every = [sample.feeds for sample in samples]
    # Ranges are measured on every other sample, and judged on the rest.
    seen, judged = every[::2][: options.count], (every[1::2] or every)[:_JUDGED]
    judge, quick_judge = (
        OutputJudge(
            data,
            part,
            options.threads,
            where=where,
            metric=goal.metric,
            name=goal.name,
            as_written=options.as_written,
        )
        for part in (judged, judged[:FEW])
    )
    return Subject(
        name=model.name,
        where=where,
        data=data,
        graph=graph,
        seen=seen,
        judged=judged,
        judge=judge,
        quick_judge=quick_judge,
        budget=goal.budget,
        options=options,
        tick=tick,
    )


def _require_equal(model: Model, subject: Subject) -> None:
    """Raise `VerificationError` if the prepared graph computes something else than the one that came."""
    where = subject.where
    before = Graph.parse(model.data, where)
    share = differing_share(before, subject.graph, subject.judged[0], subject.options.threads, where)
    if share > ROUNDINGS:
        raise VerificationError(
            f"{where}: folding its normalizations changes {100 * share:.2f} % of an output; please report it"
        )


def report_head(
    source: str, names: Sequence[str], data_sha256: str, options: Options, goal: Goal
) -> dict[str, Any]:
    """How a report on graphs begins that are held to a goal.

    Args:
        source: what was calibrated.
        names: of the data.
        data_sha256: of it.
        options: how.
        goal: what was allowed.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "environment": environment.describe(),
        "source": source,
        "settings": {
            "data": list(names),
            "data_sha256": data_sha256,
            "target": options.target,
            "ranges": options.ranges or "auto",
            "weight_bits": options.weight_bits,
            "budget": goal.budget,
            "metric": goal.name or "SQNR",
            "exclude": list(options.exclude),
            "exclude_types": list(options.exclude_types),
            "threads": options.threads,
        },
    }
