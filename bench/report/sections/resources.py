"""Memory, large pictures, seams of tiles."""

from __future__ import annotations

from typing import Any

from ..page import Section, Table


def memory_section(result: dict[str, Any]) -> Section:
    """The section of a result file of memory."""
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


def scale_section(result: dict[str, Any]) -> Section:
    """The section of a result file of scale."""
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


def seams_section(result: dict[str, Any]) -> Section:
    """The section of a result file of seams."""
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
