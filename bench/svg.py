"""Charts as SVG text, for reports that need neither a network nor a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

# Okabe and Ito's colours: told apart by people with any kind of colour vision.
COLORS: Final = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#666666",
    "#B2A100",
    "#882255",
)
_WIDTH: Final = 720
_HEIGHT: Final = 420
_LEFT: Final = 64
_RIGHT: Final = 16
_TOP: Final = 34
_BOTTOM: Final = 48
_FONT: Final = "font-family='system-ui, sans-serif'"


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        name: in the legend.
        points: (x, y), in the order in which they are joined.
        dashed: for figures that were not measured here.
        joined: draw the line; otherwise the points alone.
    """

    name: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False
    joined: bool = True


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
    """Return round numbers (1, 2 or 5 times a power of ten apart) that cover an interval."""
    span = max(high - low, 1e-12)
    step = 10 ** math.floor(math.log10(span / count))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= count)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
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

    def __init__(self, low: float, high: float, start: float, stop: float, log: bool) -> None:
        self.log = log
        self.low, self.high = low, high
        self._start, self._stop = start, stop
        self._a, self._b = (math.log10(low), math.log10(high)) if log else (low, high)

    def __call__(self, value: float) -> float:
        at = math.log10(value) if self.log else value
        return self._start + (at - self._a) / (self._b - self._a or 1) * (self._stop - self._start)

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
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    pad_x = 0 if log_x else (max(xs) - min(xs)) * 0.03
    pad_y = 0 if log_y else (max(ys) - min(ys)) * 0.05
    x_axis = _Axis(min(xs) - pad_x, max(xs) + pad_x, _LEFT, _WIDTH - _RIGHT, log_x)
    y_axis = _Axis(min(ys) - pad_y, max(ys) + pad_y, _HEIGHT - _BOTTOM, _TOP, log_y)
    out = _open(title, _HEIGHT)
    for tick in x_axis.ticks():
        x = x_axis(tick)
        out.append(f"<line x1='{x:.1f}' y1='{_TOP}' x2='{x:.1f}' y2='{_HEIGHT - _BOTTOM}' stroke='#e4e4e4'/>")
        out.append(_text(x, _HEIGHT - _BOTTOM + 16, _number(tick)))
    for tick in y_axis.ticks():
        y = y_axis(tick)
        out.append(f"<line x1='{_LEFT}' y1='{y:.1f}' x2='{_WIDTH - _RIGHT}' y2='{y:.1f}' stroke='#e4e4e4'/>")
        out.append(_text(_LEFT - 6, y + 4, _number(tick), "end"))
    out.append(_text((_LEFT + _WIDTH) / 2, _HEIGHT - 10, x_label))
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    out.append(_text(16, middle, y_label, extra=f"transform='rotate(-90 16 {middle})'"))
    for index, line in enumerate(lines):
        color = COLORS[index % len(COLORS)]
        at = [(x_axis(x), y_axis(y)) for x, y in line.points]
        if line.joined and len(at) > 1:
            dash = " stroke-dasharray='6 4'" if line.dashed else ""
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
            out.append(f"<polyline points='{path}' fill='none' stroke='{color}' stroke-width='2'{dash}/>")
        if not line.dashed:
            out += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{color}'/>" for x, y in at]
    out += _legend(
        [(line.name, COLORS[i % len(COLORS)]) for i, line in enumerate(lines)], _HEIGHT - _BOTTOM - 10
    )
    return "\n".join([*out, "</svg>"])


def _legend(entries: Sequence[tuple[str, str]], bottom: float) -> list[str]:
    """Names with their colours at the lower right, where rate-distortion curves leave room."""
    width = 16 + 7 * max(len(name) for name, _ in entries)
    left, top = _WIDTH - _RIGHT - width - 10, bottom - 17 * len(entries)
    box = f"<rect x='{left - 6}' y='{top - 6}' width='{width + 12}' height='{17 * len(entries) + 8}'"
    out = [f"{box} fill='white' fill-opacity='0.85' stroke='#d0d0d0'/>"]
    for index, (name, color) in enumerate(entries):
        y = top + 17 * index
        out.append(f"<rect x='{left}' y='{y}' width='10' height='10' fill='{color}'/>")
        out.append(_text(left + 16, y + 10, name, "start"))
    return out


def bar_chart(title: str, x_label: str, bars: Sequence[Bar]) -> str:
    """Return horizontal bars of stacked parts, with whiskers and a legend of the parts.

    Args:
        title: above the chart.
        x_label: with unit.
        bars: at least one, from top to bottom.
    """
    names = list(dict.fromkeys(name for bar in bars for name, _ in bar.parts))
    color = {name: COLORS[i % len(COLORS)] for i, name in enumerate(names)}
    row, legend_rows = 30, -(-len(names) // 5)
    height = _TOP + row * len(bars) + _BOTTOM + 18 * legend_rows
    left = 12 + 7 * max(len(bar.name) for bar in bars)
    ends = [sum(v for _, v in bar.parts) for bar in bars] + [bar.whisker[1] for bar in bars if bar.whisker]
    axis = _Axis(0, max(ends) * 1.08 or 1, left, _WIDTH - _RIGHT - 30, log=False)
    bottom = _TOP + row * len(bars)
    out = _open(title, height)
    for tick in axis.ticks():
        out.append(
            f"<line x1='{axis(tick):.1f}' y1='{_TOP}' x2='{axis(tick):.1f}' y2='{bottom}' stroke='#e4e4e4'/>"
        )
        out.append(_text(axis(tick), bottom + 16, _number(tick)))
    for index, bar in enumerate(bars):
        top, at = _TOP + row * index + 5, 0.0
        out.append(_text(left - 6, top + 15, bar.name, "end"))
        for name, value in bar.parts:
            span = axis(at + value) - axis(at)
            out.append(
                f"<rect x='{axis(at):.1f}' y='{top}' width='{span:.1f}' height='20' fill='{color[name]}'/>"
            )
            at += value
        end = axis(at)
        if bar.whisker:
            low, high, y = axis(bar.whisker[0]), axis(bar.whisker[1]), top + 10
            caps = "".join(f"M{x:.1f} {y - 5} V{y + 5}" for x in (low, high))
            out.append(f"<path d='M{low:.1f} {y} H{high:.1f} {caps}' stroke='black' fill='none'/>")
            end = max(end, high)
        out.append(_text(end + 5, top + 15, f"{at:.3g}", "start", size=11))
    out.append(_text((left + _WIDTH) / 2, bottom + 34, x_label))
    if len(names) > 1:
        for index, name in enumerate(names):
            x, y = left + (index % 5) * 120, bottom + 44 + 18 * (index // 5)
            out.append(f"<rect x='{x}' y='{y}' width='10' height='10' fill='{color[name]}'/>")
            out.append(_text(x + 16, y + 10, name, "start"))
    return "\n".join([*out, "</svg>"])
