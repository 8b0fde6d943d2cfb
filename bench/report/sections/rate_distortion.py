"""Rate and distortion: curves, BD-rates, images one by one."""

from __future__ import annotations

import math
from typing import Any, Final

from ....measure.charts import Bar, Line, bar_chart, line_chart
from ...experiments import rate_distortion
from ..page import Section, Table

_LAYERS: Final = "Bytes per layer, mean over the images"
_METRICS: Final = {
    "psnr": "PSNR-RGB, dB",
    "psnr_ycbcr": "PSNR-YCbCr, dB",
    "ms_ssim": "MS-SSIM",
    "ssimulacra2": "SSIMULACRA 2",
}
_PUBLISHED: Final = (
    "Of the mean curves; not measured here. Networks trained for MS-SSIM do worse in PSNR than they could."
)


def rate_distortion_section(result: dict[str, Any]) -> Section:
    """The section of a result file of rate distortion."""
    section = Section("Rate and distortion", environment=result["environment"])
    summary, ours = result["summary"], result["coder"]
    count = len(result["settings"]["images"])
    for metric in result["settings"]["metrics"]:
        frame = [c for c in summary["published"] if metric in c["scores"]]
        context = f"published ({len(frame)})"
        lines = [
            Line(
                c["name"], list(zip(c["bpp"], _shown(metric, c["scores"][metric]), strict=True)), context=name
            )
            for curves, name in ((summary["curves"], ""), (frame, context))
            for c in curves
            if metric in c["scores"]
        ]
        title = f"{_METRICS[metric]}, mean of {count} images"
        label = "-10 log10(1 - MS-SSIM), dB" if metric == "ms_ssim" else _METRICS[metric]
        section.charts[title] = line_chart(
            title, "bits per pixel, all bytes counted (logarithmic)", label, lines, log_x=True
        )
    section.charts[_LAYERS] = _layer_chart(result)
    rates = [b for b in summary["bd_rates"] if "bd_rate_percent" in b]
    low, high = rate_distortion.BD_RANGE
    method = f"PSNR-RGB over {low:g} to {high:g} dB, Akima interpolation; negative: {ours} needs fewer bytes."
    for title, published, how in (
        (f"BD-rate of {ours}", False, "Mean over the images, file for file, coded in this run."),
        (f"BD-rate of {ours} against published curves", True, _PUBLISHED),
    ):
        wanted = [b for b in rates if ("source" in b) is published]
        if published:  # so many that they are read as a ranking
            wanted.sort(key=lambda b: float(b["bd_rate_percent"]), reverse=True)
        rows = tuple((b["anchor"], f"{b['bd_rate_percent']:+.1f} %") for b in wanted)
        if rows:
            section.tables.append(Table(title, ("against", "BD-rate"), rows, f"{method} {how}"))
    section.tables.append(_per_image(result))
    variants = {row["coder"] for row in summary.get("bands", ())} - {ours}
    found = {ours: [b for b in rates if "source" not in b and b["anchor"] not in variants]}
    for row in summary.get("bands", ()):
        if (
            row["coder"] in variants
            and row["metric"] == "psnr"
            and tuple(row["range"]) == rate_distortion.BD_RANGE
        ):
            found.setdefault(row["coder"], []).append(row)
    against = "; ".join(
        f"{coder}: " + ", ".join(f"{row['bd_rate_percent']:+.1f} % against {row['anchor']}" for row in rows)
        for coder, rows in found.items()
        if rows
    )
    if against:
        section.headline = f"BD-rate by PSNR over {low:g} to {high:g} dB, {count} photographs. {against}."
    return section


def _shown(metric: str, scores: list[float]) -> list[float]:
    """Scores as a chart shows them: MS-SSIM in dB, since all that is worth looking at lies close below 1."""
    return [-10 * math.log10(max(1 - s, 1e-6)) for s in scores] if metric == "ms_ssim" else scores


def _layer_chart(result: dict[str, Any]) -> str:
    by_quality: dict[float, list[dict[str, int]]] = {}
    for point in result["points"]:
        if point["coder"] == result["coder"]:
            by_quality.setdefault(point["quality"], []).append(
                {**point["section_bytes"], "total": point["size"]}
            )
    bars = []
    for quality, rows in sorted(by_quality.items()):
        means = {
            k: sum(r.get(k, 0) for r in rows) / len(rows) / 1000
            for k in ("labels", "compact", "residual", "total")
        }
        header = means["total"] - means["labels"] - means["compact"] - means["residual"]
        parts = [(k, means[k]) for k in ("labels", "compact", "residual")]
        bars.append(Bar(f"quality {quality:g}", [*parts, ("header", max(header, 0))]))
    return bar_chart(_LAYERS, "kB per image", bars)


def _per_image(result: dict[str, Any]) -> Table:
    ours = result["coder"]
    wanted = [p for p in result["points"] if p["coder"] == ours]
    middle = sorted({p["quality"] for p in wanted})
    quality = middle[len(middle) // 2]
    metrics = result["settings"]["metrics"]
    rows = tuple(
        (
            p["image"],
            str(p["size"]),
            f"{p['bpp']:.3f}",
            str(p["section_bytes"].get("labels", 0)),
            str(p["section_bytes"].get("compact", 0)),
            *(f"{p['scores'][m]:.{4 if m == 'ms_ssim' else 2}f}" for m in metrics),
        )
        for p in wanted
        if p["quality"] == quality
    )
    columns = ("image", "bytes", "bpp", "labels, bytes", "compact, bytes", *(_METRICS[m] for m in metrics))
    return Table(f"Per image, {ours} at quality {quality:g}", columns, rows)
