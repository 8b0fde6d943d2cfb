"""Fuzzing, and whether the harness tells a change from noise."""

from __future__ import annotations

from typing import Any

from ..page import Section, Table


def fuzzing_section(result: dict[str, Any]) -> Section:
    """The section of a result file of fuzzing."""
    targets = result["targets"]
    section = Section("Fuzzing", environment=next(iter(targets.values()))["environment"])
    columns = ("target", "executions", "decoded", "failures", "slowest ms", "peak MB")
    rows = tuple(
        (
            name,
            str(counts["executions"]),
            f"{100 * counts['decoded_share']:.1f} %",
            str(counts["failures"]),
            f"{counts['slowest_ms']:.0f}",
            f"{counts['peak_bytes'] / 1e6:.0f}",
        )
        for name, counts in targets.items()
    )
    note = "Failures: crashes, reports of sanitizers, errors that are not the library's, and executions over a limit."
    section.tables.append(Table("Executions on damaged files", columns, rows, note))
    return section


def selfcheck_section(result: dict[str, Any]) -> Section:
    """The section of a result file of selfcheck."""
    setting = result["settings"]
    section = Section("Can a change be told from noise?", environment=result["environment"])
    counted = ("SAME", "FASTER", "SLOWER", "UNDECIDED")
    slower = f"{setting['stage']} made {100 * (setting['slowdown'] - 1):.0f} % slower"
    rows = tuple(
        (builds, *(str(result["verdicts"][kind].count(verdict)) for verdict in counted))
        for builds, kind in (("equal builds", "equal"), (slower, "slowed"))
    )
    title = f"Verdicts of {setting['runs']} comparisons each"
    note = f"Of the stage {setting['stage']}, on this machine with whatever else it was doing."
    section.tables.append(Table(title, ("", *counted), rows, note))
    return section
