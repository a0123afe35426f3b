"""Small charts among a panel's pictures, as SVG in the page's own text colour."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from classroom import figures

# Colours alone do not tell lines apart for everybody: each has its own dashes, too.
STYLES = ((figures.BLUE, ""), (figures.ORANGE, "7 3"), (figures.GREEN, "2 3"), (figures.GREY, "9 3 2 3"))
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 540, 190, 40, 30, 24  # of a line chart, in pixels
BAR, GAP, TALL = 34, 6, 70  # of a bar chart


class Line(NamedTuple):
    """A curve: its name, N heights 0 … 1 from left to right, and the height of its dot at the marker."""

    name: str
    heights: Tensor
    dot: float
    bold: bool = True


def style_of(k: int) -> tuple[str, str]:
    """(colour, dashes) of the k-th line; one that comes too late looks like the last."""
    return STYLES[min(k, len(STYLES) - 1)]


def line_chart(
    title: str, lines: Sequence[Line], marker: float, ticks: Sequence[tuple[float, str]],
    ends: tuple[str, str], words: str,
) -> str:  # fmt: skip
    """Curves over an axis with a dashed marker at 0 … 1 and a dot on each; the legend has their dashes.

    Args:
        ticks: (height, text) at the left axis; ends: the texts below both ends of the axis.
        words: the chart for those who cannot see it.
    """
    wide, tall = WIDTH - LEFT - 12, HEIGHT - TOP - BOTTOM
    x, inside, around = marker * wide, [], [text(2, 14, title)]
    legend = LEFT + 8 * len(title)
    for k, line in enumerate(lines):
        colour, dashes = style_of(k)
        width = 1.2 + 1.2 * line.bold
        style = f'fill="none" stroke="{colour}" stroke-dasharray="{dashes}" stroke-width="{width}"'
        last = max(len(line.heights) - 1, 1)
        points = " ".join(
            f"{i / last * wide:.1f},{(1 - y) * tall:.1f}" for i, y in enumerate(line.heights.tolist())
        )
        inside.append(f'<polyline {style} points="{points}"/>')
        y = min(max((1 - line.dot) * tall, 3), tall - 3)  # a dot that leaves the chart waits at its border
        inside.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if line.bold else 3}" fill="{colour}"/>')
        around.append(f'<path d="M{legend} 10h26" {style}/>{text(legend + 31, 14, line.name)}')
        legend += 50 + 7 * len(line.name)
    inside.append(f'<path d="M{x:.1f} 0V{tall}" stroke="currentColor" stroke-dasharray="3 3"/>')
    for height, label in ticks:
        y = TOP + (1 - height) * tall
        around.append(f'<path d="M{LEFT} {y:.1f}h{wide}" stroke="currentColor" stroke-opacity="0.2"/>')
        around.append(text(LEFT - 6, y + 4, label, "end"))
    around.append(f'<path d="M{LEFT} {TOP}v{tall}h{wide}" fill="none" stroke="currentColor"/>')
    around += [text(LEFT, HEIGHT - 7, ends[0]), text(LEFT + wide, HEIGHT - 7, ends[1], "end")]
    # The inner svg cuts off what leaves its frame.
    frame = f'<svg x="{LEFT}" y="{TOP}" width="{wide}" height="{tall}">{"".join(inside)}</svg>'
    return svg(WIDTH, HEIGHT, words, "".join(around) + frame)


def bar_chart(name: str, numbers: Sequence[float]) -> str:
    """A bar for each class, the highest in colour."""
    highest = max(range(len(numbers)), key=numbers.__getitem__)
    words, bottom = f"{name}: {highest} with {numbers[highest]:.0%}", TALL + 24
    parts = [text(0, 14, words)]
    for k, number in enumerate(numbers):
        x, tall = k * (BAR + GAP), max(1.0, number * TALL)
        colour = figures.BLUE if k == highest else "#999999"
        parts.append(
            f'<rect x="{x}" y="{bottom - tall:.1f}" width="{BAR}" height="{tall:.1f}" fill="{colour}"/>'
        )
        parts.append(text(x + BAR / 2, bottom + 14, str(k), "middle"))
    return svg(len(numbers) * (BAR + GAP), bottom + 18, words, "".join(parts))


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """A text at a place."""
    look = f'text-anchor="{anchor}" font-size="12" fill="currentColor"'
    return f'<text x="{x:g}" y="{y:.0f}" {look}>{html.escape(words)}</text>'


def svg(width: float, height: float, words: str, content: str) -> str:
    """A drawing with its words."""
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg {size} role="img" aria-label="{html.escape(words)}">{content}</svg>'
