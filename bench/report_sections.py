"""What a report shows of each kind of result: charts, tables, and the whole in one sentence."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

from ..runtime.errors import DataError
from . import latency, rd
from .gpu_section import held_back
from .report import Section, Table
from .result_files import read_json
from .svg import Bar, Line, bar_chart, line_chart

_LAYERS: Final = "Bytes per layer, mean over the images"
_MEDIANS: Final = "Median, whisker to the 95th percentile"
_ROOFLINE: Final = "Rate and intensity"
_METRICS: Final = {
    "psnr": "PSNR-RGB, dB",
    "psnr_ycbcr": "PSNR-YCbCr, dB",
    "ms_ssim": "MS-SSIM",
    "ssimulacra2": "SSIMULACRA 2",
}
_PUBLISHED: Final = (
    "Of the mean curves; not measured here. Networks trained for MS-SSIM do worse in PSNR than they could."
)
_STAGES: Final = ("read", "segment", "analyse", "synthesise", "labels", "compact", "residual", "add", "write")
# What runs beside the networks: a bar is the whole, its parts what is not hidden.
_REST: Final = "other"
_WHOLE: Final = "not split"
_BESIDE: Final = {"compress": latency.FLIF_STAGES, "decompress": ("residual",)}
_SLOWEST: Final = 12


def _rd_section(result: dict[str, Any]) -> Section:
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
    low, high = rd.BD_RANGE
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
        if row["coder"] in variants and row["metric"] == "psnr" and tuple(row["range"]) == rd.BD_RANGE:
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


def _latency_section(result: dict[str, Any]) -> Section:
    setting = result["settings"]
    names = ", ".join(setup["name"] for setup in setting["setups"])
    title = f"Latency of {names} at {setting['width']}x{setting['height']}"
    section = Section(title, environment=result["environment"])
    bars, rows = [], []
    for name, timing in result["timings"].items():
        if name == latency.REFERENCE:
            continue
        wall, total = timing["wall"], timing["wall"]["total"]
        beside = _BESIDE.get(name.rpartition("/")[2], ())
        staged = [
            (stage, wall[stage]["p50_ms"]) for stage in _STAGES if stage in wall and stage not in beside
        ]
        rest = total["p50_ms"] - sum(value for _, value in staged)
        parts = [*staged, (_REST, max(rest, 0.0))] if staged else [(_WHOLE, total["p50_ms"])]
        bars.append(Bar(name, parts, (total["p50_ms"], total["p95_ms"])))
        cells = (f"{total[f'p{p}_ms']:.1f}" for p in (50, 90, 95, 99))
        flif = f"{wall['flif']['p50_ms']:.1f}" if "flif" in wall else "-"
        relative = result["ratios"].get(name)
        made = result["coded"][name.rpartition("/")[0]]
        rows.append(
            (
                name,
                *cells,
                flif,
                "-" if relative is None else f"{relative:.2f}",
                f"{made['psnr']:.2f}",
                str(made["bytes"]),
                str(total["n"]),
            )
        )
    section.charts[_MEDIANS] = bar_chart(_MEDIANS, "milliseconds", bars, neutral=(_REST, _WHOLE))
    section.headline = " ".join(_latency_headline(setup["name"], result) for setup in setting["setups"])
    columns = ("", "p50 ms", "p90", "p95", "p99", "FLIF ms", "time over ours", "PSNR, dB", "bytes", "n")
    note = (
        "Wall-clock milliseconds; candidates interleaved in one run, so ratios hold where absolute times depend on "
        "what else the machine did. FLIF: labels and compact image together; in the encoder beside the networks. Peers "
        "at their setting nearest to ours in PSNR."
    )
    section.tables.append(Table(f"Compress and decompress, {setting['image']}", columns, tuple(rows), note))
    loads = tuple(
        (name, *(f"{times.get(k, 0):.0f}" for k in ("open", "segment", "analyse", "synthesise")))
        for name, times in result["load_ms"].items()
    )
    section.tables.append(Table("Loading, once", ("", "open ms", "segment", "analyse", "synthesise"), loads))
    flows = tuple(
        (
            name,
            f"{flow['sequential_per_second']:.2f}",
            f"{flow['pipelined_per_second']:.2f}",
            f"{flow['pipelined_per_second'] / flow['sequential_per_second']:.2f}",
            f"{flow['images']:.0f}",
        )
        for name, flow in result["throughput"].items()
    )
    if flows:
        heading = ("", "one after the other", "pipelined", "gain", "n")
        note = "Pipelined: the networks of one image run while the residual of the one before is coded."
        section.tables.append(Table("Compression, images per second", heading, flows, note))
    return section


def _latency_headline(name: str, result: dict[str, Any]) -> str:
    setting = result["settings"]
    compress, decompress = (
        result["timings"][f"{name}/{side}"]["wall"] for side in ("compress", "decompress")
    )
    return (
        f"{name} at {setting['width']}x{setting['height']}: compress {compress['total']['p50_ms']:.0f} ms, decompress "
        f"{decompress['total']['p50_ms']:.0f} ms, of which FLIF {compress['flif']['p50_ms']:.1f} and "
        f"{decompress['flif']['p50_ms']:.1f} ms."
    )


def _fusion_section(result: dict[str, Any]) -> Section:
    threads = result["threads"]
    counted = f"{threads} thread" + "s" * (threads != 1)
    section = Section(f"Fusion of octave convolutions, {counted}", environment=result["environment"])
    rows, lines = [], []
    for entry in result["results"]:
        network = f"{entry['network']} {entry['graph']}"
        for form, found in entry["forms"].items():
            p50 = _p50(found["timing"])
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
            section.headline = (
                f"Fused octave convolutions ({network}, {counted}): {_faster(entry['ratios'])}."
            )
    height, width = result["size"]
    title = f"Forms of the same networks at {width}x{height}, {counted}, interleaved"
    columns = ("network", "form", "GMAC", "MB moved", "p50 ms", "time over fused")
    section.tables.append(Table(title, columns, tuple(rows), "Random weights."))
    lines.append(_roof(**result["peaks"]))
    section.charts[_ROOFLINE] = line_chart(
        _ROOFLINE, "multiply-accumulates per byte moved", "GMAC/s", lines, log_x=True, log_y=True
    )
    return section


def _faster(ratios: dict[str, Any]) -> str:
    """How much faster fused octave convolutions are than others, in words."""
    others = {"naive": "the naive graph", "plain": "plain convolutions of equal width"}
    return " and ".join(
        f"{ratios[f'{form}/fused']:.2f}x as fast as {what}"
        for form, what in others.items()
        if f"{form}/fused" in ratios
    )


def _roof(gmacs: float, gigabytes: float) -> Line:
    """What this machine can reach at an intensity: the peak rate, or the peak traffic times the intensity."""
    ridge = gmacs / gigabytes
    far = 1000  # times the ridge: beyond any axis
    roof = [(ridge / far, gmacs / far), (ridge, gmacs), (ridge * far, gmacs)]
    name = f"peaks: {gigabytes:.3g} GB/s, {gmacs:.3g} GMAC/s"
    return Line(name, roof, context=name)


def _p50(timing: dict[str, Any]) -> float:
    """Median of a candidate's wall-clock time in milliseconds."""
    return float(timing["wall"]["total"]["p50_ms"])


def _drift_section(result: dict[str, Any]) -> Section:
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


def _flif_section(result: dict[str, Any]) -> Section:
    section = Section("FLIF", environment=result["environment"])
    columns = (
        "coder", "bytes", "bpp", "encode ms", "decode ms", "bytes over reference", "encode speed", "decode speed",
    )  # fmt: skip
    for name, part in result["sets"].items():
        rows = tuple(
            (
                coder,
                f"{row['mean_bytes']:.0f}",
                f"{row['bpp']:.4f}",
                *(f"{_p50(row[side]):.1f}" for side in ("encode", "decode")),
                *(
                    f"{row[key]:.3f}" if key in row else "-"
                    for key in ("bytes_of_reference", "encode_speed", "decode_speed")
                ),
            )
            for coder, row in part["coders"].items()
        )
        height, width = part["shape"][:2]
        size = f"{part['pictures']} pictures of {width}x{height}"
        note = f"{size}; times of {part['timed']} of them. Reference: libflif, where it is installed."
        section.tables.append(Table(name, columns, rows, note))
        ours = next(row for coder, row in part["coders"].items() if coder.startswith("ours"))
        if "bytes_of_reference" in ours:
            section.headline += (
                f"{'; ' if section.headline else 'FLIF against the reference library: '}{name} "
                f"{100 * (ours['bytes_of_reference'] - 1):+.1f} % bytes, encoding {ours['encode_speed']:.1f}x and "
                f"decoding {ours['decode_speed']:.1f}x as fast"
            )
    section.headline += "." if section.headline else ""
    return section


def _gpu_section(result: dict[str, Any]) -> Section:
    section = Section(f"Networks on {result['gpu']}", environment=result["environment"])
    done = [part["result"] for part in result["sections"].values() if part["status"] == "done"]
    measured = [found for found in done if "timings" in found]
    fused = _fused_on_gpu(measured)
    if fused:
        title, engine, p50, ratios = fused[0]
        what = f"Fused octave convolutions on {result['gpu']} ({title}, {engine})"
        section.headline = f"{what}: {p50:.3f} ms, {_faster(ratios)}."
        forms = ("naive", "plain", "convolve_first")
        rows = tuple(
            (title, engine, f"{p50:.3f}", *(_digits(ratios.get(f"{form}/fused")) for form in forms))
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
            _p50(found["timings"][ratios["best_form"]]),
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


def _digits(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.2f}"


def _compare_section(result: dict[str, Any]) -> Section:
    one, other = (f"{side['name']} ({side['precision']})" for side in result["sides"])
    section = Section(f"{other} against {one}", environment=result["environment"])
    rows = tuple(
        (
            row["output"],
            f"{row['maximum']:g}",
            f"{row['mean']:.5g}",
            f"{100 * row['differing']:.4f} %",
            f"{100 * row['exceeding']:.4f} %",
            _decibel(row.get("psnr") if row.get("sqnr") is None else row["sqnr"]),
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


def _graphs_section(result: dict[str, Any]) -> Section:
    section = Section("Latency of graphs", environment=result["environment"])
    rows = []
    for name, timing in result["timings"].items():
        facts, series = result["candidates"][name], timing["wall"]["total"]
        relation = result["ratios"].get(name)
        marks = (f"{series[f'p{p}_ms']:.3f}" for p in (50, 90, 99))
        over = "-" if relation is None else f"{relation:.3f}"
        rows.append(
            (
                name,
                facts["backend"],
                facts["precision"],
                *marks,
                over,
                f"{facts['load_ms']:.0f}",
                str(series["n"]),
            )
        )
    columns = (
        "graph",
        "backend",
        "precision",
        "p50 ms",
        "p90",
        "p99",
        "over the first",
        "load ms",
        "samples",
    )
    section.tables.append(Table("Latency", columns, tuple(rows)))
    for name, layers in result["layers"].items():
        slowest = tuple(
            (x["name"], x["operator"], f"{x['milliseconds']:.3f}") for x in layers["times"][:_SLOWEST]
        )
        if slowest:
            section.tables.append(Table(f"Slowest layers of {name}", ("layer", "kernel", "ms"), slowest))
    return section


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _int8_section(result: dict[str, Any]) -> Section:
    section = Section("INT8 against float32", environment=result["environment"])
    note = "" if result["environment"]["vnni"] else "This processor has no VNNI, for which int8 is meant."
    if "latency" in result:
        measured = result["latency"]
        rows = []
        for part, speedup in measured["speedup"].items():
            before, after = (_p50(measured["timings"][f"{name}/{part}"]) for name in ("float32", "int8"))
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


def _fuzz_section(result: dict[str, Any]) -> Section:
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


def _memory_section(result: dict[str, Any]) -> Section:
    section = Section("Memory beside its prediction", environment=result["environment"])
    rows = tuple(
        (
            row["command"],
            str(row["files"]),
            f"{row['width']}x{row['height']}",
            f"{row['measured_bytes'] / 2**20:.0f}",
            f"{row['predicted_bytes'] / 2**20:.0f}",
            f"{100 * (row['predicted_bytes'] / row['measured_bytes'] - 1):+.1f} %",
        )
        for row in result["rows"]
    )
    columns = ("command", "files", "size", "measured, MiB", "predicted, MiB", "difference")
    section.tables.append(Table("The whole process at its peak", columns, rows))
    return section


def _scale_section(result: dict[str, Any]) -> Section:
    section = Section("Large pictures", environment=result["environment"])
    rows = tuple(
        (
            f"{row['command']}{' in strips' if row['strips'] else ''}",
            f"{row['megapixels']:.0f}",
            f"{row['seconds']:.1f}",
            f"{row['seconds'] / row['megapixels']:.3f}",
            f"{row['peak_bytes'] / 2**20:.0f}",
            f"{100 * row['overhead_bytes'] / row['bytes']:.3f} %" if "bytes" in row else "-",
        )
        for row in result["rows"]
    )
    columns = ("command", "megapixels", "s", "s per megapixel", "peak, MiB", "overhead of the stream")
    note = f"Each command in a process of its own, the start included; in strips: --max-memory {result['memory']}."
    section.tables.append(Table("Time and memory by size", columns, rows, note))
    if found := result["regions"]:
        share = f"{100 * found['share_of_whole']:.1f} %"
        region = (
            f"{found['side']}x{found['side']}",
            str(len(found["region_seconds"])),
            share,
            str(found["equal"]),
        )
        names = ("region", "positions", "share of the whole picture's time", "equal to that part of it")
        section.tables.append(Table("Regions of the largest", names, (region,)))
    return section


def _seams_section(result: dict[str, Any]) -> Section:
    section = Section("Seams between tiles", environment=result["environment"])
    rows = tuple(
        (
            row["image"],
            f"{row['tile']} / {row['halo']}",
            str(row["quality"]),
            f"{100 * (row['seam'] - 1):+.2f} %",
            f"{100 * (row['bytes'] / row['bytes_whole'] - 1):+.2f} %",
        )
        for row in result["rows"]
    )
    columns = ("image", "tile / halo", "quality", "squared error at the borders", "bytes")
    note = (
        "The error within 16 pixels of the borders of tiles against that of the same pixels in the middle of a tile; "
        "bytes relative to the undivided picture, which AV1 codes otherwise by its size."
    )
    section.tables.append(Table("Tiles against undivided pictures", columns, rows, note))
    return section


def _selfcheck_section(result: dict[str, Any]) -> Section:
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


# In the order in which a report shows them.
_SECTIONS: Final = {
    rd.FORMAT: _rd_section,
    latency.FORMAT: _latency_section,
    "oslic-bench-fusion": _fusion_section,
    "oslic-bench-int8": _int8_section,
    "oslic-bench-flif": _flif_section,
    "oslic-bench-gpu": _gpu_section,
    "oslic-bench-drift": _drift_section,
    "oslic-compare": _compare_section,
    "oslic-bench-graphs": _graphs_section,
    "oslic-bench-memory": _memory_section,
    "oslic-bench-scale": _scale_section,
    "oslic-bench-seams": _seams_section,
    "oslic-fuzz-campaign": _fuzz_section,
    "oslic-bench-selfcheck": _selfcheck_section,
}


KNOWN: Final = frozenset(_SECTIONS)
"""Kinds of result files that a report shows."""

# Of the kinds that are not named here it is 1.
_VERSIONS: Final = {latency.FORMAT: latency.VERSION, "oslic-bench-fusion": 2, "oslic-compare": 2}


def read_result(path: Path) -> dict[str, Any]:
    """Read a result file of any kind that a report knows.

    Raises:
        DataError: not a result file, of an unknown kind, or of another version of its kind.
    """
    body = read_json(path, "result")
    kind = body.get("format")
    if kind not in _SECTIONS:
        raise DataError(f"{path} is of the kind {kind!r}; a report knows {', '.join(_SECTIONS)}")
    version, known = body.get("version"), _VERSIONS.get(kind, 1)
    if version != known:
        raise DataError(
            f"{path} was measured by version {version} of its bench, this is {known}: measure it again"
        )
    return body


def sections(results: list[dict[str, Any]]) -> list[Section]:
    """Return one section per result, ordered by kind; those of one kind as they were given."""
    order = list(_SECTIONS)
    ranked = sorted(results, key=lambda result: order.index(result["format"]))
    return [_SECTIONS[result["format"]](result) for result in ranked]
