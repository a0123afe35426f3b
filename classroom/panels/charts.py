"""Charts among a panel's pictures, as SVG in the page's own text colour."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import NamedTuple

from torch import Tensor

from classroom import figures
from lessons_lib.schedules import NoiseSchedule

# Colours alone do not tell lines apart for everybody: each has its own dashes and its own mark, too.
STYLES = (
    (figures.BLUE, "", "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0"),
    (figures.ORANGE, "7 3", "M0 -6l6 10h-12z"),
    (figures.GREEN, "2 3", "M-4 -4h8v8h-8z"),
    (figures.GREY, "9 3 2 3", "M0 -6l6 6l-6 6l-6 -6z"),
    ("#762a83", "5 2", "M-5 -2h3v-3h4v3h3v4h-3v3h-4v-3h-3z"),
)
WIDTH, HEIGHT, LEFT, BOTTOM = 440, 190, 44, 24  # of a plot, in pixels: on a phone it is half as large
LINE, COLUMNS = 18, 2  # of its legend
RING = '<circle r="9" fill="none" stroke="currentColor" stroke-width="2"/>'
BAR, GAP, TALL = 34, 6, 70  # of a bar chart


class Line(NamedTuple):
    """A line through points (x, y) of 0 … 1, and where its mark is put; without points it is left out."""

    name: str
    points: Sequence[tuple[float, float]]
    marks: Sequence[tuple[float, float]]
    bold: bool = True


def curve(
    name: str, schedule: NoiseSchedule, height: Callable[[Tensor], Tensor], part: float, bold: bool = True
) -> Line:
    """What `height` (0 … 1) makes of the abar [T] of a schedule, and a mark at a part of the way."""
    heights, last = height(schedule.alphas_cumprod), schedule.num_timesteps - 1
    points = [(x, float(heights[round(x * last)])) for x in [k / 99 for k in range(100)] + [part]]
    return Line(name, points[:-1], points[-1:], bold)


def plot(
    title: str, lines: Sequence[Line], x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]], words: str, *, marker: float | None = None,
    ring: tuple[float, float] | None = None,
) -> str:  # fmt: skip
    """Lines over two axes, a legend above them.

    Args:
        x_ticks, y_ticks: (place 0 … 1, text).
        words: the plot for those who cannot see it.
        marker: where a dashed line stands upright; ring: the mark that is ringed.
    """
    shown = [(k, line) for k, line in enumerate(lines) if line.points]
    top, wide, tall = 14 + LINE * (1 + -(-len(shown) // COLUMNS)), WIDTH - LEFT - 12, HEIGHT - BOTTOM - 30
    parts, inside, marks = [text(2, 14, title)], [], []
    pale = 'fill="none" stroke="currentColor" stroke-opacity="0.2"'

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + x * wide, top + (1 - y) * tall

    for y, label in y_ticks:
        parts += [f'<path d="M{LEFT} {at(0, y)[1]:.1f}h{wide}" {pale}/>']
        parts += [text(LEFT - 6, at(0, y)[1] + 4, label, "end")]
    for x, label in x_ticks:
        parts.append(text(at(x, 0)[0], top + tall + 17, label, {0: "start", 1: "end"}.get(x, "middle")))
    if marker is not None:
        inside = [
            f'<path d="M{at(marker, 0)[0]:.1f} {top}v{tall}" stroke="currentColor" stroke-dasharray="3"/>'
        ]
    for j, (k, line) in enumerate(shown):
        stroke, mark = _look(k, line.bold)
        left, y = LEFT + (WIDTH - LEFT) // COLUMNS * (j % COLUMNS), 10 + LINE * (1 + j // COLUMNS)
        parts.append(f'<path d="M{left} {y}h26" {stroke}/>{text(left + 31, y + 4, line.name)}')
        parts.append(f'<g transform="translate({left + 13} {y})">{mark}</g>')
        points = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in line.points)
        inside.append(f'<polyline points="{points}" {stroke}/>')
        for x, y in line.marks:  # what leaves the plot waits at its border
            place = "{:.1f} {:.1f}".format(*at(x, min(max(y, 0), 1)))
            marks.append(f'<g transform="translate({place})">{mark}{RING if (x, y) == ring else ""}</g>')
    # An svg of its own cuts off what leaves it.
    frame = f'x="{LEFT}" y="{top}" width="{wide}" height="{tall}" viewBox="{LEFT} {top} {wide} {tall}"'
    parts += [f'<path d="M{LEFT} {top}v{tall}h{wide}" {pale}/><svg {frame}>{"".join(inside)}</svg>', *marks]
    return svg(WIDTH, top + tall + BOTTOM, words, "".join(parts))


def _look(k: int, bold: bool) -> tuple[str, str]:
    """(the stroke, the mark) of the k-th line; one that comes too late looks like the last."""
    colour, dashes, shape = STYLES[min(k, len(STYLES) - 1)]
    stroke = f'fill="none" stroke="{colour}" stroke-dasharray="{dashes}" stroke-width="{1.2 + 1.2 * bold}"'
    return stroke, f'<path d="{shape}" fill="{colour}"/>'


def bar_chart(name: str, numbers: Sequence[float]) -> str:
    """A bar for each class, the highest in colour."""
    highest = max(range(len(numbers)), key=numbers.__getitem__)
    words, bottom = f"{name}: {highest} with {numbers[highest]:.0%}", TALL + 24
    parts = [text(0, 14, words)]
    for k, number in enumerate(numbers):
        x, tall = k * (BAR + GAP), max(1.0, number * TALL)
        colour = figures.BLUE if k == highest else "#999999"
        place = f'x="{x}" y="{bottom - tall:.1f}" width="{BAR}" height="{tall:.1f}"'
        parts += [f'<rect {place} fill="{colour}"/>', text(x + BAR / 2, bottom + 14, str(k), "middle")]
    return svg(len(numbers) * (BAR + GAP), bottom + 18, words, "".join(parts))


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """A text at a place."""
    look = f'text-anchor="{anchor}" font-size="13" fill="currentColor"'
    return f'<text x="{x:g}" y="{y:.0f}" {look}>{html.escape(words)}</text>'


def svg(width: float, height: float, words: str, content: str) -> str:
    """A drawing with its words."""
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    return f'<svg {size} role="img" aria-label="{html.escape(words)}">{content}</svg>'
