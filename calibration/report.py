"""The calibration report as one HTML page that needs nothing else: tables, and charts as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Final

from ..measure.charts import Bar, Line, bar_chart, line_chart

_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0;font-size:13px}
td,th{padding:2px 9px;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left;font-family:ui-monospace,monospace}tr.float td{background:#fff3e0}
svg{width:100%;max-width:820px;height:auto;border:1px solid #eee;display:block;margin:1em 0}
summary{cursor:pointer;font-weight:600;margin:1em 0}.note{color:#555}
"""
_SHOWN_HISTOGRAMS: Final = 4
_NOISIEST: Final = 15


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], marks: Sequence[str] = ()) -> str:
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    lines = []
    for i, row in enumerate(rows):
        mark = f" class='{marks[i]}'" if marks and marks[i] else ""
        lines.append(f"<tr{mark}>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row) + "</tr>")
    return f"<table><tr>{titles}</tr>{''.join(lines)}</table>"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _damage_chart(name: str, layers: Sequence[dict[str, Any]]) -> str:
    lines = []
    timed = all(layer["int8_ms"] is not None for layer in layers)
    for decision in ("int8", "float32"):
        points = [
            (layer["float_ms"] - (layer["int8_ms"] if timed else 0.0), layer["damage_alone"])
            for layer in layers
            if layer["decision"] == decision and layer["damage_alone"] is not None
        ]
        if points:
            lines.append(Line(f"stays {decision}" if decision == "float32" else "int8", points, joined=False))
    if not lines:
        return ""
    axis = "won by int8, ms" if timed else "in float32 on this CPU, ms"
    return line_chart(f"{name}: what each layer wins and costs", axis, "damage alone", lines)


def _histogram_chart(value: dict[str, Any]) -> str:
    counts, top = value["histogram"]["counts"], value["histogram"]["top"]
    total = sum(counts)
    points = [((i + 0.5) * top / len(counts), count / total) for i, count in enumerate(counts) if count]
    smallest = min(share for _, share in points)
    limit = Line("threshold", [(value["threshold"], smallest), (value["threshold"], 1.0)])
    return line_chart(
        value["name"], "magnitude", "share of the values", [Line("seen", points), limit], log_y=True
    )


def _graph_section(name: str, report: dict[str, Any]) -> str:
    layers, values = report["layers"], report["values"]
    measured = sorted((v for v in values if v["sqnr_db"] is not None), key=lambda v: float(v["sqnr_db"]))
    parts = [f"<h2>{escape(name)}</h2>", _table(["", ""], _facts(report)), _damage_chart(name, layers)]
    if measured:
        bars = [Bar(v["name"], [("SQNR", max(0.0, v["sqnr_db"]))]) for v in measured[:_NOISIEST]]
        parts.append(bar_chart(f"{name}: the values with the most noise", "SQNR, dB", bars))
    parts.append(_details("Layers, the worst first", _layer_table(layers), opened=True))
    if report["left"]:
        left = _table(("node", "why"), list(report["left"].items()))
        parts.append(_details("Other heavy nodes, in float", left))
    parts += [
        _details("Values", _value_table(values)),
        _details("What was tried", _variant_table(report["variants"])),
    ]
    if report["kernels"]:
        kernels = _table(("kernel", "number"), list(report["kernels"].items()))
        parts.append(_details("Kernels in ONNX Runtime", kernels))
    # Values that share a scale share their histogram.
    by_scale = {v["threshold"]: v for v in reversed(measured) if not v["always_zero"]}
    shown = list(reversed(by_scale.values()))[:_SHOWN_HISTOGRAMS]
    parts.append(_details("Histograms of the noisiest values", "".join(_histogram_chart(v) for v in shown)))
    return "\n".join(parts)


def _details(title: str, content: str, *, opened: bool = False) -> str:
    return f"<details{' open' if opened else ''}><summary>{title}</summary>{content}</details>"


def _facts(report: dict[str, Any]) -> list[tuple[str, Any]]:
    layers, recipe = report["layers"], report["recipe"]
    done = report["int8_convolutions"]
    facts = [
        ("ranges", recipe["ranges"]),
        ("bias correction", "yes" if recipe["bias_correction"] else "did not pay"),
        ("equalization", "yes" if recipe["equalization"] else "did not pay"),
        ("largest integer weight", recipe["weight_limit"]),
        ("layers in int8", f"{sum(layer['decision'] == 'int8' for layer in layers)} of {len(layers)}"),
        ("int8 convolutions", done["meant"])
        if done["run"] is None
        else ("int8 convolutions in ONNX Runtime", f"{done['run']} of {done['meant']} meant to be"),
        ("damage", f"{report['damage_text']} (budget {report['budget_text']})"),
        (report["score"]["measure"], f"{report['score']['before']:.3f} → {report['score']['after']:.3f}"),
        ("written for", f"{report['target']}: {report['form']}"),
    ]
    latency = report["latency"]
    if latency:
        medians = latency["median_ms"]
        facts.append(
            (
                f"latency, {_shapes(latency['shapes'])}, {latency['threads']} threads",
                f"{medians['float32']:.2f} ms → {medians['int8']:.2f} ms ({latency['speedup']:.2f}x)",
            )
        )
    return facts


def _layer_table(layers: Sequence[dict[str, Any]]) -> str:
    ranked = sorted(layers, key=lambda layer: int(layer["rank"]))
    rows = [
        (
            layer["name"], layer["rank"], layer["decision"], layer["reason"], layer["damage_alone"],
            layer["float_ms"], layer["int8_ms"], layer["weight_sqnr_db"],
        )
        for layer in ranked
    ]  # fmt: skip
    head = (
        "layer",
        "rank",
        "decision",
        "why",
        "damage alone",
        "float ms",
        "int8 ms",
        "weight SQNR dB",
    )
    return _table(head, rows, ["float" if layer["decision"] == "float32" else "" for layer in ranked])


def _value_table(values: Sequence[dict[str, Any]]) -> str:
    rows = [
        (
            v["name"], v["low"], v["high"], v["threshold"], v["scale"], 100 * v["clipped_calibration"],
            100 * v["clipped"], v["sqnr_db"], "never differs from 0" if v["always_zero"] else "",
        )
        for v in values
    ]  # fmt: skip
    head = (
        "value",
        "low",
        "high",
        "threshold",
        "scale",
        "clipped %, calibration",
        "clipped %, others",
        "SQNR dB",
        "",
    )
    return _table(head, rows)


def _variant_table(variants: Sequence[dict[str, Any]]) -> str:
    head = ("ranges", "bias correction", "equalization", "damage", "agreement with float")
    rows = [
        (v["ranges"], v["bias_correction"], v["equalization"], v["damage"], v["agreement"]) for v in variants
    ]
    return _table(head, rows)


def _shapes(shapes: dict[str, list[int]]) -> str:
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())


def _integer_section(name: str, report: dict[str, Any]) -> str:
    """A graph of integers: how it was made, and its certificate."""
    certificate = report["certificate"]
    facts = [
        ("weights", report["weights"]),
        ("steps", f"by {report['steps']}, {report['moved_steps']} of them moved"),
        ("damage, dB", report["damage"]),
        ("nodes certified", certificate["nodes"]),
        ("largest sum", f"2^{certificate['largest_bits']} of 2^{certificate['allowed_bits']}"),
        (
            "largest sum of two products",
            f"{certificate['largest_pair_sum']} of {certificate['allowed_pair_sum']}",
        ),
    ]
    parts = [f"<h2>{escape(name)}, of integers</h2>", _table(("", ""), facts)]
    if certificate["failures"]:
        parts.append(_table(("not certified", "why"), list(certificate["failures"].items())))
    rows = [
        (proof["name"], len(proof["sums"]), max(proof["sums"]), max(proof["pairs"] or [0]))
        for proof in certificate["proofs"]
    ]
    head = ("convolution", "output channels", "largest sum, steps", "of two products")
    parts.append(f"<details><summary>Convolutions</summary>{_table(head, rows)}</details>")
    rows = [
        (tried["weights"], tried["steps"], tried["moved_steps"], tried["damage_in_search"])
        for tried in report["tried"]
    ]
    head = ("weights", "steps", "moved", "damage in the search, dB")
    parts.append(f"<details><summary>What was tried</summary>{_table(head, rows)}</details>")
    return "\n".join(parts)


def _evaluation_section(evaluation: dict[str, Any]) -> str:
    rows: list[tuple[str, Any, Any, Any]] = []
    if "rd" in evaluation:
        rows.append(("BD-rate against the float bundle, %", None, None, evaluation["rd"]["bd_rate_percent"]))
        quality = evaluation["rd"]["estimate_db"]
        rows.append(
            (
                "PSNR of the estimate, dB",
                quality["before"],
                quality["after"],
                quality["after"] - quality["before"],
            )
        )
    if "miou" in evaluation:
        miou = evaluation["miou"]
        rows.append(("mIoU of the labels", miou["before"], miou["after"], miou["after"] - miou["before"]))
    return "<h2>Before and after</h2>" + _table(("", "float32", "int8", "difference"), rows)


def html(report: dict[str, Any]) -> str:
    """The report as a page.

    Args:
        report: from `calibrate_bundle`, `calibrate_kind_bundle` or `calibrate_model`.
    """
    cpu = report["environment"]["cpu"]
    facts: list[tuple[str, Any]] = [
        ("samples", len(report["settings"]["data"])),
        ("processor", f"{cpu['model']} ({', '.join(cpu['features']) or 'no vector extensions noted'})"),
    ]
    together = report.get("together", {})
    if "before" in together:
        before, after = together["before"], together["after"]
        facts += [
            ("bits per pixel", f"{before['bpp']:.4f} → {after['bpp']:.4f}"),
            ("PSNR of the picture, dB", f"{before['psnr_db']:.3f} → {after['psnr_db']:.3f}"),
        ]
    if "estimate_db" in together:
        estimate = together["estimate_db"]
        facts += [
            (
                "PSNR of the estimate, all graphs, dB",
                f"{estimate['before']:.3f} → {estimate['after']:.3f}",
            ),
            ("labels changed", f"{100 * together['labels_changed']:.2f} %"),
            ("samples of the compact image changed", f"{100 * together['compact_changed']:.2f} %"),
        ]
    title = f"INT8 calibration of {report['source']}"
    parts = [f"<h1>{escape(title)}</h1>", _table(("", ""), facts)]
    if not {"avx512_vnni", "avx_vnni"} & set(cpu["features"]):
        parts.append(
            "<p class='note'>This processor has no VNNI: times of int8 kernels are not those of the machines that int8 "
            "is meant for.</p>"
        )
    if report.get("note"):
        parts.append(f"<p class='note'>{escape(report['note'])}</p>")
    if "evaluation" in report:
        parts.append(_evaluation_section(report["evaluation"]))
    parts += [_integer_section(name, graph) for name, graph in report.get("integer", {}).items()]
    parts += [_graph_section(name, graph) for name, graph in report["graphs"].items()]
    body = "\n".join(parts)
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body>{body}</body></html>\n"
    )
