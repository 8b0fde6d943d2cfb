"""One HTML file, and the same figures as Markdown tables, from any number of result files."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

if TYPE_CHECKING:
    from ...runtime.image.arrays import Pixels

# Longer tables are folded on the page, and left out of the Markdown.
_LONG: Final = 12
# The browser itself keeps to it that the page needs nothing else.
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
_STYLE: Final = """
body{font:16px/1.5 system-ui,sans-serif;color:#1b1b1b;background:#fff;max-width:1200px;margin:0 auto;padding:24px}
h1{margin-bottom:0}h2{margin-top:48px;border-bottom:1px solid #ddd}h3,summary{overflow-wrap:anywhere}
a{color:#00588a;text-decoration:none}a:hover{text-decoration:underline}.summary li{margin:4px 0}
table{border-collapse:collapse;font-size:14px}
.wide{overflow-x:auto;margin:12px 0}
th,td{padding:3px 10px;border-bottom:1px solid #e4e4e4;text-align:right;font-variant-numeric:tabular-nums}
td{white-space:nowrap}th{vertical-align:bottom}
.words{text-align:left;white-space:normal;min-width:6em}
@media(max-width:600px){td:first-child{min-width:10em;overflow-wrap:anywhere;white-space:normal}}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(500px,100%),1fr));gap:16px}
.charts>svg{width:100%;height:auto;border:1px solid #eee}
.pair{margin:8px 0 24px;width:fit-content;max-width:100%}
.stage{position:relative;width:fit-content;overflow:hidden;line-height:0}
.stage img{max-width:100%;height:auto}
.stage .top{position:absolute;inset:0;width:100%;height:100%}
.edge{position:absolute;top:0;bottom:0;width:2px;margin-left:-1px;background:#fff;box-shadow:0 0 3px #000}
.edge::after{content:'\\2194';position:absolute;top:50%;left:-13px;width:28px;height:28px;margin-top:-14px;
border-radius:50%;background:#fff;box-shadow:0 0 3px #000;color:#1b1b1b;font:18px/28px sans-serif;text-align:center}
.stage input{position:absolute;inset:0;width:100%;height:100%;margin:0;opacity:0;cursor:ew-resize;touch-action:pan-y;
appearance:none}
.stage input::-webkit-slider-thumb{appearance:none;width:1px;height:100%}
.stage input::-moz-range-thumb{width:1px;height:100%;border:0}
.stage:has(:focus-visible){outline:3px solid #0072b2}
figcaption{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 16px;font-size:14px;padding-top:4px;
width:0;min-width:100%}
details{margin:12px 0}summary{cursor:pointer}summary.long{font-size:1.17em;font-weight:bold}
pre{background:#f6f6f6;padding:12px;overflow:auto;font-size:12px}
.note{color:#555;font-size:14px}
"""
_SCRIPT: Final = """
for(const r of document.querySelectorAll('.stage input')){
const s=r.parentElement,move=()=>{
s.querySelector('.top').style.clipPath=`inset(0 ${100-r.value}% 0 0)`;
s.querySelector('.edge').style.left=r.value+'%';};
r.addEventListener('input',move);move();}
"""
_VISUAL: Final = (
    "Drag across a picture, or use the arrow keys, to move the edge. The other codec, at 4:4:4, takes at most as many "
    "bytes, unless it cannot; dB: PSNR-RGB."
)


@dataclass(frozen=True)
class Table:
    """A table that can be written as HTML and as Markdown.

    Attributes:
        title: above it.
        columns: headings.
        rows: cells, as text.
        note: what the figures are, below it.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def html(self) -> str:
        """Return the table as HTML; a long one is folded."""
        words = [
            all(not row[i] or row[i][0].isalpha() for row in self.rows) for i in range(len(self.columns))
        ]
        marks = [" class='words'" if wordy or i == 0 else "" for i, wordy in enumerate(words)]

        def line(tag: str, cells: tuple[str, ...]) -> str:
            marked = zip(cells, marks, strict=True)
            return "<tr>" + "".join(f"<{tag}{mark}>{escape(c)}</{tag}>" for c, mark in marked) + "</tr>"

        body = line("th", self.columns) + "".join(line("td", row) for row in self.rows)
        note = f"<p class='note'>{escape(self.note)}</p>" if self.note else ""
        table = f"<div class='wide'><table>{body}</table></div>{note}"
        if len(self.rows) <= _LONG:
            return f"<h3>{escape(self.title)}</h3>{table}"
        heading = f"<summary class='long'>{escape(self.title)} ({len(self.rows)})</summary>"
        return f"<details>{heading}{table}</details>"

    def markdown(self) -> str:
        """Return the table as Markdown."""
        rule = "|".join(["---"] + ["---:"] * (len(self.columns) - 1))
        lines = ["| " + " | ".join(row) + " |" for row in (self.columns, *self.rows)]
        lines.insert(1, f"|{rule}|")
        return "\n".join([f"**{self.title}**", "", *lines, *(["", self.note] if self.note else [])])


@dataclass(frozen=True)
class Comparison:
    """Two codings of one image at equal bytes, for the slider."""

    title: str
    left: tuple[str, Pixels]
    right: tuple[str, Pixels]


@dataclass
class Section:
    """A part of the report.

    Attributes:
        title: its heading.
        charts: SVG by title.
        tables: below the charts.
        environment: the machine, as `environment.describe` gives it.
        headline: the whole in one sentence; empty for what belongs below.
    """

    title: str
    charts: dict[str, str] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    environment: dict[str, Any] = field(default_factory=dict)
    headline: str = ""


def _data_url(pixels: Pixels) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", lossless=True, method=4)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _slider(comparison: Comparison) -> str:
    def picture(side: tuple[str, Pixels], mark: str) -> str:
        name, pixels = side
        height, width = pixels.shape[:2]
        size = f"width='{width}' height='{height}'"
        return f"<img{mark} src='{_data_url(pixels)}' alt='{escape(name, quote=True)}' {size}>"

    left, right = picture(comparison.left, " class='top'"), picture(comparison.right, "")
    said = "<input type='range' min='0' max='100' step='0.5' value='50' aria-label='where the two pictures meet'>"
    names = (
        f"<span>left: {escape(comparison.left[0])}</span><span>right: {escape(comparison.right[0])}</span>"
    )
    return (
        f"<figure class='pair'><div class='stage'>{right}{left}<div class='edge'></div>{said}</div>"
        f"<figcaption>{names}</figcaption></figure>"
    )


_VECTORS: Final = (
    ("amx_int8", "AMX"),
    ("avx512_vnni", "AVX-512 VNNI"),
    ("avx512f", "AVX-512"),
    ("avx_vnni", "AVX-VNNI"),
    ("avx2", "AVX2"),
)
"""Vector instructions as /proc/cpuinfo flags and by their names, the widest first."""


def processor_name(environment: dict[str, Any]) -> str:
    """Return model, widest vector instructions and cores of the machine that `environment.describe` describes."""
    model, cores = str(environment["cpu"]["model"]), int(environment["cpu"]["usable_cores"])
    # One model name stands for many generations, which the widest vector instructions tell apart.
    widest = next((name for flag, name in _VECTORS if flag in environment["cpu"]["features"]), None)
    return f"{model}{f' with {widest}' if widest else ''}, {cores} core{'' if cores == 1 else 's'}"


def _machine(environment: dict[str, Any]) -> str:
    """Processor and time, folded above all that is known of the machine."""
    time = environment["time"][:16].replace("T", " ")
    line = f"Measured on {processor_name(environment)}, {time} UTC"
    text = escape(json.dumps(environment, indent=1))
    return f"<details><summary>{escape(line)}</summary><pre>{text}</pre></details>"


def html(parts: list[Section], comparisons: list[Comparison], title: str) -> str:
    """Return the report as one HTML file that needs nothing else."""
    out = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        "<meta name='viewport' content='width=device-width,initial-scale=1'><link rel='icon' href='data:,'>",
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>",
        "<ul class='summary'>",
    ]
    for index, part in enumerate(parts):
        out.append(f"<li><a href='#part-{index}'>{escape(part.headline or part.title)}</a></li>")
    out += ["<li><a href='#visual'>Pictures at equal bytes</a></li>"] if comparisons else []
    out.append("</ul>")
    for index, part in enumerate(parts):
        out.append(f"<h2 id='part-{index}'>{escape(part.title)}</h2>")
        out += [f"<div class='charts'>{''.join(part.charts.values())}</div>"] if part.charts else []
        out += [table.html() for table in part.tables]
        out += [_machine(part.environment)] if part.environment else []
    if comparisons:
        out.append(f"<h2 id='visual'>Pictures at equal bytes</h2><p class='note'>{_VISUAL}</p>")
        for shown, pairs in itertools.groupby(comparisons, key=lambda c: c.title):
            out.append(f"<h3>{escape(shown)}</h3>")
            out += [_slider(pair) for pair in pairs]
    out.append(f"<script>{_SCRIPT}</script></body></html>")
    return "\n".join(out)


def pictures(parts: list[Section]) -> dict[str, str]:
    """Return all charts as SVG by file name."""
    return {_file_name(part, title): svg for part in parts for title, svg in part.charts.items()}


def _file_name(part: Section, title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{part.title} {title}".lower()).strip("-") + ".svg"


def headlines(parts: list[Section]) -> str:
    """Return the parts' headlines as a Markdown list, with the machine of each."""
    lines = []
    for part in parts:
        where = f" ({processor_name(part.environment)})" if part.environment else ""
        lines += [f"* {part.headline[:-1]}{where}.\n"] if part.headline else []
    return "".join(lines)


def markdown(parts: list[Section], folder: str | None = None) -> str:
    """Return all tables as Markdown, with the machine they were measured on.

    Args:
        parts: of the report.
        folder: where the files of `pictures` lie, for links to them; None: no links.
    """
    out = []
    for part in parts:
        out.append(f"### {part.title}\n")
        if folder is not None:
            out += [f"![{title}]({folder}/{_file_name(part, title)})\n" for title in part.charts]
        out += [table.markdown() + "\n" for table in part.tables if len(table.rows) <= _LONG]
        if part.environment:
            out.append(f"Measured on {processor_name(part.environment)}, {part.environment['time'][:10]}.\n")
    return "\n".join(out)
