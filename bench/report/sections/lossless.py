"""Coders of the lossless layers."""

from __future__ import annotations

from typing import Any

from ..page import Section, Table
from .shared import median_of


def lossless_layers_section(result: dict[str, Any]) -> Section:
    """The section of a result file of lossless layers."""
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
                *(f"{median_of(row[side]):.1f}" for side in ("encode", "decode")),
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
