"""Latency of codecs, stage by stage, and of any graphs."""

from __future__ import annotations

from typing import Any, Final

from ....measure.charts import Bar, bar_chart
from ...experiments import latency
from ..page import Section, Table

_MEDIANS: Final = "Median, whisker to the 95th percentile"
_STAGES: Final = ("read", "segment", "analyse", "synthesise", "labels", "compact", "residual", "add", "write")
# What runs beside the networks: a bar is the whole, its parts what is not hidden.
_REST: Final = "other"
_WHOLE: Final = "not split"
_BESIDE: Final = {"compress": latency.FLIF_STAGES, "decompress": ("residual",)}
_SLOWEST: Final = 12


def latency_section(result: dict[str, Any]) -> Section:
    """The section of a result file of latency."""
    setting = result["settings"]
    names = ", ".join(setup["name"] for setup in setting["setups"])
    title = f"Latency of {names} at {setting['width']}x{setting['height']}"
    section = Section(title, environment=result["environment"])
    walls = {name: t["wall"] for name, t in result["timings"].items() if name != latency.REFERENCE}
    bars = [_bar(name, wall) for name, wall in walls.items()]
    section.charts[_MEDIANS] = bar_chart(_MEDIANS, "milliseconds", bars, neutral=(_REST, _WHOLE))
    section.headline = " ".join(_latency_headline(setup["name"], result) for setup in setting["setups"])
    section.tables += [_times(walls, result), _loading(result)]
    if result["throughput"]:
        section.tables.append(_throughput(result))
    return section


def _bar(name: str, wall: dict[str, Any]) -> Bar:
    """The stages of a candidate that one waits for, and the rest."""
    total = wall["total"]
    beside = _BESIDE.get(name.rpartition("/")[2], ())
    staged = [(stage, wall[stage]["p50_ms"]) for stage in _STAGES if stage in wall and stage not in beside]
    rest = total["p50_ms"] - sum(value for _, value in staged)
    parts = [*staged, (_REST, max(rest, 0.0))] if staged else [(_WHOLE, total["p50_ms"])]
    return Bar(name, parts, (total["p50_ms"], total["p95_ms"]))


def _times(walls: dict[str, dict[str, Any]], result: dict[str, Any]) -> Table:
    rows = []
    for name, wall in walls.items():
        total = wall["total"]
        relative = result["ratios"].get(name)
        made = result["coded"][name.rpartition("/")[0]]
        rows.append(
            (
                name,
                *(f"{total[f'p{p}_ms']:.1f}" for p in (50, 90, 95, 99)),
                f"{wall['flif']['p50_ms']:.1f}" if "flif" in wall else "-",
                "-" if relative is None else f"{relative:.2f}",
                f"{made['psnr']:.2f}",
                str(made["bytes"]),
                str(total["n"]),
            )
        )
    columns = ("", "p50 ms", "p90", "p95", "p99", "FLIF ms", "time over ours", "PSNR, dB", "bytes", "n")
    note = (
        "Wall-clock milliseconds; candidates interleaved in one run, so ratios hold where absolute times depend on "
        "what else the machine did. FLIF: labels and compact image together; in the encoder beside the networks. Peers "
        "at their setting nearest to ours in PSNR."
    )
    return Table(f"Compress and decompress, {result['settings']['image']}", columns, tuple(rows), note)


def _loading(result: dict[str, Any]) -> Table:
    loads = tuple(
        (name, *(f"{times.get(k, 0):.0f}" for k in ("open", "segment", "analyse", "synthesise")))
        for name, times in result["load_ms"].items()
    )
    return Table("Loading, once", ("", "open ms", "segment", "analyse", "synthesise"), loads)


def _throughput(result: dict[str, Any]) -> Table:
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
    heading = ("", "one after the other", "pipelined", "gain", "n")
    note = "Pipelined: the networks of one image run while the residual of the one before is coded."
    return Table("Compression, images per second", heading, flows, note)


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


def graph_latency_section(result: dict[str, Any]) -> Section:
    """The section of a result file of graph latency."""
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
