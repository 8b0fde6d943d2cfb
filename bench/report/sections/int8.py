"""A float bundle against the int8 bundle made from it."""

from __future__ import annotations

from typing import Any

from ..page import Section, Table
from .shared import median_of


def int8_section(result: dict[str, Any]) -> Section:
    """The section of a result file of int8."""
    section = Section("INT8 against float32", environment=result["environment"])
    note = "" if result["environment"]["vnni"] else "This processor has no VNNI, for which int8 is meant."
    if "latency" in result:
        measured = result["latency"]
        rows = []
        for part, speedup in measured["speedup"].items():
            before, after = (median_of(measured["timings"][f"{name}/{part}"]) for name in ("float32", "int8"))
            rows.append((part, f"{before:.1f}", f"{after:.1f}", f"{speedup:.2f}x"))
        size = f"{measured['settings']['width']}x{measured['settings']['height']}"
        columns = ("part", "float32, ms", "int8, ms", "times as fast")
        section.headline = (
            f"INT8: {', '.join(f'{p} {x:.2f}x' for p, x in measured['speedup'].items())} as fast"
        )
        section.tables.append(Table(f"Latency at {size}, medians", columns, tuple(rows), note))
    rows = []
    if "rd" in result:
        estimate = result["rd"]["estimate_db"]
        rows.append(("BD-rate of int8 against float32", "", "", f"{result['rd']['bd_rate_percent']:+.2f} %"))
        rows.append(_before_after("PSNR of the estimate, dB", estimate, 2))
        section.headline += (
            f"{'; ' if section.headline else 'INT8: '}BD-rate {result['rd']['bd_rate_percent']:+.2f} %"
        )
    if "miou" in result:
        rows.append(_before_after("mIoU of the labels", result["miou"], 4))
    if rows:
        columns = ("quality", "float32", "int8", "difference")
        section.tables.append(Table("What int8 costs", columns, tuple(rows)))
    section.headline += "." if section.headline else ""
    return section


def _before_after(title: str, values: dict[str, Any], digits: int) -> tuple[str, str, str, str]:
    before, after = values["before"], values["after"]
    return title, f"{before:.{digits}f}", f"{after:.{digits}f}", f"{after - before:+.{digits}f}"
