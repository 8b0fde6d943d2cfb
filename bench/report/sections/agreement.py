"""How far backends, precisions and graphs agree."""

from __future__ import annotations

from typing import Any

from ..page import Section, Table
from .shared import decibel


def drift_section(result: dict[str, Any]) -> Section:
    """The section of a result file of drift."""
    section = Section("Drift against float32 on the CPU", environment=result["environment"])
    rows = tuple(
        (
            row["candidate"],
            f"{row['max_difference']}",
            f"{row['differing_percent']:.4f} %",
            f"{row['psnr_between_db']:.1f}" if row["psnr_between_db"] is not None else "equal",
            f"{row['final_psnr_change_db']:+.4f}",
            row["decoder_says"],
        )
        for row in result["rows"]
    )
    columns = (
        "candidate",
        "largest difference",
        "pixels that differ",
        "PSNR between, dB",
        "final PSNR",
        "decoder says",
    )
    section.tables.append(Table("Estimates", columns, rows, result.get("note", "")))
    return section


def agreement_section(result: dict[str, Any]) -> Section:
    """The section of a result file of agreement."""
    one, other = (f"{side['name']} ({side['precision']})" for side in result["sides"])
    section = Section(f"{other} against {one}", environment=result["environment"])
    rows = tuple(
        (
            row["output"],
            f"{row['maximum']:g}",
            f"{row['mean']:.5g}",
            f"{100 * row['differing']:.4f} %",
            f"{100 * row['exceeding']:.4f} %",
            decibel(row.get("psnr") if row.get("sqnr") is None else row["sqnr"]),
            "within" if row["ok"] else "beyond",
        )
        for row in (*result["outputs"], *filter(None, [result["end_to_end"]]))
    )
    columns = (
        "output",
        "largest difference",
        "mean",
        "differ",
        "beyond tolerance",
        "PSNR (images) or SQNR, dB",
        "tolerance",
    )
    title = f"{result['source']}, {len(result['inputs'])} sets of inputs"
    section.tables.append(Table(title, columns, rows))
    return section
