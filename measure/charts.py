"""Charts as SVG text, for reports that need neither a network nor a plotting library."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

# Okabe and Ito's colors, and two more: told apart by people with any kind of color vision.
COLORS: Final = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#B2A100",
    "#882255",
    "#332288",
)
# For bars' parts that are not of the kind of the others.
_NEUTRAL: Final = ("#666666", "#A6A6A6")
_CONTEXT: Final = "#9A9A9A"
_WIDTH: Final = 640
_HEIGHT: Final = 400
_LEFT: Final = 64
_RIGHT: Final = 16
_TOP: Final = 34
_BOTTOM: Final = 48
_FONT: Final = "font-family='system-ui, sans-serif'"
# Mean width of a character at the size of most text: SVG does not measure its text, so that boxes are estimates.
_CHARACTER: Final = 7
# More of the width than this is not for the names of bars.
_NAMES: Final = 0.4


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: in the legend.
        points: (x, y), in the order in which they are joined.
        joined: draw the line; otherwise the points alone.
        context: for lines that only give the others a frame: drawn gray and dashed behind them, cut off where the
            others end, and all those of one context named by it in the legend, once. Empty for other lines.
    """

    name: str
    points: Sequence[tuple[float, float]]
    joined: bool = True
    context: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar: stacked parts and a whisker.

    Attributes:
        name: beside the bar.
        parts: (name, value), from left to right.
        whisker: (low, high) around the bar's end; None for none.
    """

    name: str
    parts: Sequence[tuple[str, float]]
    whisker: tuple[float, float] | None = None


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Return about `count` round numbers (1, 2 or 5 times a power of ten apart) that cover an interval."""
    span = max(high - low, 1e-12)
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= 1.5 * count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    if high < 5 * low:  # 1, 2 and 5 times powers of ten would be too few
        return ticks(low, high)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**e for e in exponents for m in (1, 2, 5) if low * 0.999 <= m * 10.0**e <= high * 1.001]


def _number(value: float) -> str:
    return f"{value:g}" if abs(value) < 1e5 else f"{value:.0e}"


def _text(x: float, y: float, text: str, anchor: str = "middle", *, size: int = 12, extra: str = "") -> str:
    style = f"text-anchor='{anchor}' font-size='{size}' {_FONT} {extra}"
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}>{escape(text)}</text>"


def _open(title: str, height: int) -> list[str]:
    label = escape(title, quote=True)
    return [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {_WIDTH} {height}' role='img' aria-label='{label}'>",
        f"<rect width='{_WIDTH}' height='{height}' fill='white'/>",
        _text(_WIDTH / 2, 20, title, size=15, extra="font-weight='600'"),
    ]


class _Axis:
    """Maps values to positions, linearly or by logarithm."""

    def __init__(self, low: float, high: float, start: float, stop: float, *, log: bool) -> None:
        self.log = log
        self.low, self.high = low, high
        self._start, self._stop = start, stop
        self._a, self._b = (math.log10(low), math.log10(high)) if log else (low, high)

    def __call__(self, value: float) -> float:
        at = math.log10(value) if self.log else value
        return self._start + (at - self._a) / (self._b - self._a or 1) * (self._stop - self._start)

    @classmethod
    def around(cls, values: Sequence[float], margin: float, start: float, stop: float, *, log: bool) -> _Axis:
        """Return an axis that holds all values, with a margin as a share of their range."""
        low, high = min(values), max(values)
        if log:
            factor = (high / low) ** margin
            return cls(low / factor, high * factor, start, stop, log=True)
        pad = (high - low) * margin
        return cls(low - pad, high + pad, start, stop, log=False)

    def ticks(self) -> list[float]:
        return _log_ticks(self.low, self.high) if self.log else ticks(self.low, self.high)


def line_chart(
    title: str, x_label: str, y_label: str, lines: Sequence[Line], *, log_x: bool = False, log_y: bool = False
) -> str:
    """Return a chart of lines with markers and a legend.

    Args:
        title: above the chart.
        x_label: with unit.
        y_label: with unit.
        lines: at least one line with at least one point.
        log_x: logarithmic x axis; all x must be positive.
        log_y: logarithmic y axis; all y must be positive.
    """
    framed = [line for line in lines if not line.context] or lines
    x_axis = _Axis.around(
        [x for line in framed for x, _ in line.points], 0.03, _LEFT, _WIDTH - _RIGHT, log=log_x
    )
    y_axis = _Axis.around(
        [y for line in framed for _, y in line.points], 0.05, _HEIGHT - _BOTTOM, _TOP, log=log_y
    )
    out = _open(title, _HEIGHT)
    for tick in x_axis.ticks():
        x = x_axis(tick)
        out.append(f"<line x1='{x:.1f}' y1='{_TOP}' x2='{x:.1f}' y2='{_HEIGHT - _BOTTOM}' stroke='#e4e4e4'/>")
        out.append(_text(x, _HEIGHT - _BOTTOM + 16, _number(tick)))
    for tick in y_axis.ticks():
        y = y_axis(tick)
        out.append(f"<line x1='{_LEFT}' y1='{y:.1f}' x2='{_WIDTH - _RIGHT}' y2='{y:.1f}' stroke='#e4e4e4'/>")
        out.append(_text(_LEFT - 6, y + 4, _number(tick), "end"))
    out.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 10, x_label))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    out.append(_text(16, middle, y_label, extra=f"transform='rotate(-90 16 {middle})'"))
    placed = [(line, [(x_axis(x), y_axis(y)) for x, y in line.points]) for line in lines]
    out += _context_lines([(line.name, at) for line, at in placed if line.context])
    entries: list[tuple[str, str]] = []
    taken: list[tuple[float, float]] = []
    for line, at in placed:
        if line.context:
            continue
        color = COLORS[len(entries) % len(COLORS)]
        entries.append((line.name, color))
        if line.joined and len(at) > 1:
            out.append(f"<polyline points='{_path(at)}' fill='none' stroke='{color}' stroke-width='2'/>")
        out += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{color}'/>" for x, y in at]
        taken += _along(at, line.joined)
    entries += [(name, _CONTEXT) for name in dict.fromkeys(line.context for line in lines if line.context)]
    return "\n".join([*out, *_legend(entries, taken), "</svg>"])


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _context_lines(placed: Sequence[tuple[str, list[tuple[float, float]]]]) -> list[str]:
    """Named lines behind the others, in a picture within the picture, which cuts them off at the axes."""
    if not placed:
        return []
    width, height = _WIDTH - _RIGHT - _LEFT, _HEIGHT - _BOTTOM - _TOP
    box = (
        f"x='{_LEFT}' y='{_TOP}' width='{width}' height='{height}' viewBox='{_LEFT} {_TOP} {width} {height}'"
    )
    stroke = f"fill='none' stroke='{_CONTEXT}' stroke-dasharray='5 3' stroke-opacity='0.7'"
    lines = [
        f"<polyline points='{_path(at)}' {stroke}><title>{escape(name)}</title></polyline>"
        for name, at in placed
    ]
    return [f"<svg {box}>", *lines, "</svg>"]


def _along(points: list[tuple[float, float]], joined: bool) -> list[tuple[float, float]]:
    """Points, and between them if they are joined, close enough to tell what a line passes through."""
    if not joined:
        return points
    steps = [i / 10 for i in range(10)]
    return [
        (x + (next_x - x) * step, y + (next_y - y) * step)
        for (x, y), (next_x, next_y) in itertools.pairwise(points)
        for step in steps
    ] + points[-1:]


def _legend(entries: Sequence[tuple[str, str]], taken: Sequence[tuple[float, float]]) -> list[str]:
    """Names with their colors, in the corner where they hide the least of what is drawn."""
    width = 28 + _CHARACTER * max(len(name) for name, _ in entries)
    height = 17 * len(entries) + 8
    right, bottom = _WIDTH - _RIGHT - width - 6, _HEIGHT - _BOTTOM - height - 6
    corners = [(right, bottom), (_LEFT + 6, _TOP + 6), (right, _TOP + 6), (_LEFT + 6, bottom)]

    def hidden(corner: tuple[int, int]) -> int:
        return sum(0 <= x - corner[0] <= width and 0 <= y - corner[1] <= height for x, y in taken)

    left, top = min(corners, key=hidden)
    box = f"<rect x='{left}' y='{top}' width='{width}' height='{height}'"
    out = [f"{box} fill='white' fill-opacity='0.85' stroke='#d0d0d0'/>"]
    for index, (name, color) in enumerate(entries):
        y = top + 6 + 17 * index
        out.append(f"<rect x='{left + 6}' y='{y}' width='10' height='10' fill='{color}'/>")
        out.append(_text(left + 22, y + 10, name, "start"))
    return out


def bar_chart(title: str, x_label: str, bars: Sequence[Bar], *, neutral: Sequence[str] = ()) -> str:
    """Return horizontal bars of stacked parts, with whiskers and a legend of the parts.

    Args:
        title: above the chart.
        x_label: with unit.
        bars: at least one, from top to bottom.
        neutral: names of up to two parts that are drawn gray, since they are not of the kind of the others.
    """
    names = list(dict.fromkeys(name for bar in bars for name, _ in bar.parts))
    names.sort(key=lambda name: name in neutral)
    color = dict(zip(names, itertools.cycle(COLORS), strict=False)) | dict(
        zip(neutral, _NEUTRAL, strict=False)
    )
    longest = int(_WIDTH * _NAMES / _CHARACTER)
    shown = [bar.name if len(bar.name) <= longest else "…" + bar.name[1 - longest :] for bar in bars]
    left = 14 + _CHARACTER * max(len(name) for name in shown)
    keys, legend_rows = _flow(names) if len(names) > 1 else ([], 0)
    row = 30
    height = _TOP + row * len(bars) + _BOTTOM + 18 * legend_rows
    ends = [sum(v for _, v in bar.parts) for bar in bars] + [bar.whisker[1] for bar in bars if bar.whisker]
    axis = _Axis(0, max(ends) * 1.08 or 1, left, _WIDTH - _RIGHT - 30, log=False)
    bottom = _TOP + row * len(bars)
    out = _open(title, height)
    for tick in axis.ticks():
        out.append(
            f"<line x1='{axis(tick):.1f}' y1='{_TOP}' x2='{axis(tick):.1f}' y2='{bottom}' stroke='#e4e4e4'/>"
        )
        out.append(_text(axis(tick), bottom + 16, _number(tick)))
    for index, (bar, shown_name) in enumerate(zip(bars, shown, strict=True)):
        top, at = _TOP + row * index + 5, 0.0
        out.append(_text(left - 6, top + 15, shown_name, "end"))
        for name, value in bar.parts:
            box = f"x='{axis(at):.1f}' y='{top}' width='{axis(at + value) - axis(at):.1f}' height='20'"
            said = f"<title>{escape(name)}: {value:.3g}</title>"
            out.append(f"<rect {box} fill='{color[name]}'>{said}</rect>")
            at += value
        end = axis(at)
        if bar.whisker:
            low, high, y = axis(bar.whisker[0]), axis(bar.whisker[1]), top + 10
            caps = "".join(f"M{x:.1f} {y - 5} V{y + 5}" for x in (low, high))
            out.append(f"<path d='M{low:.1f} {y} H{high:.1f} {caps}' stroke='black' fill='none'/>")
            end = max(end, high)
        out.append(_text(end + 5, top + 15, f"{at:.3g}", "start", size=11))
    out.append(_text((left + _WIDTH - _RIGHT - 30) / 2, bottom + 34, x_label))
    for name, x, line in keys:
        y = bottom + 44 + 18 * line
        out.append(f"<rect x='{x}' y='{y}' width='10' height='10' fill='{color[name]}'/>")
        out.append(_text(x + 16, y + 10, name, "start"))
    return "\n".join([*out, "</svg>"])


def _flow(names: Sequence[str]) -> tuple[list[tuple[str, int, int]], int]:
    """Place the names of a legend one after the other as words of a text: (name, x, row) of each, and how many rows."""
    placed, x, row = [], _RIGHT, 0
    for name in names:
        width = 32 + _CHARACTER * len(name)
        if x + width > _WIDTH and x > _RIGHT:
            x, row = _RIGHT, row + 1
        placed.append((name, x, row))
        x += width
    return placed, row + 1
