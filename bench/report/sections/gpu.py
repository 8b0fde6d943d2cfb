"""Everything that was measured on a GPU."""

from __future__ import annotations

from typing import Any

from ...gpu.worker import held_back
from ..page import Section, Table
from .shared import digits, faster, median_of


def gpu_section(result: dict[str, Any]) -> Section:
    """The section of a result file of gpu."""
    section = Section(f"Networks on {result['gpu']}", environment=result["environment"])
    done = [part["result"] for part in result["sections"].values() if part["status"] == "done"]
    measured = [found for found in done if "timings" in found]
    fused = _fused_on_gpu(measured)
    if fused:
        title, engine, p50, ratios = fused[0]
        what = f"Fused octave convolutions on {result['gpu']} ({title}, {engine})"
        section.headline = f"{what}: {p50:.3f} ms, {faster(ratios)}."
        forms = ("naive", "plain", "convolve_first")
        rows = tuple(
            (title, engine, f"{p50:.3f}", *(digits(ratios.get(f"{form}/fused")) for form in forms))
            for title, engine, p50, ratios in fused
        )
        columns = ("network", "engine, best form", "p50 ms", *(f"{form} / fused" for form in forms))
        note = "Times of other forms over that of the fastest fused one, on the same engine; the fastest engine first."
        section.tables.append(Table("Fused octave convolutions", columns, rows, note))
    section.tables += _int8_on_gpu(measured)
    tables: dict[str, list[tuple[str, ...]]] = {}
    for found in measured:
        for form, timing in found["timings"].items():
            total = timing["wall"]["total"]
            cells = (f"{total[f'p{p}_ms']:.3f}" for p in (50, 90, 99))
            tables.setdefault(_on_gpu(found), []).append(
                (f"{found['engine']}, {form}", *cells, str(total["n"]))
            )
    columns = ("engine, form", "p50 ms", "p90", "p99", "n")
    note = "Inputs on the device; the forms of one engine interleaved in one process."
    notes = {
        _on_gpu(found): note for found in measured if "speedup" in found
    }  # those of the bundles' own weights
    section.tables += [
        Table(title, columns, tuple(rows), notes.get(title, f"Random weights. {note}"))
        for title, rows in tables.items()
    ]
    agreements = tuple(
        (
            f"{found['backend']} {found['precision']}",
            row["output"],
            str(row["maximum"]),
            f"{100 * row['differing']:.4f} %",
            "within" if row["ok"] else "beyond",
        )
        for found in done
        for row in found.get("outputs", ())
    )
    if agreements:
        columns = ("backend", "output", "largest difference", "elements that differ", "tolerance")
        section.tables.append(Table("Outputs against float32 on the CPU", columns, agreements))
    missing = tuple(
        (name, part["status"], part.get("reason", ""))
        for name, part in result["sections"].items()
        if part["status"] != "done"
    )
    if missing:
        section.tables.append(Table("Not measured", ("section", "status", "reason"), missing))
    return section


def _on_gpu(found: dict[str, Any]) -> str:
    """What was measured, whatever on."""
    height, width = found["size"]
    return f"{found['network']} {found['graph']} at {width}x{height}, {found['precision']}"


def _fused_on_gpu(measured: list[dict[str, Any]]) -> list[tuple[str, str, float, dict[str, float]]]:
    """What was measured, engine and best fused form, milliseconds, ratios; by what was measured, then by time."""
    rows = [
        (
            _on_gpu(found),
            f"{found['engine']}, {ratios['best_form']}",
            median_of(found["timings"][ratios["best_form"]]),
            {name: value for name, value in ratios.items() if name != "best_form"},
        )
        for found in measured
        for ratios in found.get("ratios", {}).values()
    ]
    order = list(dict.fromkeys(title for title, *_ in rows))
    return sorted(rows, key=lambda row: (order.index(row[0]), row[2]))


def _int8_on_gpu(measured: list[dict[str, Any]]) -> list[Table]:
    """INT8 against FP16, and what holds it back."""
    rows = tuple(
        (_on_gpu(found), f"{found['engine']}, {values['best_form']}", f"{values['ratio']:.2f}")
        for found in measured
        for values in found.get("speedup", {}).values()
    )
    slower = tuple(
        (_on_gpu(found), found["engine"], what, f"{before:.3f}", f"{after:.3f}")
        for found in measured
        if "layers" in found
        for what, before, after in held_back(found["layers"])
    )
    columns = ("network", "engine", "convolutions", "fp16, ms", "int8, ms")
    note = "Layers timed one by one: their sum is more than the whole takes."
    return [
        *(
            [Table("INT8 against FP16", ("network", "engine, best form", "fp16 / int8"), rows)]
            if rows
            else []
        ),
        *([Table("What holds INT8 back", columns, slower, note)] if slower else []),
    ]
