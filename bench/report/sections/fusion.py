"""Fusion: the forms of the same networks."""

from __future__ import annotations

from typing import Any, Final

from ....measure.charts import Line, line_chart
from ..page import Section, Table
from .shared import faster, median_of

_ROOFLINE: Final = "Rate and intensity"


def fusion_section(result: dict[str, Any]) -> Section:
    """The section of a result file of fusion."""
    threads = result["threads"]
    counted = f"{threads} thread" + "s" * (threads != 1)
    section = Section(f"Fusion of octave convolutions, {counted}", environment=result["environment"])
    rows, lines = [], []
    for entry in result["results"]:
        network = f"{entry['network']} {entry['graph']}"
        for form, found in entry["forms"].items():
            p50 = median_of(found["timing"])
            relative = entry["ratios"].get(f"{form}/fused")
            rows.append(
                (
                    network,
                    form,
                    f"{found['macs'] / 1e9:.3f}",
                    f"{found['bytes_moved'] / 1e6:.1f}",
                    f"{p50:.2f}",
                    "-" if relative is None else f"{relative:.3f}",
                )
            )
            point = (found["macs"] / found["bytes_moved"], found["macs"] / 1e6 / p50)
            lines.append(Line(f"{network} {form}", [point], joined=False))
        if entry["graph"] == "synthesise":
            section.headline = f"Fused octave convolutions ({network}, {counted}): {faster(entry['ratios'])}."
    height, width = result["size"]
    title = f"Forms of the same networks at {width}x{height}, {counted}, interleaved"
    columns = ("network", "form", "GMAC", "MB moved", "p50 ms", "time over fused")
    section.tables.append(Table(title, columns, tuple(rows), "Random weights."))
    lines.append(_roof(**result["peaks"]))
    section.charts[_ROOFLINE] = line_chart(
        _ROOFLINE, "multiply-accumulates per byte moved", "GMAC/s", lines, log_x=True, log_y=True
    )
    return section


def _roof(gmacs: float, gigabytes: float) -> Line:
    """What this machine can reach at an intensity: the peak rate, or the peak traffic times the intensity."""
    ridge = gmacs / gigabytes
    far = 1000  # times the ridge: beyond any axis
    roof = [(ridge / far, gmacs / far), (ridge, gmacs), (ridge * far, gmacs)]
    name = f"peaks: {gigabytes:.3g} GB/s, {gmacs:.3g} GMAC/s"
    return Line(name, roof, context=name)
