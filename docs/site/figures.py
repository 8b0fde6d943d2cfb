"""The figures of docs/concepts, as SVG: what a graph is before and after each identity.

python docs/site/figures.py            # write them into docs/concepts/figures
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parents[1] / "concepts" / "figures"

_STEP_X: Final = 100
_STEP_Y: Final = 52
_BOX_WIDTH: Final = 78
_BOX_HEIGHT: Final = 32
_MARGIN: Final = 14
_FONT: Final = "font-family='system-ui, sans-serif'"
# Fill by kind of node; what moves data is told from what computes without color, too: by its rounded corners.
_FILLS: Final = {"data": "#ffffff", "conv": "#cfe3f5", "move": "#fbe3c6", "other": "#e4e4e4"}
_SOURCES: Final = ("#cfe3f5", "#fbe3c6", "#cdebdc", "#f3d3e4")


@dataclass(frozen=True)
class Node:
    """A box.

    Attributes:
        column: from the left, from 0; fractions are fine.
        row: from the top, from 0; fractions are fine.
        text: in it.
        kind: `data`, `conv`, `move` (what repeats, averages or joins) or `other`.
    """

    column: float
    row: float
    text: str
    kind: str

    @property
    def center(self) -> tuple[float, float]:
        """Of the box, within its graph."""
        return self.column * _STEP_X + _BOX_WIDTH / 2, self.row * _STEP_Y + _BOX_HEIGHT / 2


@dataclass(frozen=True)
class Graph:
    """Boxes and arrows between them, by the boxes' names."""

    nodes: dict[str, Node]
    arrows: Sequence[tuple[str, str]]

    @property
    def size(self) -> tuple[float, float]:
        """Width and height."""
        columns = max(node.column for node in self.nodes.values())
        rows = max(node.row for node in self.nodes.values())
        return columns * _STEP_X + _BOX_WIDTH, rows * _STEP_Y + _BOX_HEIGHT


def graph(nodes: str, arrows: str) -> Graph:
    """A graph from a short notation.

    Args:
        nodes: one a line: name, column, row, kind, text.
        arrows: chains of names, with commas between them: `a b c, d c`.
    """
    found = {}
    for line in nodes.strip().splitlines():
        name, column, row, kind, text = line.split(maxsplit=4)
        found[name] = Node(float(column), float(row), text, kind)
    chains = [chain.split() for chain in arrows.split(",")]
    return Graph(found, [pair for chain in chains for pair in itertools.pairwise(chain)])


def _box(node: Node, left: float, top: float) -> Iterator[str]:
    x, y = node.center
    corner = 4 if node.kind == "conv" else 14
    yield (
        f"<rect x='{left + x - _BOX_WIDTH / 2:.1f}' y='{top + y - _BOX_HEIGHT / 2:.1f}' width='{_BOX_WIDTH}' "
        f"height='{_BOX_HEIGHT}' rx='{corner}' fill='{_FILLS[node.kind]}' stroke='#444'/>"
    )
    yield _text(left + x, top + y + 4.5, node.text, 12.5)


def _text(x: float, y: float, text: str, size: float, anchor: str = "middle") -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' font-size='{size}' {_FONT} fill='#111'>"
        f"{escape(text)}</text>"
    )


def _arrow(start: Node, end: Node, left: float, top: float) -> str:
    (x0, y0), (x1, y1) = start.center, end.center
    if abs(x1 - x0) < 1:
        down = 1 if y1 > y0 else -1
        y0, y1 = y0 + down * _BOX_HEIGHT / 2, y1 - down * (_BOX_HEIGHT / 2 + 5)
    else:
        x0, x1 = x0 + _BOX_WIDTH / 2, x1 - _BOX_WIDTH / 2 - 5
    return (
        f"<line x1='{left + x0:.1f}' y1='{top + y0:.1f}' x2='{left + x1:.1f}' y2='{top + y1:.1f}' stroke='#444' "
        "stroke-width='1.3' marker-end='url(#tip)'/>"
    )


def _draw(part: Graph, left: float, top: float) -> Iterator[str]:
    for start, end in part.arrows:
        yield _arrow(part.nodes[start], part.nodes[end], left, top)
    for node in part.nodes.values():
        yield from _box(node, left, top)


def _svg(width: float, height: float, label: str, body: Iterator[str]) -> str:
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width:.0f} {height:.0f}' width='{width:.0f}' "
        f"role='img' aria-label='{escape(label, quote=True)}'>"
    )
    tip = (
        "<defs><marker id='tip' viewBox='0 0 8 8' refX='3' refY='4' markerWidth='6' markerHeight='6' orient='auto'>"
        "<path d='M0 0L8 4L0 8z' fill='#444'/></marker></defs>"
    )
    ground = f"<rect width='{width:.0f}' height='{height:.0f}' fill='white'/>"
    return "\n".join([head, tip, ground, *body, "</svg>\n"])


def identity(label: str, before: Graph, after: Graph) -> str:
    """A figure of two graphs that compute the same, one above the other."""
    width = max(before.size[0], after.size[0]) + 2 * _MARGIN
    middle = before.size[1] + 2 * _MARGIN
    height = middle + after.size[1] + 2 * _MARGIN + 6

    def body() -> Iterator[str]:
        yield from _draw(before, _MARGIN, _MARGIN)
        yield _text(_MARGIN + _BOX_WIDTH / 2, middle + 3, "=", 22)
        start, end, at = _MARGIN + _BOX_WIDTH, width - _MARGIN, middle - 4
        yield f"<line x1='{start}' y1='{at}' x2='{end}' y2='{at}' stroke='#ccc'/>"
        yield from _draw(after, _MARGIN, middle + _MARGIN)

    return _svg(width, height, label, body())


def single(label: str, part: Graph) -> str:
    """A figure of one graph."""
    width, height = (side + 2 * _MARGIN for side in part.size)
    return _svg(width, height, label, _draw(part, _MARGIN, _MARGIN))


def taps() -> str:
    """Which source pixels the taps of a 3x3 kernel meet behind an upsampling by two, for each of the four phases."""
    cell, gap = 26, 44
    label = "taps of a 3x3 kernel that meet the same source pixel, for each phase"

    def body() -> Iterator[str]:
        for number in range(4):
            row, column = divmod(number, 2)
            left = _MARGIN + column * (4 * cell + gap)
            top = _MARGIN + 18 + row * (4 * cell + gap)
            yield _text(left + 2 * cell, top - 6, f"phase ({row}, {column})", 12)
            for y in range(4):
                for x in range(4):
                    # The upsampled picture from position (1, 1) on: sources change at odd positions.
                    source = (y + 1) // 2 % 2 * 2 + (x + 1) // 2 % 2
                    yield (
                        f"<rect x='{left + x * cell}' y='{top + y * cell}' width='{cell}' height='{cell}' "
                        f"fill='{_SOURCES[source]}' stroke='#888' stroke-width='.5'/>"
                    )
            for y in range(3):
                for x in range(3):
                    at_x, at_y = left + (x + column + 0.5) * cell, top + (y + row + 0.5) * cell + 4
                    yield _text(at_x, at_y, f"w{y}{x}", 11)
            yield (
                f"<rect x='{left + column * cell}' y='{top + row * cell}' width='{3 * cell}' height='{3 * cell}' "
                "fill='none' stroke='#111' stroke-width='2'/>"
            )

    side = 2 * 4 * cell + gap + 2 * _MARGIN
    return _svg(side, side + 18, label, body())


def _octave_convolutions() -> dict[str, str]:
    """An octave convolution before and after its fusion."""
    return {
        "octave-convolution.svg": single(
            "an octave convolution",
            graph(
                "h 0 0 data h\nl 0 2.7 data l\nhh 2 0 conv HH\nup 1 .9 move up x2\nlh 2 .9 conv LH\n"
                "pool 1 1.8 move pool\nhl 2 1.8 conv HL\nll 2 2.7 conv LL\na 3 .45 other +\nb 3 2.25 other +\n"
                "yh 4 .45 data y_h\nyl 4 2.25 data y_l",
                "h hh a yh, l up lh a, h pool hl b yl, l ll b",
            ),
        ),
        "octave-convolution-fused.svg": single(
            "the same octave convolution, fused",
            graph(
                "h 0 0 data h\nl 0 1.8 data l\nhh 2 0 conv HH\nlh 2 .9 conv LH phases\na 3 .45 other +\n"
                "pool 1 .9 move pool\ncat 2 1.8 move concat\nll 3 1.8 conv [LL HL]\nyh 4 .45 data y_h\n"
                "yl 4 1.8 data y_l",
                "h hh a yh, l lh a, h pool cat ll yl, l cat",
            ),
        ),
    }


def _joined_convolutions() -> dict[str, str]:
    """What is summed, shared or concatenated."""
    return {
        "sum-of-convolutions.svg": identity(
            "a sum of two convolutions is one convolution of the joined inputs",
            graph(
                "a 0 0 data a\nb 0 1 data b\nA 1 0 conv A\nB 1 1 conv B\ns 2 .5 other +\ny 3 .5 data y",
                "a A s y, b B s",
            ),
            graph(
                "a 0 0 data a\nb 0 1 data b\nc 1 .5 move concat\nAB 2 .5 conv [A B]\ny 3 .5 data y",
                "a c AB y, b c",
            ),
        ),
        "shared-input.svg": identity(
            "two convolutions of one input are one convolution, split",
            graph(
                "x 0 .5 data x\nA 1 0 conv A\nB 1 1 conv B\ny 2 0 data y\nz 2 1 data z",
                "x A y, x B z",
            ),
            graph(
                "x 0 .5 data x\nAB 1 .5 conv [A; B]\ns 2 .5 move split\ny 3 0 data y\nz 3 1 data z",
                "x AB s y, s z",
            ),
        ),
        "normalized-sum.svg": identity(
            "a batch normalization behind a sum goes into both convolutions",
            graph(
                "a 0 0 data a\nb 0 1 data b\nA 1 0 conv A\nB 1 1 conv B\ns 2 .5 other +\nn 3 .5 other norm\n"
                "y 4 .5 data y",
                "a A s n y, b B s",
            ),
            graph(
                "a 0 0 data a\nb 0 1 data b\nA 1 0 conv A', shift\nB 1 1 conv B'\ns 2 .5 other +\ny 3 .5 data y",
                "a A s y, b B s",
            ),
        ),
        "concatenation.svg": identity(
            "a convolution of a concatenation is a sum of convolutions, of which one meets the upsampling alone",
            graph(
                "l 0 0 data l\nk 0 1 data skip\nu 1 0 move up x2\nc 2 .5 move concat\nw 3 .5 conv [A B]\ny 4 .5 data y",
                "l u c w y, k c",
            ),
            graph(
                "l 0 0 data l\nk 0 1 data skip\nA 1 0 conv A phases\nB 1 1 conv B\ns 2 .5 other +\ny 3 .5 data y",
                "l A s y, k B s",
            ),
        ),
    }


def _convolutions_behind_upsampling() -> dict[str, str]:
    """A convolution that meets an upsampled picture."""
    return {
        "convolution-behind-upsampling.svg": identity(
            "a convolution behind an upsampling is one small convolution for each phase",
            graph("l 0 0 data l\nu 1 0 move up x2\nw 2 0 conv 3x3\ny 3 0 data y", "l u w y"),
            graph(
                "l 0 1 data l\na 1 -.05 conv 2x2\nb 1 .65 conv 2x2\nc 1 1.35 conv 2x2\nd 1 2.05 conv 2x2\n"
                "i 2 1 move interleave\ny 3 1 data y",
                "l a i y, l b i, l c i, l d i",
            ),
        ),
        "taps.svg": taps(),
        "strided-behind-upsampling.svg": identity(
            "a convolution with stride 2 behind an upsampling by 2 is a small convolution of the source",
            graph("l 0 0 data l\nu 1 0 move up x2\nw 2 0 conv 3x3, /2\ny 3 0 data y", "l u w y"),
            graph("l 0 0 data l\nw 1 0 conv 2x2\ny 2 0 data y", "l w y"),
        ),
    }


def _moves_of_upsampling() -> dict[str, str]:
    """What may go before an upsampling, or is undone by it."""
    return {
        "pointwise.svg": identity(
            "a 1x1 convolution may go before an upsampling, and behind a pool",
            graph(
                "l 0 0 data l\nu 1 0 move up x2\nw 2 0 conv 1x1\ny 3 0 data y\nh 0 1 data h\nv 1 1 conv 1x1\n"
                "p 2 1 move pool\nz 3 1 data z",
                "l u w y, h v p z",
            ),
            graph(
                "l 0 0 data l\nw 1 0 conv 1x1\nu 2 0 move up x2\ny 3 0 data y\nh 0 1 data h\np 1 1 move pool\n"
                "v 2 1 conv 1x1\nz 3 1 data z",
                "l w u y, h p v z",
            ),
        ),
        "pool-of-upsampling.svg": identity(
            "the pool of an upsampling is what was there before",
            graph("l 0 0 data l\nu 1 0 move up x2\np 2 0 move pool\ny 3 0 data y", "l u p y"),
            graph("l 0 0 data l\ny 1 0 data y", "l y"),
        ),
        "functions-behind-upsampling.svg": identity(
            "an element-wise function may go before an upsampling",
            graph("l 0 0 data l\nu 1 0 move up x2\nf 2 0 other f\ny 3 0 data y", "l u f y"),
            graph("l 0 0 data l\nf 1 0 other f\nu 2 0 move up x2\ny 3 0 data y", "l f u y"),
        ),
        "max-unpooling.svg": identity(
            "max-unpooling by indices is a product with masks, one for each phase",
            graph(
                "x 0 0 data x\np 1 0 move max-pool\nv 0 1 data v\nu 2 .5 move unpool\ny 3 .5 data y",
                "x p u y, v u",
            ),
            graph(
                "x 0 0 data x\nd 1 0 move 4 phases\nm 2 0 other first max\nv 0 1 data v\nt 2 1 other times\n"
                "i 3 1 move interleave\ny 4 1 data y",
                "x d m t i y, v t",
            ),
        ),
    }


def _method() -> dict[str, str]:
    """The codec's own."""
    return {
        "method.svg": single(
            "the layers of a stream: label map, compact image, residual",
            graph(
                "x 0 2.25 data picture\ns 1 0 conv segment\nl 2 0 data labels\na 2 .9 conv analyze\n"
                "c 3 .9 data compact\ny 4 .45 conv synthesize\ne 4 1.35 data estimate\nr 4 2.25 other minus\n"
                "d 4 3.15 data residual",
                "x s l y, x a c y e r d, x r, l a",
            ),
        ),
    }


def figures() -> dict[str, str]:
    """All figures as SVG, by file name."""
    return {
        **_octave_convolutions(),
        **_joined_convolutions(),
        **_convolutions_behind_upsampling(),
        **_moves_of_upsampling(),
        **_method(),
    }


def main() -> None:
    """Write the figures."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in figures().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
